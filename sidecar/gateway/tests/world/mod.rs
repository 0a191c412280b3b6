//! A server of dnpipes in a folder of its own, and callers of it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use sidestream_broker::{Broker, DnpipeSpec, access::Rule};
use sidestream_client::{Address, Client, ClientConfig};
use sidestream_event::native::{DiskView, Refusal, Verified};
use sidestream_gateway::{Gateway, Limits, Storage};
use sidestream_host::{
    Clock,
    disk::{self, Choice},
};
use sidestream_log::{Journal, Settings};
use sidestream_trust::{Authority, Identity, SpiffeId};
use tokio::{net::TcpListener, sync::RwLock};

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) gateway: Gateway,
    pub(crate) broker: Broker,
    /// Whoever has it keeps comparisons of checksums from their end.
    pub(crate) verifying: Arc<RwLock<()>>,
    journal: Journal,
    authority: Authority,
    clock: Clock,
}

struct Nothing {
    /// Whoever has it keeps comparisons of checksums from their end.
    verifying: Arc<RwLock<()>>,
}

impl Storage for Nothing {
    fn disk(&self) -> DiskView {
        DiskView { driver: "file".into(), reason: "a test".into() }
    }

    fn wall_nanos(&self) -> i64 {
        Clock::machine().wall_nanos()
    }

    fn verify(&self) -> Pin<Box<dyn Future<Output = Result<Verified, Refusal>> + Send + '_>> {
        Box::pin(async {
            let _to_the_end = self.verifying.read().await;
            Ok(Verified::default())
        })
    }
}

/// A server that has the dnpipe `shop/orders` of three partitions, and `shop/notes` of one.
pub(crate) async fn world(limits: Limits) -> World {
    world_by(limits, Clock::machine()).await
}

/// The same, to whose server it is what time `clock` says.
pub(crate) async fn world_by(limits: Limits, clock: Clock) -> World {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk::open(&folder.path().join("journal"), Choice::File).unwrap();
    let settings = Settings { segment_bytes: 16 << 20, reserve_bytes: 0, ..Settings::default() };
    let (journal, recovered) = Journal::open(disk, settings, clock.clone()).unwrap();
    let broker = Broker::open(journal.clone(), &recovered, clock.clone()).await.unwrap();
    let verifying = Arc::<RwLock<()>>::default();
    let storage = Nothing { verifying: verifying.clone() };
    let gateway = Gateway::new(broker.clone(), Arc::new(storage), limits);
    let authority = Authority::create("cluster.local", &clock).unwrap();
    let world = World { folder, gateway, broker, verifying, journal, authority, clock };
    world.apply(DnpipeSpec { partitions: 3, ..DnpipeSpec::new("shop/orders".parse().unwrap()) }).await;
    world.apply(DnpipeSpec::new("shop/notes".parse().unwrap())).await;
    world.gateway.open_local(&world.socket()).unwrap();
    world
}

impl World {
    pub(crate) async fn apply(&self, spec: DnpipeSpec) {
        self.broker.apply(spec).await.unwrap();
    }

    pub(crate) async fn permit(&self, name: &str, access: Vec<Rule>) {
        self.apply(DnpipeSpec { access, ..DnpipeSpec::new(name.parse().unwrap()) }).await;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn local(&self) -> Client {
        Client::new(Address::Local(self.socket()), config())
    }

    pub(crate) fn id(namespace: &str, account: &str) -> SpiffeId {
        SpiffeId::of_service_account("cluster.local", namespace, account).unwrap()
    }

    pub(crate) fn identity(&self, namespace: &str, account: &str) -> Identity {
        let credentials = self.authority.credentials(&Self::id(namespace, account), &[], DAY).unwrap();
        Identity::new(credentials, &self.clock)
    }

    /// Opens the door over TCP, as `shop/dnpipes`.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.gateway.open_tcp(listener, self.identity("shop", "dnpipes"));
        address
    }

    pub(crate) fn peer(&self, address: SocketAddr, namespace: &str, account: &str) -> Client {
        let (host, identity) = (address.to_string(), self.identity(namespace, account));
        Client::new(Address::Peer { host, identity, expected: Self::id("shop", "dnpipes") }, config())
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}

fn config() -> ClientConfig {
    ClientConfig { patience: Duration::from_secs(20), ..ClientConfig::default() }
}

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
