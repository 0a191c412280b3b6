//! Who vouches for workloads: a root that issues leaves with names it has computed itself.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateSigningRequestDer},
};
use sidestream_host::Clock;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Anchors, Credentials, Request, SpiffeId, TrustError, pem, spiffe};

/// A root certificate and its key, for one trust domain.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    /// Seconds since the epoch: no leaf outlives it.
    not_after: i64,
    trust_domain: String,
    clock: Clock,
}

impl Authority {
    /// A new root for `trust_domain`, valid for ten years from five minutes ago.
    pub fn create(trust_domain: &str, clock: &Clock) -> Result<Authority, TrustError> {
        let wrong = |reason| TrustError::TrustDomain { name: trust_domain.to_owned(), reason };
        spiffe::check_trust_domain(trust_domain).map_err(wrong)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let serial = random_serial()?;
        // Two roots of one trust domain live side by side while one replaces the other: their names differ.
        let name: String = serial[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("sidestream {trust_domain} {name}"));
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("{}{trust_domain}", spiffe::SCHEME))?];
        let now = now_seconds(clock);
        (params.not_before, params.not_after) = (instant(now - BACKDATED)?, instant(now + ROOT_LIFETIME)?);
        let root = params.self_signed(&key)?.der().clone();
        Authority::of(root, key, trust_domain, clock)
    }

    /// The root of two PEM texts, as [`Authority::certificate_pem`] and [`Authority::key_pem`] write them.
    pub fn from_pem(
        certificate: &str,
        key: &str,
        trust_domain: &str,
        clock: &Clock,
    ) -> Result<Authority, TrustError> {
        let root = pem::certificates(certificate)?.swap_remove(0);
        let key =
            KeyPair::try_from(&pem::private_key(key)?).map_err(|error| TrustError::Key(error.to_string()))?;
        Authority::of(root, key, trust_domain, clock)
    }

    fn of(
        root: CertificateDer<'static>,
        key: KeyPair,
        trust_domain: &str,
        clock: &Clock,
    ) -> Result<Authority, TrustError> {
        let not_after = check_root(&root, &key)?;
        let issuer = Issuer::from_ca_cert_der(&root, key)?;
        Ok(Authority { issuer, root, not_after, trust_domain: trust_domain.to_owned(), clock: clock.clone() })
    }

    /// The root certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        let mut text = String::new();
        pem::write(pem::CERTIFICATE, &self.root, &mut text);
        text
    }

    /// The private key as PEM: a secret.
    pub fn key_pem(&self) -> String {
        let mut text = String::new();
        pem::write(pem::PRIVATE_KEY, self.issuer.key().serialized_der(), &mut text);
        text
    }

    /// The root certificate, which those who believe this authority hold.
    pub fn anchor(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Believes this authority alone.
    pub fn anchors(&self) -> Anchors {
        Anchors::new([self.root.clone()]).expect("a root that signs is a root that can be read")
    }

    /// The trust domain it issues for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// When the root ends: seconds since 1970-01-01T00:00:00Z.
    pub fn not_after_seconds(&self) -> i64 {
        self.not_after
    }

    /// Answers a certificate signing request with a leaf for `id` and `dns_names`, good for both sides of a handshake, valid
    /// from five minutes ago for `lifetime` and never longer than the root. Nothing but the public key, which must be P-256,
    /// is taken from the request, and its signature proves that the asker has the private one.
    pub fn issue(
        &self,
        request: &[u8],
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|error| TrustError::Request(error.to_string()))?;
        let key = request.public_key;
        // An uncompressed P-256 point; the algorithm alone could still name another curve.
        if PublicKeyData::algorithm(&key) != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != 65 {
            return Err(TrustError::Request("its key is not of the kind ECDSA P-256".into()));
        }
        let params = self.leaf(id, dns_names, lifetime)?;
        Ok(vec![params.signed_by(&key, &self.issuer)?.der().clone()])
    }

    /// Credentials for a process that holds the authority, such as the operator, or a program that runs alone.
    pub fn credentials(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
    ) -> Result<Credentials, TrustError> {
        let request = Request::new()?;
        let chain = self.issue(request.der(), id, dns_names, lifetime)?;
        request.complete(chain, self.anchors())
    }

    fn leaf(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
    ) -> Result<CertificateParams, TrustError> {
        if id.trust_domain() != self.trust_domain {
            let trust_domain = self.trust_domain.clone();
            return Err(TrustError::ForeignName { id: id.clone(), trust_domain });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(uri(id.as_str())?);
        for name in dns_names {
            let name = name.as_str().try_into().map_err(|_| TrustError::DnsName(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let now = now_seconds(&self.clock);
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        params.not_before = instant(now - BACKDATED)?;
        params.not_after = instant(now.saturating_add(lifetime).min(self.not_after))?;
        Ok(params)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// When a root ends, if it may sign and `key` is its key.
fn check_root(root: &CertificateDer<'_>, key: &KeyPair) -> Result<i64, TrustError> {
    let wrong = |reason: &str| TrustError::Anchor(reason.to_owned());
    let (_, certificate) = X509Certificate::from_der(root).map_err(|_| wrong("it cannot be read"))?;
    if !certificate.is_ca() {
        return Err(wrong("it is no authority's: its basic constraints do not say CA"));
    }
    let may_sign = certificate.key_usage().ok().flatten().is_none_or(|own| own.value.key_cert_sign());
    if !may_sign {
        return Err(wrong("its key usage does not let it sign certificates"));
    }
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(TrustError::KeyOfAnother);
    }
    Ok(certificate.validity().not_after.timestamp())
}

fn uri(text: &str) -> Result<SanType, TrustError> {
    Ok(SanType::URI(text.try_into()?))
}

/// 128 random bits, positive (RFC 5280, section 4.1.2.2).
fn random_serial() -> Result<[u8; 16], TrustError> {
    let mut serial = [0; 16];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut serial).map_err(|_| TrustError::Crypto("no entropy".into()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn now_seconds(clock: &Clock) -> i64 {
    clock.wall_nanos().div_euclid(1_000_000_000)
}

fn instant(seconds: i64) -> Result<OffsetDateTime, TrustError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| TrustError::Crypto(error.to_string()))
}

/// Clocks of two machines differ.
const BACKDATED: i64 = 5 * 60;
const ROOT_LIFETIME: i64 = 10 * 365 * 86_400;
