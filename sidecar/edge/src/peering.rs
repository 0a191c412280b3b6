//! What a process shares among its edges: who it is, where it listens, how it finds peers.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use sidestream_host::{Clock, Random};
use sidestream_trust::{Identity, SpiffeId};
use tokio::net::{TcpListener, UdpSocket};

use crate::{
    EdgeName, EdgeReceiver, EdgeSender, EdgeView, Resolve, Target, listen::Listener, roster::Roster,
};

/// How a process takes part in edges.
pub struct PeeringConfig {
    /// Where it listens, by TCP and by UDP: `0.0.0.0:7443`, or port 0 for any that is free.
    pub listen: SocketAddr,
    /// Who it is.
    pub identity: Identity,
    /// How it finds peers.
    pub resolver: Arc<dyn Resolve>,
    /// What time it is.
    pub clock: Clock,
    /// The machine it runs on: peers on the same one are preferred. Empty where nobody knows; the first 253 bytes count.
    pub node: String,
}

/// The edges of a process. Clones are the same.
#[derive(Clone)]
pub struct Peering(Arc<Shared>);

struct Shared {
    identity: Identity,
    resolver: Arc<dyn Resolve>,
    clock: Clock,
    listener: Listener,
    address: SocketAddr,
    node: String,
    senders: Mutex<Vec<Weak<Roster>>>,
    random: Mutex<Random>,
}

impl Peering {
    /// Listens. Tasks run on the tokio runtime that this is called on, until the last clone and all edges are gone.
    pub async fn start(config: PeeringConfig) -> io::Result<Peering> {
        let sockets = bind(config.listen).await?;
        let address = sockets.0.local_addr()?;
        let node: String = config.node.chars().take(NODE_BYTES_MAX).collect();
        let listener = Listener::start(sockets, config.identity.clone(), config.clock.clone(), node.clone())?;
        let (senders, random) = (Mutex::default(), Mutex::new(Random::from_entropy()));
        let PeeringConfig { identity, resolver, clock, .. } = config;
        Ok(Peering(Arc::new(Shared { identity, resolver, clock, listener, address, node, senders, random })))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Who this process is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Begins to send to the peers of `target`. Where its receivers own the events, and a sender of this edge lives, this
    /// one goes on where that is, so that the events of a key stay in order. Call it on a tokio runtime.
    pub fn send_to(&self, target: Target) -> EdgeSender {
        let mut senders = lock(&self.0.senders);
        senders.retain(|own| own.strong_count() > 0);
        let before = senders.iter().filter_map(Weak::upgrade).find(|own| own.join(&target));
        if let Some(roster) = before {
            return EdgeSender::new(roster);
        }
        let roster = Roster::start(self, target);
        senders.push(Arc::downgrade(&roster));
        EdgeSender::new(roster)
    }

    /// Begins to receive edge `name` from those whom `allowed` names. One receiver is current for an edge: the newest.
    pub fn receive(&self, name: EdgeName, allowed: Vec<SpiffeId>) -> EdgeReceiver {
        self.0.listener.register(name, allowed)
    }

    /// Every edge, to look at.
    pub fn edges(&self) -> Vec<EdgeView> {
        let left = self.0.identity.seconds_left();
        let senders: Vec<_> = lock(&self.0.senders).iter().filter_map(Weak::upgrade).collect();
        let views = senders.iter().map(|sender| sender.view(left));
        merged(views.chain(self.0.listener.views(left)))
    }

    /// Callers that the listener turned away, by reason, since the process began.
    pub fn turned_away(&self) -> Vec<(String, u64)> {
        self.0.listener.turned_away()
    }

    /// Has the senders of `pipeline` send again what its stages have lost, by connections that open anew: when what lost it
    /// has been mended.
    pub fn ask_again(&self, pipeline: &str) {
        self.0.listener.ask_again(pipeline);
    }

    /// Takes no new connection, lets the senders know what is settled, and closes: after the pipelines have drained, for
    /// at most `grace`.
    pub async fn close(&self, grace: Duration) {
        self.0.listener.close(grace).await;
    }

    pub(crate) fn resolver(&self) -> &dyn Resolve {
        &*self.0.resolver
    }

    pub(crate) fn node(&self) -> &str {
        &self.0.node
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// A name that no other sender or receiver has.
    pub(crate) fn session(&self) -> u128 {
        let mut random = lock(&self.0.random);
        u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())
    }

    /// `span`, give or take a fifth.
    pub(crate) fn jittered(&self, span: Duration) -> Duration {
        span.mul_f64(0.8 + 0.4 * lock(&self.0.random).next_f64())
    }
}

/// TCP and UDP on one port. One that the machine chooses is free for TCP; somebody may have it for UDP, so another is asked
/// for then.
async fn bind(listen: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = 0;
    loop {
        let tcp = TcpListener::bind(listen).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(_) if listen.port() == 0 && tries < BIND_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

const BIND_TRIES: u32 = 100;

/// One view for each end of each edge: a plan that replaces another may leave a sender behind that still delivers.
fn merged(views: impl Iterator<Item = EdgeView>) -> Vec<EdgeView> {
    let mut found: Vec<EdgeView> = Vec::new();
    for view in views {
        match found.iter_mut().find(|own| own.name == view.name && own.side == view.side) {
            Some(own) => own.add(&view),
            None => found.push(view),
        }
    }
    found
}

/// As long as a name in DNS.
const NODE_BYTES_MAX: usize = 253;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_for_udp_is_passed_over_where_any_will_do() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut taken = Vec::new();
        for _ in 0..600 {
            taken.push(UdpSocket::bind(any).await.unwrap());
        }
        for _ in 0..500 {
            let (tcp, udp) = bind(any).await.unwrap();
            assert_eq!(tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        }
        // One that was asked for is not replaced by another.
        let own = taken[0].local_addr().unwrap();
        assert_eq!(bind(own).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
