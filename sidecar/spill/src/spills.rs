//! All spilled queues of a process: found in the journal at a start, made when a stage wants one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sidestream_host::Clock;
use sidestream_log::{Journal, PartitionId, ReadError};
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    Name, Spool,
    stored::{Malformed, unwrap},
};

/// The spilled queues of a journal. Clones are the same ones.
#[derive(Clone)]
pub struct Spills(pub(crate) Arc<Shared>);

/// What all queues together may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the journal that can be read, beyond which writers wait: `10 << 30` is 10 GiB.
    pub bytes_max: u64,
}

/// One queue, to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Whose it is.
    pub name: Name,
    /// Events that wait on the disk.
    pub stored_events: u64,
    /// Bytes that it has of the journal, those included that were handed out and are not released.
    pub stored_bytes: u64,
    /// Events that wait in memory.
    pub memory_events: u64,
    /// Events that were spilled since the process began.
    pub spilled_events: u64,
    /// Events that the disk lost, or that cannot be read.
    pub lost_events: u64,
    /// How long the oldest on the disk has been there, in seconds; 0 where there is none.
    pub oldest_seconds: f64,
    /// Whether it waits because the quota or the disk is full, or the disk fails.
    pub is_full: bool,
    /// Whether no stage takes from it.
    pub is_left: bool,
}

pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) sockets: Handle,
    /// Told when a queue has given something up, for those that wait for the quota.
    pub(crate) freed: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spools: BTreeMap<Name, Arc<Spool>>,
    next_partition: u32,
}

impl Spills {
    /// The queues that are in `journal`, whose work is done on `sockets`. A partition that is empty is removed. One of which
    /// nothing can be read now stays, and is an error in the log: another start may read it.
    ///
    /// # Errors
    /// A disk that fails, and what a newer program spilled, as [`ReadError::Failed`].
    pub async fn open(
        journal: Journal,
        limits: Limits,
        clock: Clock,
        sockets: Handle,
    ) -> Result<Spills, ReadError> {
        let state = Mutex::new(State { next_partition: PartitionId::SPILLS.0, ..State::default() });
        let shared = Shared { journal, limits, clock, sockets, freed: Arc::default(), state };
        let spills = Spills(Arc::new(shared));
        let journal = &spills.0.journal;
        for partition in journal.partitions().into_iter().filter(|own| *own >= PartitionId::SPILLS) {
            spills.0.keep_off(partition);
            let name = name_of(journal, partition).await?;
            let bounds = journal.bounds(partition).filter(|bounds| bounds.first < bounds.readable);
            let Some(bounds) = bounds else {
                // Nobody waits for it: it is there again at the next start, and is removed then.
                drop(journal.remove(partition));
                continue;
            };
            let Some(name) = name else { continue };
            if spills.0.lock().spools.contains_key(&name) {
                // Begun while the older one could not be read, which comes first.
                tracing::error!(stage = %name, %partition, "spilled events wait for a start after those before them");
                continue;
            }
            let events = bounds.readable - bounds.first;
            tracing::info!(stage = %name, events, "spilled events are on the disk, for when their stage is there");
            let found = Some((partition, bounds.first..bounds.readable));
            let spool = Spool::start(&spills.0, name.clone(), found);
            spills.0.lock().spools.insert(name, spool);
        }
        Ok(spills)
    }

    /// The queue of that name, a new one where there is none; `capacity` events of it may wait in memory.
    pub fn spool(&self, name: &Name, capacity: usize) -> Arc<Spool> {
        let mut state = self.0.lock();
        let spool = state.spools.entry(name.clone());
        let spool = spool.or_insert_with(|| Spool::start(&self.0, name.clone(), None)).clone();
        drop(state);
        spool.set_capacity(capacity);
        spool
    }

    /// Drops what waits on the disk for a stage that is no more, and says how many events that were; none where there is no such
    /// queue, or a stage takes from it.
    pub async fn forget(&self, name: &Name) -> Option<u64> {
        let spool = self.0.lock().spools.get(name).cloned()?;
        if !spool.is_left() {
            return None;
        }
        self.0.lock().spools.remove(name);
        Some(spool.remove().await)
    }

    /// Events on the disk that have not ended, of a pipeline: also those that wait for a stage that is no more.
    pub fn unsettled(&self, pipeline: &str) -> u64 {
        let state = self.0.lock();
        let own = state.spools.iter().filter(|(name, _)| name.pipeline == pipeline);
        own.map(|(_, spool)| spool.unsettled()).sum()
    }

    /// Events of one queue that are on the disk and have not ended.
    pub fn unsettled_of(&self, name: &Name) -> u64 {
        let spool = self.0.lock().spools.get(name).cloned();
        spool.map_or(0, |spool| spool.unsettled())
    }

    /// Every queue, by name.
    pub async fn views(&self) -> Vec<View> {
        let spools: Vec<Arc<Spool>> = self.0.lock().spools.values().cloned().collect();
        let mut views = Vec::with_capacity(spools.len());
        for spool in spools {
            views.push(spool.view().await);
        }
        views
    }

    /// Stores what is not settled, notes how far each was delivered, and ends their work. The journal stays open.
    pub async fn close(&self) {
        let spools: Vec<Arc<Spool>> = self.0.lock().spools.values().cloned().collect();
        spools.iter().for_each(|spool| spool.store_all());
        for spool in spools {
            spool.close().await;
        }
    }
}

impl Shared {
    /// The number of a new partition.
    pub(crate) fn new_partition(&self) -> PartitionId {
        let mut state = self.lock();
        let number = state.next_partition;
        state.next_partition = number.saturating_add(1);
        PartitionId(number)
    }

    /// A number that is taken.
    fn keep_off(&self, partition: PartitionId) {
        let mut state = self.lock();
        state.next_partition = state.next_partition.max(partition.0.saturating_add(1));
    }

    /// Bytes that all queues have of the journal.
    pub(crate) fn used(&self) -> u64 {
        let spools: Vec<Arc<Spool>> = self.lock().spools.values().cloned().collect();
        spools.iter().map(|spool| spool.stored_bytes()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose a partition is, as the first of its batches says that can be read.
async fn name_of(journal: &Journal, partition: PartitionId) -> Result<Option<Name>, ReadError> {
    let Some(bounds) = journal.bounds(partition) else { return Ok(None) };
    let mut from = bounds.first;
    while from < bounds.readable {
        match journal.read(partition, from, 1).await {
            Ok(read) => {
                let Some(first) = read.batches.first() else { break };
                match unwrap(&first.body) {
                    Ok((name, _)) => return Ok(Some(name)),
                    Err(error @ Malformed::Version(_)) => {
                        return Err(ReadError::Failed { reason: error.to_string().into() });
                    }
                    Err(Malformed::Nonsense) => from = read.next,
                }
            }
            Err(ReadError::Damaged { to, .. }) => from = to,
            Err(error) => return Err(error),
        }
    }
    if bounds.first < bounds.readable {
        let events = bounds.readable - bounds.first;
        tracing::error!(%partition, events, "spilled events cannot be read: the next start tries it again");
    }
    Ok(None)
}
