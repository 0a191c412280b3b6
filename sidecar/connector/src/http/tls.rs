//! Whom an `https` peer must be vouched for by. Read when the first `https` URL is built, so that a sidecar without one
//! holds no certificates in memory.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

/// The settings that every `https` endpoint of the process shares: the authorities this machine trusts.
///
/// A machine without any (a bare container image) is no error here: the handshake fails then, and says why.
pub(super) fn settings() -> Arc<ClientConfig> {
    static SHARED: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    SHARED.get_or_init(|| Arc::new(trusting(authorities_of_this_machine()))).clone()
}

/// Settings that trust `authorities` alone.
pub(super) fn trusting(authorities: RootCertStore) -> ClientConfig {
    // The provider is named, because a process-wide default is `main`'s business.
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(authorities)
        .with_no_client_auth()
}

fn authorities_of_this_machine() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut authorities = RootCertStore::empty();
    let (taken, _) = authorities.add_parsable_certificates(found.certs);
    if taken == 0 {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        tracing::warn!(
            errors = errors.join("; "),
            "this machine trusts no certificate authority, so no https peer can be verified; \
             install ca-certificates, or name a PEM file in SSL_CERT_FILE"
        );
    }
    authorities
}
