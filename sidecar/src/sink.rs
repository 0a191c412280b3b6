//! Sinks at work: a batch is tried until it is delivered, refused, or tried often enough.
//!
//! A driver takes from the rings of all stages before its sink in turn. Its sink can be taken out between two tries and
//! another put in its place: a reload that mends an address loses nothing that waits.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use sidestream_connector::{AsyncSink, BlockingSink, Sink, Undelivered};
use sidestream_event::{Batch, Outcome, Pool};
use sidestream_graph::{Fed, Inlet, Input, Route, StageStats, WakeOnDrop, addressed};
use sidestream_host::Clock;
use sidestream_plan::Retry;
use tokio::sync::Notify;

use crate::{World, backoff::Backoff, latch::Latch};

/// A sink that takes events out.
pub(crate) struct RunningSink {
    desk: Arc<Desk>,
    ended: Latch,
}

/// What a driver leaves when it ends.
#[derive(Default)]
pub(crate) struct Remains {
    /// Rings that are not empty or not closed.
    pub(crate) inputs: Vec<Input>,
    /// The batch that was being tried.
    pub(crate) in_hand: Option<Batch>,
}

/// How a sink is to be run.
pub(crate) struct Orders {
    pub(crate) name: String,
    pub(crate) stats: Arc<StageStats>,
    pub(crate) retry: Option<Retry>,
    pub(crate) dead_letter: Option<Route>,
    pub(crate) pool: Arc<Pool>,
}

/// Where the driver and the pipeline leave things for each other.
struct Desk {
    state: Mutex<State>,
    /// Wakes the driver.
    bell: Bell,
}

#[derive(Default)]
struct State {
    attached: Vec<Input>,
    /// No more rings will come: end when all are closed and empty.
    finishing: bool,
    /// End now, and leave the rest.
    stopping: bool,
    remains: Remains,
}

impl RunningSink {
    /// Starts a sink on what an earlier one left.
    pub(crate) fn start(
        sink: Sink,
        orders: Orders,
        remains: Remains,
        world: &World,
    ) -> std::io::Result<RunningSink> {
        let ended = Latch::default();
        let bell = Bell::default();
        let desk = Arc::new(Desk { state: Mutex::default(), bell: bell.clone() });
        let driver = Driver {
            inlet: Inlet::inputs(remains.inputs),
            in_hand: remains.in_hand,
            desk: desk.clone(),
            clock: world.clock.clone(),
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

    /// Adds a ring to take from.
    pub(crate) fn attach(&self, input: Input) {
        let mut state = self.desk.lock();
        state.attached.push(input);
        state.finishing = false;
        drop(state);
        self.desk.bell.ring();
    }

    /// No more rings will be attached: the driver ends when all are closed and empty.
    pub(crate) fn finish(&self) {
        self.desk.lock().finishing = true;
        self.desk.bell.ring();
    }

    /// Ends the driver after the try that is going on, and gives what it leaves.
    pub(crate) fn stop(&self, limit: Duration, clock: &Clock) -> Option<Remains> {
        self.desk.lock().stopping = true;
        self.desk.bell.ring();
        self.ended.wait_blocking(limit, clock).then(|| std::mem::take(&mut self.desk.lock().remains))
    }

    /// Set when the driver has ended.
    pub(crate) fn ended(&self) -> &Latch {
        &self.ended
    }
}

impl Desk {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.lock().stopping
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
                Step::End => break,
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
        self.leave();
    }

    fn step(&mut self) -> Step {
        let finishing = {
            let mut state = self.desk.lock();
            if state.stopping {
                return Step::End;
            }
            if !state.attached.is_empty() {
                let (_, mut inputs) = std::mem::take(&mut self.inlet).into_parts();
                inputs.append(&mut state.attached);
                self.inlet = Inlet::inputs(inputs);
                self.inlet.set_waker(&self.desk.bell.waker());
            }
            state.finishing
        };
        // A full dead-letter ring holds this sink back, as a full ring holds back a run.
        if self.orders.dead_letter.as_mut().is_some_and(|route| !route.flush(&self.orders.pool)) {
            return Step::Rest(LETTER_WAIT);
        }
        if let Some(batch) = self.in_hand.take() {
            return Step::Deliver(batch);
        }
        loop {
            match self.inlet.next_queued() {
                Fed::Batch(batch) => {
                    self.orders.stats.events_in.add(batch.len() as u64);
                    return Step::Deliver(batch);
                }
                Fed::End if finishing => return Step::End,
                _ if !self.inlet.wait() => return Step::Wait,
                _ => {}
            }
        }
    }

    /// Ends a batch, or keeps it to be tried again.
    fn settle(&mut self, batch: Batch, result: Result<(), Undelivered>) -> After {
        match result {
            Ok(()) => self.end(batch, Vec::new()),
            Err(Undelivered::Refused { events }) => self.end(batch, events),
            Err(Undelivered::Retry { reason, after }) => {
                let Some(wait) = self.backoff.next(after) else {
                    let events = (0..batch.len()).map(|index| (index, reason.clone())).collect();
                    self.end(batch, events);
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

    /// Ends a batch of which `refused` were not delivered.
    fn end(&mut self, mut batch: Batch, refused: Vec<(usize, String)>) {
        self.backoff.reset();
        let stats = &self.orders.stats;
        let delivered = batch.len() - refused.len();
        stats.events_out.add(delivered as u64);
        stats.tap.show(&batch);
        if batch.born_nanos() > 0 {
            let age = self.clock.now().as_nanos().saturating_sub(batch.born_nanos());
            stats.latency.record(age, delivered as u64);
        }
        if !refused.is_empty() {
            self.end_refused(&mut batch, refused);
        }
        self.orders.pool.give(batch);
    }

    fn end_refused(&mut self, batch: &mut Batch, refused: Vec<(usize, String)>) {
        let stats = &self.orders.stats;
        stats.errors.add(refused.len() as u64);
        let mark = batch.mark().clone();
        let events = batch.events_mut();
        let mut failed: Vec<_> =
            refused.into_iter().map(|(index, reason)| (std::mem::take(&mut events[index]), reason)).collect();
        let Some(route) = &mut self.orders.dead_letter else {
            stats.count_dropped("error", failed.len() as u64);
            failed.iter().for_each(|(event, _)| mark.end(event.meta.sequence, Outcome::Dropped));
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
        let mut state = self.desk.lock();
        let mut remains = Remains { inputs, in_hand: self.in_hand };
        remains.inputs.append(&mut state.attached);
        state.remains = remains;
    }
}

/// Wakes a driver, whether it is a thread or a task.
#[derive(Clone, Default)]
struct Bell(Arc<BellParts>);

#[derive(Default)]
struct BellParts {
    task: Notify,
    thread: Mutex<Option<Thread>>,
}

impl Bell {
    fn rings_thread(&self, thread: Thread) {
        *self.0.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    fn ring(&self) {
        self.0.wake_by_ref();
    }

    async fn rung(&self) {
        self.0.task.notified().await;
    }

    fn waker(&self) -> Waker {
        Waker::from(self.0.clone())
    }
}

impl BellParts {
    fn wake_by_ref(&self) {
        match &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(thread) => thread.unpark(),
            None => self.task.notify_one(),
        }
    }
}

impl Wake for BellParts {
    fn wake(self: Arc<Self>) {
        BellParts::wake_by_ref(&self);
    }
}

/// As good as never, and still a time that can be added to now.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// How often a sink looks whether the dead-letter stage has room again.
const LETTER_WAIT: Duration = Duration::from_millis(1);
