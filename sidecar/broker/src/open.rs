//! A start: what the partition of state says, then what the partitions themselves know better.
//!
//! A start needs nobody. What it finds that can't be, it repairs towards what was acknowledged: partitions that no dnpipe
//! names are removed, unless a part of the state can't be read, in which they may have been named (see `nameless`); a fence that
//! was drawn and not trimmed is trimmed; producers are counted on from where they were last written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, RwLock},
};

use sidestream_event::{
    native::DnpipeName,
    record::{Flags, Header, MESSAGE_ID, expand, records},
};
use sidestream_host::Clock;
use sidestream_log::{Journal, PartitionId, ReadError, Recovered};

use crate::{
    Broker, Inner,
    arrivals::Whole,
    error::{OpenError, PushError},
    group::{Group, Saved},
    homes::{Homes, Known, Stance},
    keys::{DataKey, KeyError, Keys, NoKeys, Wrapped},
    limits,
    pipe::{Partition, Pipe, Tail, lock},
    spec::{DnpipeSpec, GroupSpec},
    state::{self, Change, StateLog},
    tails::{Found, Tails},
};

impl Broker {
    /// The dnpipes of a journal that was just opened, none of them encrypted.
    pub async fn open(journal: Journal, recovered: &Recovered, clock: Clock) -> Result<Broker, OpenError> {
        Self::open_with(journal, recovered, clock, Arc::new(NoKeys)).await
    }

    /// The dnpipes of a journal that was just opened, with the keys that those of them need which are encrypted. One whose key
    /// is missing, or another one, is locked until it is there, and the others are served.
    pub async fn open_with(
        journal: Journal,
        recovered: &Recovered,
        clock: Clock,
        keys: Arc<dyn Keys>,
    ) -> Result<Broker, OpenError> {
        let mut read = read_state(&journal).await?;
        let own = || recovered.partitions.keys().filter(|id| **id < PartitionId::SPILLS);
        let highest = own().map(|id| id.0).max().unwrap_or_default();
        let next_partition = read.next_partition.max(highest.saturating_add(1)).max(1);
        let inner = Inner {
            state: StateLog::new(journal.clone()),
            leader_epoch: read.leader_epoch + 1,
            pipes: RwLock::default(),
            homes: Mutex::new(Homes::default()),
            moved: tokio::sync::watch::Sender::default(),
            tokens: Mutex::new(0),
            numbers: tokio::sync::Mutex::new(next_partition),
            nameless: Mutex::default(),
            journal,
            clock,
            keys,
        };
        let broker = Broker { inner: Arc::new(inner) };
        let started = Change::Broker { leader_epoch: broker.inner.leader_epoch, next_partition };
        let now = broker.inner.clock.wall_nanos();
        broker.or_owe(broker.inner.state.write(|state| state.append(&started, now)).await)?;
        let mut named = BTreeSet::from([PartitionId::STATE]);
        for (name, (term, stance)) in std::mem::take(&mut read.homes) {
            let known = match stance {
                Stance::Here => Known::new(term, stance),
                Stance::Ready { .. } => Known::found(term, stance, read.take_pipe(&name)),
                Stance::Coming { .. } | Stance::Away { .. } => {
                    // What came before a crash is not whole, and what went is another's.
                    drop(read.take_pipe(&name));
                    Known::new(term, stance)
                }
            };
            let ids = known.arrival.iter().flat_map(|arrival| &arrival.ids);
            named.extend(ids.map(|id| PartitionId(*id)));
            broker.homes().of.insert(name, known);
        }
        if !read.is_whole {
            // One of which there is nothing was removed, or went: that it did may be what can't be read.
            let is_there =
                |saved: &SavedPipe| saved.ids().any(|id| broker.inner.journal.bounds(id).is_some());
            read.pipes.retain(|_, saved| is_there(saved));
        }
        read.pipes.values().for_each(|saved| broker.make_missing(saved));
        let served: Vec<PartitionId> = read.pipes.values().flat_map(SavedPipe::ids).collect();
        named.extend(&served);
        let mut tails = broker.read_tails(served, &mut read.producers).await.map_err(OpenError::Read)?;
        for (name, saved) in read.pipes {
            let pipe = broker.open_pipe(saved, &mut tails).await?;
            broker.pipes_mut().insert(name, Arc::new(pipe));
        }
        let unnamed = own().filter(|id| !named.contains(id)).copied().collect();
        if let Some(note) = broker.keep_nameless(unnamed, &read.nameless, read.is_whole) {
            broker.or_owe(broker.inner.state.write(|state| state.append(&note, now)).await)?;
        }
        if broker.inner.journal.is_reserve_low() && !broker.inner.state.owes() {
            // Here, for one that never lives long enough to do it later.
            broker.write_anew().await;
        }
        Ok(broker)
    }

    /// Reads, and whatever needs no room, go on where a start has none to write what it has to: see `catch_up`. Whether it had.
    fn or_owe(&self, written: Result<(), PushError>) -> Result<bool, OpenError> {
        match written {
            Err(error @ PushError::Full { .. }) => {
                tracing::warn!(%error, "the start could not be written down, and will be when there is room");
                self.inner.state.set_owes(true);
                Ok(false)
            }
            written => written.map(|()| true).map_err(OpenError::Write),
        }
    }

    /// Only damage can have taken a partition: what follows must not get the offsets that were given before.
    pub(crate) fn make_missing(&self, saved: &SavedPipe) {
        for (id, start) in saved.ids().zip(&saved.starts) {
            if self.inner.journal.bounds(id).is_none() {
                drop(self.inner.journal.create_at(id, *start));
            }
        }
    }

    pub(crate) async fn open_pipe(&self, saved: SavedPipe, tails: &mut Tails) -> Result<Pipe, OpenError> {
        let key = saved.data_key(&*self.inner.keys);
        let starts = self.reached(saved.ids(), &saved.starts).to_vec();
        let SavedPipe { spec, partitions, epoch, starts: written, groups, key: wrapped } = saved;
        let pipe = Pipe::new(spec.clone(), &partitions, epoch, starts.clone());
        match (key, wrapped) {
            (Err(error), Some(wrapped)) => {
                tracing::error!(dnpipe = %pipe.name, %error, "a dnpipe is locked until its key can be read");
                pipe.lock_up(epoch, wrapped, error);
            }
            (key, _) => pipe.set_key(epoch, key.ok().flatten()),
        }
        let mut is_written = true;
        if starts != written {
            // A reset that stands, of pushes that do not: see `reset`.
            let (change, now) = (pipe.change(spec.clone(), epoch, &starts), self.inner.clock.wall_nanos());
            is_written = self.or_owe(self.inner.state.write(|state| state.append(&change, now)).await)?;
        }
        for (partition, start) in pipe.partitions.iter().zip(&starts) {
            let Found { tail, is_ahead } = tails.remove(&partition.id).unwrap_or_default();
            *partition.tail() = Tail { epoch, ..tail };
            if is_ahead {
                // It would be believed once others have these offsets.
                let now = self.inner.clock.wall_nanos();
                let append =
                    |state: &StateLog| self.write_producers(state, partition, &mut partition.tail(), now);
                is_written &= self.or_owe(self.inner.state.write(append).await)?;
            }
            let let_go = self.let_go(partition, *start).await;
            if !matches!(let_go, Err(PushError::Full { .. })) {
                let_go.map_err(OpenError::Write)?;
            }
            self.read_ids(&pipe, partition, &spec, *start).await.map_err(OpenError::Read)?;
        }
        if !is_written {
            // What is pushed comes behind it: until then they are as after a failure of the disk.
            pipe.partitions.iter().for_each(|partition| partition.tail().rolled_back = NEVER);
        }
        let now = self.inner.clock.now();
        for (name, group) in groups {
            let opened = Group::open(group, partitions.len(), now);
            lock(&pipe.groups).insert(name, Arc::new(opened));
        }
        self.declare_groups(&pipe, &spec);
        Ok(pipe)
    }

    /// The ids of messages that are within their window.
    pub(crate) async fn read_ids(
        &self,
        pipe: &Pipe,
        partition: &Partition,
        spec: &DnpipeSpec,
        start: u64,
    ) -> Result<(), ReadError> {
        let (Some(window), journal) = (spec.dedupe_window, &self.inner.journal) else { return Ok(()) };
        let Some(bounds) = journal.bounds(partition.id) else { return Ok(()) };
        if pipe.locked().is_some_and(|_| pipe.key(pipe.fence().epoch).is_none()) {
            // When it is unlocked.
            return Ok(());
        }
        let now = self.inner.clock.wall_nanos();
        let since = now.saturating_sub(i64::try_from(window.as_nanos()).unwrap_or(i64::MAX));
        let first = start.max(bounds.first);
        if first >= bounds.readable {
            return Ok(());
        }
        let mut at = match journal.offset_at(partition.id, since).await {
            Ok(at) => at.max(first),
            Err(ReadError::OutOfRange { .. }) => first,
            Err(error) => return Err(error),
        };
        while at < bounds.readable {
            let number = pipe.place(partition) as u32;
            let read = match pipe.read(journal, number, at, limits::RECOVERY_READ_BYTES).await {
                Ok(read) => read,
                Err(ReadError::Damaged { to, .. }) => {
                    at = to;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut tail = partition.tail();
            for batch in read.batches.iter().filter(|batch| is_of(&batch.header, pipe)) {
                let Ok((header, body)) = expand(&batch.header, &batch.body) else { continue };
                for record in records(&header, &body).flatten() {
                    if let Some(id) = record.headers.get(MESSAGE_ID) {
                        tail.ids.note(id, record.offset, batch.header.append_time, window);
                    }
                }
            }
            drop(tail);
            if read.next <= at {
                break;
            }
            at = read.next;
        }
        Ok(())
    }
}

/// As often no partition was ever taken back.
const NEVER: u64 = u64::MAX;

fn is_of(header: &Header, pipe: &Pipe) -> bool {
    !header.flags.has(Flags::ENCRYPTED) && header.reset_epoch == pipe.fence.borrow().epoch
}

/// What the partition of state says, the last word on each thing.
#[derive(Debug, Default)]
pub(crate) struct ReadState {
    leader_epoch: u32,
    next_partition: u32,
    pipes: BTreeMap<DnpipeName, SavedPipe>,
    homes: BTreeMap<DnpipeName, (u32, Stance)>,
    /// By their partitions' numbers in the journal, in order.
    pub(crate) producers: BTreeMap<u32, Vec<Change>>,
    /// Partitions that no dnpipe named at a start that could not read all of this; whether what named them is gone for good.
    nameless: BTreeMap<u32, bool>,
    /// Whether all of it could be read.
    is_whole: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct SavedPipe {
    spec: DnpipeSpec,
    pub(crate) partitions: Vec<u32>,
    epoch: u32,
    starts: Vec<u64>,
    groups: BTreeMap<String, Saved>,
    key: Option<Wrapped>,
}

impl SavedPipe {
    /// Its partitions in the journal.
    pub(crate) fn ids(&self) -> impl Iterator<Item = PartitionId> + use<'_> {
        self.partitions.iter().map(|id| PartitionId(*id))
    }

    /// What its records are encrypted with.
    pub(crate) fn data_key(&self, keys: &dyn Keys) -> Result<Option<DataKey>, KeyError> {
        let unwrap = |wrapped| DataKey::unwrap(keys, wrapped, &self.spec.name, self.epoch);
        self.key.as_ref().map(unwrap).transpose()
    }
}

/// Reads all of the partition of state.
pub(crate) async fn read_state(journal: &Journal) -> Result<ReadState, OpenError> {
    let mut read = ReadState { is_whole: true, ..ReadState::default() };
    let Some(bounds) = journal.bounds(PartitionId::STATE) else { return Ok(read) };
    let mut at = bounds.first;
    while at < bounds.readable {
        match journal.read_once(PartitionId::STATE, at, limits::RECOVERY_READ_BYTES).await {
            Ok(found) => {
                for batch in found.batches.iter().filter(|batch| batch.header.next_offset() > at) {
                    let changes = state::read(batch).map_err(|found| OpenError::Newer { found })?;
                    changes.into_iter().for_each(|change| read.take(change));
                }
                if found.next <= at {
                    break;
                }
                at = found.next;
            }
            Err(ReadError::Damaged { from, to }) => {
                tracing::error!(
                    from,
                    to,
                    "a part of the state of the dnpipes is damaged: what it said last may be lost"
                );
                (read.is_whole, at) = (false, to);
            }
            Err(error) => return Err(OpenError::Read(error)),
        }
    }
    Ok(read)
}

impl ReadState {
    /// A dnpipe, and what is known of its producers.
    pub(crate) fn take_pipe(&mut self, name: &DnpipeName) -> Option<Whole> {
        let saved = self.pipes.remove(name)?;
        let producers = saved.partitions.iter().filter_map(|id| self.producers.remove_entry(id)).collect();
        Some((saved, producers))
    }

    /// Whether all keys are there.
    pub(crate) fn check_keys(&self, keys: &dyn Keys) -> Result<(), KeyError> {
        self.pipes.values().map(|saved| saved.data_key(keys)).try_for_each(|key| key.map(drop))
    }

    pub(crate) fn take(&mut self, change: Change) {
        match change {
            Change::Broker { leader_epoch, next_partition } => {
                self.leader_epoch = self.leader_epoch.max(leader_epoch);
                self.next_partition = self.next_partition.max(next_partition);
            }
            Change::Dnpipe { spec, partitions, epoch, starts, key } => {
                let before = self.pipes.remove(&spec.name).filter(|before| before.partitions == partitions);
                let groups = before.map(|before| before.groups).unwrap_or_default();
                let saved = SavedPipe { spec: *spec, partitions, epoch, starts, groups, key };
                self.pipes.insert(saved.spec.name.clone(), saved);
            }
            Change::Home { dnpipe, term, stance } => {
                if matches!(stance, Stance::Coming { .. } | Stance::Away { .. }) {
                    drop(self.take_pipe(&dnpipe));
                }
                self.homes.insert(dnpipe, (term, stance));
            }
            Change::Removed { name } => {
                self.homes.remove(&name);
                for partition in self.pipes.remove(&name).into_iter().flat_map(|pipe| pipe.partitions) {
                    self.producers.remove(&partition);
                }
            }
            Change::Group { dnpipe, spec, cursors } => {
                if let Some(pipe) = self.pipes.get_mut(&dnpipe) {
                    let saved =
                        pipe.groups.entry(spec.name.clone()).or_insert_with(|| Saved::new(spec.clone()));
                    (saved.spec, saved.cursors) = (spec, cursors);
                }
            }
            Change::GroupRemoved { dnpipe, group } => {
                if let Some(pipe) = self.pipes.get_mut(&dnpipe) {
                    pipe.groups.remove(&group);
                }
            }
            Change::Share { dnpipe, group, partition, share, burying, redriven } => {
                if let Some(pipe) = self.pipes.get_mut(&dnpipe) {
                    let declared = pipe.spec.groups.iter().find(|spec| spec.name == group).cloned();
                    let spec = || declared.unwrap_or_else(|| GroupSpec::new(&group));
                    let saved = pipe.groups.entry(group.clone()).or_insert_with(|| Saved::new(spec()));
                    saved.shares.insert(partition, (share, burying, redriven));
                }
            }
            Change::Nameless { partitions, forgotten } => {
                for partition in partitions {
                    *self.nameless.entry(partition).or_default() |= forgotten;
                }
            }
            Change::Producers { partition, .. } => {
                self.producers.entry(partition).or_default().push(change);
            }
            Change::Producer { partition, .. } => {
                self.producers.entry(partition).or_default().push(change);
            }
        }
    }
}
