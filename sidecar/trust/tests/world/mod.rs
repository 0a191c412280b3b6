//! Authorities, leaves of every shape, and handshakes in memory.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use sidestream_host::{Clock, SimulatedClock};
use sidestream_trust::{Authority, Identity, SpiffeId, peer_id, server_name};
use time::OffsetDateTime;

/// 2026-11-21.
pub(crate) const NOW: i64 = 1_795_219_200;
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) hand: SimulatedClock,
    pub(crate) authority: Authority,
}

pub(crate) fn world() -> World {
    let (clock, hand) = Clock::simulated(NOW * 1_000_000_000);
    let authority = Authority::create("cluster.local", &clock).unwrap();
    World { clock, hand, authority }
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", "shop", name).unwrap()
}

impl World {
    pub(crate) fn identity(&self, name: &str) -> Identity {
        Identity::new(self.authority.credentials(&id(name), &[], DAY).unwrap(), &self.clock)
    }

    /// A leaf of any shape, signed by the authority.
    pub(crate) fn forge(&self, shape: impl FnOnce(&mut CertificateParams)) -> Forged {
        forge(&self.authority, KeyPair::generate().unwrap(), shape)
    }
}

/// A leaf that no honest authority gives out.
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

pub(crate) fn forge(
    authority: &Authority,
    key: KeyPair,
    shape: impl FnOnce(&mut CertificateParams),
) -> Forged {
    let signing = KeyPair::from_pem_or_der(&authority.key_pem());
    let issuer = Issuer::from_ca_cert_der(authority.anchor(), signing).unwrap();
    let mut params = good_leaf("app");
    shape(&mut params);
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    Forged { chain: vec![leaf], key: pkcs8(&key) }
}

pub(crate) fn good_leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri(id(name).as_str())];
    params.not_before = at(NOW - 60);
    params.not_after = at(NOW + 86_400);
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

pub(crate) fn pkcs8(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

trait FromPem {
    fn from_pem_or_der(pem: &str) -> KeyPair;
}

impl FromPem for KeyPair {
    fn from_pem_or_der(pem: &str) -> KeyPair {
        KeyPair::try_from(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap()
    }
}

/// Who each end found at the other, or the first error with the side that raised it. A payload is sent each way as soon
/// as an end believes that it may; `Met::payload` says whether the server got the client's.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) server_id: SpiffeId,
    pub(crate) client_id: Option<SpiffeId>,
}

pub(crate) fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> Result<Met, (&'static str, rustls::Error)> {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    client.writer().write_all(b"payload").unwrap();
    let mut wire = Vec::new();
    for _ in 0..10 {
        carry(&mut wire, |to| client.write_tls(to));
        while !wire.is_empty() {
            server.read_tls(&mut take(&mut wire).as_slice()).unwrap();
            if let Err(error) = server.process_new_packets() {
                let mut got = Vec::new();
                let _ = io::Read::read_to_end(&mut server.reader(), &mut got);
                assert!(got.is_empty(), "a payload came through before the refusal");
                return Err(("server", error));
            }
        }
        carry(&mut wire, |to| server.write_tls(to));
        while !wire.is_empty() {
            client.read_tls(&mut take(&mut wire).as_slice()).unwrap();
            client.process_new_packets().map_err(|error| ("client", error))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking(), "the handshake hangs");
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    Ok(Met {
        server_id: peer_id(client.peer_certificates()).unwrap(),
        client_id: server.peer_certificates().map(|chain| peer_id(Some(chain)).unwrap()),
    })
}

fn carry(wire: &mut Vec<u8>, mut write: impl FnMut(&mut dyn io::Write) -> io::Result<usize>) {
    while write(wire).unwrap() > 0 {}
}

fn take(wire: &mut Vec<u8>) -> Vec<u8> {
    let rest = wire.split_off(wire.len().min(4096));
    std::mem::replace(wire, rest)
}
