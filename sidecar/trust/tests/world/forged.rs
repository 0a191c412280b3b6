//! Certificates that nobody may believe, each wrong in one way, with what a refusal must say of it: one table for
//! every listener and every caller.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls::{
    ClientConfig, ServerConfig, SignatureAlgorithm, SignatureScheme,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject},
    sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey},
};
use sidestream_host::Clock;
use sidestream_trust::Authority;
use time::OffsetDateTime;

use super::outdated;

/// A chain and a key that no honest process shows.
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<dyn SigningKey>,
}

/// One way to be wrong. The words must stand in the reason that is logged.
pub(crate) struct Wrong {
    pub(crate) case: &'static str,
    pub(crate) forged: Forged,
    /// What a server says of a client that shows it.
    pub(crate) of_client: &'static str,
    /// What a client says of a server that shows it.
    pub(crate) of_server: &'static str,
}

impl Forged {
    fn of(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Forged {
        Forged { chain, key: signing(&pkcs8(key)) }
    }

    pub(crate) fn certified(&self) -> CertifiedKey {
        CertifiedKey::new(self.chain.clone(), self.key.clone())
    }

    /// A client that shows it and believes anybody.
    pub(crate) fn client(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified())));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// A server that shows it and lets anybody in.
    pub(crate) fn server(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified())));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

/// Makes certificates of any shape under an authority whose key it has.
pub(crate) struct Forge<'a> {
    authority: &'a Authority,
    clock: &'a Clock,
    /// Seconds since 1970.
    now: i64,
}

impl<'a> Forge<'a> {
    pub(crate) fn new(authority: &'a Authority, clock: &'a Clock) -> Forge<'a> {
        Forge { authority, clock, now: clock.wall_nanos().div_euclid(1_000_000_000) }
    }

    /// A leaf that is good but for what `shape` makes of it.
    pub(crate) fn leaf(&self, shape: impl FnOnce(&mut CertificateParams)) -> Forged {
        let key = key();
        let leaf = self.sign(self.shaped(shape), &key, self.authority);
        Forged::of(vec![leaf], &key)
    }

    /// A good leaf of another authority.
    fn leaf_of(&self, authority: &Authority) -> Forged {
        let key = key();
        Forged::of(vec![self.sign(self.shaped(|_| {}), &key, authority)], &key)
    }

    /// A good leaf of the workload `app` in the namespace `shop`.
    fn shaped(&self, shape: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/app")];
        (params.not_before, params.not_after) = (at(self.now - 60), at(self.now + 86_400));
        shape(&mut params);
        params
    }

    fn sign(
        &self,
        params: CertificateParams,
        key: &impl PublicKeyData,
        authority: &Authority,
    ) -> CertificateDer<'static> {
        let signing = KeyPair::try_from(&private(&authority.key_pem())).unwrap();
        let issuer = Issuer::from_ca_cert_der(authority.anchor(), signing).unwrap();
        params.signed_by(key, &issuer).unwrap().der().clone()
    }

    /// An authority that the given one made.
    fn middle(&self, name: &str, shape: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        self.shaped(|middle| {
            middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            middle.extended_key_usages.clear();
            middle.subject_alt_names.clear();
            middle.distinguished_name.push(DnType::CommonName, name);
            shape(middle);
        })
    }

    /// A good leaf under an authority in the middle that has the given shape; the whole chain.
    pub(crate) fn below(&self, shape: impl FnOnce(&mut CertificateParams)) -> Forged {
        let (middle, middle_key, key) = (self.middle("middle", shape), key(), key());
        let leaf = self.shaped(|_| {}).signed_by(&key, &Issuer::from_params(&middle, &middle_key)).unwrap();
        let middle = self.sign(middle, &middle_key, self.authority);
        Forged::of(vec![leaf.der().clone(), middle], &key)
    }

    /// A leaf made long ago, under an authority in the middle with the key `public`.
    fn outdated(&self, name: &str, public: &str, leaf: &str) -> Forged {
        let public = SubjectPublicKeyInfo::from_der(&public_key(public)).unwrap();
        let middle = self.sign(self.middle(name, |_| {}), &public, self.authority);
        let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
        Forged { chain: vec![leaf, middle], key: signing(&private(outdated::LEAF_KEY)) }
    }

    /// Every way to be wrong that a certificate has.
    pub(crate) fn all(&self) -> Vec<Wrong> {
        let mut all = self.wrong_times_and_names();
        all.extend(self.wrong_purposes());
        all.extend(self.wrong_issuers());
        all.extend(self.wrong_keys_and_bytes());
        all
    }

    fn wrong_times_and_names(&self) -> Vec<Wrong> {
        let named = |names: Vec<SanType>| self.leaf(|leaf| leaf.subject_alt_names = names);
        let called = |name: &str| named(vec![uri(name)]);
        let foreign = |case, name: &str| Wrong {
            of_client: "outside the trust domain `cluster.local`",
            of_server: "and `spiffe://cluster.local/ns/shop/sa/app` should be there",
            ..wrong(case, called(name), "")
        };
        vec![
            wrong("expired", self.leaf(|leaf| leaf.not_after = at(self.now - 1)), "certificate expired"),
            wrong("not valid yet", self.leaf(|leaf| leaf.not_before = at(self.now + 60)), "not valid yet"),
            wrong(
                "an end before its begin",
                self.leaf(|leaf| (leaf.not_before, leaf.not_after) = (at(self.now), at(self.now - 120))),
                "xpired",
            ),
            wrong("no name", named(Vec::new()), "carries no SPIFFE ID"),
            wrong(
                "a DNS name",
                named(vec![SanType::DnsName("app.shop.svc".try_into().unwrap())]),
                "carries no SPIFFE ID",
            ),
            wrong(
                "an address",
                named(vec![SanType::IpAddress([127, 0, 0, 1].into())]),
                "carries no SPIFFE ID",
            ),
            wrong(
                "a mail address",
                named(vec![SanType::Rfc822Name("app@shop.example".try_into().unwrap())]),
                "carries no SPIFFE ID",
            ),
            wrong(
                "two SPIFFE IDs",
                named(vec![uri("spiffe://cluster.local/ns/shop/sa/app"), uri("spiffe://cluster.local/b")]),
                "2 URI names",
            ),
            wrong(
                "a SPIFFE ID and another URI",
                named(vec![uri("spiffe://cluster.local/ns/shop/sa/app"), uri("https://example.com/")]),
                "2 URI names",
            ),
            wrong("another scheme", called("https://cluster.local/ns/shop/sa/app"), "is no SPIFFE ID"),
            wrong("a port", called("spiffe://cluster.local:1/ns/shop/sa/app"), "is no SPIFFE ID"),
            wrong("a user", called("spiffe://me@cluster.local/ns/shop/sa/app"), "is no SPIFFE ID"),
            wrong("a query", called("spiffe://cluster.local/ns/shop/sa/app?x=1"), "is no SPIFFE ID"),
            wrong("a way up", called("spiffe://cluster.local/ns/../ns/shop/sa/app"), "is no SPIFFE ID"),
            wrong("an empty segment", called("spiffe://cluster.local/ns/shop//sa/app"), "is no SPIFFE ID"),
            wrong("a capital", called("spiffe://Cluster.local/ns/shop/sa/app"), "is no SPIFFE ID"),
            wrong("no path", called("spiffe://cluster.local"), "is no SPIFFE ID"),
            foreign("another trust domain", "spiffe://elsewhere.example/ns/shop/sa/app"),
            foreign("a trust domain that starts alike", "spiffe://cluster.local.evil/ns/shop/sa/app"),
        ]
    }

    fn wrong_purposes(&self) -> Vec<Wrong> {
        use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};

        let usages = |usages: Vec<KeyUsagePurpose>| self.leaf(|leaf| leaf.key_usages = usages);
        let only = |purposes: Vec<_>| self.leaf(|leaf| leaf.extended_key_usages = purposes);
        let both = |case, forged, of_client, of_server| Wrong { case, forged, of_client, of_server };
        vec![
            wrong(
                "an authority",
                self.leaf(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
                "CaUsedAsEndEntity",
            ),
            wrong(
                "a leaf that signs certificates",
                usages(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]),
                "authority's",
            ),
            wrong(
                "a leaf that signs revocations",
                usages(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
                "authority's",
            ),
            wrong("no key usage", usages(Vec::new()), "lacks a key usage"),
            wrong(
                "a key that enciphers",
                usages(vec![KeyUsagePurpose::KeyEncipherment]),
                "lacks the key usage digitalSignature",
            ),
            both(
                "no extended usage",
                only(Vec::new()),
                "lacks the extended key usage clientAuth",
                "lacks the extended key usage serverAuth",
            ),
            both(
                "a leaf for the other side",
                only(vec![CodeSigning]),
                "extended key usage for client authentication",
                "extended key usage for server authentication",
            ),
            both(
                "a leaf for one side only",
                only(vec![ServerAuth]),
                "extended key usage for client authentication",
                GOOD,
            ),
            both(
                "a leaf for one side only, the other",
                only(vec![ClientAuth]),
                GOOD,
                "extended key usage for server authentication",
            ),
            wrong(
                "a critical extension that nobody knows",
                self.leaf(|leaf| {
                    let mut own =
                        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
                    own.set_criticality(true);
                    leaf.custom_extensions.push(own);
                }),
                "UnsupportedCriticalExtension",
            ),
        ]
    }

    fn wrong_issuers(&self) -> Vec<Wrong> {
        let other = Authority::create("cluster.local", self.clock).unwrap();
        let impostor = Authority::create("elsewhere.example", self.clock).unwrap();
        let self_signed = {
            let key = key();
            Forged::of(vec![self.shaped(|_| {}).self_signed(&key).unwrap().der().clone()], &key)
        };
        let mut with_root = self.leaf_of(&other);
        with_root.chain.push(other.anchor().clone());
        let mut cut = self.below(|_| {});
        cut.chain.truncate(1);
        let mut turned = self.below(|_| {});
        turned.chain.reverse();
        vec![
            wrong("an unknown authority", self.leaf_of(&other), "UnknownIssuer"),
            wrong("another trust domain's authority", self.leaf_of(&impostor), "UnknownIssuer"),
            wrong("an unknown authority that shows its root", with_root, "UnknownIssuer"),
            wrong("self-signed", self_signed, "UnknownIssuer"),
            wrong("a chain cut in its middle", cut, "UnknownIssuer"),
            wrong("a chain turned round", turned, "CaUsedAsEndEntity"),
            wrong(
                "a leaf made by a leaf",
                self.below(|middle| middle.is_ca = IsCa::ExplicitNoCa),
                "EndEntityUsedAsCa",
            ),
            wrong(
                "a chain with an expired middle",
                self.below(|middle| middle.not_after = at(self.now - 1)),
                "certificate expired",
            ),
        ]
    }

    fn wrong_keys_and_bytes(&self) -> Vec<Wrong> {
        let of_another_key = Forged { key: signing(&pkcs8(&key())), ..self.leaf(|_| {}) };
        let public = public_key(outdated::RSA_1024);
        let short =
            self.sign(self.shaped(|_| {}), &SubjectPublicKeyInfo::from_der(&public).unwrap(), self.authority);
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut forged = self.leaf(|_| {});
            let mut der = forged.chain[0].to_vec();
            change(&mut der);
            forged.chain = vec![CertificateDer::from(der)];
            forged
        };
        vec![
            wrong("the leaf of another key", of_another_key, "BadSignature"),
            wrong("a key of 1024 bits", Forged { chain: vec![short], key: Arc::new(Pretender) }, "1024 bits"),
            wrong(
                "an authority with a key of 1024 bits",
                self.outdated("weak", outdated::RSA_1024, outdated::SIGNED_BY_RSA_1024),
                "BadSignature",
            ),
            wrong(
                "a signature with SHA-1",
                self.outdated("old", outdated::OF_OLD, outdated::SIGNED_WITH_SHA_1),
                "UnsupportedSignatureAlgorithm",
            ),
            wrong("no certificate at all", changed(|der| *der = vec![0x30, 3, 1, 2, 3]), "BadEncoding"),
            wrong("a byte too many", changed(|der| der.push(0)), "BadEncoding"),
            wrong("a byte too few", changed(|der| der.truncate(der.len() - 1)), "BadEncoding"),
            wrong(
                "a bit flipped in its signature",
                changed(|der| {
                    let last = der.len() - 1;
                    der[last] ^= 1;
                }),
                "BadSignature",
            ),
        ]
    }
}

/// On this side there is nothing wrong with it.
pub(crate) const GOOD: &str = "(good)";

fn wrong(case: &'static str, forged: Forged, reason: &'static str) -> Wrong {
    Wrong { case, forged, of_client: reason, of_server: reason }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

fn pkcs8(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn private(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn public_key(pem: &str) -> SubjectPublicKeyInfoDer<'static> {
    SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn signing(key: &PrivateKeyDer<'static>) -> Arc<dyn SigningKey> {
    aws_lc_rs::sign::any_supported_type(key).unwrap()
}

/// Says that it signs with RSA: nothing here makes a signature with 1024 bits, and whoever looks at the certificate
/// first never asks for it.
#[derive(Debug)]
struct Pretender;

impl SigningKey for Pretender {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Pretender))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

impl Signer for Pretender {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(vec![1; 128])
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::RSA_PSS_SHA256
    }
}

/// Believes every server.
#[derive(Debug)]
pub(crate) struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
