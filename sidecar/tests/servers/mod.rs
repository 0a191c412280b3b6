//! The servers of a pool in this process, and what their operator would tell them.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use sidestream_client::{Address, Client, ClientConfig};
use sidestream_control::{Dnpipe as Told, Owner, Pool};
use sidestream_host::Clock;
use sidestream_plan::Dnpipe;
use sidestream_sidecar::{ServeDnpipesError, Sidecar, SidecarConfig, cluster::PoolServer};
use sidestream_trust::{Authority, Identity, SpiffeId};
use tempfile::TempDir;

pub(crate) const DNPIPES: [&str; 3] = ["orders", "returns", "notes"];
pub(crate) const PARTITIONS: u32 = 2;
/// How long anything may take on a machine that has much else to do.
pub(crate) const SOON: Duration = Duration::from_secs(300);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// The servers of a pool, and what their operator would know of them.
pub(crate) struct Servers {
    pub(crate) sidecar: Sidecar,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Clock,
    pub(crate) folders: Vec<TempDir>,
    pub(crate) running: Vec<Option<(PoolServer, SocketAddr)>>,
    /// What each of them runs on: one that starts again is another process.
    worlds: Vec<Option<Sidecar>>,
    /// By dnpipe, who had it when a server last said so.
    pub(crate) owners: BTreeMap<String, Owner>,
}

impl Servers {
    /// Each has an address of this machine of its own, which differs from test to test: one that starts again finds its port
    /// free, because nobody else is there.
    pub(crate) fn start(test: u8, count: usize) -> Servers {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let clock = Clock::machine();
        Servers::of(Arc::new(Authority::create("cluster.local", &clock).unwrap()), clock, test, count)
    }

    /// More servers, who believe the same.
    pub(crate) fn beside(&self, test: u8, count: usize) -> Servers {
        Servers::of(self.authority.clone(), self.clock.clone(), test, count)
    }

    fn of(authority: Arc<Authority>, clock: Clock, test: u8, count: usize) -> Servers {
        let mut servers = Servers {
            sidecar: sidecar(),
            authority,
            clock,
            folders: (0..count).map(|_| tempfile::tempdir().unwrap()).collect(),
            running: (0..count).map(|_| None).collect(),
            worlds: (0..count).map(|_| None).collect(),
            owners: BTreeMap::new(),
        };
        (0..count).for_each(|number| servers.open(number, &format!("127.1.{test}.{}:0", number + 1)));
        servers
    }

    pub(crate) fn id(account: &str) -> SpiffeId {
        SpiffeId::of_service_account("cluster.local", "shop", account).unwrap()
    }

    pub(crate) fn identity(&self, account: &str) -> Identity {
        self.identity_in("shop", account)
    }

    pub(crate) fn identity_in(&self, namespace: &str, account: &str) -> Identity {
        let id = SpiffeId::of_service_account("cluster.local", namespace, account).unwrap();
        Identity::new(self.authority.credentials(&id, &[], DAY).unwrap(), &self.clock)
    }

    pub(crate) fn open(&mut self, number: usize, address: &str) {
        let (folder, end) = (self.folders[number].path(), self.clock.now() + SOON);
        // One before it may still be closing its files, or its port.
        let again = |error: ServeDnpipesError| {
            assert!(self.clock.now() < end, "{error}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let process = sidecar();
        let mut server = loop {
            match PoolServer::open(process.world(), folder, number as u32) {
                Ok(server) => break server,
                Err(error) => again(error),
            }
        };
        let bound = loop {
            match server.listen(address, self.identity("dnpipes-default")) {
                Ok(bound) => break bound,
                Err(error) => again(error),
            }
        };
        self.running[number] = Some((server, bound));
        self.worlds[number] = Some(process);
    }

    /// Stops a server at whatever it is about to do, and starts it again where it was.
    pub(crate) fn restart(&mut self, number: usize) {
        let address = self.stop(number);
        self.open(number, &address);
    }

    /// Stops a server, and says where it was.
    pub(crate) fn stop(&mut self, number: usize) -> String {
        let (server, address) = self.running[number].take().unwrap();
        server.close(Duration::ZERO);
        drop(server);
        self.worlds[number] = None;
        address.to_string()
    }

    pub(crate) fn address(&self, number: usize) -> String {
        self.running[number].as_ref().unwrap().1.to_string()
    }

    pub(crate) fn client(&self, number: usize) -> Client {
        let (host, identity) = (self.address(number), self.identity("till"));
        let config = ClientConfig { patience: SOON, ..ClientConfig::default() };
        Client::new(Address::Peer { host, identity, expected: Self::id("dnpipes-default") }, config)
    }

    /// Tells every server what the operator would, and hears what they say.
    pub(crate) fn tell(&mut self, home: impl Fn(&str) -> u32, wanted: u32) {
        let servers: Vec<String> = (0..self.running.len()).map(|number| self.address(number)).collect();
        let told = DNPIPES.map(|name| Told {
            home: home(name),
            owner: self.owners.get(&format!("shop/{name}")).copied(),
            ..Told::wrap(&plan(name), name, "1")
        });
        let pool = Pool { dnpipes: told.into(), servers, wanted };
        for (server, _) in self.running.iter_mut().flatten() {
            server.obey(&pool);
        }
        for (number, (server, _)) in self.running.iter().flatten().enumerate() {
            for own in server.serving().dnpipes.into_iter().filter(|own| !own.elsewhere) {
                let heard = Owner { server: number as u32, term: own.term };
                let known = self.owners.entry(own.dnpipe).or_insert(heard);
                if heard.term >= known.term {
                    *known = heard;
                }
            }
        }
    }

    /// Tells them that there is no dnpipe.
    pub(crate) fn tell_of_nothing(&mut self) {
        let servers = (0..self.running.len()).map(|number| self.address(number)).collect();
        let pool = Pool { dnpipes: Vec::new(), servers, wanted: self.running.len() as u32 };
        self.running.iter_mut().flatten().for_each(|(server, _)| server.obey(&pool));
    }

    /// By dnpipe, the servers that say that they have it, by the terms they have it in. They are asked one after the other, so
    /// one that moves meanwhile is with two of them.
    pub(crate) fn having(&self) -> BTreeMap<String, BTreeMap<u32, usize>> {
        let mut having: BTreeMap<String, BTreeMap<u32, usize>> = BTreeMap::new();
        for (number, (server, _)) in self.running.iter().flatten().enumerate() {
            for own in server.serving().dnpipes.into_iter().filter(|own| !own.elsewhere) {
                let other = having.entry(own.dnpipe.clone()).or_default().insert(own.term, number);
                assert_eq!(other, None, "{} is with {number} too, in term {}", own.dnpipe, own.term);
            }
        }
        having
    }

    /// Tells them until each dnpipe is where it is to be; `meanwhile` may disturb them.
    pub(crate) fn settle(
        &mut self,
        home: impl Fn(&str) -> u32,
        wanted: u32,
        mut meanwhile: impl FnMut(&mut Servers, usize),
    ) {
        let end = self.clock.now() + SOON;
        for round in 0.. {
            self.tell(&home, wanted);
            let having = self.having();
            let is_home = |name: &&str| {
                let at = having.get(&format!("shop/{name}"));
                at.is_some_and(|at| at.values().eq([&(home(name) as usize)]))
            };
            if DNPIPES.iter().all(is_home) {
                return;
            }
            assert!(self.clock.now() < end, "{having:?}");
            meanwhile(self, round);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn everything_at_first(_: &str) -> u32 {
        0
    }

    pub(crate) fn spread(name: &str) -> u32 {
        DNPIPES.iter().position(|own| *own == name).unwrap() as u32
    }
}

fn sidecar() -> Sidecar {
    Sidecar::start(SidecarConfig { workers: Some(1), ..SidecarConfig::default() }).unwrap()
}

pub(crate) fn plan(name: &str) -> Dnpipe {
    let json = serde_json::json!({
        "namespace": "shop", "name": name, "pool": "default", "partitions": PARTITIONS, "durability": "Device",
        "retention": {}, "access": [{"allow": ["push", "pull", "reset"], "from": {}}],
    });
    serde_json::from_value(json).unwrap()
}
