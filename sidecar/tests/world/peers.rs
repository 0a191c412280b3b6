//! Sidecars that find each other and take part in edges.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use sidestream_edge::{Fixed, Peering, PeeringConfig};
use sidestream_host::Clock;
use sidestream_sidecar::Sidecar;
use sidestream_trust::{Authority, Identity, SpiffeId};

use super::sidecar;

/// A sidecar that takes part in edges as service account `name`.
pub(crate) fn joined(name: &str, authority: &Authority, dns: &Arc<Fixed>) -> Sidecar {
    let sidecar = sidecar();
    let id = SpiffeId::of_service_account("cluster.local", "test", name).unwrap();
    let clock = Clock::machine();
    let credentials = authority.credentials(&id, &[], Duration::from_secs(86_400)).unwrap();
    let config = PeeringConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        identity: Identity::new(credentials, &clock),
        resolver: dns.clone(),
        clock,
        node: String::new(),
    };
    let world = sidecar.world();
    world.take_part(world.sockets().block_on(Peering::start(config)).unwrap());
    sidecar
}

pub(crate) fn address(sidecar: &Sidecar) -> SocketAddr {
    sidecar.world().peering().unwrap().address()
}

pub(crate) fn authority() -> (Authority, Arc<Fixed>) {
    (Authority::create("cluster.local", &Clock::machine()).unwrap(), Arc::default())
}

pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it never came that {what}");
}
