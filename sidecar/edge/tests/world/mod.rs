//! Peers on loopback with real certificates, and a proxy between them that cuts.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use sidestream_edge::{EdgeName, EdgeReceiver, EdgeSender, Fixed, Peering, PeeringConfig, Target};
use sidestream_event::{Batch, Event, Mark, Settle, Settled, Span, Value};
use sidestream_host::Clock;
use sidestream_trust::{Authority, Credentials, Identity, SpiffeId};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::TRANSPORT;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const SERVICE: &str = "hub-spl.shop.svc";

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", "shop", name).unwrap()
}

pub(crate) fn edge() -> EdgeName {
    EdgeName { pipeline: "shop/orders".into(), edge: "a->b".into() }
}

pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) authority: Authority,
    pub(crate) dns: Arc<Fixed>,
}

pub(crate) fn world() -> World {
    let clock = Clock::machine();
    let authority = Authority::create("cluster.local", &clock).unwrap();
    World { clock, authority, dns: Arc::default() }
}

impl World {
    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        self.authority.credentials(&id(name), &[], DAY).unwrap()
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        Identity::new(self.credentials(name), &self.clock)
    }

    pub(crate) async fn process(&self, name: &str) -> Peering {
        self.process_as(self.identity(name)).await
    }

    pub(crate) async fn process_as(&self, identity: Identity) -> Peering {
        self.process_on("", identity).await
    }

    /// A process on a machine.
    pub(crate) async fn process_on(&self, node: &str, identity: Identity) -> Peering {
        Peering::start(PeeringConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity,
            resolver: self.dns.clone(),
            clock: self.clock.clone(),
            node: node.to_owned(),
        })
        .await
        .unwrap()
    }
}

/// What is owed for nothing.
#[derive(Debug)]
pub(crate) struct Nothing;

impl sidestream_edge::link::Held for Nothing {
    fn join(&mut self, _: Nothing) {}
}

/// Two processes, and DNS that knows where the second is.
pub(crate) async fn app_and_hub() -> (World, Peering, Peering) {
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
    (world, app, hub)
}

pub(crate) fn send(process: &Peering, to: &str) -> EdgeSender {
    process.send_to(Target {
        name: edge(),
        service: SERVICE.into(),
        identity: id(to),
        slots: None,
        transport: TRANSPORT,
    })
}

/// Sends a batch as a sink does: delivered, it has ended well.
pub(crate) async fn finish(sender: &mut EdgeSender, mut batch: Batch) {
    assert!(sender.send(&batch).await.is_empty());
    batch.finish();
}

pub(crate) fn receive(process: &Peering, from: &str) -> EdgeReceiver {
    process.receive(edge(), vec![id(from)])
}

/// What a source would hear.
#[derive(Default)]
pub(crate) struct Source {
    settled: Mutex<Vec<u64>>,
    released: Mutex<Vec<u64>>,
    dropped: Mutex<u32>,
}

impl Settle for Source {
    fn settled(&self, settled: Settled) {
        *self.dropped.lock().unwrap() += settled.dropped;
        self.settled.lock().unwrap().push(settled.span.first);
    }
    fn released(&self, span: Span) {
        self.released.lock().unwrap().push(span.first);
    }
}

impl Source {
    /// A batch of `count` events that say the numbers from `first`.
    pub(crate) fn batch(self: &Arc<Self>, first: u64, count: u32) -> Batch {
        let mark = Mark::new(Span { first, count }, self.clone());
        let number = |n: u64| {
            let mut event = Event::new([("n", n as i64)].into_iter().collect::<Value>());
            event.meta.sequence = n;
            event
        };
        Batch::of((first..first + u64::from(count)).map(number).collect(), mark)
    }

    pub(crate) fn dropped(&self) -> u32 {
        *self.dropped.lock().unwrap()
    }

    pub(crate) fn settled(&self) -> usize {
        self.settled.lock().unwrap().len()
    }

    /// The first events of the batches that need no replay, in order.
    pub(crate) fn released(&self) -> Vec<u64> {
        let mut released = self.released.lock().unwrap().clone();
        released.sort_unstable();
        released
    }
}

pub(crate) fn numbers(batch: &Batch) -> Vec<u64> {
    let number = |event: &Event| event.body.field("n").and_then(Value::as_f64).unwrap() as u64;
    batch.events().iter().map(number).collect()
}

/// Receives and settles everything, and keeps what it was given.
#[derive(Clone, Default)]
pub(crate) struct Seen(pub(crate) Arc<Mutex<Vec<u64>>>);

impl Seen {
    pub(crate) fn all(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn watch(&self, mut receiver: EdgeReceiver) -> tokio::task::JoinHandle<()> {
        let seen = self.clone();
        tokio::spawn(async move {
            loop {
                let arrived = receiver.next().await;
                let mut batch = Batch::default();
                arrived.read_into(&mut batch).unwrap();
                seen.0.lock().unwrap().extend(numbers(&batch));
                arrived.taken().release();
            }
        })
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it never came that {what}");
}

/// A TCP proxy whose connections can be cut.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn before(target: SocketAddr) -> Proxy {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((caller, _)) = socket.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut callee) = TcpStream::connect(target).await else { return };
                    let mut caller = caller;
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut caller, &mut callee) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Proxy { address, cuts }
    }

    /// Cuts every connection, in the middle of whatever it carries.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
