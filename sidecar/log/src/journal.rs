//! The handle: what anybody may ask of a journal.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use sidestream_event::record::{BATCH_BYTES_MAX, HEADER_BYTES, Header};
use sidestream_host::{
    Clock,
    disk::{Disk, Driver, SECTOR},
};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{
    AppendError, Appending, Bounds, Counts, Damage, Done, Durability, OpenError, PartitionId, Pass, Read,
    ReadError, Recovered, Settings, Usage, Verified,
    ahead::read_ahead,
    commit::{self, Committer},
    control::{NOTE_BYTES, Note},
    head::PARTITIONS_MAX,
    keep::Keeper,
    read,
    recover::recover,
    reserve::Rank,
    state::{Partition, Phase, Shared, State, UNBORN},
    verify::verify,
    walk::Miss,
};

/// Threads that ask the disk for readers, and how many reads may wait for them.
const READERS: usize = 2;
const READS_MAX: usize = 256;

/// The journal of a disk. Clones are the same journal; it goes on until it is closed or the last one is dropped.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// Who writes; the storage thread has it while it does. None where it is stepped.
    committer: Option<Arc<Mutex<Committer>>>,
    /// None where it is stepped: reads are done where they are asked for.
    readers: Option<Readers>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

type Job = Box<dyn FnOnce() + Send>;

struct Readers {
    jobs: Mutex<Option<SyncSender<Job>>>,
    permits: Arc<Semaphore>,
}

/// The work of a journal without threads, done when its caller says so: a simulation with one seed owns every order.
pub struct Steps {
    committer: Committer,
    pub(crate) keeper: Keeper,
}

impl Steps {
    /// Writes the group that has gathered; whether there was one.
    pub fn commit(&mut self) -> bool {
        self.committer.turn()
    }

    /// Notes that all is durable, if that is due.
    pub fn settle(&mut self) -> bool {
        self.committer.settle()
    }

    /// Does one chore: a footer, zeros, freeing, cleaning; whether there was one.
    pub fn keep(&mut self) -> bool {
        self.keeper.turn()
    }

    /// Ends as a thread does when the journal is closed.
    pub fn close(mut self) {
        while self.committer.turn() {}
        self.committer.mark();
    }
}

impl Journal {
    /// Opens the journal on `disk`, a new one where there is none. Reads the end of it, so it takes a moment.
    ///
    /// # Errors
    /// Where the disk fails, or a newer program wrote it. Damage is no error: see [`Recovered`].
    pub fn open(
        disk: Arc<dyn Disk>,
        settings: Settings,
        clock: Clock,
    ) -> Result<(Self, Recovered), OpenError> {
        let (shared, committer, recovered) = start(disk, settings, clock)?;
        let (jobs, waiting) = sync_channel::<Job>(READS_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let committer = Arc::new(Mutex::new(committer));
        let mut threads = vec![
            spawn("journal", {
                let (shared, committer) = (shared.clone(), committer.clone());
                move || commit::run(&shared, &committer)
            }),
            spawn("journal-keep", {
                let keeper = Keeper::new(shared.clone());
                move || keeper.run()
            }),
        ];
        threads.extend((0..READERS).map(|_| {
            let waiting = waiting.clone();
            spawn("journal-read", move || serve(&waiting))
        }));
        let readers = Readers { jobs: Mutex::new(Some(jobs)), permits: Arc::new(Semaphore::new(READS_MAX)) };
        Ok((
            Self(Arc::new(Inner {
                shared,
                committer: Some(committer),
                readers: Some(readers),
                threads: Mutex::new(threads),
            })),
            recovered,
        ))
    }

    /// The same without threads: nothing happens but in [`Steps`], and a read asks the disk itself.
    ///
    /// # Errors
    /// As [`open`](Journal::open).
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        settings: Settings,
        clock: Clock,
    ) -> Result<(Self, Steps, Recovered), OpenError> {
        let (shared, committer, recovered) = start(disk, settings, clock)?;
        let keeper = Keeper::new(shared.clone());
        let journal =
            Self(Arc::new(Inner { shared, committer: None, readers: None, threads: Mutex::default() }));
        Ok((journal, Steps { committer, keeper }, recovered))
    }

    /// Makes a partition that begins at offset 0. Nothing changes where it exists.
    pub fn create(&self, partition: PartitionId) -> Done {
        self.create_at(partition, 0)
    }

    /// Makes a partition that begins at offset `first`. Nothing changes where it exists.
    pub fn create_at(&self, partition: PartitionId, first: u64) -> Done {
        if partition == PartitionId::CONTROL {
            return Done(Err(Some(AppendError::Malformed)));
        }
        self.note(Note::Create(partition, first), |state| {
            if state.removing.contains_key(&partition) {
                return Err(AppendError::Busy);
            }
            let is_new = !state.partitions.contains_key(&partition);
            if is_new && state.partitions.len() >= PARTITIONS_MAX {
                return Err(AppendError::TooMany { max: PARTITIONS_MAX });
            }
            let instance = state.instances + 1;
            let known = state
                .partitions
                .entry(partition)
                .or_insert_with(|| Partition::new(first, first, UNBORN, instance));
            let instance = known.instance;
            state.instances = state.instances.max(instance);
            Ok(instance)
        })
    }

    /// Takes a partition and all its batches away. Nobody can read it from now on; its number can be used again when this
    /// is durable.
    pub fn remove(&self, partition: PartitionId) -> Done {
        self.note(Note::Remove(partition), |state| {
            if partition == PartitionId::STATE {
                return Err(AppendError::Malformed);
            }
            let known = state.partitions.remove(&partition).ok_or(AppendError::Unknown { partition })?;
            let instance = known.instance;
            state.removing.insert(partition, known);
            Ok(instance)
        })
    }

    /// Takes what is before `before` away, of what can be read. Nobody can read it from now on; the first offset is `before`,
    /// though the batch that holds it may begin earlier. Trimming less than was trimmed changes nothing.
    pub fn trim(&self, partition: PartitionId, before: u64) -> Done {
        let mut state = self.0.shared.state();
        let Some(known) = state.partitions.get_mut(&partition) else {
            return Done(Err(Some(AppendError::Unknown { partition })));
        };
        // What is on its way may be refused, and others get its offsets, which no trim must have taken.
        known.first = known.first.max(before.min(known.readable));
        let before = known.first;
        drop(state);
        self.note(Note::Trim(partition, before), |_| Ok(0))
    }

    /// Has the batch written. Offsets are in the order of the calls; the header's place in partition and journal is
    /// filled in, the rest of it and the body, which is copied once, stay as they are.
    ///
    /// # Errors
    /// Refused before anything is kept; [`AppendError::Busy`] asks to try again after [`room`](Journal::room).
    pub fn append(
        &self,
        partition: PartitionId,
        header: Header,
        body: &[u8],
        durability: Durability,
    ) -> Result<Appending, AppendError> {
        let (appending, is_first) = self.gather(partition, None, header, body, durability)?;
        if is_first {
            self.have_written();
        }
        Ok(appending)
    }

    /// The same, and where `there` is an offset, only if its first record gets that. Whether it is the first to gather: then
    /// its caller sees to it that it is written.
    pub(crate) fn gather(
        &self,
        partition: PartitionId,
        there: Option<u64>,
        mut header: Header,
        body: &[u8],
        durability: Durability,
    ) -> Result<(Appending, bool), AppendError> {
        let shared = &self.0.shared;
        let settings = &shared.settings;
        let (bytes, max) = (HEADER_BYTES + body.len(), self.batch_bytes_max());
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        let is_its = header.length as usize == bytes && header.is_possible().is_ok();
        if !is_its || partition == PartitionId::CONTROL {
            return Err(AppendError::Malformed);
        }
        let mut state = shared.state();
        let is_first = admit(&mut state, settings, bytes, Rank::of(partition))?;
        let known = state.partitions.get_mut(&partition).ok_or(AppendError::Unknown { partition })?;
        if let Some(reason) = &known.failed {
            return Err(AppendError::Failed { reason: reason.clone() });
        }
        if there.is_some_and(|offset| offset != known.next) {
            return Err(AppendError::Failed { reason: "batches before it were taken back".into() });
        }
        let Some(next) = known.next.checked_add(header.count.into()) else {
            return Err(AppendError::Failed { reason: "it has no offset left".into() });
        };
        header.partition = partition.0;
        header.base_offset = std::mem::replace(&mut known.next, next);
        let instance = known.instance;
        let waiting = state.gather.push(header, body, instance, durability, None);
        Ok((Appending { base_offset: header.base_offset, waiting }, is_first))
    }

    /// Has the storage thread write what gathers.
    pub(crate) fn have_written(&self) {
        self.0.shared.work.notify_one();
    }

    /// Writes what gathers on this thread, where that takes no longer than having it written; whether nobody else has to.
    pub(crate) fn write_alone(&self) -> bool {
        let committer = self.0.committer.as_ref().and_then(|committer| committer.try_lock().ok());
        committer.is_some_and(|mut committer| committer.turn_alone())
    }

    /// Bytes of the largest batch that is taken, header included: two fit into a segment.
    pub fn batch_bytes_max(&self) -> usize {
        BATCH_BYTES_MAX.min(self.0.shared.settings.segment_bytes as usize / 2)
    }

    /// When there may be room for what was refused as busy.
    pub async fn room(&self) {
        let shared = &self.0.shared;
        let notified = shared.room.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        {
            let state = shared.state();
            if state.gather.bytes.len() < shared.settings.group_bytes_max || state.phase != Phase::Open {
                return;
            }
        }
        notified.await;
    }

    /// After a failure of the disk: where a partition stands now, for whoever appends to it to go on from there.
    pub fn resume(&self, partition: PartitionId) -> Option<Bounds> {
        let mut state = self.0.shared.state();
        let known = state.partitions.get_mut(&partition)?;
        known.failed = None;
        Some(known.bounds())
    }

    /// Batches from the one that holds offset `from` on, of at most `max_bytes`, though at least one where there is one;
    /// none at the end.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] where `from` itself can't be read: go on at its `to`.
    pub async fn read(&self, partition: PartitionId, from: u64, max_bytes: usize) -> Result<Read, ReadError> {
        // What is in memory is given at once, on the thread that asks.
        if let Some(read) = read::read(&self.0.shared, partition, from, max_bytes, Miss::Stop)? {
            return Ok(read);
        }
        let job = move |shared: &Shared| {
            let read = read::read(shared, partition, from, max_bytes, Miss::Read)?.unwrap_or_default();
            let next = read.next;
            Ok((read, next))
        };
        self.ask_and(job, move |shared, next| read_ahead(shared, partition, from, next)).await
    }

    /// The same for what nobody else will want: nothing of it stays in memory.
    ///
    /// # Errors
    /// As [`read`](Journal::read).
    pub async fn read_once(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Read, ReadError> {
        let once = move |shared: &Shared| read::read(shared, partition, from, max_bytes, Miss::ReadOnce);
        Ok(self.ask(once).await?.unwrap_or_default())
    }

    /// The headers of the same, up to some `max_bytes` of batches, and the offset to go on at.
    ///
    /// # Errors
    /// As [`read`](Journal::read).
    pub async fn headers(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<(Vec<Header>, u64), ReadError> {
        self.ask(move |shared| read::headers(shared, partition, from, max_bytes)).await
    }

    /// The headers of several partitions, of each from an offset on: one pass over what they have, whoever it is between.
    /// What can't be read is left out.
    pub fn pass(&self, from: BTreeMap<PartitionId, u64>) -> Pass {
        Pass::new(self.clone(), from)
    }

    /// The offset of the first batch appended at or after `time`, by its header's append time in nanoseconds since 1970;
    /// the readable end where there is none.
    ///
    /// # Errors
    /// Where the partition is unknown or the disk fails.
    pub async fn offset_at(&self, partition: PartitionId, time: i64) -> Result<u64, ReadError> {
        self.ask(move |shared| read::offset_at(shared, partition, time)).await
    }

    /// The lowest offset such that the batches from it on have at most `bytes`: where to trim to keep so many.
    ///
    /// # Errors
    /// Where the partition is unknown or the disk fails.
    pub async fn offset_keeping(&self, partition: PartitionId, bytes: u64) -> Result<u64, ReadError> {
        self.ask(move |shared| read::offset_keeping(shared, partition, bytes)).await
    }

    /// From where to where the partition is there.
    pub fn bounds(&self, partition: PartitionId) -> Option<Bounds> {
        self.0.shared.state().partitions.get(&partition).map(Partition::bounds)
    }

    /// Why batches of a partition that had their offsets were refused or failed after all, the last time that they were.
    pub fn taken_back(&self, partition: PartitionId) -> Option<AppendError> {
        self.0.shared.state().partitions.get(&partition)?.taken_back.clone()
    }

    /// Every partition.
    pub fn partitions(&self) -> Vec<PartitionId> {
        let mut all: Vec<_> = self.0.shared.state().partitions.keys().copied().collect();
        all.sort();
        all
    }

    /// The offset after the last one that can be read, whenever it changes; it ends with the partition.
    pub fn watch(&self, partition: PartitionId) -> Option<watch::Receiver<u64>> {
        let mut state = self.0.shared.state();
        let known = state.partitions.get_mut(&partition)?;
        let readable = known.readable;
        Some(known.watch.get_or_insert_with(|| watch::Sender::new(readable)).subscribe())
    }

    /// How much of the disk is in use.
    pub fn usage(&self) -> Usage {
        self.0.shared.state().usage(&self.0.shared.settings)
    }

    /// Whether no more than half of the reserve is left: then who has state should write it anew and trim what is older, so
    /// that the reserve lasts.
    pub fn is_reserve_low(&self) -> bool {
        let (left, whole) = self.reserve();
        whole > 0 && left <= whole / 2
    }

    /// Bytes that are left of the reserve, and those of all of it.
    pub fn reserve(&self) -> (u64, u64) {
        let whole = self.0.shared.settings.reserve_bytes;
        (self.0.shared.state().reserve.left.unwrap_or(whole).min(whole), whole)
    }

    /// Which disk runs, and why.
    pub fn driver(&self) -> Driver {
        self.0.shared.disk.driver()
    }

    /// What happened since it was opened.
    pub fn counts(&self) -> Counts {
        let cache = self.0.shared.cache.counts();
        Counts {
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_evicted: cache.evicted,
            cache_bytes: cache.used,
            read_bytes: self.0.shared.read_bytes.get(),
            ..self.0.shared.state().counts
        }
    }

    /// Every damage that was met since it was opened.
    pub fn damage(&self) -> Vec<Damage> {
        self.0.shared.state().damage.clone()
    }

    /// Reads everything and checks every sum.
    ///
    /// # Errors
    /// Where the disk fails.
    pub async fn verify(&self) -> Result<Verified, ReadError> {
        self.ask(verify).await
    }

    /// Writes what was taken in, notes that all is durable, and ends the threads.
    pub async fn close(&self) {
        let threads = self.0.end();
        let (done, joined) = oneshot::channel();
        let joining = spawn("journal-end", move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
            let _ = done.send(());
        });
        let _ = joined.await;
        let _ = joining.join();
        self.0.shared.state().phase = Phase::Closed;
    }

    fn note(&self, note: Note, change: impl FnOnce(&mut State) -> Result<u32, AppendError>) -> Done {
        let shared = &self.0.shared;
        let mut state = shared.state();
        let admitted = admit(&mut state, &shared.settings, 2 * (HEADER_BYTES + NOTE_BYTES), Rank::Note)
            .and_then(|was_empty| Ok((was_empty, change(&mut state)?)));
        let (was_empty, instance) = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => return Done(Err(Some(refused))),
        };
        // Twice, as heads are: without it, all batches of a partition would be nobody's. To read it again changes nothing.
        let (header, body) = note.batch();
        drop(state.gather.push(header, &body, instance, Durability::Device, Some(note)));
        let waiting = state.gather.push(header, &body, instance, Durability::Device, Some(note));
        drop(state);
        if was_empty {
            shared.work.notify_one();
        }
        Done(Ok(Appending { base_offset: 0, waiting }))
    }

    /// Has a thread that may wait for the disk do it.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Shared) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        self.ask_and(move |shared| Ok((job(shared)?, ())), |_, ()| ()).await
    }

    /// The same; when that is answered it does what is left to do.
    async fn ask_and<T: Send + 'static, R: Send + 'static>(
        &self,
        job: impl FnOnce(&Shared) -> Result<(T, R), ReadError> + Send + 'static,
        rest: impl FnOnce(&Shared, R) + Send + 'static,
    ) -> Result<T, ReadError> {
        let Some(readers) = &self.0.readers else {
            let (answer, left) = job(&self.0.shared)?;
            rest(&self.0.shared, left);
            return Ok(answer);
        };
        let permit = readers.permits.clone().acquire_owned().await.map_err(|_| ReadError::Closed)?;
        let (told, answer) = oneshot::channel();
        let shared = self.0.shared.clone();
        let job = Box::new(move || {
            // It has its place until it has ended, also when nobody waits for it any more.
            let _permit = permit;
            if told.is_closed() {
                return;
            }
            match job(&shared) {
                Ok((answer, left)) => {
                    if told.send(Ok(answer)).is_ok() {
                        rest(&shared, left);
                    }
                }
                Err(error) => drop(told.send(Err(error))),
            }
        });
        let sender = readers.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match sender.ok_or(ReadError::Closed)?.try_send(job) {
            // As many permits as places, each until its job has ended: the readers have gone.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(ReadError::Closed),
            Ok(()) => answer.await.map_err(|_| ReadError::Closed)?,
        }
    }
}

/// Whether a batch of `bytes` may gather; whether it is the first.
fn admit(state: &mut State, settings: &Settings, bytes: usize, rank: Rank) -> Result<bool, AppendError> {
    if state.phase != Phase::Open {
        return Err(AppendError::Closed);
    }
    let gathered = state.gather.bytes.len();
    // Notes are few and small, and what they free may be what is waited for.
    if gathered >= settings.group_bytes_max && !(rank > Rank::Push && bytes < 1024) {
        return Err(AppendError::Busy);
    }
    let needed = (gathered + bytes) as u64 + SECTOR as u64;
    let may_grow = match rank {
        Rank::Push => state.may_grow(settings),
        Rank::State | Rank::Note => state.may_have(needed, rank, settings),
    };
    let left = if rank < state.tail_rank { 0 } else { state.tail_left };
    if needed > left && !may_grow {
        let capacity = settings.capacity_bytes.filter(|_| !state.reserve.is_disk_full);
        return Err(AppendError::Full { used: state.used + state.reserve.bytes(), capacity });
    }
    Ok(gathered == 0)
}

fn start(
    disk: Arc<dyn Disk>,
    settings: Settings,
    clock: Clock,
) -> Result<(Arc<Shared>, Committer, Recovered), OpenError> {
    let found = recover(&*disk)?;
    let is_new = found.state.segments.is_empty();
    let shared = Arc::new(Shared::new(disk, settings.checked(), clock, found.journal, found.state));
    if !is_new {
        // Starts that follow each other quickly must not use up what the keepers between them would have given back.
        Keeper::new(shared.clone()).restore();
    }
    let committer = Committer::new(shared.clone(), found.before, found.next_number);
    Ok((shared, committer, found.recovered))
}

fn serve(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).expect("the system refuses threads")
}

impl Inner {
    /// Has the threads end once what was taken in is written.
    fn end(&self) -> Vec<JoinHandle<()>> {
        {
            let mut state = self.shared.state();
            if state.phase == Phase::Open {
                state.phase = Phase::Closing;
            }
        }
        self.shared.work.notify_all();
        self.shared.chores.notify_all();
        self.shared.room.notify_waiters();
        if let Some(readers) = &self.readers {
            readers.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end().into_iter().for_each(|thread| drop(thread.join()));
    }
}
