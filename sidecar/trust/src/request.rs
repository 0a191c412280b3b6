//! A request for a certificate: made where the private key is, and the key never leaves.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{Anchors, Credentials, TrustError};

/// A new P-256 key and the certificate signing request (PKCS #10, RFC 2986) for it. The request names nobody: whom the
/// certificate names is the issuer's to say.
#[derive(Debug)]
pub struct Request {
    key: KeyPair,
    der: Vec<u8>,
}

impl Request {
    /// A request for a new key.
    pub fn new() -> Result<Request, TrustError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.serialize_request(&key)?.der().to_vec();
        Ok(Request { key, der })
    }

    /// The request as DER, to be sent to an authority.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The answer put together with the key: `chain` is the leaf first, then what leads to an anchor.
    pub fn complete(
        self,
        chain: Vec<CertificateDer<'static>>,
        anchors: Anchors,
    ) -> Result<Credentials, TrustError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Credentials::new(chain, key, anchors)
    }
}
