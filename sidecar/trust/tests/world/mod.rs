//! Authorities, leaves of every shape, and handshakes in memory.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod forged;
mod outdated;

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use forged::Forge;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use sidestream_host::{Clock, SimulatedClock};
use sidestream_trust::{Authority, Identity, SpiffeId, peer_id, server_name};

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

    pub(crate) fn forge(&self) -> Forge<'_> {
        Forge::new(&self.authority, &self.clock)
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
