//! How handshakes go: rustls configurations and the two verifiers.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};
use sidestream_host::Clock;

use crate::{
    Anchors, Refusal, SpiffeId, TrustError,
    leaf::{Leaf, Side},
};

/// Who may call a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Only those who prove who they are.
    Proved,
    /// Also those who show no certificate: they have another proof, which the caller of this library checks. Who shows
    /// a certificate must show a good one.
    ProvedOrNameless,
}

/// How a client without an identity of its own, such as one that asks for its first certificate, shakes hands with
/// `expected`: TLS 1.3 only, no resumption, no early data.
pub fn anonymous_client_config(
    anchors: &Anchors,
    expected: &SpiffeId,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Result<Arc<ClientConfig>, TrustError> {
    client_config(None, anchors, expected, alpn, clock)
}

/// The other end of a finished handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: SpiffeId,
    /// When its certificate ends: seconds since 1970-01-01T00:00:00Z.
    pub not_after_seconds: i64,
}

/// The peer of a finished handshake: give it what the connection's `peer_certificates()` gave.
pub fn peer(chain: Option<&[CertificateDer<'_>]>) -> Result<Peer, Refusal> {
    let leaf = Leaf::read(chain.and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?)?;
    Ok(Peer { id: leaf.id, not_after_seconds: leaf.not_after })
}

/// Who the peer of a finished handshake is; see [`peer`].
pub fn peer_id(chain: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, Refusal> {
    Ok(peer(chain)?.id)
}

/// Why a handshake failed, in words for a log: our own refusals as they are worded, rustls's otherwise.
pub fn reason(error: &rustls::Error) -> String {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(own))) = error
        && let Some(refusal) = own.downcast_ref::<Refusal>()
    {
        return refusal.to_string();
    }
    error.to_string()
}

/// What a client writes where TLS wants the name of the server: nothing looks at it, and it is not sent.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("sidestream.invalid").expect("a DNS name")
}

pub(crate) fn server_config(
    certified: &Arc<CertifiedKey>,
    anchors: &Anchors,
    own: &SpiffeId,
    callers: Callers,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Result<Arc<ServerConfig>, TrustError> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(anchors.roots().clone(), provider.clone())
        .clear_root_hint_subjects();
    let verifier = match callers {
        Callers::Proved => verifier,
        Callers::ProvedOrNameless => verifier.allow_unauthenticated(),
    };
    let chain = verifier.build().map_err(|error| TrustError::Crypto(error.to_string()))?;
    let verifier = CallerVerifier { chain, trust_domain: own.trust_domain().to_owned() };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(HostTime(clock.clone())))
        .with_protocol_versions(TLS_1_3_ONLY)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

pub(crate) fn client_config(
    certified: Option<&Arc<CertifiedKey>>,
    anchors: &Anchors,
    expected: &SpiffeId,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = ServerVerifier { anchors: anchors.clone(), expected: expected.clone(), algorithms };
    let config = ClientConfig::builder_with_details(provider, Arc::new(HostTime(clock.clone())))
        .with_protocol_versions(TLS_1_3_ONLY)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match certified {
        Some(own) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone()))),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The provider is named, because a process-wide default is `main`'s business.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// rustls's idea of a caller's chain, and ours of its leaf.
#[derive(Debug)]
struct CallerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ClientCertVerifier for CallerVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let found = Leaf::read_for(leaf, Side::Client).map_err(refused)?.id;
        if found.trust_domain() != self.trust_domain {
            let trust_domain = self.trust_domain.clone();
            return Err(refused(Refusal::ForeignTrustDomain { found, trust_domain }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// A server is believed when its chain ends at an anchor and it is the one expected; no DNS name or address proves it.
#[derive(Debug)]
struct ServerVerifier {
    anchors: Anchors,
    expected: SpiffeId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(leaf)?;
        let (roots, algorithms) = (self.anchors.roots(), self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        let found = Leaf::read_for(leaf, Side::Server).map_err(refused)?.id;
        if found != self.expected {
            return Err(refused(Refusal::Unexpected { expected: self.expected.clone(), found }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(refusal: Refusal) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(refusal))).into()
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".into())
}

/// The time of handshakes, from the clock that tests step.
#[derive(Debug)]
struct HostTime(Clock);

impl TimeProvider for HostTime {
    fn current_time(&self) -> Option<UnixTime> {
        let nanos = u64::try_from(self.0.wall_nanos()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(nanos)))
    }
}

const TLS_1_3_ONLY: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
