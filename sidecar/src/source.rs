//! Sources at work: each has a worker's turn, a thread, or a task on the socket runtime.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use sidestream_connector::{
    AsyncSource, BlockingSource, Failure, Filled, Intake, Origin, PolledSource, Source, Stop, intake,
};
use sidestream_event::{Batch, Pool, Timestamp};
use sidestream_graph::{Fed, Feed, StageStats, WakeOnDrop};
use sidestream_host::Moment;
use sidestream_ring::{Receiver, Sender, channel::channel_by};
use tokio::sync::watch;

use crate::{Door, World, backoff::Backoff, latch::Latch};

/// A source that brings events in.
pub(crate) struct RunningSource {
    pub(crate) origin: Origin,
    /// Whether it hands out what a queue of the same pipeline took in: it comes to its end by itself, and its events have been
    /// counted where they came in.
    pub(crate) is_within: bool,
    stop: watch::Sender<bool>,
    ended: Latch,
    closed: Latch,
    estate: Estate,
}

/// What a blocking source leaves.
#[derive(Clone, Default)]
struct Estate(Arc<Mutex<Left>>);

#[derive(Default)]
struct Left {
    /// The source that has ended, until it has noted its position or another goes on where it stopped.
    source: Option<Box<dyn BlockingSource>>,
    /// Whether another is about to.
    has_heir: bool,
    /// Whether everything in this process has ended: what is still held is held by a state of another.
    is_last: bool,
}

/// What the run that a source heads takes from.
pub(crate) enum Head {
    /// A source that the run calls.
    Feed(Box<dyn Feed>),
    /// The ring that a source with a thread or task fills.
    Ring(Receiver<Batch>),
}

impl RunningSource {
    /// Starts a source, whose books are `origin`. It waits at its ring until somebody takes from it.
    pub(crate) fn start(
        name: &str,
        source: Source,
        origin: Origin,
        stats: Arc<StageStats>,
        pool: &Arc<Pool>,
        world: &World,
    ) -> std::io::Result<(RunningSource, Head)> {
        let (stop, stopped) = Stop::new();
        let running = RunningSource::new(origin.clone(), stop);
        let (ended, closed, estate) = (running.ended.clone(), running.closed.clone(), running.estate.clone());
        let open = |origin| {
            let (sender, receiver): (Sender<Batch>, _) =
                channel_by(SOURCE_BATCHES, SOURCE_EVENTS, Batch::len);
            (intake(sender, origin, pool.clone(), world.clock.clone(), stopped.clone()), receiver)
        };
        let head = match source {
            Source::Polled(source) => {
                closed.set();
                let feed =
                    PolledFeed { source, origin, pool: pool.clone(), stop: stopped, ended: Some(ended) };
                Head::Feed(Box::new(feed))
            }
            Source::Blocking(source) => {
                let (intake, receiver) = open(origin.clone());
                let name = name.to_owned();
                thread::Builder::new().name(format!("source-{name}")).spawn(move || {
                    let mut source = source;
                    run_blocking(&name, source.as_mut(), intake, &stats);
                    estate.lock().source = Some(source);
                    ended.set();
                    close(&origin, &estate);
                    closed.set();
                })?;
                Head::Ring(receiver)
            }
            Source::Async(source) => {
                let (intake, receiver) = open(origin);
                let name = name.to_owned();
                let closes = WakeOnDrop(closed.waker());
                world.sockets.spawn(async move {
                    let _closes = closes;
                    let mut source = source;
                    run_async(name, source.as_mut(), intake, stats, ended).await;
                    source.drained(Box::pin(given_up(estate))).await;
                });
                Head::Ring(receiver)
            }
        };
        Ok((running, head))
    }

    /// Opens the door of a `push` source.
    pub(crate) fn open(name: &str, door: &Door, pool: &Arc<Pool>, world: &World) -> (RunningSource, Head) {
        let origin = Origin::new(name, world.clock.clone());
        let (stop, stopped) = Stop::new();
        let running = RunningSource::new(origin.clone(), stop);
        running.closed.set();
        let (sender, receiver) = channel_by(SOURCE_BATCHES, SOURCE_EVENTS, Batch::len);
        door.open(intake(sender, origin, pool.clone(), world.clock.clone(), stopped.clone()));
        let (door, latch) = (door.clone(), running.ended.clone());
        world.sockets.spawn(async move {
            stopped.stopped().await;
            door.close();
            latch.set();
        });
        (running, Head::Ring(receiver))
    }

    fn new(origin: Origin, stop: watch::Sender<bool>) -> RunningSource {
        let (ended, closed, estate) = Default::default();
        RunningSource { origin, is_within: false, stop, ended, closed, estate }
    }

    /// Like [`RunningSource::stop`], and what it leaves is kept for [`RunningSource::pass_on`].
    pub(crate) fn stop_for_heir(&self) {
        self.estate.lock().has_heir = true;
        self.stop();
    }

    /// Lets `heir` go on where this one, which has ended, stopped. Gives the books if it does: the numbers of the events
    /// go on too, so that what is still on its way moves the position that both share.
    pub(crate) fn pass_on(&self, heir: Option<&mut Source>) -> Option<Origin> {
        let mut left = self.estate.lock();
        left.has_heir = false;
        let Some(Source::Blocking(heir)) = heir else { return None };
        left.source = heir.take_over(left.source.take()?);
        left.source.is_none().then(|| self.origin.clone())
    }

    /// Asks the source to end; what it has brought in stays in its ring.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether it was asked to end.
    pub(crate) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Everything else has ended: it waits no longer than a moment for states of other processes.
    pub(crate) fn finish(&self) {
        self.estate.lock().is_last = true;
    }

    /// Set when it has ended, and has noted that its events have.
    pub(crate) fn closed(&self) -> &Latch {
        &self.closed
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_set()
    }
}

/// Has the source note its position when nothing of what it brought in needs a replay any more; not after ages, since a
/// sink may never take it, and not where another source has taken over.
fn close(origin: &Origin, estate: &Estate) {
    let (mut looks, mut last_looks) = (0, 0);
    while looks < RELEASE_LOOKS && last_looks < LAST_LOOKS {
        let ledger = origin.ledger();
        let left = estate.lock();
        if left.source.is_none() || !left.has_heir && ledger.committed == ledger.accepted {
            break;
        }
        looks += 1;
        last_looks += u32::from(left.is_last);
        drop(left);
        thread::sleep(RELEASE_LOOK);
    }
    let left = estate.lock().source.take();
    if let Some(mut source) = left {
        source.drained(origin.committed());
    }
}

/// Waits as long as it is worth waiting for what a source brought in.
async fn given_up(estate: Estate) {
    let (mut looks, mut last_looks) = (0, 0);
    while looks < RELEASE_LOOKS && last_looks < LAST_LOOKS {
        looks += 1;
        last_looks += u32::from(estate.lock().is_last);
        tokio::time::sleep(RELEASE_LOOK).await;
    }
}

impl Estate {
    fn lock(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run_blocking(name: &str, source: &mut dyn BlockingSource, mut intake: Intake, stats: &StageStats) {
    let mut backoff = Backoff::new(None);
    loop {
        let begun = intake.clock().now();
        match source.run(&mut intake) {
            Ok(()) => break,
            Err(failure) => {
                let wait = rest_after(name, &failure, &mut backoff, intake.clock().now().since(begun), stats);
                // In short sleeps, because nothing can wake a sleeping thread to tell it to stop.
                let until = intake.clock().now() + wait;
                while intake.clock().now() < until && !intake.is_stopped() {
                    thread::sleep(wait.min(SHORT_SLEEP));
                }
            }
        }
        if intake.is_stopped() {
            break;
        }
    }
}

async fn run_async(
    name: String,
    source: &mut dyn AsyncSource,
    mut intake: Intake,
    stats: Arc<StageStats>,
    ended: Latch,
) {
    let mut backoff = Backoff::new(None);
    loop {
        let begun = intake.clock().now();
        match source.run(&mut intake).await {
            Ok(()) => break,
            Err(failure) => {
                let wait =
                    rest_after(&name, &failure, &mut backoff, intake.clock().now().since(begun), &stats);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = intake.stopped() => {}
                }
            }
        }
        if intake.is_stopped() {
            break;
        }
    }
    drop(intake);
    ended.set();
}

fn rest_after(
    name: &str,
    failure: &Failure,
    backoff: &mut Backoff,
    ran: Duration,
    stats: &StageStats,
) -> Duration {
    if ran > WELL_AFTER {
        backoff.reset();
    }
    let wait = backoff.next(None).unwrap_or(WELL_AFTER);
    stats.retries.add(1);
    tracing::warn!(stage = name, retry_seconds = wait.as_secs_f64(), "source failed: {failure}");
    wait
}

/// A polled source as a run sees it.
struct PolledFeed {
    source: Box<dyn PolledSource>,
    origin: Origin,
    pool: Arc<Pool>,
    stop: Stop,
    /// Gone once it is set.
    ended: Option<Latch>,
}

impl Feed for PolledFeed {
    fn next(&mut self, limit: usize, now: Moment, wall: Timestamp) -> Fed {
        if self.ended.is_none() || self.stop.is_stopped() {
            return self.end();
        }
        let mut batch = self.pool.take();
        let filled = self.source.fill(&mut batch, limit, now, wall);
        if !batch.is_empty() {
            self.origin.accept(&mut batch);
            if filled == Filled::End {
                self.end();
            }
            return Fed::Batch(batch);
        }
        self.pool.give(batch);
        match filled {
            Filled::More => Fed::Until(now),
            Filled::Until(moment) => Fed::Until(moment),
            Filled::End => self.end(),
        }
    }
}

impl PolledFeed {
    fn end(&mut self) -> Fed {
        if let Some(ended) = self.ended.take() {
            ended.set();
        }
        Fed::End
    }
}

impl Drop for PolledFeed {
    fn drop(&mut self) {
        self.end();
    }
}

/// The ring between a source and its first stage: enough to ride out a stall of some milliseconds.
const SOURCE_EVENTS: usize = 8_192;
/// In batches: a source that sends single events is held to this many.
const SOURCE_BATCHES: usize = 1_024;
/// A source that ran so long before it failed starts its backoff anew.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// How long a source that has ended waits for its events to end: 60 s, looking every 10 ms.
const RELEASE_LOOKS: u32 = 6_000;
/// How long of that where only states of other processes hold some of them back, such as a window behind an edge: 2 s.
const LAST_LOOKS: u32 = 200;
const RELEASE_LOOK: Duration = Duration::from_millis(10);
const SHORT_SLEEP: Duration = Duration::from_millis(100);
