//! Whom this process believes: the certificates of authorities.

use std::sync::Arc;

use rustls::{RootCertStore, pki_types::CertificateDer};

use crate::{TrustError, pem};

/// One authority or several, as while a root is rotated. Never empty.
#[derive(Clone, Debug)]
pub struct Anchors {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Anchors {
    /// Believes these authorities, each a DER certificate; all must be readable.
    pub fn new(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Anchors, TrustError> {
        let mut roots = RootCertStore::empty();
        let mut kept: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in certificates {
            if !kept.contains(&certificate) {
                roots.add(certificate.clone()).map_err(|error| TrustError::Anchor(error.to_string()))?;
                kept.push(certificate);
            }
        }
        if kept.is_empty() {
            return Err(TrustError::NoAnchors);
        }
        Ok(Anchors { certificates: kept, roots: Arc::new(roots) })
    }

    /// Believes every authority of a PEM text.
    pub fn from_pem(text: &str) -> Result<Anchors, TrustError> {
        Anchors::new(pem::certificates(text)?)
    }

    /// The PEM text.
    pub fn to_pem(&self) -> String {
        let mut text = String::new();
        self.certificates.iter().for_each(|der| pem::write(pem::CERTIFICATE, der, &mut text));
        text
    }

    /// The certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl PartialEq for Anchors {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}
