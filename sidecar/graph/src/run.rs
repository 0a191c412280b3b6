//! A run: stages fused into one task, called one after the other with no ring between them.
//!
//! ```text
//!   Inlet ─batch▶ operator 0 ─▶ operator 1 ─▶ … ─▶ Outlet
//!                    │ error        └ Hold: the batch waits here, and the run takes no other input
//!                    └──▶ dead letter, or dropped
//! ```
//!
//! A run takes a batch only when everything from the batch before is on its way, so it holds at most what one batch can
//! become. It never waits: it says what it waits for, and is woken. What a processor panics over is contained here.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use sidestream_event::{Batch, ERROR_HEADER, Event, Mark, Outcome, Pool, STAGE_HEADER, Timestamp};
use sidestream_expr::Program;
use sidestream_host::{Clock, Moment};
use sidestream_scheduler::{Next, Turn, Work};

use crate::{
    Flow, Output, Processor, Route, StageStats,
    inlet::{Fed, Inlet},
    outlet::{Lost, Outlet},
};

/// One stage of a run.
pub struct Operator {
    /// Index of the stage in its plan.
    pub stage: usize,
    /// Its name.
    pub name: Arc<str>,
    /// What it does.
    pub processor: Box<dyn Processor>,
    /// Takes only events this says yes to, where the stage before it is fused with it.
    pub when: Option<Program>,
    /// What it counts.
    pub stats: Arc<StageStats>,
    /// Whether it is a sink: what it takes in is delivered, and counted as gone out.
    pub is_sink: bool,
    /// Whether it has given up what it held, and has taken nothing since.
    pub is_flushed: bool,
}

/// A stage that is counted for by whoever does not call it: a source, or one behind a ring.
#[derive(Clone)]
pub struct Stage {
    /// Its index in the plan.
    pub stage: usize,
    /// Its name.
    pub name: Arc<str>,
    /// What it counts.
    pub stats: Arc<StageStats>,
}

/// Wakes when it is dropped: also when what holds it panics.
pub struct WakeOnDrop(
    /// Whom to wake.
    pub Waker,
);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

/// Where the errors of a stage go: one of the run's own, or one behind it whose `when` the run asks.
pub struct DeadLetter {
    /// Index of the stage whose errors these are.
    pub of: usize,
    /// The way to the dead-letter sink; index into [`Run::dead_letter_routes`].
    pub route: usize,
}

/// Stages that one worker calls one after the other.
pub struct Run {
    /// The source that heads the run, where one does.
    pub source: Option<Stage>,
    /// Where batches come from.
    pub inlet: Inlet,
    /// What happens to them.
    pub operators: Vec<Operator>,
    /// Where they go.
    pub outlet: Outlet,
    /// Which stages have a dead-letter stage.
    pub dead_letters: Vec<DeadLetter>,
    /// The ways to the dead-letter sinks.
    pub dead_letter_routes: Vec<Route>,
    /// Who gets the operators when the run has ended: with their state, for a plan that gives them input again.
    pub heir: Option<Heir>,
    /// Whom to wake when the run has ended.
    pub when_done: Option<WakeOnDrop>,
    pool: Arc<Pool>,
    clock: Clock,
    held: VecDeque<(usize, Batch)>,
    held_until: Moment,
    output: Output,
    lost: Vec<Lost>,
    turns: u32,
    timed: bool,
    /// How many operators have given up what they hold, once the input has ended.
    flushed: Option<usize>,
}

/// Takes the operators of a run that has ended.
pub type Heir = Box<dyn FnOnce(Vec<Operator>) + Send>;

/// One turn in so many is measured: a look at the clock costs as much as a light stage.
pub const TIMED_EVERY: u32 = 32;
/// Events a turn takes before others of its class get theirs.
const TURN_EVENTS: usize = 1024;
/// A run that always has more to take does what time asks for so late.
const OVERDUE: Duration = Duration::from_millis(100);
/// Most events a called source makes at once.
const FEED_EVENTS: usize = 512;

impl Run {
    /// A run from `inlet` through `operators` to `outlet`.
    pub fn new(
        inlet: Inlet,
        operators: Vec<Operator>,
        outlet: Outlet,
        pool: Arc<Pool>,
        clock: Clock,
    ) -> Self {
        Run {
            source: None,
            inlet,
            operators,
            outlet,
            dead_letters: Vec::new(),
            dead_letter_routes: Vec::new(),
            heir: None,
            when_done: None,
            pool,
            clock,
            held: VecDeque::new(),
            held_until: Moment::default(),
            output: Output::default(),
            lost: Vec::new(),
            turns: 0,
            timed: false,
            flushed: None,
        }
    }

    /// Whom to wake when something comes, or there is room again.
    pub fn set_waker(&mut self, waker: &Waker) {
        self.inlet.set_waker(waker);
        self.outlet.set_waker(waker);
        self.dead_letter_routes.iter_mut().for_each(|route| route.set_waker(waker.clone()));
    }

    /// Works off what is on its way and, with `take`, what waits in the rings; a called source is not asked for more.
    /// False while something still waits for room or for its time. For whoever took the run from its task to change it.
    pub fn settle(&mut self, take: bool) -> bool {
        let now = self.clock.now();
        self.begin(now);
        while self.is_free(now) {
            match take.then(|| self.inlet.next_queued()) {
                Some(Fed::Batch(batch)) => self.take(batch),
                _ => return self.is_flushed(),
            }
        }
        false
    }

    /// Whether everything the run has taken is on its way.
    pub fn is_flushed(&self) -> bool {
        self.held.is_empty()
            && self.outlet.is_flushed()
            && self.dead_letter_routes.iter().all(Route::is_flushed)
    }

    /// The batches that operators hold, with the index of the operator: to be given to the run that takes its place.
    pub fn take_held(&mut self) -> Vec<(usize, Batch)> {
        std::mem::take(&mut self.held).into()
    }

    /// The places of the operators that hold a batch.
    pub fn held_places(&self) -> impl Iterator<Item = usize> + '_ {
        self.held.iter().map(|(place, _)| *place)
    }

    /// Holds a batch for operator `index`, which has held it before.
    pub fn hold(&mut self, index: usize, batch: Batch) {
        self.held.push_back((index, batch));
    }

    /// Gives up what operator `index` holds, to the stages behind it; once, until it takes something again.
    pub fn flush_operator(&mut self, index: usize) {
        if std::mem::replace(&mut self.operators[index].is_flushed, true) {
            return;
        }
        self.call(index, None, |processor, _, output| {
            processor.flush(output);
            Flow::Continue
        });
    }

    /// Puts the clock's time where operators see it.
    fn begin(&mut self, now: Moment) {
        self.output.set_time(now, Timestamp::from_nanos(self.clock.wall_nanos()));
        self.timed = self.turns.is_multiple_of(TIMED_EVERY);
        self.turns = self.turns.wrapping_add(1);
    }

    /// Sends what waits and resumes what was held. True when the run may take input.
    fn is_free(&mut self, now: Moment) -> bool {
        for route in &mut self.dead_letter_routes {
            route.flush(&self.pool);
        }
        if !self.outlet.flush(&self.pool) || !self.dead_letter_routes.iter().all(Route::is_flushed) {
            return false;
        }
        if !self.held.is_empty() && self.held_until <= now {
            // The rearmost first: what is held further on came before.
            let mut held = Vec::from(std::mem::take(&mut self.held));
            held.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
            for (index, batch) in held {
                self.flow(index, batch);
            }
        }
        self.held.is_empty() && !self.outlet.is_blocked()
    }

    /// The first operator whose emissions have somewhere to go: those before a held batch must wait for it, and all must
    /// while the way out is blocked.
    fn first_free(&self) -> usize {
        if self.outlet.is_blocked() {
            return self.operators.len();
        }
        self.held.iter().map(|(index, _)| index + 1).max().unwrap_or(0)
    }

    /// Calls the operators whose time came at least `overdue` ago.
    fn tick(&mut self, now: Moment, overdue: Duration) {
        for index in self.first_free()..self.operators.len() {
            if self.operators[index].processor.due().is_some_and(|due| due + overdue <= now) {
                self.call(index, None, |processor, _, output| {
                    processor.tick(output);
                    Flow::Continue
                });
            }
        }
    }

    fn take(&mut self, mut batch: Batch) {
        if self.source.is_some() {
            self.leave_source(&mut batch);
        }
        self.flow(0, batch);
    }

    /// Counts a batch of the run's own source, and ends the events that it could not take whole.
    fn leave_source(&mut self, batch: &mut Batch) {
        let mut failed = Vec::new();
        let taken = batch.len() as u64;
        batch.retain(|event| {
            // One that says which stage it failed in is a dead letter on its way, by an edge or a queue.
            let is_own = event.meta.context.is_some() && event.meta.header(STAGE_HEADER).is_none();
            let error = is_own.then(|| event.meta.header(ERROR_HEADER)).flatten();
            match error.map(str::to_owned) {
                Some(reason) => {
                    failed.push((std::mem::take(event), reason));
                    false
                }
                None => true,
            }
        });
        let Some(source) = &self.source else { return };
        source.stats.events_in.add(taken);
        source.stats.events_out.add(batch.len() as u64);
        source.stats.tap.show(batch);
        if !failed.is_empty() {
            self.end_errors(&source.clone(), failed, &batch.mark().clone(), batch.born_nanos());
        }
    }

    /// Takes a batch through the operators from `index` on, and out.
    fn flow(&mut self, index: usize, mut batch: Batch) {
        for index in index..self.operators.len() {
            if self.held.iter().any(|(at, _)| *at == index) {
                self.held.push_back((index, batch));
                return;
            }
            match self.operate(index, &mut batch) {
                Flow::Continue if batch.is_empty() => return self.pool.give(batch),
                Flow::Continue => {}
                Flow::Hold(until) => {
                    self.held_until = until;
                    self.held.push_back((index, batch));
                    return;
                }
            }
        }
        self.outlet.deliver(batch, &self.pool, &mut self.lost);
        if !self.lost.is_empty() {
            self.end_lost();
        }
    }

    fn operate(&mut self, index: usize, batch: &mut Batch) -> Flow {
        self.ask_when(index, batch);
        if batch.is_empty() {
            return Flow::Continue;
        }
        self.operators[index].is_flushed = false;
        let before = batch.len();
        let begun = self.timed.then(|| self.clock.now());
        let flow = self.call(index, Some(batch), |processor, batch, output| match batch {
            Some(batch) => processor.process(batch, output),
            None => Flow::Continue,
        });
        let operator = &self.operators[index];
        let stats = &operator.stats;
        if flow == Flow::Continue {
            stats.events_in.add(before as u64);
            stats.events_out.add(if operator.is_sink { before } else { batch.len() } as u64);
            stats.tap.show(batch);
        } else {
            // What is held comes again, and is counted then.
            stats.events_in.add((before - batch.len()) as u64);
        }
        if let Some(begun) = begun {
            let now = self.clock.now();
            stats.busy_nanos.add(now.since(begun).as_nanos() as u64 * u64::from(TIMED_EVERY));
            if batch.born_nanos() > 0 {
                let age = now.as_nanos().saturating_sub(batch.born_nanos());
                stats.latency.record(age, batch.len() as u64);
            }
        }
        flow
    }

    fn ask_when(&mut self, index: usize, batch: &mut Batch) {
        let operator = &self.operators[index];
        let Some(when) = &operator.when else { return };
        let failed = &mut self.output.failed;
        batch.retain(|event| match when.test(event) {
            Ok(taken) => taken,
            Err(error) => {
                failed.push((std::mem::take(event), format!("`when`: {error}")));
                false
            }
        });
        if !self.output.failed.is_empty() {
            self.end_failed(index, batch.mark().clone(), batch.born_nanos());
        }
    }

    /// Calls a processor, contains its panic, and sends on what it emitted and what it could not handle.
    fn call(
        &mut self,
        index: usize,
        mut batch: Option<&mut Batch>,
        act: impl FnOnce(&mut dyn Processor, Option<&mut Batch>, &mut Output) -> Flow,
    ) -> Flow {
        let processor = self.operators[index].processor.as_mut();
        let output = &mut self.output;
        let result = catch_unwind(AssertUnwindSafe(|| act(processor, batch.as_deref_mut(), output)));
        let flow = result.unwrap_or_else(|panic| {
            let reason = format!("the processor panicked: {}", panic_text(panic.as_ref()));
            if let Some(batch) = batch.as_deref_mut() {
                // An event the processor had taken out before it panicked has left an empty one behind.
                let left = batch.drain().filter(|event| *event != Event::default());
                self.output.failed.extend(left.map(|event| (event, reason.clone())));
            } else {
                self.operators[index].stats.errors.add(1);
            }
            Flow::Continue
        });
        let mark = batch.as_ref().map_or(Mark::none(), |batch| match self.output.is_clean() {
            true => Mark::none(),
            false => batch.mark().clone(),
        });
        let born_nanos = batch.map_or(0, |batch| batch.born_nanos());
        self.end_dropped(index, &mark);
        self.end_failed(index, mark, born_nanos);
        if !self.output.emitted.is_empty() {
            self.send_emitted(index, born_nanos);
        }
        flow
    }

    fn send_emitted(&mut self, index: usize, born_nanos: u64) {
        let mut emitted = std::mem::take(&mut self.output.emitted);
        for mut batch in emitted.drain(..) {
            let stats = &self.operators[index].stats;
            stats.events_out.add(batch.len() as u64);
            stats.tap.show(&batch);
            if batch.born_nanos() == 0 {
                batch.set_born_nanos(born_nanos);
            }
            self.flow(index + 1, batch);
        }
        if self.output.emitted.capacity() == 0 {
            self.output.emitted = emitted;
        }
    }

    fn end_dropped(&mut self, index: usize, mark: &Mark) {
        for (sequence, reason) in self.output.dropped.drain(..) {
            mark.end(sequence, Outcome::Dropped);
            self.operators[index].stats.count_dropped(reason, 1);
        }
    }

    fn end_failed(&mut self, index: usize, mark: Mark, born_nanos: u64) {
        if self.output.failed.is_empty() {
            return;
        }
        let failed = std::mem::take(&mut self.output.failed);
        let operator = &self.operators[index];
        let (stage, name, stats) = (operator.stage, operator.name.clone(), operator.stats.clone());
        self.end_errors(&Stage { stage, name, stats }, failed, &mark, born_nanos);
    }

    /// Ends the events for which the `when` of a stage behind could not be evaluated, as errors of that stage.
    fn end_lost(&mut self) {
        for Lost { stage, event, reason, mark, born_nanos } in std::mem::take(&mut self.lost) {
            let failed = vec![(event, format!("`when`: {reason}"))];
            self.end_errors(&stage, failed, &mark, born_nanos);
        }
    }

    fn end_errors(&mut self, of: &Stage, failed: Vec<(Event, String)>, mark: &Mark, born_nanos: u64) {
        let Stage { stage, name, stats } = of;
        stats.errors.add(failed.len() as u64);
        let route = self.dead_letters.iter().find(|letter| letter.of == *stage).map(|letter| letter.route);
        let Some(route) = route else {
            stats.count_dropped("error", failed.len() as u64);
            failed.iter().for_each(|(event, _)| mark.end(event.meta.sequence, Outcome::Unfit));
            stats.say_error(name, &failed);
            return;
        };
        let mut letters = self.pool.take();
        letters.set_mark(mark.clone());
        letters.set_born_nanos(born_nanos);
        for (event, reason) in failed {
            mark.end(event.meta.sequence, Outcome::DeadLettered);
            letters.push(addressed(event, name, &reason));
        }
        self.dead_letter_routes[route].send(letters, &self.pool);
    }

    /// When the run wants to be called again, with nothing to do now. `until` is when its source has more.
    fn rest(&mut self, until: Option<Moment>) -> Next {
        let held = (!self.held.is_empty()).then_some(self.held_until);
        let due = self.operators[self.first_free()..].iter().filter_map(|operator| operator.processor.due());
        match due.chain(held).chain(until).min() {
            Some(moment) => Next::Until(moment),
            None => Next::Wait,
        }
    }

    /// The input has ended: every operator gives up what it holds, in order, each after all that is held before it or
    /// at it has come through. True when everything is on its way.
    fn end(&mut self, now: Moment) -> bool {
        while self.is_free(now) {
            let Some(index) = self.flushed.filter(|index| *index < self.operators.len()) else {
                return self.is_flushed();
            };
            self.flush_operator(index);
            self.flushed = Some(index + 1);
        }
        false
    }
}

impl Work for Run {
    fn work(&mut self, turn: Turn) -> Next {
        self.begin(turn.now);
        if !self.is_free(turn.now) {
            return self.wait_for_room();
        }
        let mut taken = 0;
        let mut until = None;
        while taken < TURN_EVENTS && self.flushed.is_none() {
            if !self.is_free(turn.now) {
                return self.wait_for_room();
            }
            let wall = self.output.wall();
            match self.inlet.next(FEED_EVENTS, turn.now, wall) {
                Fed::Batch(batch) => {
                    taken += batch.len().max(1);
                    self.take(batch);
                }
                Fed::Until(moment) => {
                    until = Some(moment);
                    break;
                }
                Fed::Nothing => {
                    if self.inlet.wait() {
                        return Next::Again;
                    }
                    break;
                }
                Fed::End => self.flushed = Some(0),
            }
        }
        if self.flushed.is_some() {
            if !self.end(turn.now) {
                return self.wait_for_room();
            }
            if let Some(heir) = self.heir.take() {
                heir(std::mem::take(&mut self.operators));
            }
            self.when_done = None;
            return Next::Done;
        }
        if taken >= TURN_EVENTS {
            self.tick(turn.now, OVERDUE);
            return Next::Again;
        }
        // Only now that nothing waits in the rings: what has queued up comes before what time alone would do.
        self.tick(turn.now, Duration::ZERO);
        if self.wait_to_flush() {
            return Next::Again;
        }
        self.rest(until)
    }
}

impl Run {
    /// Blocked: by a ring that is full, or by an operator that holds a batch.
    fn wait_for_room(&mut self) -> Next {
        self.tick(self.output.now(), Duration::ZERO);
        if self.wait_to_flush() {
            return Next::Again;
        }
        self.rest(None)
    }

    /// Announces that the run waits for room wherever something waits. True: there is room after all.
    fn wait_to_flush(&mut self) -> bool {
        self.outlet.wait_for_room() || self.dead_letter_routes.iter_mut().any(Route::wait_for_room)
    }
}

/// An error event, on its way to the dead-letter stage: its headers say where it failed and why.
pub fn addressed(mut event: Event, stage: &str, reason: &str) -> Event {
    let headers = &mut event.meta.context_mut().headers;
    headers.push((STAGE_HEADER.into(), stage.into()));
    headers.push((ERROR_HEADER.into(), reason.into()));
    event
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}
