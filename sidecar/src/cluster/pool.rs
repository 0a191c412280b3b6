//! A server of a pool of dnpipes: what the operator says of them, and what the volume has.
//!
//! ```text
//!   DIR/dnpipes.json   what each dnpipe was last told to be, and which of that name it is
//!   DIR/journal/       their records
//!
//!   told of ────────────────────────▶ made so
//!   told of, another of its name ───▶ made anew, where the records of the one before were to go with it; else it goes on
//!   not told of any more ───────────▶ removed with its records where they were to go with it; else closed to everybody
//! ```
//!
//! A pool of several servers has each dnpipe in one of them. This one knows of all, makes those that begin here, brings those here
//! that it is to have ([`moves`](super::moves)), and says of the others who has them.
//!
//! It serves what it keeps from its first moment; the operator may be away. What it is told is written down before it is done, so
//! that a crash in between leaves nothing that is not known. Records are removed only on the word of a full set that the one
//! dnpipe is missing from, and only where that dnpipe had asked for it while it was there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    slice,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sidestream_broker::Home;
use sidestream_control::{Owner, Pool, Served, Serving};
use sidestream_event::native::DnpipeName;
use sidestream_host::Clock;
use sidestream_plan::{
    Dnpipe,
    dnpipe::{AccessRule, Participant},
};
use sidestream_trust::Identity;
use tokio::runtime::Handle;

use super::{
    moves::{Mover, Wanted},
    write_whole,
};
use crate::{Dnpipes, ServeDnpipesError, World, dnpipes::Amounts};

/// The dnpipes of a pool, in one of its servers.
pub struct PoolServer {
    dnpipes: Dnpipes,
    clock: Clock,
    sockets: Handle,
    /// Which of the servers this is.
    number: u32,
    mover: Mover,
    /// What it was last told.
    told: Option<Pool>,
    /// How many dnpipes had come or gone when somebody last heard of it.
    seen: Mutex<u64>,
    kept: Kept,
    /// Why those that are not as they were told to be are not.
    errors: BTreeMap<String, String>,
}

/// What is known of each dnpipe, by its full name.
struct Kept {
    path: PathBuf,
    members: BTreeMap<String, Member>,
}

/// One dnpipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    uid: String,
    hash: String,
    is_removed_when_deleted: bool,
    plan: Dnpipe,
    /// It was deleted, and its records stay.
    #[serde(default)]
    is_closed: bool,
}

impl PoolServer {
    /// Serves what is in `folder` through a local socket there, as server `number` of the pool. Blocks while the journal is
    /// read.
    ///
    /// # Errors
    /// A folder that cannot be used, or holds what is of a newer version.
    pub fn open(world: &World, folder: &Path, number: u32) -> Result<PoolServer, ServeDnpipesError> {
        let of_folder = |error| ServeDnpipesError::Folder { path: folder.to_owned(), error };
        let kept = Kept::read(folder.join(KEPT)).map_err(of_folder)?;
        let dnpipes = Dnpipes::open(world, folder)?;
        // Also before it hears of others: what it has may be wanted by one of them.
        dnpipes.broker().share();
        let errors = BTreeMap::new();
        let (clock, sockets, mover) = (world.clock().clone(), world.sockets().clone(), Mover::new());
        let (told, seen) = (None, Mutex::default());
        Ok(PoolServer { dnpipes, clock, sockets, number, mover, told, seen, kept, errors })
    }

    /// Opens the port of the pool, and says which. From now on it brings here what it is to have.
    ///
    /// # Errors
    /// A port that is not to be had.
    pub fn listen(&mut self, address: &str, identity: Identity) -> Result<SocketAddr, ServeDnpipesError> {
        let bound = self.dnpipes.listen(address, identity.clone())?;
        let broker = self.dnpipes.broker().clone();
        self.mover.start((broker, self.clock.clone()), self.number, identity, &self.sockets);
        Ok(bound)
    }

    /// What it serves.
    pub fn dnpipes(&self) -> &Dnpipes {
        &self.dnpipes
    }

    /// Waits until a dnpipe has come or gone, and says what it was last told, for it to be done again: one that has come is as
    /// the server before had it.
    pub async fn moved(&self) -> Option<Pool> {
        let mut moved = self.dnpipes.broker().moved();
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // An error would mean that there is no broker.
        let count = moved.wait_for(|count| *count != seen).await.map_or(seen, |count| *count);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = count;
        self.told.clone()
    }

    /// Makes the dnpipes what they are to be. Blocks.
    pub fn obey(&mut self, pool: &Pool) {
        self.errors.clear();
        let before = self.kept.members.clone();
        let wanted = self.wanted(pool);
        let (removed, after) = self.remove(wanted);
        if let Err(error) = self.kept.write(after.clone()) {
            let error = format!("cannot write {}: {error}", self.kept.path.display());
            self.errors.extend(after.into_keys().map(|name| (name, error.clone())));
            return;
        }
        self.place(pool);
        for (name, member) in after {
            if self.is_not_to_be_made(&name, &member, pool) && !removed.contains(&name) {
                continue;
            }
            let is_same = before.get(&name) == Some(&member) && !removed.contains(&name);
            // Also one that is known is made again: the last time may have failed, or ended halfway.
            if let Err(error) = self.dnpipes.apply(slice::from_ref(&member.as_served())) {
                tracing::error!(dnpipe = name, "{error}");
                self.errors.insert(name, error.to_string());
            } else if !is_same {
                tracing::info!(dnpipe = name, closed = member.is_closed, "serving");
            }
        }
        self.mover.want(self.wanted_here(pool));
        self.told = Some(pool.clone());
    }

    /// Whether nothing of a dnpipe is here that this server had, or that was deleted: an empty one is not what it was.
    fn is_not_to_be_made(&mut self, name: &str, member: &Member, pool: &Pool) -> bool {
        let parsed = name.parse::<DnpipeName>();
        if !parsed.is_ok_and(|name| self.dnpipes.broker().home(&name).is_none()) {
            return false;
        }
        let told = pool.dnpipes.iter().find(|told| told.name == name);
        let is_own = told.and_then(|told| told.owner).is_some_and(|owner| owner.server == self.number);
        if is_own {
            let error = "this server had it, and nothing of it is on its volume: bring the volume back, or delete the dnpipe \
                         and make it anew";
            tracing::error!(dnpipe = name, "{error}");
            self.errors.insert(name.to_owned(), error.to_owned());
        }
        is_own || member.is_closed
    }

    /// Notes who has what, before anything is made: what is with another server, or begins there, is not made here.
    fn place(&self, pool: &Pool) {
        let broker = self.dnpipes.broker();
        if !pool.servers.is_empty() {
            broker.name_servers(pool.servers.iter().cloned());
        }
        let told = pool.dnpipes.iter().map(|told| (told.name.as_str(), told.owner.unwrap_or_default()));
        // Of what was deleted and stays nobody says who has it. It is the first server's to know.
        let closed = self.kept.members.iter().filter(|(_, member)| member.is_closed);
        let closed = closed.map(|(name, _)| (name.as_str(), Owner::default()));
        for (name, Owner { server, term }) in told.chain(closed) {
            if let Ok(name) = name.parse::<DnpipeName>()
                && server != self.number
            {
                broker.place_elsewhere(&name, server, term);
            }
        }
        broker.hear();
    }

    /// What is to come here: what has its home here, and to the first server also what was deleted and stays on those that are
    /// to be emptied.
    fn wanted_here(&self, pool: &Pool) -> Wanted {
        let is_home = |name: &str| {
            let told = pool.dnpipes.iter().find(|told| told.name == name);
            told.map(|told| told.home == self.number)
        };
        let is_wanted = |name: &DnpipeName, full: &str| match is_home(full) {
            Some(is_home) => is_home,
            None => match self.dnpipes.broker().home(name) {
                Some(Home::Away { server, .. } | Home::Ready { from: server, .. }) => {
                    self.number == 0 && pool.wanted > 0 && server >= pool.wanted
                }
                Some(Home::Here { .. }) | None => false,
            },
        };
        let members = self.kept.members.iter().filter_map(|(full, member)| {
            let name = full.parse::<DnpipeName>().ok().filter(|name| is_wanted(name, full))?;
            Some((name, member.plan.partitions))
        });
        Wanted { servers: pool.servers.clone(), dnpipes: members.collect() }
    }

    /// Whether not all of them are as they are to be.
    pub fn is_unfinished(&self) -> bool {
        !self.errors.is_empty()
    }

    /// How they are.
    pub fn serving(&self) -> Serving {
        let disk = self.dnpipes.disk();
        let open = self.kept.members.iter().filter(|(_, member)| !member.is_closed);
        let served = open.map(|(name, member)| {
            let Amounts { epoch, records, bytes, lag } = self.dnpipes.amounts(name).unwrap_or_default();
            let error = self.errors.get(name).cloned();
            let parsed = name.parse::<DnpipeName>().ok();
            let home = parsed.as_ref().and_then(|name| self.dnpipes.broker().home(name));
            let (elsewhere, at, term) = match home {
                Some(Home::Away { server, term }) => (true, Some(server), term),
                Some(Home::Ready { .. }) => (true, None, 0),
                Some(Home::Here { term }) => (false, None, term),
                // Nothing of it is here: it never was.
                None => (true, None, 0),
            };
            let stuck = parsed.filter(|_| elsewhere).and_then(|name| self.mover.failure(&name));
            let (dnpipe, hash) = (name.clone(), member.hash.clone());
            let uid = member.uid.clone();
            Served { dnpipe, hash, error, epoch, records, bytes, elsewhere, term, stuck, uid, at, lag }
        });
        let unknown = self.errors.iter().filter(|(name, _)| !self.kept.members.contains_key(*name));
        let unknown = unknown.map(|(name, error)| Served {
            dnpipe: name.clone(),
            error: Some(error.clone()),
            elsewhere: true,
            ..Served::default()
        });
        let room = self.dnpipes.room();
        Serving {
            volume_bytes: room.map_or(0, |room| room.bytes),
            volume_free_bytes: room.map_or(0, |room| room.free_bytes),
            disk: disk.driver,
            disk_reason: disk.reason,
            volatile: self.dnpipes.volatile().map(str::to_owned),
            dnpipes: served.chain(unknown).collect(),
            kept: (self.dnpipes.names().len() + self.dnpipes.broker().arrivals().len()) as u32,
        }
    }

    /// Closes the doors, answers what was asked for `grace` at most, and closes the journal. Blocks.
    pub fn close(&self, grace: Duration) {
        self.mover.stop();
        self.dnpipes.close(grace);
    }

    /// What is to be known of each dnpipe from now on. One that was deleted and is to be removed is not in it.
    fn wanted(&mut self, pool: &Pool) -> BTreeMap<String, Member> {
        let mut wanted = BTreeMap::new();
        for told in &pool.dnpipes {
            let known = self.kept.members.get(&told.name);
            match told.unwrap() {
                Ok(Some(plan)) => {
                    let member = Member {
                        uid: told.uid.clone(),
                        hash: told.hash.clone(),
                        is_removed_when_deleted: told.is_removed_when_deleted,
                        plan,
                        is_closed: false,
                    };
                    wanted.insert(told.name.clone(), member);
                }
                // It stays as it is, closed or open.
                Ok(None) => wanted.extend(known.map(|known| (told.name.clone(), known.clone()))),
                Err(error) => {
                    wanted.extend(known.map(|known| (told.name.clone(), known.clone())));
                    let error = format!("what it is to be cannot be read: {error}; upgrade the server");
                    self.errors.insert(told.name.clone(), error);
                }
            }
        }
        let told: BTreeSet<&String> = pool.dnpipes.iter().map(|told| &told.name).collect();
        let left = self.kept.members.iter().filter(|(name, _)| !told.contains(name));
        for (name, member) in left.filter(|(_, member)| !member.is_removed_when_deleted) {
            wanted.insert(name.clone(), Member { is_closed: true, ..member.clone() });
        }
        wanted
    }

    /// Removes the dnpipes whose records were to go with them: those that are not wanted any more, and those in whose place
    /// there is another. Says which are gone, and what is to be known now: of those that could not be removed, what was known.
    fn remove(
        &mut self,
        mut wanted: BTreeMap<String, Member>,
    ) -> (BTreeSet<String>, BTreeMap<String, Member>) {
        let mut removed = BTreeSet::new();
        for (name, member) in &self.kept.members {
            let is_gone = wanted.get(name).is_none_or(|other| other.uid != member.uid);
            if !is_gone || !member.is_removed_when_deleted {
                continue;
            }
            match self.dnpipes.remove(name) {
                Ok(()) => {
                    tracing::info!(dnpipe = name, "removed with its records, as it was to be when deleted");
                    removed.insert(name.clone());
                }
                Err(error) => {
                    tracing::error!(dnpipe = name, "cannot be removed yet: {error}");
                    self.errors.insert(name.clone(), error.to_string());
                    wanted.insert(name.clone(), member.clone());
                }
            }
        }
        (removed, wanted)
    }
}

impl Member {
    /// As the broker is to have it.
    fn as_served(&self) -> Dnpipe {
        let nobody = || vec![AccessRule { allow: Vec::new(), from: Participant::default() }];
        match self.is_closed {
            true => Dnpipe { access: nobody(), ..self.plan.clone() },
            false => self.plan.clone(),
        }
    }
}

impl Kept {
    fn read(path: PathBuf) -> io::Result<Kept> {
        let members = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Kept { path, members })
    }

    fn write(&mut self, members: BTreeMap<String, Member>) -> io::Result<()> {
        if self.members != members {
            write_whole(&self.path, &serde_json::to_vec(&members)?)?;
            self.members = members;
        }
        Ok(())
    }
}

/// The name of the file in the folder.
const KEPT: &str = "dnpipes.json";

#[cfg(test)]
mod tests {
    use sidestream_control::Dnpipe as Told;
    use tempfile::TempDir;

    use super::*;
    use crate::{Sidecar, SidecarConfig};

    fn plan(name: &str, partitions: u32) -> Dnpipe {
        let json = serde_json::json!({
            "namespace": "shop", "name": name, "pool": "default", "partitions": partitions, "durability": "Device",
            "retention": {}, "access": [{"allow": ["push", "pull", "reset"], "from": {}}],
        });
        serde_json::from_value(json).unwrap()
    }

    fn told(name: &str, uid: &str, is_removed_when_deleted: bool) -> Told {
        Told { is_removed_when_deleted, ..Told::wrap(&plan(name, 1), uid, format!("hash of {uid}")) }
    }

    fn server(folder: &TempDir) -> (Sidecar, PoolServer) {
        let sidecar = Sidecar::start(SidecarConfig { workers: Some(1), ..SidecarConfig::default() }).unwrap();
        // One before it may still be closing its files.
        for _ in 0..6_000 {
            match PoolServer::open(sidecar.world(), folder.path(), 0) {
                Ok(server) => return (sidecar, server),
                Err(ServeDnpipesError::Disk(_)) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the folder is in use for a minute");
    }

    fn obey(server: &mut PoolServer, dnpipes: Vec<Told>) {
        server.obey(&Pool { dnpipes, ..Pool::default() });
    }

    /// By the name, its hash and whether there is an error.
    fn said(server: &PoolServer) -> Vec<(String, String, bool)> {
        let dnpipes = server.serving().dnpipes.into_iter();
        dnpipes.map(|own| (own.dnpipe, own.hash, own.error.is_some())).collect()
    }

    fn partitions(server: &PoolServer, name: &str) -> Option<u32> {
        server.dnpipes.names().contains(&name.to_owned()).then(|| server.dnpipes.partitions(name).unwrap())
    }

    #[test]
    fn what_is_told_is_served_also_by_the_next_process_that_hears_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (sidecar, mut server) = server(&folder);
        obey(&mut server, vec![told("orders", "u1", false)]);
        obey(&mut server, vec![told("orders", "u1", false), told("returns", "u2", false)]);
        let expected = [("shop/orders", "u1"), ("shop/returns", "u2")]
            .map(|(name, uid)| (name.to_owned(), format!("hash of {uid}"), false));
        assert_eq!(said(&server), expected);
        server.close(Duration::ZERO);
        drop((server, sidecar));
        let (_sidecar, server) = self::server(&folder);
        assert_eq!(said(&server), expected);
    }

    #[test]
    fn a_deleted_one_stays_behind_closed_doors_and_goes_on_when_it_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (_sidecar, mut server) = server(&folder);
        obey(&mut server, vec![told("orders", "u1", false)]);
        obey(&mut server, vec![]);
        assert_eq!(said(&server), []);
        assert_eq!(server.dnpipes.names(), ["shop/orders"], "its records are there");
        assert!(server.kept.members["shop/orders"].as_served().access[0].allow.is_empty());
        obey(&mut server, vec![told("orders", "u2", false)]);
        assert_eq!(said(&server), [("shop/orders".into(), "hash of u2".into(), false)]);
        assert!(!server.kept.members["shop/orders"].is_closed);
    }

    #[test]
    fn one_whose_records_go_with_it_is_removed_also_where_only_its_successor_is_heard_of() {
        let folder = tempfile::tempdir().unwrap();
        let (_sidecar, mut server) = server(&folder);
        obey(&mut server, vec![told("orders", "u1", true)]);
        obey(&mut server, vec![]);
        assert_eq!(server.dnpipes.names(), Vec::<String>::new());
        obey(&mut server, vec![told("orders", "u2", true)]);
        // Only one that is made anew can have another number of partitions.
        let again = Told { ..Told::wrap(&plan("orders", 3), "u3", "h3") };
        obey(&mut server, vec![again]);
        assert_eq!(said(&server), [("shop/orders".into(), "h3".into(), false)]);
        assert_eq!(partitions(&server, "shop/orders"), Some(3));
    }

    #[test]
    fn what_a_server_had_and_is_gone_is_not_made_anew_and_what_it_never_had_it_does_not_claim() {
        let folder = tempfile::tempdir().unwrap();
        let (_sidecar, mut server) = server(&folder);
        let own = Told { owner: Some(Owner { server: 0, term: 3 }), ..told("orders", "u1", false) };
        let others = Told { owner: Some(Owner { server: 1, term: 0 }), ..told("returns", "u2", false) };
        obey(&mut server, vec![own, others]);
        assert_eq!(server.dnpipes.names(), Vec::<String>::new());
        let said = server.serving().dnpipes;
        assert!(said.iter().all(|own| own.elsewhere), "{said:?}");
        assert!(said[0].error.as_ref().is_some_and(|error| error.contains("volume")), "{said:?}");
        assert_eq!(said[1].error, None);
        obey(&mut server, vec![told("orders", "u3", false)]);
        assert_eq!(server.dnpipes.names(), ["shop/orders"], "nobody ever had this one");
    }

    #[test]
    fn what_cannot_be_said_stays_as_it_is_and_what_cannot_be_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (_sidecar, mut server) = server(&folder);
        obey(&mut server, vec![told("orders", "u1", true)]);
        let unsaid = Told { name: "shop/orders".into(), uid: "u1".into(), ..Told::default() };
        obey(&mut server, vec![unsaid]);
        assert_eq!(said(&server), [("shop/orders".into(), "hash of u1".into(), false)]);
        assert!(server.kept.members["shop/orders"].is_removed_when_deleted, "as it was last asked for");
        let broken = Told { body: b"{".to_vec(), ..told("orders", "u1", true) };
        obey(&mut server, vec![broken]);
        assert!(said(&server)[0].2 && server.is_unfinished());
        let wider = Told { is_removed_when_deleted: true, ..Told::wrap(&plan("orders", 3), "u1", "h") };
        obey(&mut server, vec![wider]);
        let error = server.serving().dnpipes[0].error.clone().unwrap();
        assert!(error.contains("partitions"), "{error}");
    }
}
