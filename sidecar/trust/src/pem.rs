//! PEM, the form in which keys and certificates stand in files (RFC 7468). Reading is rustls's.

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::TrustError;

pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Appends a block.
pub(crate) fn write(label: &str, der: &[u8], out: &mut String) {
    let text = BASE64_STANDARD.encode(der);
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_CHARS));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
}

/// Every certificate of a text, in order; other blocks are passed over.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TrustError::Pem { wanted: "certificate" }),
    }
}

/// The first private key of a text.
pub(crate) fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| TrustError::Pem { wanted: "private key" })
}

/// RFC 7468, section 2.
const LINE_CHARS: usize = 64;
