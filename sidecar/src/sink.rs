//! Sinks at work: a batch is tried until it is delivered, refused, or tried often enough.
//!
//! A driver takes from the rings of all stages before its sink in turn. Its sink can be taken out between two tries and
//! another put in its place: a reload that mends an address loses nothing that waits.

mod bell;
mod remains;

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bell::Bell;
pub(crate) use remains::{Fate, Remains, drop_letters};
use sidestream_connector::{AsyncSink, BlockingSink, Sink, Undelivered};
use sidestream_event::{Batch, Outcome, Pool};
use sidestream_graph::{Fed, Inlet, Input, Route, StageStats, WakeOnDrop, addressed};
use sidestream_host::Clock;
use sidestream_plan::Retry;
use sidestream_ring::{
    Gauge,
    sync::{AtomicU64, Ordering},
};

use crate::{World, backoff::Backoff, latch::Latch, leaving::FOLLOWS_AFTER};

/// A sink that takes events out.
pub(crate) struct RunningSink {
    desk: Arc<Desk>,
    ended: Latch,
}

/// A sink that did not stop: its thread is in a call that does not come back, with all it has.
pub(crate) struct HungSink {
    pub(crate) name: String,
    desk: Arc<Desk>,
    /// The rings before it.
    rings: Vec<Gauge>,
}

/// How a sink is to be run.
pub(crate) struct Orders {
    pub(crate) name: String,
    pub(crate) stats: Arc<StageStats>,
    pub(crate) retry: Option<Retry>,
    pub(crate) dead_letter: Option<Route>,
    pub(crate) pool: Arc<Pool>,
    /// Set when the one before has delivered what it had: nothing goes before that, for a while.
    pub(crate) after: Option<Latch>,
}

/// Where the driver and the pipeline leave things for each other.
struct Desk {
    state: Mutex<State>,
    /// Events of the batch that is being tried, for whoever asks what becomes of them.
    in_hand: AtomicU64,
    /// Wakes the driver.
    bell: Bell,
}

#[derive(Default)]
struct State {
    attached: Vec<Input>,
    /// The stage from which all comes before anything else, where there is one; told anew by each plan.
    first: Option<Option<String>>,
    /// The way of its errors, laid anew.
    dead_letter: Option<Route>,
    /// No more rings will come: end when all are closed and empty.
    finishing: bool,
    /// They are, and it ends.
    ending: bool,
    /// End now, and leave the rest.
    stopping: Option<Fate>,
    /// Nobody waits any more for what it leaves.
    abandoned: Option<Fate>,
    /// What it has left, once it has.
    remains: Option<Remains>,
}

impl RunningSink {
    /// Starts a sink on what an earlier one left.
    pub(crate) fn start(
        sink: Sink,
        mut orders: Orders,
        remains: Remains,
        world: &World,
    ) -> std::io::Result<RunningSink> {
        match &mut orders.dead_letter {
            Some(route) => remains.letters.into_iter().for_each(|letters| route.send(letters, &orders.pool)),
            None if remains.letters.is_empty() => {}
            None => orders.stats.count_dropped("error", drop_letters(remains.letters)),
        }
        let ended = Latch::default();
        let bell = Bell::default();
        let desk = Arc::new(Desk { state: Mutex::default(), in_hand: AtomicU64::new(0), bell: bell.clone() });
        let driver = Driver {
            inlet: Inlet::inputs(remains.inputs),
            in_hand: remains.in_hand,
            desk: desk.clone(),
            clock: world.clock.clone(),
            closed: world.closed.clone(),
            backoff: Backoff::new(orders.retry.as_ref()),
            orders,
        };
        let latch = ended.clone();
        match sink {
            Sink::Blocking(sink) => {
                thread::Builder::new().name(format!("sink-{}", driver.orders.name)).spawn(move || {
                    let _ended = WakeOnDrop(latch.waker());
                    driver.run_blocking(sink);
                })?;
            }
            Sink::Async(sink) => {
                world.sockets.spawn(async move {
                    let _ended = WakeOnDrop(latch.waker());
                    driver.run_async(sink).await;
                });
            }
            Sink::Inline(_) => unreachable!("an inline sink is an operator of its run"),
        }
        Ok(RunningSink { desk, ended })
    }

    /// Joins it to another plan: adds rings to take from, and lays the way of its errors anew.
    /// What comes from stage `first` goes before all else.
    pub(crate) fn join(&self, inputs: Vec<Input>, dead_letter: Option<Route>, first: Option<&str>) {
        let mut state = self.desk.lock();
        state.finishing &= inputs.is_empty();
        state.first = Some(first.map(str::to_owned));
        state.attached.extend(inputs);
        state.dead_letter = dead_letter;
        drop(state);
        self.desk.bell.ring();
    }

    /// No more rings will be attached: the driver ends when all are closed and empty.
    pub(crate) fn finish(&self) {
        self.desk.lock().finishing = true;
        self.desk.bell.ring();
    }

    /// More rings may be attached after all, if it does not end already.
    pub(crate) fn go_on(&self) {
        self.desk.lock().finishing = false;
    }

    /// Whether it takes nothing more: it has ended, or is about to.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_set() || self.desk.lock().ending
    }

    /// Ends the driver after the try that is going on, and gives what it leaves: nothing if it does not end within
    /// `limit`. It then ends what it has by itself, whenever it lets go.
    pub(crate) fn stop(&self, fate: Fate, limit: Duration, clock: &Clock) -> Option<Remains> {
        self.desk.lock().stopping = Some(fate);
        self.desk.bell.ring();
        let has_ended = self.ended.wait_blocking(limit, clock);
        let mut state = self.desk.lock();
        if let Some(remains) = state.remains.take() {
            return Some(remains);
        }
        // One that ended by a panic has left nothing.
        state.abandoned = (!has_ended).then_some(fate);
        has_ended.then(Remains::default)
    }

    /// What is to be known of it while it hangs; `rings` are those before it.
    pub(crate) fn hung(self, name: String, rings: Vec<Gauge>) -> HungSink {
        HungSink { name, desk: self.desk, rings }
    }

    /// Events of the batch that is being tried.
    pub(crate) fn in_hand(&self) -> u64 {
        self.desk.in_hand.load(Ordering::Relaxed)
    }

    /// Set when the driver has ended.
    pub(crate) fn ended(&self) -> &Latch {
        &self.ended
    }
}

impl HungSink {
    /// Events it has, in its hand and in the rings before it.
    pub(crate) fn has(&self) -> u64 {
        let queued: usize = self.rings.iter().map(Gauge::depth).sum();
        self.desk.in_hand.load(Ordering::Relaxed) + queued as u64
    }
}

impl Desk {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.lock().stopping.is_some()
    }

    /// All rings are closed and empty. Whether it ends by that: nobody has attached another meanwhile.
    fn end(&self) -> bool {
        let mut state = self.lock();
        state.ending = state.finishing && state.attached.is_empty();
        state.ending
    }

    async fn stopping(&self) {
        while !self.is_stopping() {
            self.bell.rung().await;
        }
    }

    async fn rest(&self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.stopping() => {}
        }
    }
}

struct Driver {
    inlet: Inlet,
    in_hand: Option<Batch>,
    desk: Arc<Desk>,
    clock: Clock,
    /// Set where nobody takes the sink's events any more.
    closed: Latch,
    backoff: Backoff,
    orders: Orders,
}

/// What a driver does next.
enum Step {
    Deliver(Batch),
    /// Nothing until the bell rings.
    Wait,
    /// Nothing for so long: the dead-letter stage is full.
    Rest(Duration),
    End,
}

/// What a try came to.
enum After {
    Next,
    /// The same batch again, after so long.
    Rest(Duration),
    /// It was tried often enough.
    GaveUp,
}

impl Driver {
    fn run_blocking(mut self, mut sink: Box<dyn BlockingSink>) {
        self.desk.bell.rings_thread(thread::current());
        self.inlet.set_waker(&self.desk.bell.waker());
        loop {
            match self.step() {
                Step::Deliver(batch) => {
                    let result = sink.deliver(&batch);
                    if let After::Rest(wait) = self.settle(batch, result) {
                        self.rest_blocking(wait);
                    }
                }
                Step::Wait => thread::park(),
                Step::Rest(wait) => self.rest_blocking(wait),
                Step::End => break,
            }
        }
        self.leave();
    }

    async fn run_async(mut self, mut sink: Box<dyn AsyncSink>) {
        let (desk, bell) = (self.desk.clone(), self.desk.bell.clone());
        self.inlet.set_waker(&bell.waker());
        if let Some(before) = self.orders.after.take() {
            tokio::select! {
                () = before.wait() => {}
                () = tokio::time::sleep(FOLLOWS_AFTER) => {}
                () = desk.stopping() => {}
            }
        }
        loop {
            match self.step() {
                Step::Deliver(batch) => {
                    let result = tokio::select! {
                        result = sink.deliver(&batch) => result,
                        () = desk.stopping() => {
                            // Broken off: whoever takes over tries again, and the peer may see the batch twice.
                            self.in_hand = Some(batch);
                            break;
                        }
                    };
                    match self.settle(batch, result) {
                        After::Next => {}
                        After::Rest(wait) => desk.rest(wait).await,
                        After::GaveUp => sink.give_up(),
                    }
                }
                Step::Wait => {
                    let due = sink.tend_after().unwrap_or(NEVER);
                    // An error is the time having come, which is looked at below.
                    let _ = tokio::time::timeout(due, bell.rung()).await;
                }
                Step::Rest(wait) => desk.rest(wait).await,
                Step::End => {
                    tokio::select! {
                        () = sink.finish() => {}
                        () = desk.stopping() => {}
                    }
                    break;
                }
            }
            if sink.tend_after().is_some_and(|due| due.is_zero()) {
                tokio::select! {
                    tended = sink.tend() => {
                        if let Err(error) = tended {
                            tracing::warn!(stage = self.orders.name, "not sent again: {error}");
                        }
                    }
                    () = desk.stopping() => {}
                }
            }
        }
        if desk.lock().stopping == Some(Fate::Removed) {
            let dropped = sink.abandon();
            if dropped > 0 {
                self.orders.stats.count_dropped(Fate::Removed.reason(), dropped);
                tracing::warn!(
                    stage = self.orders.name,
                    dropped,
                    "removed before its peers had settled these"
                );
            }
        }
        self.leave();
    }

    fn step(&mut self) -> Step {
        let finishing = {
            let mut state = self.desk.lock();
            if state.stopping.is_some() {
                return Step::End;
            }
            if let Some(mut route) = state.dead_letter.take() {
                let before = self.orders.dead_letter.take().into_iter().flat_map(Route::into_waiting);
                before.for_each(|letters| route.send(letters, &self.orders.pool));
                self.orders.dead_letter = Some(route);
            }
            if !state.attached.is_empty() {
                let (_, mut inputs) = std::mem::take(&mut self.inlet).into_parts();
                inputs.append(&mut state.attached);
                self.inlet = Inlet::inputs(inputs);
                self.inlet.set_waker(&self.desk.bell.waker());
            }
            if let Some(first) = state.first.take() {
                self.inlet.put_first(first.as_deref());
            }
            state.finishing
        };
        // A full dead-letter ring holds this sink back, as a full ring holds back a run.
        if self.orders.dead_letter.as_mut().is_some_and(|route| !route.flush(&self.orders.pool)) {
            return Step::Rest(LETTER_WAIT);
        }
        if let Some(batch) = self.in_hand.take() {
            return self.take_in_hand(batch);
        }
        loop {
            match self.inlet.next_queued() {
                Fed::Batch(batch) => {
                    self.orders.stats.events_in.add(batch.len() as u64);
                    return self.take_in_hand(batch);
                }
                Fed::End if finishing && self.desk.end() => return Step::End,
                _ if !self.inlet.wait() => return Step::Wait,
                _ => {}
            }
        }
    }

    fn take_in_hand(&self, batch: Batch) -> Step {
        self.desk.in_hand.store(batch.len() as u64, Ordering::Relaxed);
        Step::Deliver(batch)
    }

    /// Ends a batch, or keeps it to be tried again.
    fn settle(&mut self, batch: Batch, result: Result<(), Undelivered>) -> After {
        match result {
            Ok(()) => self.end(batch, Vec::new(), Outcome::Dropped),
            Err(Undelivered::Refused { events }) => self.end(batch, events, Outcome::Unfit),
            Err(Undelivered::Closed { reason }) => {
                self.closed.set();
                self.end_all(batch, &reason);
            }
            Err(Undelivered::Retry { reason, after }) => {
                let Some(wait) = self.backoff.next(after) else {
                    self.end_all(batch, &reason);
                    return After::GaveUp;
                };
                self.orders.stats.retries.add(1);
                let retry_seconds = wait.as_secs_f64();
                tracing::warn!(
                    stage = self.orders.name,
                    events = batch.len(),
                    retry_seconds,
                    "not delivered: {reason}"
                );
                self.in_hand = Some(batch);
                return After::Rest(wait);
            }
        }
        After::Next
    }

    /// Ends a batch of which nothing was delivered, and that might be another time.
    fn end_all(&mut self, batch: Batch, reason: &str) {
        let events = (0..batch.len()).map(|index| (index, reason.to_owned())).collect();
        self.end(batch, events, Outcome::Dropped);
    }

    /// Ends a batch of which `refused` were not delivered; without a dead-letter stage they end as `outcome`.
    fn end(&mut self, mut batch: Batch, refused: Vec<(usize, String)>, outcome: Outcome) {
        self.backoff.reset();
        self.desk.in_hand.store(0, Ordering::Relaxed);
        let stats = &self.orders.stats;
        let delivered = batch.len() - refused.len();
        stats.events_out.add(delivered as u64);
        stats.tap.show(&batch);
        if batch.born_nanos() > 0 {
            let age = self.clock.now().as_nanos().saturating_sub(batch.born_nanos());
            stats.latency.record(age, delivered as u64);
        }
        if !refused.is_empty() {
            self.end_refused(&mut batch, refused, outcome);
        }
        self.orders.pool.give(batch);
    }

    fn end_refused(&mut self, batch: &mut Batch, refused: Vec<(usize, String)>, outcome: Outcome) {
        let stats = &self.orders.stats;
        stats.errors.add(refused.len() as u64);
        let mark = batch.mark().clone();
        let events = batch.events_mut();
        let mut failed: Vec<_> =
            refused.into_iter().map(|(index, reason)| (std::mem::take(&mut events[index]), reason)).collect();
        let Some(route) = &mut self.orders.dead_letter else {
            stats.count_dropped("error", failed.len() as u64);
            failed.iter().for_each(|(event, _)| mark.end(event.meta.sequence, outcome));
            return stats.say_error(&self.orders.name, &failed);
        };
        let mut letters = self.orders.pool.take();
        letters.set_born_nanos(batch.born_nanos());
        for (event, reason) in failed.drain(..) {
            mark.end(event.meta.sequence, Outcome::DeadLettered);
            letters.push(addressed(event, &self.orders.name, &reason));
        }
        letters.set_mark(mark);
        route.send(letters, &self.orders.pool);
    }

    fn rest_blocking(&self, wait: Duration) {
        let until = self.clock.now() + wait;
        while self.clock.now() < until && !self.desk.is_stopping() {
            thread::park_timeout(until.since(self.clock.now()));
        }
    }

    fn leave(self) {
        let (_, inputs) = self.inlet.into_parts();
        let letters = self.orders.dead_letter.into_iter().flat_map(Route::into_waiting).collect();
        let mut remains = Remains { inputs, in_hand: self.in_hand, letters };
        let mut state = self.desk.lock();
        remains.inputs.append(&mut state.attached);
        let Some(fate) = state.abandoned else {
            state.remains = Some(remains);
            return;
        };
        drop(state);
        let dropped = remains.drop(fate);
        self.orders.stats.count_dropped(fate.reason(), dropped);
        self.desk.in_hand.store(0, Ordering::Relaxed);
        tracing::warn!(stage = self.orders.name, dropped, "the sink that hung has let go");
    }
}

/// As good as never, and still a time that can be added to now.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// How often a sink looks whether the dead-letter stage has room again.
const LETTER_WAIT: Duration = Duration::from_millis(1);
