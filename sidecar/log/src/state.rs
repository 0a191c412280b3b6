//! What the threads of a journal share: its partitions, its segments, and the group that gathers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::{
    Clock,
    disk::{Aligned, Disk},
};
use sidestream_ring::sync::Tally;
use tokio::sync::{Notify, oneshot, watch};

use crate::{
    AppendError, Damage, Durability, PartitionId, Receipt, Settings,
    ahead::Ahead,
    cache::Cache,
    commit::Flush,
    control::Note,
    files::Files,
    head::{Head, Kept},
    index::{Span, Strands},
    reserve::{Rank, Reserve, Turn},
    scan::{End, place},
};

/// Born when the note of its creation is durable.
pub(crate) const UNBORN: u64 = u64::MAX;

/// Everything the handles and the threads of one journal have in common.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    /// The number this journal was born with, in every head.
    pub(crate) journal: u64,
    state: Mutex<State>,
    /// The storage thread waits here for a group.
    pub(crate) work: Condvar,
    /// Whoever writes waits here until no zeros go where it does.
    pub(crate) zeros: Condvar,
    /// The keeper waits here for something to keep.
    pub(crate) chores: Condvar,
    /// Who was refused as busy waits here.
    pub(crate) room: Notify,
    pub(crate) cache: Cache,
    /// That the disk was asked for by readers.
    pub(crate) read_bytes: Tally,
    pub(crate) ahead: Ahead,
    pub(crate) files: Files,
    pub(crate) reserve_turn: Turn,
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        settings: Settings,
        clock: Clock,
        journal: u64,
        state: State,
    ) -> Self {
        let cache = Cache::new(settings.cache_bytes);
        Self {
            disk,
            settings,
            clock,
            journal,
            state: Mutex::new(state),
            work: Condvar::new(),
            zeros: Condvar::new(),
            chores: Condvar::new(),
            room: Notify::new(),
            cache,
            read_bytes: Tally::new(),
            ahead: Ahead::default(),
            files: Files::default(),
            reserve_turn: Turn::default(),
        }
    }

    /// The last segment is written up to `end` now: zeros go behind that from here on, and those that are
    /// being written before it are waited for.
    pub(crate) fn claim(&self, end: u32) {
        let mut state = self.state();
        state.taken = end;
        while state.zeroing.is_some_and(|from| from < end) {
            state = self.zeros.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a journal is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Open,
    /// What was taken in is still written.
    Closing,
    Closed,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) partitions: HashMap<PartitionId, Partition>,
    /// Removed, and that is not durable yet.
    pub(crate) removing: HashMap<PartitionId, Partition>,
    /// By their number; the last one is written, or was by the process before.
    pub(crate) segments: BTreeMap<u32, Segment>,
    /// The one whose head is the newest: it says what there is, and stays until another one does.
    pub(crate) headed: Option<u32>,
    /// The index of the last one.
    pub(crate) strands: Strands,
    pub(crate) gather: Group,
    /// Bytes that the segment which is written still has for what gathers.
    pub(crate) tail_left: u64,
    /// Bytes of all files.
    pub(crate) used: u64,
    pub(crate) reserve: Reserve,
    /// Who may write to the last segment: where it is a piece of the reserve, pushes leave it alone as well.
    pub(crate) tail_rank: Rank,
    /// Segments that want a footer.
    pub(crate) finished: VecDeque<(u32, End, Strands)>,
    /// Zeros are being written from this byte of the last segment on.
    pub(crate) zeroing: Option<u32>,
    /// Up to where the last segment was zeroed ahead, and where the last group ended.
    pub(crate) zeroed: u32,
    pub(crate) tail: u32,
    /// Up to where the storage thread has taken the last segment for what it writes: no zeros go before this.
    pub(crate) taken: u32,
    pub(crate) wants_zeros: bool,
    pub(crate) flush: Flush,
    pub(crate) is_chore_due: bool,
    pub(crate) damage: Vec<Damage>,
    /// Numbers of files that could not be looked into when the journal was opened: they are left as they are, and no copy is
    /// to stand for them.
    pub(crate) set_aside: Vec<RangeInclusive<u32>>,
    pub(crate) counts: Counts,
    pub(crate) instances: u32,
}

/// A partition: an index over the segments.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) first: u64,
    /// What is before this is durably trimmed; between it and `first` a start may find it again.
    pub(crate) gone: u64,
    pub(crate) readable: u64,
    pub(crate) next: u64,
    /// Where its creation is noted; what stands before has nothing to do with it.
    pub(crate) born: u64,
    /// Tells it from another one of its number.
    pub(crate) instance: u32,
    /// The disk failed while batches of it were under way; who appends has to look where it stands first.
    pub(crate) failed: Option<Arc<str>>,
    /// How often batches of it were taken back, and why the last time.
    pub(crate) rolled_back: u64,
    pub(crate) taken_back: Option<AppendError>,
    pub(crate) spans: VecDeque<Span>,
    pub(crate) watch: Option<watch::Sender<u64>>,
}

impl Partition {
    pub(crate) fn new(first: u64, next: u64, born: u64, instance: u32) -> Self {
        Self {
            first,
            gone: first,
            readable: next,
            next,
            born,
            instance,
            failed: None,
            rolled_back: 0,
            taken_back: None,
            spans: VecDeque::new(),
            watch: None,
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let readable = self.readable.max(self.first);
        let (first, next, rolled_back) = (self.first, self.next, self.rolled_back);
        Bounds { first, readable, next, bytes: self.bytes(), rolled_back }
    }

    /// Bytes of what was not trimmed; of a segment that is trimmed in part, in proportion.
    fn bytes(&self) -> u64 {
        let whole: u64 = self.spans.iter().map(|span| u64::from(span.bytes)).sum();
        let trimmed = self.spans.front().map_or(0, |span| {
            let gone = self.first.saturating_sub(span.first).min(span.end - span.first);
            (u128::from(gone) * u128::from(span.bytes) / u128::from((span.end - span.first).max(1))) as u64
        });
        whole - trimmed
    }

    /// Takes note of a batch that is readable now.
    fn note(&mut self, header: &Header, segment: u32, position: u32) {
        match self.spans.back_mut() {
            Some(span) if span.segment == segment => {
                span.end = header.next_offset();
                span.bytes += header.length;
                span.time = header.append_time;
            }
            _ => self.spans.push_back(Span {
                segment,
                position,
                first: header.base_offset,
                end: header.next_offset(),
                bytes: header.length,
                begun: header.append_time,
                time: header.append_time,
            }),
        }
        self.readable = header.next_offset();
    }
}

/// One file of the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// A cleaned one stands for all numbers up to this.
    pub(crate) last: u32,
    pub(crate) generation: u32,
    /// Where its batches begin, and end as far as is known.
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) chain: Option<u32>,
    /// The sum of the last batch, where that is known.
    pub(crate) end_chain: Option<u32>,
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Bytes of batches that somebody may still read.
    pub(crate) live: u64,
    /// Some of it could not be read when the journal was opened, and nothing else says what that is: it may be read another
    /// time, so the file stays as it is.
    pub(crate) has_holes: bool,
}

/// From where to where a partition is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that can be read.
    pub first: u64,
    /// The offset after the last one that can be read.
    pub readable: u64,
    /// The offset that the next record gets.
    pub next: u64,
    /// Bytes that can be read, headers included.
    pub bytes: u64,
    /// How often since the journal was opened batches that had their offsets were refused or failed after all, so that
    /// others get these offsets. Who remembers what it appended compares it with what it was then.
    pub rolled_back: u64,
}

/// How much of the disk the journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes it may have, where that is set.
    pub capacity: Option<u64>,
    /// Bytes of its files.
    pub used: u64,
    /// Bytes of batches that can be read; the rest is trimmed, not yet written, or heads.
    pub live: u64,
    /// Bytes kept free for trims, cursors and resets.
    pub reserve: u64,
    /// How many of those are left.
    pub reserve_left: u64,
}

/// What happened since the journal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches acknowledged.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Groups that whoever pushed alone wrote.
    pub alone: u64,
    /// Bytes written to segments: with heads and padding.
    pub written_bytes: u64,
    /// Groups written.
    pub groups: u64,
    /// Barriers for them, and of what only the kernel had.
    pub barriers: u64,
    /// Groups that failed.
    pub failed: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments freed.
    pub freed: u64,
    /// Segments that were rewritten without what is dead in them.
    pub cleaned: u64,
    /// Reads answered without the disk.
    pub cache_hits: u64,
    /// Reads that were not.
    pub cache_misses: u64,
    /// Pieces of segments that made room for others.
    pub cache_evicted: u64,
    /// Bytes that the cache has now.
    pub cache_bytes: u64,
    /// Bytes that the disk was asked for by readers.
    pub read_bytes: u64,
}

/// Batches of any partitions that will be written together.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) bytes: Aligned,
    pub(crate) batches: Vec<Placed>,
    /// Somebody waits for the device.
    pub(crate) is_durable: bool,
    /// Somebody was promised the device, later.
    pub(crate) is_flushed: bool,
    /// The least of those whose batches are in it.
    pub(crate) rank: Rank,
}

/// A batch in a group.
pub(crate) struct Placed {
    pub(crate) header: Header,
    /// Its place among the bytes.
    pub(crate) at: u32,
    pub(crate) instance: u32,
    pub(crate) note: Option<Note>,
    pub(crate) done: Option<oneshot::Sender<Result<Receipt, AppendError>>>,
}

impl Group {
    pub(crate) fn push(
        &mut self,
        header: Header,
        body: &[u8],
        instance: u32,
        durability: Durability,
        note: Option<Note>,
    ) -> oneshot::Receiver<Result<Receipt, AppendError>> {
        let (done, waiting) = oneshot::channel();
        let at = self.bytes.len() as u32;
        // The header is written last, when the storage thread knows the rest of it.
        self.bytes.extend(&[0; HEADER_BYTES]);
        self.bytes.extend(body);
        self.is_durable |= durability == Durability::Device;
        self.is_flushed |= durability == Durability::PageCache;
        self.rank = self.rank.min(Rank::of(PartitionId(header.partition)));
        self.batches.push(Placed { header, at, instance, note, done: Some(done) });
        waiting
    }

    /// What is of this rank or less, and the rest, each in its order.
    pub(crate) fn split(self, rank: Rank) -> (Group, Group) {
        let (mut refused, mut kept) = (Group::default(), Group::default());
        for mut batch in self.batches {
            let own = Rank::of(PartitionId(batch.header.partition));
            let group = if own <= rank { &mut refused } else { &mut kept };
            let from = batch.at as usize;
            batch.at = group.bytes.len() as u32;
            group.bytes.extend(&self.bytes[from..from + batch.header.length as usize]);
            group.batches.push(batch);
            group.is_durable |= self.is_durable;
            group.is_flushed |= self.is_flushed;
            group.rank = group.rank.min(own);
        }
        (refused, kept)
    }

    /// Tells everybody who waits.
    pub(crate) fn fail(&mut self, error: &AppendError) {
        for done in self.batches.iter_mut().filter_map(|batch| batch.done.take()) {
            let _ = done.send(Err(error.clone()));
        }
    }
}

impl State {
    /// Whether one of these is of a file that is left as it is.
    pub(crate) fn is_set_aside(&self, numbers: RangeInclusive<u32>) -> bool {
        self.set_aside.iter().any(|aside| aside.start() <= numbers.end() && numbers.start() <= aside.end())
    }

    /// Whether there may be another segment for pushes: within the capacity, and with the reserve whole, where it was made.
    pub(crate) fn may_grow(&self, settings: &Settings) -> bool {
        let needed = self.used + u64::from(settings.segment_bytes) + settings.reserve_bytes;
        let is_whole = self.reserve.left.is_none_or(|left| left >= settings.reserve_bytes);
        let is_within = settings.capacity_bytes.is_none_or(|capacity| needed <= capacity);
        is_whole && is_within && !self.reserve.is_disk_full
    }

    /// Whether `bytes` are within the capacity, with what of the reserve is for this rank.
    pub(crate) fn may_have(&self, bytes: u64, rank: Rank, settings: &Settings) -> bool {
        let needed = self.used + bytes + rank.spared(settings);
        settings.capacity_bytes.is_none_or(|capacity| needed <= capacity)
    }

    /// What a new segment says of the partitions: as far as their batches are written.
    pub(crate) fn kept(&self, number: u32) -> Vec<Kept> {
        let kept = self.partitions.iter().map(|(id, partition)| Kept {
            partition: *id,
            first: partition.first,
            next: partition.readable.max(partition.first),
            born: if partition.born == UNBORN { place(number, 0) } else { partition.born },
        });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|kept| kept.partition);
        kept
    }

    /// A segment has begun whose head says how things stood: what it says is durable now.
    pub(crate) fn begin(&mut self, head: &Head, removed: &[PartitionId], segment: Segment) {
        self.segments.insert(head.number, segment);
        self.headed = Some(head.number);
        for kept in &head.partitions {
            if let Some(partition) = self.partitions.get_mut(&kept.partition)
                && partition.born == UNBORN
            {
                partition.born = kept.born;
            }
            self.drop_trimmed(kept.partition, kept.first);
        }
        removed.iter().for_each(|partition| self.drop_removed(*partition));
    }

    /// A batch is readable, or a note durable.
    pub(crate) fn commit(&mut self, batch: &Placed, segment: u32, position: u32) {
        match batch.note {
            Some(Note::Create(id, _)) => {
                if let Some(partition) = self.partitions.get_mut(&id)
                    && partition.born == UNBORN
                    && partition.instance == batch.instance
                {
                    partition.born = place(segment, position);
                }
            }
            Some(Note::Trim(id, before)) => self.drop_trimmed(id, before),
            Some(Note::Remove(id)) => self.drop_removed(id),
            Some(Note::Mark) => {}
            None => {
                let id = PartitionId(batch.header.partition);
                let Some(partition) = self.partitions.get_mut(&id) else { return };
                if partition.instance != batch.instance {
                    return;
                }
                partition.note(&batch.header, segment, position);
                self.strands.entry(id).or_default().note(&batch.header, position);
                if let Some(segment) = self.segments.get_mut(&segment) {
                    segment.live += u64::from(batch.header.length);
                }
                self.counts.batches += 1;
                self.counts.bytes += u64::from(batch.header.length);
            }
        }
    }

    /// Forgets what is wholly before `before`, which is durably gone.
    fn drop_trimmed(&mut self, id: PartitionId, before: u64) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        partition.gone = partition.gone.max(before);
        while partition.spans.front().is_some_and(|span| span.end <= before) {
            let Some(span) = partition.spans.pop_front() else { break };
            release(&mut self.segments, &span);
            self.is_chore_due = true;
        }
    }

    fn drop_removed(&mut self, id: PartitionId) {
        let Some(partition) = self.removing.remove(&id) else { return };
        // Another one of its number may come in the same segment.
        if !self.partitions.contains_key(&id) {
            self.strands.remove(&id);
        }
        partition.spans.iter().for_each(|span| release(&mut self.segments, span));
        self.is_chore_due = true;
    }

    /// The disk failed, or had no room, while these batches were under way: their offsets are free again. Said here, for
    /// whoever waits for one of them may have gone.
    pub(crate) fn roll_back(&mut self, group: &Group, error: &AppendError) {
        let reason: Arc<str> = match error {
            AppendError::Failed { reason } => reason.clone(),
            refused => refused.to_string().into(),
        };
        for batch in &group.batches {
            if let Some(note) = batch.note {
                self.take_back(note, batch.instance);
                continue;
            }
            if let Some(partition) = self.partitions.get_mut(&PartitionId(batch.header.partition))
                && partition.instance == batch.instance
            {
                partition.next = partition.readable.max(partition.first);
                partition.failed = Some(reason.clone());
                partition.rolled_back += 1;
                partition.taken_back = Some(error.clone());
            }
        }
    }

    /// What was not durably made is not there: what is appended to it would be nobody's at the next start.
    fn take_back(&mut self, note: Note, instance: u32) {
        if let Note::Create(id, _) = note
            && let Some(partition) = self.partitions.get(&id)
            && partition.born == UNBORN
            && partition.instance == instance
        {
            self.partitions.remove(&id);
        }
    }

    pub(crate) fn usage(&self, settings: &Settings) -> Usage {
        Usage {
            capacity: settings.capacity_bytes,
            used: self.used + self.reserve.bytes(),
            live: self.segments.values().map(|segment| segment.live).sum(),
            reserve: settings.reserve_bytes,
            reserve_left: self.reserve.left.unwrap_or(settings.reserve_bytes).min(settings.reserve_bytes),
        }
    }
}

fn release(segments: &mut BTreeMap<u32, Segment>, span: &Span) {
    if let Some(segment) = segments.get_mut(&span.segment) {
        segment.live = segment.live.saturating_sub(span.bytes.into());
    }
}
