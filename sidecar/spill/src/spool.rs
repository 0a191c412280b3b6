//! One spilled queue at work: a writer, a reader, and a task that stores what has to be stored and trims what is of no use.

mod reader;

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
pub use reader::{Handed, Reader};
use sidestream_event::{Batch, Settled};
use sidestream_host::Moment;
use sidestream_log::{AppendError, Durability, PartitionId};
use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    Name, View,
    encode::Encoder,
    queue::Queue,
    spills::Shared,
    stored::{beside, wrap},
};

/// A queue.
pub struct Spool {
    name: Name,
    shared: Weak<Shared>,
    state: Mutex<State>,
    /// Told when something may have to be stored or trimmed.
    to_keep: Arc<Notify>,
    /// Told when something may be handed out, or never will be.
    to_hand: Notify,
    /// Told when something was stored, settled or handed out.
    moved: Notify,
    keeper: Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct State {
    queue: Queue,
    partition: Option<PartitionId>,
    /// Everything before it was given up.
    trimmed: u64,
    trimmed_at: Moment,
    /// Counts the writers that were made.
    writers: u64,
    /// The newest that said that no more comes.
    finished: u64,
    is_full: bool,
    spilled: u64,
    lost: u64,
}

/// The way in. One of a queue is at work at a time.
pub struct Writer {
    spool: Arc<Spool>,
    number: u64,
    encoder: Encoder,
}

/// Why nothing is stored now.
enum Stays {
    /// The quota or the disk is full.
    Full(String),
    /// The disk failed.
    Failed(String),
}

impl Spool {
    /// Begins a queue, with what was found of it in the journal.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        name: Name,
        found: Option<(PartitionId, Range<u64>)>,
    ) -> Arc<Spool> {
        let (partition, disk) = found.map_or((None, 0..0), |(partition, disk)| (Some(partition), disk));
        let trimmed = disk.start;
        let state = State { queue: Queue::of(disk), partition, trimmed, ..State::default() };
        let spool = Arc::new(Spool {
            name,
            shared: Arc::downgrade(shared),
            state: Mutex::new(state),
            to_keep: Arc::default(),
            to_hand: Notify::new(),
            moved: Notify::new(),
            keeper: Mutex::default(),
        });
        let keeper = keep(Arc::downgrade(&spool), spool.to_keep.clone(), shared.freed.clone());
        let keeper = shared.sockets.spawn(keeper);
        *spool.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper.abort_handle());
        spool
    }

    /// Whose it is.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The number of a new writer, which need not begin yet, nor ever.
    pub fn new_writer(&self) -> u64 {
        let mut state = self.lock();
        state.writers += 1;
        state.writers
    }

    /// The number of the newest writer.
    pub fn newest_writer(&self) -> u64 {
        self.lock().writers
    }

    /// A way in, in place of the one before.
    pub fn writer(self: &Arc<Self>, number: u64) -> Writer {
        self.lock().queue.force(false);
        Writer { spool: self.clone(), number, encoder: Encoder::default() }
    }

    /// A way out, in place of the one before: it begins with what that had in its hand, and comes to its end when the writer
    /// `writer`, or one after it, has.
    pub fn reader(self: &Arc<Self>, writer: u64) -> Reader {
        let number = self.lock().queue.begin_reader();
        self.to_hand.notify_one();
        Reader::new(self.clone(), number, writer)
    }

    /// The events of a batch that was sent on have ended.
    pub fn settled(&self, handed: u64, settled: &Settled) {
        let owed = self.lock().queue.settled(handed, settled);
        drop(owed);
        self.moved.notify_waiters();
    }

    /// No state behind the reader `reader` holds anything before `position` any more.
    pub fn passed(&self, reader: u64, position: u64) {
        let mut state = self.lock();
        let owed = state.queue.passed(reader, position);
        let is_over = state.partition.is_some() && state.queue.needed_from() > state.trimmed;
        drop(state);
        drop(owed);
        if is_over {
            self.to_keep.notify_one();
        }
    }

    /// Events that wait in it, on the disk and in memory.
    pub fn waiting(&self) -> u64 {
        let (stored, memory) = self.lock().queue.waiting();
        stored + memory
    }

    /// Events on the disk that have not ended.
    pub(crate) fn unsettled(&self) -> u64 {
        self.lock().queue.unsettled()
    }

    pub(crate) fn set_capacity(&self, events: usize) {
        self.lock().queue.set_capacity(events);
    }

    pub(crate) fn is_left(&self) -> bool {
        self.lock().queue.is_left()
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        let (Some(shared), Some(partition)) = (self.shared.upgrade(), self.lock().partition) else {
            return 0;
        };
        shared.journal.bounds(partition).map_or(0, |bounds| bounds.bytes)
    }

    pub(crate) async fn view(&self) -> View {
        let (partition, from, mut view) = {
            let state = self.lock();
            let (stored_events, memory_events) = state.queue.waiting();
            let view = View {
                name: self.name.clone(),
                stored_events,
                stored_bytes: 0,
                memory_events,
                spilled_events: state.spilled,
                lost_events: state.lost,
                oldest_seconds: 0.0,
                is_full: state.is_full,
                is_left: state.queue.is_left(),
            };
            (state.partition, state.queue.needed_from(), view)
        };
        view.stored_bytes = self.stored_bytes();
        if let (Some(shared), Some(partition)) = (self.shared.upgrade(), partition)
            && view.stored_events > 0
            && let Ok((headers, _)) = shared.journal.headers(partition, from, 1).await
            && let Some(oldest) = headers.first()
        {
            let nanos = shared.clock.wall_nanos().saturating_sub(oldest.append_time);
            view.oldest_seconds = nanos.max(0) as f64 / 1e9;
        }
        view
    }

    /// Gives up all that is stored; says how many events waited.
    pub(crate) async fn remove(&self) -> u64 {
        self.stop();
        let (partition, waiting) = {
            let mut state = self.lock();
            (state.partition.take(), state.queue.waiting().0)
        };
        if let (Some(shared), Some(partition)) = (self.shared.upgrade(), partition)
            && let Err(error) = shared.journal.remove(partition).await
        {
            tracing::error!(stage = %self.name, "what was spilled is not removed: {error}");
        }
        waiting
    }

    /// Everything that is not settled is to be stored.
    pub(crate) fn store_all(&self) {
        self.lock().queue.force(true);
        self.to_keep.notify_one();
    }

    /// Waits until nothing would be lost with this process.
    async fn until_safe(&self) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.lock().queue.is_safe() {
                return;
            }
            moved.await;
        }
    }

    /// Waits a while for what is to be stored, notes how far it was delivered, and ends its work.
    pub(crate) async fn close(&self) {
        if tokio::time::timeout(CLOSES_WITHIN, self.until_safe()).await.is_err() {
            let events = self.lock().queue.unsafe_events();
            tracing::error!(stage = %self.name, events, "not spilled for want of room or time: they are lost unless their sources bring them again");
        }
        self.stop();
        self.trim(true).await;
    }

    fn stop(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        keeper.inspect(AbortHandle::abort);
    }

    /// Whoever waits looks again.
    fn stir(&self) {
        self.to_keep.notify_one();
        self.to_hand.notify_one();
        self.moved.notify_waiters();
    }

    /// Stores what is due, and says how long nothing more will be.
    async fn store(&self) -> Duration {
        let Some(shared) = self.shared.upgrade() else { return RETRY };
        loop {
            let now = shared.clock.now();
            let due = self.lock().queue.store_at();
            if due.is_none_or(|due| due > now) {
                self.say_room();
                return due.map_or(IDLE, |due| due.since(now).max(SHORT));
            }
            let room = shared.limits.bytes_max.saturating_sub(shared.used());
            let bytes = CHUNK_BYTES.min(usize::try_from(room).unwrap_or(usize::MAX));
            let chunk = self.lock().queue.begin_store(now, bytes, beside(&self.name));
            match self.store_chunk(&shared, &chunk).await {
                Ok(()) => self.say_room(),
                Err(stays) => {
                    self.lock().queue.not_stored();
                    // It may be handed out from memory meanwhile.
                    self.to_hand.notify_one();
                    self.say_full(stays);
                    return RETRY;
                }
            }
            self.stir();
        }
    }

    async fn store_chunk(&self, shared: &Shared, chunk: &[(u64, Bytes, u32)]) -> Result<(), Stays> {
        let beside = beside(&self.name);
        let bytes: u64 = chunk.iter().map(|(_, frame, _)| (frame.len() + beside) as u64).sum();
        let (used, max) = (shared.used(), shared.limits.bytes_max);
        if used + bytes > max {
            return Err(Stays::Full(format!("{used} of {max} bytes for spilled events are in use")));
        }
        let partition = self.partition(shared).await?;
        let mut on_their_way = Vec::with_capacity(chunk.len());
        let mut refused = None;
        for (id, frame, count) in chunk {
            let (header, body) = wrap(&self.name, frame, *count, shared.clock.wall_nanos());
            let appending = loop {
                match shared.journal.append(partition, header, &body, Durability::Device) {
                    Err(AppendError::Busy) => shared.journal.room().await,
                    appending => break appending,
                }
            };
            match appending {
                Ok(appending) => on_their_way.push((*id, *count, appending)),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        for (id, count, appending) in on_their_way {
            match appending.await {
                Ok(receipt) => {
                    let offsets = receipt.base_offset..receipt.base_offset + u64::from(count);
                    let mut state = self.lock();
                    state.spilled += u64::from(count);
                    let owed = state.queue.stored(id, offsets);
                    drop(state);
                    drop(owed);
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let Some(error) = refused else { return Ok(()) };
        // What was refused is appended anew, behind what stands.
        shared.journal.resume(partition);
        match error {
            AppendError::Full { .. } => Err(Stays::Full(error.to_string())),
            error => Err(Stays::Failed(error.to_string())),
        }
    }

    async fn partition(&self, shared: &Shared) -> Result<PartitionId, Stays> {
        if let Some(partition) = self.lock().partition {
            return Ok(partition);
        }
        let partition = shared.new_partition();
        match shared.journal.create(partition).await {
            Ok(()) => {
                self.lock().partition = Some(partition);
                Ok(partition)
            }
            Err(error @ AppendError::Full { .. }) => Err(Stays::Full(error.to_string())),
            Err(error) => Err(Stays::Failed(error.to_string())),
        }
    }

    fn say_full(&self, stays: Stays) {
        let was_full = std::mem::replace(&mut self.lock().is_full, true);
        let stage = &self.name;
        match stays {
            _ if was_full => {}
            Stays::Failed(reason) => tracing::error!(%stage, "not spilled, and its sources wait: {reason}"),
            Stays::Full(reason) => {
                tracing::warn!(%stage, "no room to spill, so its sources wait: {reason}");
            }
        }
    }

    fn say_room(&self) {
        if std::mem::take(&mut self.lock().is_full) {
            tracing::info!(stage = %self.name, "there is room to spill again");
        }
    }

    /// Gives up what is of no use any more, now and then. Says how long there is nothing more to give up.
    async fn trim(&self, is_last: bool) -> Duration {
        let Some(shared) = self.shared.upgrade() else { return RETRY };
        let now = shared.clock.now();
        let (partition, before) = {
            let mut state = self.lock();
            let before = state.queue.needed_from();
            let Some(partition) = state.partition.filter(|_| before > state.trimmed) else { return IDLE };
            let rests = TRIM_EVERY.saturating_sub(now.since(state.trimmed_at));
            if !rests.is_zero() && !is_last {
                return rests;
            }
            state.trimmed_at = now;
            (partition, before)
        };
        match shared.journal.trim(partition, before).await {
            Ok(()) => {
                let mut state = self.lock();
                state.trimmed = state.trimmed.max(before);
                drop(state);
                shared.freed.notify_waiters();
            }
            Err(error) => tracing::error!(stage = %self.name, "what was delivered is still there: {error}"),
        }
        TRIM_EVERY
    }

    /// Counts what the disk lost.
    fn lose(&self, from: u64, to: u64, reason: &str) {
        let mut state = self.lock();
        let events = state.queue.skip(to);
        state.lost += events;
        drop(state);
        tracing::error!(stage = %self.name, events, "spilled events {from} to before {to} are lost: {reason}");
        self.stir();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a queue, for as long as that is there: while it waits, it holds nothing of it.
async fn keep(spool: Weak<Spool>, to_keep: Arc<Notify>, freed: Arc<Notify>) {
    loop {
        let wait = match spool.upgrade() {
            Some(spool) => spool.store().await.min(spool.trim(false).await),
            None => return,
        };
        tokio::select! {
            () = to_keep.notified() => {}
            () = freed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        if spool.upgrade().is_some_and(|spool| spool.lock().is_full) {
            // Whatever stirs it, a full disk is not asked more often.
            tokio::time::sleep(TRIM_EVERY).await;
        }
    }
}

impl Writer {
    /// Takes a batch when there is room for it. Gives the events that it can never take, by index, and why. Dropped before it is
    /// ready, it has taken nothing.
    pub async fn push(&mut self, batch: &Batch) -> Vec<(usize, String)> {
        let (parcels, refused) = self.encoder.encode(batch);
        if parcels.is_empty() {
            return refused;
        }
        loop {
            let moved = self.spool.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let mut state = self.spool.lock();
                if state.queue.has_room() {
                    let now = self.spool.now();
                    parcels.into_iter().for_each(|parcel| state.queue.push(parcel, now));
                    break;
                }
            }
            self.spool.to_keep.notify_one();
            moved.await;
        }
        self.spool.to_hand.notify_one();
        self.spool.to_keep.notify_one();
        refused
    }

    /// No more comes: waits until all of it is settled or stored, and lets the reader come to its end.
    pub async fn finish(&mut self) {
        if tokio::time::timeout(SETTLES_WITHIN, self.spool.until_safe()).await.is_err() {
            self.spool.store_all();
            self.spool.until_safe().await;
        }
        let mut state = self.spool.lock();
        state.finished = state.finished.max(self.number);
        drop(state);
        self.spool.stir();
    }
}

impl Spool {
    fn now(&self) -> Moment {
        self.shared.upgrade().map(|shared| shared.clock.now()).unwrap_or_default()
    }
}

/// What is stored at once: enough for a barrier to pay.
const CHUNK_BYTES: usize = 1 << 20;
/// How often what was delivered is given up: what was delivered since comes again after a crash.
const TRIM_EVERY: Duration = Duration::from_millis(200);
/// How long what is refused waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(1);
/// How long a queue with nothing to do sleeps, if nothing wakes it.
const IDLE: Duration = Duration::from_secs(3600);
/// How long the end of the process waits for a disk to take what is in memory.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);
/// How long a queue that ends waits for what is out to settle before it stores that too.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);
