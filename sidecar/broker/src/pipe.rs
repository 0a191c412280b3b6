//! A dnpipe that is there: its partitions, and the fence that its last reset drew.
//!
//! Locks are taken in this order, and none is held while anything is waited for: groups of the pipe, a group, the tails of
//! its partitions from the first to the last, the fence.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sidestream_event::native::DnpipeName;
use sidestream_log::{Bounds, Journal, PartitionId};
use tokio::sync::watch;

use crate::{
    encryption::Encryption,
    error::{PushError, Room, write_error},
    group::Group,
    ids::Ids,
    keys::Wrapped,
    moves::Freeze,
    producers::Producers,
    seal::Sealer,
    spec::DnpipeSpec,
    state::Change,
};

/// A dnpipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) name: DnpipeName,
    spec: Mutex<Arc<DnpipeSpec>>,
    pub(crate) partitions: Box<[Partition]>,
    /// Readers look at it before and after they read, and wait for it to change.
    pub(crate) fence: watch::Sender<Fence>,
    /// One at a time resets the dnpipe or changes what it is.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Stands still, because another server is to have it. Set by whoever has the turn.
    pub(crate) freeze: Mutex<Option<Freeze>>,
    pub(crate) groups: Mutex<BTreeMap<String, Arc<Group>>>,
    /// What its records are encrypted with.
    pub(crate) encryption: Mutex<Encryption>,
    /// Bytes it has on the disk, as far as was counted: pushes add to it, and it is counted anew before it refuses one.
    used: Mutex<u64>,
}

/// A partition of it.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    tail: Mutex<Tail>,
}

/// What decides about the next push.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// The epoch that pushes get. It may be one ahead of the fence's: then readers don't see them yet.
    pub(crate) epoch: u32,
    pub(crate) producers: Producers,
    pub(crate) ids: Ids,
    pub(crate) append_time: i64,
    /// As often as the journal had taken records of it back when this was read. Where it did so since, what is known here
    /// is not what the disk has: nothing goes by it until it is read anew.
    pub(crate) rolled_back: u64,
    pub(crate) is_removed: bool,
    /// Nothing is taken in: the dnpipe is about to go to another server.
    pub(crate) is_moving: bool,
    /// Encrypts what is pushed, where that is asked for; none before the first push.
    pub(crate) sealer: Option<Sealer>,
    /// Something was pushed since producers were written down.
    pub(crate) is_dirty: bool,
}

/// What readers may see.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    pub(crate) epoch: u32,
    /// For each partition, the offset below which nothing is delivered.
    pub(crate) starts: Arc<[u64]>,
    /// While a reset is on its way to the disk: what it will fence. What is pushed from there on is not to be seen yet.
    pub(crate) pending: Option<Arc<[u64]>>,
    /// The dnpipe is removed.
    pub(crate) is_removed: bool,
    /// A reset failed on its way to the disk, and only a start can tell whether it happened.
    pub(crate) failed: Option<Arc<str>>,
}

impl Pipe {
    pub(crate) fn new(spec: DnpipeSpec, partitions: &[u32], epoch: u32, starts: Vec<u64>) -> Self {
        let tail = || Mutex::new(Tail { epoch, ..Tail::default() });
        let partitions = partitions.iter().map(|id| Partition { id: PartitionId(*id), tail: tail() });
        let fence = Fence { epoch, starts: starts.into(), pending: None, is_removed: false, failed: None };
        Self {
            name: spec.name.clone(),
            spec: Mutex::new(Arc::new(spec)),
            partitions: partitions.collect(),
            fence: watch::channel(fence).0,
            turn: tokio::sync::Mutex::new(()),
            freeze: Mutex::new(None),
            groups: Mutex::default(),
            encryption: Mutex::default(),
            used: Mutex::new(0),
        }
    }

    pub(crate) fn spec(&self) -> Arc<DnpipeSpec> {
        lock(&self.spec).clone()
    }

    pub(crate) fn set_spec(&self, spec: DnpipeSpec) {
        *lock(&self.spec) = Arc::new(spec);
    }

    pub(crate) fn fence(&self) -> Fence {
        self.fence.borrow().clone()
    }

    /// All of it but its groups' cursors, with this spec and fence, and the key of this epoch.
    pub(crate) fn change(&self, spec: DnpipeSpec, epoch: u32, starts: &[u64]) -> Change {
        let key = self.wrapped(epoch);
        self.change_with(spec, epoch, starts, key)
    }

    /// The same with another key.
    pub(crate) fn change_with(
        &self,
        spec: DnpipeSpec,
        epoch: u32,
        starts: &[u64],
        key: Option<Wrapped>,
    ) -> Change {
        let partitions = self.partitions.iter().map(|partition| partition.id.0).collect();
        Change::Dnpipe { spec: Box::new(spec), partitions, epoch, starts: starts.to_vec(), key }
    }

    /// The fence, and the offsets of a partition that it lets readers see, both of one moment: a reset moves the fence before
    /// it trims, so a look at one and then at the other could take what it trimmed for nothing of the old epoch.
    pub(crate) fn seen(&self, journal: &Journal, partition: u32) -> (Fence, Range<u64>) {
        let fence = self.fence.borrow();
        let range = self.visible(journal, &fence, partition);
        (fence.clone(), range)
    }

    /// The offsets of a partition that `fence` lets readers see. The fence must be held meanwhile: see [`Pipe::seen`].
    pub(crate) fn visible(&self, journal: &Journal, fence: &Fence, partition: u32) -> Range<u64> {
        let at = partition as usize;
        let Some(bounds) = journal.bounds(self.partitions[at].id) else { return 0..0 };
        let first = bounds.first.max(fence.starts[at]);
        let most = fence.pending.as_ref().map_or(u64::MAX, |pending| pending[at]);
        first..bounds.readable.min(most).max(first)
    }

    pub(crate) fn group(&self, name: &str) -> Option<Arc<Group>> {
        lock(&self.groups).get(name).cloned()
    }

    pub(crate) fn all_groups(&self) -> Vec<Arc<Group>> {
        lock(&self.groups).values().cloned().collect()
    }

    /// Adds to the bytes it has where that leaves it within `quota`; else says so.
    pub(crate) fn use_bytes(&self, journal: &Journal, bytes: u64, quota: Option<u64>) -> bool {
        let mut used = lock(&self.used);
        if quota.is_some_and(|quota| *used + bytes > quota) {
            *used = self.count_used(journal);
            if quota.is_some_and(|quota| *used + bytes > quota) {
                return false;
            }
        }
        *used += bytes;
        true
    }

    /// Counts the bytes it has anew.
    pub(crate) fn count_used(&self, journal: &Journal) -> u64 {
        self.partitions.iter().filter_map(|own| journal.bounds(own.id)).map(|bounds| bounds.bytes).sum()
    }
}

impl Tail {
    /// Where the partition stands, if what is known here is what it has.
    pub(crate) fn bounds(&self, journal: &Journal, id: PartitionId) -> Result<Bounds, PushError> {
        match journal.bounds(id) {
            Some(bounds) if bounds.rolled_back == self.rolled_back => Ok(bounds),
            // It takes nothing until it is read anew, and says what the last one heard; or since a start that had no room.
            Some(_) => {
                let full = || PushError::Full { what: Room::Disk, limit: journal.usage().used };
                Err(journal.taken_back(id).map_or_else(full, write_error))
            }
            None => Ok(Bounds { first: 0, readable: 0, next: 0, bytes: 0, rolled_back: 0 }),
        }
    }
}

impl Partition {
    pub(crate) fn tail(&self) -> MutexGuard<'_, Tail> {
        lock(&self.tail)
    }
}

/// Nothing that panics while it holds a lock leaves half a change behind it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
