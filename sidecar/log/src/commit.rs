//! The storage thread: writes the group that gathered, waits for the device, and tells everybody whose batch was in it.
//!
//! ```text
//!   take ─▶ room in the segment? ─no─▶ begin another: head, name ─▶ finish the headers ─▶ write, barrier ─▶ readable ─▶ told
//!                 └─────────────────────────yes────────────────────────────▲                   │ failed
//!                                                                                               ▼
//!                     what gathers meanwhile is the next group          the segment ends before the group; nobody is told
//!                                                                       it was kept, and another segment begins
//! ```
//!
//! It must never tell anybody before the barrier, write a byte twice, or try a barrier again.

mod alone;
mod flush;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use sidestream_event::record::HEADER_BYTES;
use sidestream_host::{
    Moment,
    disk::{Aligned, Barrier, DiskFile, is_full},
};
use tokio::sync::oneshot;

pub(crate) use flush::Flush;
use flush::Owed;

use crate::{
    AppendError, PartitionId, around,
    cache::SMALL_GROUP,
    control::Note,
    head::{Before, Head, file_name},
    reserve::Rank,
    scan::{End, place, scan},
    settings::LARGE_GROUP,
    state::{Group, Phase, Segment, Shared, State},
};

/// That a batch is as durable as was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The offset of its first record.
    pub base_offset: u64,
    /// How many records.
    pub count: u32,
}

/// A batch on its way to the disk. Whoever drops it is not told; the batch is written all the same.
#[derive(Debug)]
#[must_use = "only the receipt says that the batch was kept"]
pub struct Appending {
    /// The offset of its first record, if it is kept.
    pub base_offset: u64,
    pub(crate) waiting: oneshot::Receiver<Result<Receipt, AppendError>>,
}

impl Future for Appending {
    type Output = Result<Receipt, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(Pin::new(&mut self.waiting).poll(context));
        Poll::Ready(told.unwrap_or(Err(AppendError::Closed)))
    }
}

/// A change of a partition on its way to the disk; it goes there whether or not this is awaited.
#[derive(Debug)]
#[must_use = "only its end says that the change is durable"]
pub struct Done(pub(crate) Result<Appending, Option<AppendError>>);

impl Future for Done {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(appending) => Poll::Ready(ready!(Pin::new(appending).poll(context)).map(|_| ())),
            Err(refused) => Poll::Ready(refused.take().map_or(Ok(()), Err)),
        }
    }
}

/// The storage thread's own.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    /// The segment that is written; none before the first group, and after a failure.
    tail: Option<Tail>,
    /// Where the batches before it end.
    before: Before,
    next_number: u32,
    /// The buffer of the group before.
    spare: Aligned,
    last_commit: Moment,
}

struct Tail {
    number: u32,
    file: Arc<dyn DiskFile>,
    position: u32,
    size: u32,
    chain: u32,
    /// Up to here the device has it.
    durable: u32,
    /// Who may write to it.
    rank: Rank,
    /// What waits to be flushed.
    owed: Option<Owed>,
    /// Whether a mark says that all is durable.
    is_settled: bool,
}

/// A group that was taken, and where it goes.
struct Taken {
    group: Group,
    /// Another segment is to begin.
    begin: Option<Begin>,
}

/// A segment that is to begin.
struct Begin {
    head: Head,
    /// What was removed before.
    removed: Vec<PartitionId>,
    /// Bytes of its file, and those that it needs at least.
    size: u32,
    needed: u32,
    /// Who may write to it: not pushes, where there is no room but the reserve.
    rank: Rank,
}

/// Why no segment has begun.
enum NotBegun {
    /// There is no room for it. Nothing of it is there.
    Full,
    /// The disk failed: what it says from here on of what was written before is not to be believed.
    Failed(io::Error),
}

impl NotBegun {
    /// Of one that nothing was written to yet.
    fn of(error: io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Failed(error) }
    }
}

impl From<io::Error> for NotBegun {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The life of the storage thread.
pub(crate) fn run(shared: &Shared, committer: &Mutex<Committer>) {
    loop {
        let mut committer = committer.lock().unwrap_or_else(PoisonError::into_inner);
        if committer.turn() || committer.settle() {
            continue;
        }
        let state = shared.state();
        if state.phase != Phase::Open && state.gather.batches.is_empty() {
            drop(state);
            committer.mark();
            return;
        }
        if state.gather.batches.is_empty() && state.flush.done.is_none() {
            let due = committer.due();
            drop(committer);
            match due {
                Some(wait) => {
                    drop(shared.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner))
                }
                None => drop(shared.work.wait(state).unwrap_or_else(PoisonError::into_inner)),
            }
        }
    }
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, before: Before, next_number: u32) -> Self {
        let last_commit = shared.clock.now();
        Self { shared, tail: None, before, next_number, spare: Aligned::default(), last_commit }
    }

    /// Writes what has gathered; whether there was any.
    pub(crate) fn turn(&mut self) -> bool {
        self.turn_if(|_, _| true)
    }

    /// The same where `may` says so.
    fn turn_if(&mut self, may: impl FnOnce(&Self, &State) -> bool) -> bool {
        let Some(taken) = self.take(may) else { return false };
        self.shared.room.notify_waiters();
        self.commit(taken);
        true
    }

    fn take(&mut self, may: impl FnOnce(&Self, &State) -> bool) -> Option<Taken> {
        let shared = self.shared.clone();
        let mut state = shared.state();
        if !may(self, &state) {
            return None;
        }
        if state.flush.done.is_some() {
            drop(state);
            self.hear();
            state = shared.state();
        }
        if state.gather.batches.is_empty() {
            return None;
        }
        if !shared.settings.gather.is_zero() && state.phase == Phase::Open {
            let limit = shared.settings.gather;
            state = shared
                .work
                .wait_timeout_while(state, limit, |state| {
                    state.phase == Phase::Open && state.gather.bytes.len() < shared.settings.group_bytes_max
                })
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let mut bytes = std::mem::take(&mut self.spare);
        if bytes.capacity() == 0 {
            // As much as the last one had: growing would move the bytes again and again.
            bytes = Aligned::with_capacity(state.gather.bytes.len());
        }
        let fresh = Group { bytes, ..Group::default() };
        let group = std::mem::replace(&mut state.gather, fresh);
        let padded = group.bytes.len().next_multiple_of(shared.disk.block()) as u32;
        if self.fits(&group, padded) {
            state.tail_left = state.tail_left.saturating_sub(padded.into());
            return Some(Taken { group, begin: None });
        }
        let begin = Some(self.plan(&mut state, padded));
        Some(Taken { group, begin })
    }

    /// Whether a group of `padded` bytes goes into the segment that is written.
    fn fits(&self, group: &Group, padded: u32) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.position + padded <= tail.size && group.rank >= tail.rank)
    }

    /// How the next segment begins, with room for a group of `padded` bytes.
    fn plan(&mut self, state: &mut State, padded: u32) -> Begin {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        let head = Head {
            number,
            last: number,
            generation: 0,
            journal: self.shared.journal,
            before: self.tail.as_ref().map_or(self.before, Tail::end),
            partitions: state.kept(number),
        };
        let settings = &self.shared.settings;
        let needed = (head.bytes() + padded).next_multiple_of(4096);
        let is_reserved = settings.reserve_bytes > 0 && !state.may_grow(settings);
        let size = match is_reserved {
            true => settings.piece(needed),
            false => needed.max(settings.segment_bytes).next_multiple_of(4096),
        };
        state.used += u64::from(size);
        state.tail_left = u64::from(size - head.bytes() - padded);
        state.tail_rank = if is_reserved { Rank::State } else { Rank::Push };
        let removed = state.removing.keys().copied().collect();
        Begin { head, removed, size, needed, rank: state.tail_rank }
    }

    fn commit(&mut self, taken: Taken) {
        let Taken { group, begin } = taken;
        let padded = group.bytes.len().next_multiple_of(self.shared.disk.block()) as u32;
        if let Some(mut begin) = begin {
            if group.rank < begin.rank {
                return self.refuse(group, begin.size);
            }
            match self.begin(&mut begin, group.rank) {
                Ok(()) => {}
                Err(NotBegun::Full) => return self.refuse(group, begin.size),
                Err(NotBegun::Failed(error)) => {
                    self.shared.state().used -= u64::from(begin.size);
                    return self.fail(group, &error);
                }
            }
        }
        if let Some(tail) = &self.tail {
            self.shared.claim(tail.position + padded);
        }
        self.write(group);
    }

    /// Begins a segment: its head and its name are durable before anything in it is.
    fn begin(&mut self, begin: &mut Begin, group: Rank) -> Result<(), NotBegun> {
        if begin.head.number == u32::MAX {
            // It may be taken, by a copy that stands for it.
            return Err(io::Error::other("there is no number left for another segment").into());
        }
        // What the segment before it still owes the device; it will not be written again.
        if let Some(tail) = self.tail.as_ref().filter(|tail| tail.durable < tail.position) {
            tail.file.barrier(Barrier::Earlier)?;
        }
        let disk = self.shared.disk.clone();
        let name = file_name(begin.head.number, begin.head.generation);
        let file = disk.create(&name).map_err(NotBegun::of)?;
        if let Err(error) = self.allot(&*file, begin, group) {
            disk.remove(&name)?;
            return Err(NotBegun::of(error));
        }
        let Begin { head, removed, size, rank, .. } = begin;
        // From here on the head may be found, and says that the segment before ends where it does now.
        if let Some(tail) = self.tail.take() {
            self.before = tail.end();
        }
        let (bytes, chain) = head.write();
        let written = file.write_durable(0, &Aligned::of(&bytes), Barrier::Head);
        if let Err(error) = written.and_then(|()| disk.sync_names(Barrier::Name)) {
            // There is nothing in it, and the next one has another number.
            disk.remove(&name)?;
            return Err(error.into());
        }
        let mut state = self.shared.state();
        let start = head.bytes();
        let segment = Segment {
            last: head.last,
            generation: head.generation,
            start,
            end: start,
            chain: Some(chain),
            end_chain: Some(chain),
            size: (*size).into(),
            live: 0,
            has_holes: false,
        };
        let strands = std::mem::take(&mut state.strands);
        let before = state.segments.get(&self.before.segment);
        if self.before.end > 0 && before.is_none_or(|before| !before.has_holes) {
            let end = End { position: self.before.end, chain: self.before.chain };
            state.finished.push_back((self.before.segment, end, strands));
        }
        state.begin(head, removed, segment);
        (state.zeroed, state.tail, state.taken) = (start, start, *size);
        state.counts.segments += 1;
        state.counts.written_bytes += bytes.len() as u64;
        state.is_chore_due = true;
        drop(state);
        self.shared.chores.notify_one();
        self.tail = Some(Tail {
            number: head.number,
            file,
            position: start,
            size: *size,
            chain,
            durable: start,
            rank: *rank,
            owed: None,
            is_settled: true,
        });
        Ok(())
    }

    /// Has the disk set aside room for a segment: of the reserve, where there is no other and the group may.
    fn allot(&self, file: &dyn DiskFile, begin: &mut Begin, group: Rank) -> io::Result<()> {
        let settings = &self.shared.settings;
        if begin.rank == Rank::Push {
            let allocated = file.allocate(begin.size.into());
            if !allocated.as_ref().is_err_and(is_full) {
                return allocated;
            }
            self.shared.state().reserve.is_disk_full = true;
            if group == Rank::Push || settings.reserve_bytes == 0 {
                return allocated;
            }
            self.resize(begin, settings.piece(begin.needed));
        }
        let spared = group.spared(settings);
        // Within a capacity what is used is no longer reserved.
        if let Some(capacity) = settings.capacity_bytes {
            let (used, left) = {
                let state = self.shared.state();
                (state.used, state.reserve.bytes())
            };
            let over = (used + spared).saturating_sub(capacity).next_multiple_of(4096);
            let size = u64::from(begin.size).saturating_sub(over) as u32;
            if size < begin.needed {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.resize(begin, size);
            self.shared.draw((used + left).saturating_sub(over + capacity), spared)?;
        }
        let size = self.shared.allot(file, begin.size.into(), begin.needed.into(), spared)?;
        self.resize(begin, size as u32);
        Ok(())
    }

    /// A segment is a piece of the reserve, of `size` bytes.
    fn resize(&self, begin: &mut Begin, size: u32) {
        let mut state = self.shared.state();
        state.used = state.used + u64::from(size) - u64::from(begin.size);
        state.tail_left = (state.tail_left + u64::from(size)).saturating_sub(begin.size.into());
        let is_last = state.reserve.bytes() < self.shared.settings.last_piece();
        state.tail_rank = if is_last { Rank::Note } else { Rank::State };
        (begin.size, begin.rank) = (size, state.tail_rank);
    }

    fn write(&mut self, mut group: Group) {
        let Some(tail) = self.tail.as_mut() else {
            return self.fail(group, &io::Error::other("no segment to write to"));
        };
        let start = tail.position;
        let is_all_durable = tail.durable == start;
        let mut chain = tail.chain;
        for batch in &mut group.batches {
            batch.header.place = place(tail.number, start + batch.at);
            batch.header.frontier = tail.durable;
            batch.header.chain = chain;
            let at = batch.at as usize;
            if let Some(bytes) = group.bytes[at..].first_chunk_mut::<HEADER_BYTES>() {
                batch.header.write(bytes);
                let [.., a, b, c, d] = *bytes;
                chain = u32::from_le_bytes([a, b, c, d]);
            }
        }
        let length = group.bytes.len();
        group.bytes.pad(self.shared.disk.block());
        let now = self.shared.clock.now();
        let owed = tail.owed.as_ref();
        let must_flush = owed.is_some_and(|owed| now.since(owed.since) >= self.shared.settings.flush);
        let is_durable = group.is_durable || must_flush;
        let written = match (is_durable, is_all_durable) {
            (true, true) => tail.file.write_durable(start.into(), &group.bytes, Barrier::Batches),
            (true, false) => {
                tail.file.write(start.into(), &group.bytes).and_then(|()| tail.file.barrier(Barrier::Earlier))
            }
            (false, _) => tail.file.write(start.into(), &group.bytes),
        };
        if let Err(error) = written {
            return self.fail(group, &error);
        }
        tail.position += group.bytes.len() as u32;
        tail.chain = chain;
        if is_durable {
            tail.durable = tail.position;
            tail.owed = None;
        } else if group.is_flushed {
            let fresh = Owed { since: now, end: 0, is_asked: false };
            tail.owed.get_or_insert(fresh).end = tail.position;
        }
        tail.is_settled = group.batches.iter().all(|batch| batch.note == Some(Note::Mark));
        self.last_commit = self.shared.clock.now();
        let (number, position) = (tail.number, tail.position);
        let written = (start, length, is_durable);
        self.publish(group, number, position, written);
        self.ask();
    }

    /// Everybody may read it, and who waits is told.
    fn publish(&mut self, mut group: Group, number: u32, position: u32, written: (u32, usize, bool)) {
        let (start, length, is_durable) = written;
        let mut buffer = std::mem::take(&mut group.bytes);
        let padded = buffer.len();
        let key = (number, 0);
        // A buffer that most of is empty would take its room from others.
        if padded <= SMALL_GROUP || length <= buffer.capacity() / 8 {
            match padded <= SMALL_GROUP {
                true => self.shared.cache.put_small(key, start, &buffer),
                false => self.shared.cache.put(key, start, Bytes::copy_from_slice(&buffer), padded),
            }
            buffer.truncate(0);
            if buffer.capacity() <= LARGE_GROUP {
                self.spare = buffer;
            }
        } else {
            let cost = buffer.capacity();
            self.shared.cache.put(key, start, Bytes::from_owner(buffer), cost);
        }
        let mut state = self.shared.state();
        for batch in &group.batches {
            state.commit(batch, number, start + batch.at);
        }
        if let Some(segment) = state.segments.get_mut(&number) {
            segment.end = position;
            segment.end_chain = self.tail.as_ref().map(|tail| tail.chain);
        }
        state.tail = position;
        state.counts.groups += 1;
        state.counts.barriers += u64::from(is_durable);
        state.counts.written_bytes += padded as u64;
        let ahead = self.shared.settings.zero_ahead_bytes;
        let is_small = is_durable && padded < LARGE_GROUP;
        state.wants_zeros = is_small && state.zeroed.saturating_sub(position) < ahead / 2;
        let has_chore = state.wants_zeros || state.is_chore_due;
        // Everybody who follows a partition is told once, of all that is new.
        for batch in group.batches.iter().filter(|batch| batch.note.is_none()) {
            if let Some(partition) = state.partitions.get(&PartitionId(batch.header.partition))
                && let Some(watch) = &partition.watch
            {
                watch.send_if_modified(|readable| {
                    std::mem::replace(readable, partition.readable) != partition.readable
                });
            }
        }
        drop(state);
        if has_chore {
            self.shared.chores.notify_one();
        }
        for batch in &mut group.batches {
            if let Some(done) = batch.done.take() {
                let receipt = Receipt { base_offset: batch.header.base_offset, count: batch.header.count };
                let _ = done.send(Ok(receipt));
            }
        }
    }

    /// The disk failed: the segment ends before this group, and what had gathered behind it is gone as well.
    fn fail(&mut self, mut group: Group, error: &io::Error) {
        let failed = AppendError::Failed { reason: error.to_string().into() };
        let shared = self.shared.clone();
        let mut state = shared.state();
        let mut gathered = std::mem::take(&mut state.gather);
        state.roll_back(&group, &failed);
        state.roll_back(&gathered, &failed);
        state.tail_left = 0;
        state.counts.failed += 1;
        let ended = self.tail.take();
        drop(state);
        group.fail(&failed);
        gathered.fail(&failed);
        self.shared.room.notify_waiters();
        if let Some(tail) = ended {
            self.before = tail.end();
            self.look_again(tail);
        }
    }

    /// Reads what was acknowledged in a segment whose disk failed, past what the kernel thinks of it.
    fn look_again(&self, tail: Tail) {
        let key = (tail.number, 0);
        self.shared.files.forget(key);
        let name = file_name(key.0, key.1);
        drop(tail.file);
        let segment = self.shared.state().segments.get(&tail.number).copied();
        let Some(segment) = segment else { return };
        let end = End { position: tail.position, chain: tail.chain };
        let read =
            self.shared.disk.open(&name).and_then(|file| around::read(&*file, 0, tail.position as usize));
        // What can't be read now is found out about by who reads it.
        let Ok(read) = read else { return };
        let found = scan(&read, tail.number, segment.start, segment.chain, Some(end));
        self.shared.state().damage.extend(found.damage);
    }

    /// No room for another segment: those of least rank in the group are refused, and what gathered behind them, for their
    /// offsets are free again. The others may have more of the reserve.
    fn refuse(&mut self, group: Group, size: u32) {
        let shared = self.shared.clone();
        let mut state = shared.state();
        state.used -= u64::from(size);
        let full = AppendError::Full { used: state.used, capacity: None };
        let rank = group.rank;
        let (mut refused, kept) = group.split(rank);
        let (mut gathered_refused, gathered) = std::mem::take(&mut state.gather).split(rank);
        state.roll_back(&refused, &full);
        state.roll_back(&gathered_refused, &full);
        state.gather = gathered;
        state.tail_left = self.tail.as_ref().map_or(0, |tail| u64::from(tail.size - tail.position));
        state.tail_rank = self.tail.as_ref().map_or(Rank::Push, |tail| tail.rank);
        let retried = (!kept.batches.is_empty()).then(|| {
            let padded = kept.bytes.len().next_multiple_of(shared.disk.block()) as u32;
            (!self.fits(&kept, padded)).then(|| self.plan(&mut state, padded))
        });
        drop(state);
        refused.fail(&full);
        gathered_refused.fail(&full);
        self.shared.room.notify_waiters();
        if let Some(begin) = retried {
            self.commit(Taken { group: kept, begin });
        }
    }
}

impl Tail {
    fn end(&self) -> Before {
        Before { segment: self.number, end: self.position, chain: self.chain }
    }
}
