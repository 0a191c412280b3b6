//! What a leaf certificate says, read strictly (SPIFFE X509-SVID, sections 3 to 5).

use rustls::pki_types::CertificateDer;
use x509_parser::{
    prelude::{FromDer, GeneralName, X509Certificate},
    public_key::PublicKey,
};

use crate::{Refusal, SpiffeId};

/// What matters of a workload's certificate. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// The side of a handshake that a leaf proves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Server,
    Client,
}

impl Leaf {
    /// Reads a leaf that is made for both sides. Says nothing about who signed it.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Leaf, Refusal> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Refusal::Unreadable)?;
        if !rest.is_empty() {
            return Err(Refusal::Unreadable);
        }
        if certificate.basic_constraints().map_err(|_| Refusal::Unreadable)?.is_some_and(|own| own.value.ca) {
            return Err(Refusal::Authority);
        }
        let usage = certificate.key_usage().map_err(|_| Refusal::Unreadable)?;
        let usage = usage.ok_or(Refusal::Purpose { lacks: "a key usage" })?.value;
        if usage.key_cert_sign() || usage.crl_sign() {
            return Err(Refusal::Authority);
        }
        if !usage.digital_signature() {
            return Err(Refusal::Purpose { lacks: "the key usage digitalSignature" });
        }
        if let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed()
            && key.key_size() < RSA_BITS_MIN
        {
            return Err(Refusal::WeakKey { bits: key.key_size() });
        }
        let validity = certificate.validity();
        Ok(Leaf {
            id: one_spiffe_id(&certificate)?,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Reads a leaf that a peer shows as `side` of a handshake. A leaf that names no extended usage is refused, although
    /// RFC 5280 takes it as good for anything.
    pub(crate) fn read_for(der: &CertificateDer<'_>, side: Side) -> Result<Leaf, Refusal> {
        let leaf = Leaf::read(der)?;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Refusal::Unreadable)?;
        let usage = certificate.extended_key_usage().map_err(|_| Refusal::Unreadable)?;
        let (is_good, lacks) = match (side, usage.map(|own| own.value)) {
            (Side::Server, usage) => {
                (usage.is_some_and(|own| own.server_auth), "the extended key usage serverAuth")
            }
            (Side::Client, usage) => {
                (usage.is_some_and(|own| own.client_auth), "the extended key usage clientAuth")
            }
        };
        if is_good { Ok(leaf) } else { Err(Refusal::Purpose { lacks }) }
    }
}

fn one_spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let names = certificate.subject_alternative_name().map_err(|_| Refusal::Unreadable)?;
    let names = names.map(|own| own.value.general_names.as_slice()).unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [] => Err(Refusal::NoSpiffeId),
        [uri] => uri.parse().map_err(Refusal::NotSpiffe),
        more => Err(Refusal::ManyNames { count: more.len() }),
    }
}

/// NIST SP 800-131A rev. 2, section 3: shorter ones are disallowed.
const RSA_BITS_MIN: usize = 2048;
