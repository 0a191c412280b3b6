//! The dnpipes of a process: a journal in a folder, the broker on it, and the doors to it.
//!
//! ```text
//!   DIR/journal/           the journal, also of what pipelines spill; one process at a time has it
//!   DIR/sidestream.sock    the door for this user's programs on this machine
//! ```
//!
//! What a process before has kept there is served again, also where nobody names it any more: data is removed by a reset, never
//! by an edit of a file.

mod waiting;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use sidestream_broker::{
    ApplyError, Broker, Described, DnpipeSpec, Durability, GroupInfo, GroupSpec, KeyRef, Keys, OpenError,
    Retention,
    access::{Rule, Verbs},
};
use sidestream_connector::{Address, Secrets};
use sidestream_event::native::{BadName, DamageView, DiskView, DnpipeName, Refusal, Verified};
use sidestream_gateway::{Gateway, Limits as DoorLimits, Storage};
use sidestream_host::{
    Clock,
    disk::{self, Choice},
};
use sidestream_log::{Counts, Journal, PartitionId, ReadError, Settings, Usage};
use sidestream_plan::{
    Dnpipe, SecretKey,
    dnpipe::{AccessRule, Durability as Asked, Permission},
};
use sidestream_spill::{Limits, Spills};
use sidestream_trust::Identity;
use tokio::{net::TcpListener, runtime::Handle, task::AbortHandle};

use self::waiting::Waiting;
use crate::{World, spill::spills_of};

/// Dnpipes that are served. Clones are the same ones.
#[derive(Clone)]
pub struct Dnpipes {
    broker: Broker,
    gateway: Arc<Gateway>,
    stored: Arc<Stored>,
    /// Queues of pipelines in the same journal.
    spills: Spills,
    maintenance: AbortHandle,
    waiting: Waiting,
    sockets: Handle,
    folder: Arc<Path>,
    volatile: Option<Arc<str>>,
}

/// How much there is of a dnpipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// How often it was reset.
    pub epoch: u32,
    /// Records that are there.
    pub records: u64,
    /// Bytes of the disk.
    pub bytes: u64,
    /// Records that the group which is furthest behind has not done.
    pub lag: u64,
}

/// How dnpipes and their journal stand.
pub(crate) struct Look {
    /// Each with its groups, by name.
    pub(crate) dnpipes: Vec<(Described, Vec<GroupInfo>)>,
    pub(crate) usage: Usage,
    pub(crate) counts: Counts,
    /// The name of the disk's driver.
    pub(crate) disk: String,
    /// Whether what is on it survives a power cut.
    pub(crate) is_durable: bool,
    /// Its volume.
    pub(crate) room: Option<disk::Room>,
}

/// Why dnpipes are not served.
#[derive(Debug)]
pub enum ServeDnpipesError {
    /// The folder cannot be made or used.
    Folder {
        /// Which.
        path: PathBuf,
        /// What the machine said.
        error: io::Error,
    },
    /// The disk cannot be had: most often another process has it.
    Disk(disk::OpenError),
    /// The journal cannot be read.
    Journal(sidestream_log::OpenError),
    /// What the broker wrote before cannot be read.
    Broker(OpenError),
    /// What was spilled before cannot be read.
    Spilled(ReadError),
    /// A dnpipe has a name that none may have.
    Name(BadName),
    /// A dnpipe cannot be what it is asked to be.
    Apply {
        /// Which.
        dnpipe: String,
        /// Why not.
        error: ApplyError,
    },
    /// A door cannot be opened.
    Door {
        /// Which.
        door: String,
        /// What the machine said.
        error: io::Error,
    },
}

impl Dnpipes {
    /// Opens the journal in `folder`, and serves what is in it through a local socket there, also to the pipelines of this
    /// process. Blocks while it is read.
    ///
    /// # Errors
    /// A folder that another process has, or that cannot be used; a journal of a newer version.
    pub fn open(world: &World, folder: &Path) -> Result<Dnpipes, ServeDnpipesError> {
        let journal_folder = folder.join("journal");
        let of_folder = |error| ServeDnpipesError::Folder { path: journal_folder.clone(), error };
        disk::make_directory(&journal_folder).map_err(of_folder)?;
        let disk = disk::open(&journal_folder, Choice::Auto).map_err(ServeDnpipesError::Disk)?;
        let opened = Journal::open(disk, Settings::default(), world.clock().clone());
        let (journal, recovered) = opened.map_err(ServeDnpipesError::Journal)?;
        for damage in &recovered.damage {
            tracing::error!("the journal is damaged: {damage}");
        }
        let (clock, keys) = (world.clock().clone(), Arc::new(SecretKeys(world.secrets.clone())));
        let opened = Broker::open_with(journal.clone(), &recovered, clock, keys);
        let opened = world.sockets().block_on(opened);
        let broker = opened.map_err(ServeDnpipesError::Broker)?;
        let limits = Limits { bytes_max: world.spill_bytes_max };
        let spills = spills_of(journal.clone(), limits, world).map_err(ServeDnpipesError::Spilled)?;
        world.spill_to(spills.clone());
        let maintenance = {
            let broker = broker.clone();
            world.sockets().spawn(async move { broker.run().await }).abort_handle()
        };
        let stored = Arc::new(Stored { journal, broker: broker.clone(), clock: world.clock().clone() });
        let gateway = Arc::new(Gateway::new(broker.clone(), stored.clone(), DoorLimits::default()));
        let (sockets, volatile) = (world.sockets().clone(), volatile(folder).map(Arc::from));
        let here = Arc::from(folder);
        let dnpipes = Dnpipes {
            broker,
            gateway,
            stored,
            spills,
            maintenance,
            waiting: Waiting::default(),
            sockets,
            folder: here,
            volatile,
        };
        let socket = folder.join(SOCKET);
        dnpipes.open_local(&socket)?;
        world.use_dnpipes(Address::Local(socket));
        Ok(dnpipes)
    }

    fn open_local(&self, socket: &Path) -> Result<(), ServeDnpipesError> {
        let _runtime = self.sockets.enter();
        let opened = self.gateway.open_local(socket);
        opened.map_err(|error| ServeDnpipesError::Door { door: socket.display().to_string(), error })
    }

    /// Opens a TCP port for those who prove who they are, and says which.
    ///
    /// # Errors
    /// A port that is not to be had.
    pub fn listen(&self, address: &str, identity: Identity) -> Result<SocketAddr, ServeDnpipesError> {
        let _runtime = self.sockets.enter();
        let listener = self.sockets.block_on(TcpListener::bind(address));
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (bound, listener) =
            bound.map_err(|error| ServeDnpipesError::Door { door: address.to_owned(), error })?;
        self.gateway.open_tcp(listener, identity);
        Ok(bound)
    }

    /// Makes dnpipes, or changes what they are to be. Those that are there and not named stay as they are.
    ///
    /// # Errors
    /// The first that cannot be what it is asked to be; those before it are.
    pub fn apply(&self, dnpipes: &[Dnpipe]) -> Result<(), ServeDnpipesError> {
        for dnpipe in dnpipes {
            let spec = spec(dnpipe).map_err(ServeDnpipesError::Name)?;
            let of_dnpipe = |error| ServeDnpipesError::Apply { dnpipe: dnpipe.full_name(), error };
            self.sockets.block_on(self.broker.apply(spec)).map_err(of_dnpipe)?;
        }
        Ok(())
    }

    /// The same, but for those whose key is missing, or another one than before: they are locked, or not made yet, and are what
    /// they are to be when it is there. The log names them. Those that waited before and are not named wait no more.
    ///
    /// # Errors
    /// The first that cannot be what it is asked to be, whatever key there is.
    pub fn apply_as_keys_come(&self, dnpipes: &[Dnpipe]) -> Result<(), ServeDnpipesError> {
        let specs = dnpipes.iter().map(spec).collect::<Result<_, _>>().map_err(ServeDnpipesError::Name)?;
        let applied = self.sockets.block_on(self.waiting.apply(&self.broker, specs));
        applied.map_err(|(name, error)| ServeDnpipesError::Apply { dnpipe: name.to_string(), error })
    }

    /// Removes a dnpipe with its records, where it is there.
    ///
    /// # Errors
    /// A name that none can have; a disk that fails.
    pub fn remove(&self, full_name: &str) -> Result<(), ServeDnpipesError> {
        let name: DnpipeName = full_name.parse().map_err(ServeDnpipesError::Name)?;
        match self.sockets.block_on(self.broker.remove(&name)) {
            Ok(()) | Err(ApplyError::Unknown(_)) => Ok(()),
            Err(error) => Err(ServeDnpipesError::Apply { dnpipe: full_name.to_owned(), error }),
        }
    }

    /// How much there is of a dnpipe.
    pub fn amounts(&self, full_name: &str) -> Option<Amounts> {
        let name: DnpipeName = full_name.parse().ok()?;
        let found = self.broker.describe(&name)?;
        let records = found.partitions.iter().map(|own| own.end.saturating_sub(own.first)).sum();
        let lag = self.broker.lag(&name)?;
        Some(Amounts { epoch: found.epoch, records, bytes: found.used_bytes, lag })
    }

    /// How many partitions a dnpipe has.
    pub fn partitions(&self, full_name: &str) -> Option<u32> {
        self.broker.describe(&full_name.parse().ok()?).map(|found| found.spec.partitions)
    }

    /// The dnpipes there are, by their full names.
    pub fn names(&self) -> Vec<String> {
        self.broker.list().iter().map(ToString::to_string).collect()
    }

    /// Who keeps them.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Why nothing here survives a power cut, where that is so.
    pub fn volatile(&self) -> Option<&str> {
        self.volatile.as_deref()
    }

    /// The volume that they are on, where the system says.
    pub fn room(&self) -> Option<disk::Room> {
        disk::room(&self.folder).ok()
    }

    /// Which disk runs underneath, and why.
    pub fn disk(&self) -> DiskView {
        self.stored.disk()
    }

    /// How everything stands, for whoever measures. Blocks.
    pub(crate) fn look(&self) -> Look {
        let dnpipes = self.sockets.block_on(async {
            let mut found = Vec::new();
            for name in self.broker.list() {
                // One that has gone meanwhile is not there.
                if let (Some(own), Ok(groups)) =
                    (self.broker.describe(&name), self.broker.groups(&name).await)
                {
                    found.push((own, groups));
                }
            }
            found
        });
        let journal = &self.stored.journal;
        Look {
            dnpipes,
            usage: journal.usage(),
            counts: journal.counts(),
            disk: journal.driver().name.to_owned(),
            is_durable: self.volatile.is_none(),
            room: self.room(),
        }
    }

    /// Closes the doors, answers what was asked for `grace` at most, and closes the journal. Blocks.
    pub fn close(&self, grace: Duration) {
        self.sockets.block_on(async {
            self.gateway.close(grace).await;
            self.maintenance.abort();
            self.waiting.end().await;
            self.spills.close().await;
            self.stored.journal.close().await;
        });
    }
}

/// What a dnpipe is to be, in the broker's words.
fn spec(dnpipe: &Dnpipe) -> Result<DnpipeSpec, BadName> {
    let named = |name: &str| DnpipeName::new(&dnpipe.namespace, name);
    let mut groups = Vec::new();
    for group in &dnpipe.groups {
        let dead_letter = group.dead_letter.as_deref().map(named).transpose()?;
        groups.push(GroupSpec {
            max_deliveries: group.max_deliveries,
            dead_letter,
            ..GroupSpec::new(&group.name)
        });
    }
    Ok(DnpipeSpec {
        partitions: dnpipe.partitions,
        durability: match dnpipe.durability {
            Asked::Device => Durability::Device,
            Asked::PageCache => Durability::PageCache,
            Asked::Memory => Durability::Memory,
        },
        retention: Retention {
            time: dnpipe.retention.time.map(|time| time.get()),
            bytes: dnpipe.retention.bytes.map(|size| size.bytes()),
        },
        quota_bytes: dnpipe.quota.map(|size| size.bytes()),
        dedupe_window: dnpipe.dedupe.map(|window| window.get()),
        encryption: dnpipe
            .encryption
            .as_ref()
            .map(|own| KeyRef { name: own.name.clone(), key: own.key.clone() }),
        groups,
        access: dnpipe.access.iter().map(rule).collect(),
        ..DnpipeSpec::new(named(&dnpipe.name)?)
    })
}

fn rule(rule: &AccessRule) -> Rule {
    let allows = |what| rule.allow.contains(&what);
    Rule {
        verbs: Verbs {
            push: allows(Permission::Push),
            pull: allows(Permission::Pull),
            reset: allows(Permission::Reset),
        },
        namespace: rule.from.namespace.clone(),
        service_account: rule.from.service_account.clone(),
    }
}

/// The keys that data keys are wrapped with are Secrets, as any other.
struct SecretKeys(Secrets);

impl Keys for SecretKeys {
    fn get(&self, key: &KeyRef) -> Result<Vec<u8>, String> {
        let key = SecretKey { name: key.name.clone(), key: key.key.clone() };
        self.0.bytes(&key).map_err(|error| error.reason)
    }
}

/// What the doors ask of the disk.
struct Stored {
    journal: Journal,
    broker: Broker,
    clock: Clock,
}

impl Stored {
    /// Whose the partitions of the journal are.
    fn owners(&self) -> BTreeMap<PartitionId, (DnpipeName, u32)> {
        let described =
            self.broker.list().into_iter().filter_map(|name| Some((self.broker.describe(&name)?, name)));
        let partitions = described.flat_map(|(found, name)| {
            let own = found.partitions.into_iter().zip(0..);
            own.map(move |(partition, number)| (partition.journal, (name.clone(), number)))
        });
        partitions.collect()
    }
}

impl Storage for Stored {
    fn disk(&self) -> DiskView {
        let driver = self.journal.driver();
        DiskView { driver: driver.name.to_owned(), reason: driver.why }
    }

    fn wall_nanos(&self) -> i64 {
        self.clock.wall_nanos()
    }

    fn verify(&self) -> Pin<Box<dyn Future<Output = Result<Verified, Refusal>> + Send + '_>> {
        Box::pin(async move {
            let found = self.journal.verify().await;
            let found = found.map_err(|error| Refusal::Failed { reason: error.to_string() })?;
            let owners = self.owners();
            let damage = found.damage.iter().filter(|damage| !damage.is_mended).map(|damage| {
                let lost = damage.lost.filter(|lost| lost.partition != PartitionId::STATE);
                let owner = lost.and_then(|lost| owners.get(&lost.partition));
                DamageView {
                    dnpipe: owner.map(|(name, _)| name.clone()),
                    partition: owner.map(|(_, number)| *number),
                    offsets: lost.map(|lost| (lost.from, lost.to)),
                    // The journal counts partitions by numbers of its own.
                    reason: match (owner, damage.to) {
                        (None, _) if damage.lost != lost => {
                            format!("of what the server keeps of all dnpipes: {damage}")
                        }
                        (None, _) => damage.to_string(),
                        (Some(_), 0) => "no batch that can be read has them".into(),
                        (Some(_), to) => {
                            format!("segment {:08x}, bytes {}..{to}", damage.segment, damage.from)
                        }
                    },
                }
            });
            Ok(Verified { batches: found.batches, bytes: found.bytes, damage: damage.collect() })
        })
    }
}

impl fmt::Display for ServeDnpipesError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeDnpipesError::Folder { path, error } => {
                write!(out, "cannot use {}: {error}; give another folder with --data-dir", path.display())
            }
            ServeDnpipesError::Disk(error) => error.fmt(out),
            ServeDnpipesError::Journal(error) => error.fmt(out),
            ServeDnpipesError::Broker(error) => error.fmt(out),
            ServeDnpipesError::Spilled(error) => write!(out, "what was spilled cannot be read: {error}"),
            ServeDnpipesError::Name(bad) => bad.fmt(out),
            ServeDnpipesError::Apply { dnpipe, error } => write!(out, "dnpipe {dnpipe}: {error}"),
            ServeDnpipesError::Door { door, error } => {
                write!(
                    out,
                    "cannot listen at {door}: {error}; give another address, or a folder with a shorter path"
                )
            }
        }
    }
}

impl std::error::Error for ServeDnpipesError {}

/// Why nothing in a folder survives a power cut, where its file system is in memory.
#[cfg(target_os = "linux")]
fn volatile(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    let holding = mounts.into_iter().filter(|mount| folder.starts_with(&mount.mount_point));
    // Of two mounts at one place the later one is seen.
    let mount = holding.max_by_key(|mount| mount.mount_point.components().count())?;
    let is_memory = matches!(mount.fs_type.as_str(), "tmpfs" | "ramfs");
    is_memory.then(|| format!("its volume is a {}, which is gone with the machine's power", mount.fs_type))
}

#[cfg(not(target_os = "linux"))]
fn volatile(_: &Path) -> Option<String> {
    None
}

/// The name of the local socket in the folder.
const SOCKET: &str = "sidestream.sock";
