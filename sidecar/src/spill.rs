//! The two ends of a queue that goes to disk, as a sink and a source of this process, and the journal that it goes to.
//!
//! A batch is delivered for the sink's driver as soon as the queue has it; its mark is let go when the stages behind have
//! settled it, or when it is on the disk. What the source hands out is numbered anew: the books of the source are those of the
//! queue, and the disk is given up behind its position. See `sidestream_spill` for what is promised.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sidestream_connector::{
    AsyncSink, AsyncSource, BoxFuture, BuildError, Failure, Intake, Sink, Source, Stopped, Undelivered,
};
use sidestream_event::{
    Batch,
    frame::{self, FrameError},
};
use sidestream_host::disk::{self, Choice};
use sidestream_log::{Journal, ReadError, Settings};
use sidestream_plan::{
    Plan,
    stage::{PodSpill, Spill},
};
use sidestream_spill::{Handed, Limits, Name, Reader, Spills, Spool, View, Writer};
use tokio::sync::watch;

use crate::World;

/// What spilled queues of a process may have, where nobody says: 10 GiB.
pub const SPILL_BYTES_MAX: u64 = 10 << 30;

/// Where this process spills to. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct SpillPlace(Arc<Mutex<Place>>);

#[derive(Default)]
enum Place {
    #[default]
    Nowhere,
    /// A journal of its own in this folder, made when it is first needed.
    Folder(PathBuf, PodSpill),
    Open(Spills),
}

/// Why a process cannot spill.
#[derive(Debug)]
pub enum SpillError {
    /// It has nowhere to spill to.
    Nowhere,
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
    /// What was spilled before cannot be read.
    Spilled(ReadError),
}

impl World {
    /// Has this process spill to the queues of a journal that is open.
    pub(crate) fn spill_to(&self, spills: Spills) {
        *self.spill_place.lock() = Place::Open(spills);
    }

    /// Has this process spill to a journal of its own in `folder`, once it has to and where it has no other: one that fits into a
    /// pod's volume. What a process before has spilled there is found. Blocks while it is read.
    pub fn spill_in(&self, folder: &Path, volume: PodSpill) {
        let mut place = self.spill_place.lock();
        if !matches!(*place, Place::Nowhere) {
            return;
        }
        *place = Place::Folder(folder.to_owned(), volume);
        drop(place);
        if folder.exists()
            && let Err(error) = self.spills()
        {
            // Whatever needs it asks again.
            tracing::error!("what was spilled is not at hand: {error}");
        }
    }

    /// Whether events are on the disk that wait for a stage, or may be: a disk that could not be opened says nothing.
    pub(crate) fn has_spilled(&self, pipeline: &str, stage: &str) -> bool {
        let name = Name { pipeline: pipeline.to_owned(), stage: stage.to_owned() };
        match &*self.spill_place.lock() {
            Place::Open(spills) => spills.unsettled_of(&name) > 0,
            Place::Folder(..) => true,
            Place::Nowhere => false,
        }
    }

    /// The queues of this process, where something was spilled or may be.
    pub(crate) fn open_spills(&self) -> Option<Spills> {
        match &*self.spill_place.lock() {
            Place::Open(spills) => Some(spills.clone()),
            Place::Nowhere | Place::Folder(..) => None,
        }
    }

    /// The same, made where they are not yet. Blocks while the journal is read.
    fn spills(&self) -> Result<Spills, SpillError> {
        let mut place = self.spill_place.lock();
        let spills = match &*place {
            Place::Open(spills) => return Ok(spills.clone()),
            Place::Nowhere => return Err(SpillError::Nowhere),
            Place::Folder(folder, volume) => open(folder, *volume, self)?,
        };
        *place = Place::Open(spills.clone());
        Ok(spills)
    }

    /// Drops what waits on the disk for a stage that no pipeline has, and says how many events that were; none where there is
    /// none. Blocks.
    pub fn forget_spilled(&self, pipeline: &str, stage: &str) -> Option<u64> {
        let name = Name { pipeline: pipeline.to_owned(), stage: stage.to_owned() };
        let spills = self.open_spills()?;
        self.sockets.block_on(async move { spills.forget(&name).await })
    }

    /// How every queue stands. Blocks.
    pub(crate) fn spill_views(&self) -> Vec<View> {
        let Some(spills) = self.open_spills() else { return Vec::new() };
        self.sockets.block_on(async move { spills.views().await })
    }

    /// What waits on the disk for stages that no pipeline here has: their names, as `namespace/pipeline/stage`, and how many
    /// events. Blocks.
    pub fn spilled_for_nobody(&self) -> Vec<(String, u64)> {
        let left = self.spill_views().into_iter().filter(|view| view.is_left && view.stored_events > 0);
        left.map(|view| (view.name.to_string(), view.stored_events)).collect()
    }

    /// Notes how far what was spilled is delivered, for the next start. Blocks.
    pub fn close_spills(&self) {
        if let Some(spills) = self.open_spills() {
            self.sockets.block_on(async move { spills.close().await });
        }
    }
}

/// The queues in the journal of a folder that is nobody else's.
fn open(folder: &Path, volume: PodSpill, world: &World) -> Result<Spills, SpillError> {
    let of_folder = |error| SpillError::Folder { path: folder.to_owned(), error };
    disk::make_directory(folder).map_err(of_folder)?;
    let disk = disk::open(folder, Choice::Auto).map_err(SpillError::Disk)?;
    let settings = Settings {
        segment_bytes: (volume.journal().bytes() / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            as u32,
        group_bytes_max: 1 << 20,
        cache_bytes: 4 << 20,
        zero_ahead_bytes: 1 << 20,
        reserve_bytes: 1 << 20,
        capacity_bytes: Some(volume.journal().bytes()),
        ..Settings::default()
    };
    let (journal, recovered) =
        Journal::open(disk, settings, world.clock().clone()).map_err(SpillError::Journal)?;
    for damage in &recovered.damage {
        tracing::error!("the journal of what was spilled is damaged: {damage}");
    }
    let limits = Limits { bytes_max: volume.spilled().bytes() };
    spills_of(journal, limits, world).map_err(SpillError::Spilled)
}

/// The queues in a journal. Blocks.
pub(crate) fn spills_of(journal: Journal, limits: Limits, world: &World) -> Result<Spills, ReadError> {
    let (clock, sockets) = (world.clock().clone(), world.sockets().clone());
    world.sockets().block_on(async move { Spills::open(journal, limits, clock, sockets).await })
}

/// The end that takes events in.
pub(crate) fn sink(stage: &Spill, plan: &Plan, world: &World) -> Result<Sink, BuildError> {
    let spool = spool(stage, plan, world)?;
    let number = spool.new_writer();
    Ok(Sink::Async(Box::new(Stores { spool, number, writer: None })))
}

/// The end that hands them out; made after the other, with which it comes to its end.
pub(crate) fn source(stage: &Spill, plan: &Plan, world: &World) -> Result<Source, BuildError> {
    let spool = spool(stage, plan, world)?;
    let writer = spool.newest_writer();
    Ok(Source::Async(Box::new(HandsOut { spool, writer, reader: None })))
}

fn spool(stage: &Spill, plan: &Plan, world: &World) -> Result<Arc<Spool>, BuildError> {
    let spills =
        world.spills().map_err(|error| BuildError { field: "input.overflow", reason: error.to_string() })?;
    let name = Name { pipeline: plan.pipeline.clone(), stage: stage.stage.clone() };
    Ok(spills.spool(&name, stage.capacity.map_or(CAPACITY_EVENTS, |events| events as usize)))
}

struct Stores {
    spool: Arc<Spool>,
    number: u64,
    /// Made when the sink runs: one that was only prepared must not take the place of another.
    writer: Option<Writer>,
}

impl Stores {
    fn writer(&mut self) -> &mut Writer {
        self.writer.get_or_insert_with(|| self.spool.writer(self.number))
    }
}

impl AsyncSink for Stores {
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(async move {
            match self.writer().push(batch).await {
                refused if refused.is_empty() => Ok(()),
                events => Err(Undelivered::Refused { events }),
            }
        })
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.writer().finish().await })
    }

    /// Takes its place before the first batch comes.
    fn tend_after(&self) -> Option<Duration> {
        self.writer.is_none().then_some(Duration::ZERO)
    }

    fn tend(&mut self) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move {
            self.writer();
            Ok(())
        })
    }
}

struct HandsOut {
    spool: Arc<Spool>,
    /// The writer of the other end.
    writer: u64,
    /// Made when the source first runs, and gone when it is told to stop.
    reader: Option<(Reader, watch::Receiver<u64>)>,
}

impl HandsOut {
    /// Another may take its place, or none: what waits then stays.
    fn stop(&mut self) -> Result<(), Failure> {
        self.reader = None;
        let (stage, events) = (self.spool.name(), self.spool.waiting());
        tracing::info!(%stage, events, "what is spilled waits for the next that takes it");
        Ok(())
    }

    /// The way out, and the position of what came of it. The queue hears of that for as long as anything can move it.
    fn begin(&mut self, intake: &mut Intake) -> &mut (Reader, watch::Receiver<u64>) {
        self.reader.get_or_insert_with(|| {
            intake.keep_names();
            let (reader, positions) = (self.spool.reader(self.writer), intake.positions());
            let (spool, number, mut news) = (self.spool.clone(), reader.number(), positions.clone());
            tokio::spawn(async move {
                while news.changed().await.is_ok() {
                    let position = *news.borrow_and_update();
                    spool.passed(number, position);
                }
            });
            (reader, positions)
        })
    }
}

impl AsyncSource for HandsOut {
    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let spool = self.spool.clone();
            loop {
                let (reader, positions) = self.begin(intake);
                let stopped = intake.stopped();
                let handed = tokio::select! {
                    handed = reader.next() => {
                        handed.map_err(|error| Failure(format!("what was spilled cannot be read: {error}")))?
                    }
                    () = stopped => return self.stop(),
                };
                let Some(handed) = handed else { return Ok(()) };
                let mut batch = intake.batch();
                let Some(handed) = read(reader, handed, &mut batch)? else { continue };
                let end = intake.next_sequence() + batch.len() as u64;
                match intake.send_for_receipt(batch).await {
                    Ok(receipt) => {
                        let id = reader.sent(handed, end);
                        // It may have passed between the two.
                        let position = *positions.borrow();
                        spool.passed(reader.number(), position);
                        let spool = spool.clone();
                        // On its own, because it may come long after this source has ended. An error is that nobody will say.
                        tokio::spawn(async move {
                            if let Ok(settled) = receipt.await {
                                spool.settled(id, &settled);
                            }
                        });
                    }
                    Err(Stopped(mut batch)) => {
                        batch.clear();
                        reader.give_back(handed);
                        return self.stop();
                    }
                }
            }
        })
    }
}

/// Reads what was handed out into `batch`; none where there is nothing in it that can be.
fn read(reader: &mut Reader, handed: Handed, batch: &mut Batch) -> Result<Option<Handed>, Failure> {
    match frame::read(&handed.frame, batch) {
        // Whoever comes next in this place may know that version.
        Err(error @ FrameError::Version { .. }) => {
            batch.clear();
            reader.give_back(handed);
            Err(Failure(format!("what was spilled is {error}: start the newer program")))
        }
        // Its sums fit, so it was written so. It will never be readable, and must not hold up what comes behind it.
        _ if batch.is_empty() => {
            reader.lose(handed, "no event of it can be read");
            Ok(None)
        }
        Ok(()) => Ok(Some(handed)),
        Err(error) => {
            tracing::error!("the rest of a spilled batch is lost: {error}");
            Ok(Some(handed))
        }
    }
}

impl SpillPlace {
    fn lock(&self) -> std::sync::MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for SpillError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpillError::Nowhere => out.write_str(
                "Spill needs a disk, and this process has none: run it with --data-dir DIR, or write `overflow: Block`",
            ),
            SpillError::Folder { path, error } => {
                write!(out, "cannot use {} to spill to: {error}", path.display())
            }
            SpillError::Disk(error) => error.fmt(out),
            SpillError::Journal(error) => error.fmt(out),
            SpillError::Spilled(error) => write!(out, "what was spilled cannot be read: {error}"),
        }
    }
}

impl std::error::Error for SpillError {}

/// As many events wait in memory as in a ring.
const CAPACITY_EVENTS: usize = 8_192;
/// In how many segments a pod's journal is, about: what is delivered is freed a segment at a time.
const SEGMENTS: u64 = 12;
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
