//! A new plan in place of the running one, with nothing lost, repeated or reordered.
//!
//! ```text
//!   retire    every task is taken from the workers, between two turns
//!   prepare   the new stages are made; where that fails, the old plan goes on
//!   settle    what is on its way between stages arrives
//!   flush     stages that leave give up what they hold, to the stages that were behind them
//!   dismantle stages and rings into parts, by name
//!   assemble  the new plan, from these parts
//! ```
//!
//! All on one thread, so there is nothing to race with: sources go on filling their rings, sinks go on emptying theirs.
//! A stage is kept when its name and its kind are the same; whatever else changes around it, its state is not touched. A
//! source that is replaced leaves its ring to the one that comes, and where it can its place in the input.

mod change;
mod parts;

use std::{collections::HashMap, fmt, sync::Arc, thread, time::Duration};

use change::{Change, port};
pub(crate) use change::{Ports, ports_beyond};
use parts::{Retired, dismantle, pass_on, retire, take_over};
use sidestream_event::Batch;
use sidestream_graph::Run;
use sidestream_host::Moment;
use sidestream_plan::{Delivery, Plan, Stage};

use crate::{
    AssembleError, Pipeline, Registry,
    assemble::{Parts, assemble, is_driven_sink},
    leaving::{
        Leaving,
        queues::{self, Beside},
    },
    pipeline::Running,
    prepare::{Prepared, prepare},
    sink::{Fate, Remains, RunningSink},
    source::RunningSource,
};

/// What a reload did to the stages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Kept with their state.
    pub kept: Vec<String>,
    /// Made anew under their old name.
    pub replaced: Vec<String>,
    /// New.
    pub added: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
    /// How long the stages stood still.
    pub paused: Duration,
}

/// The new plan was not taken; the old one is running, except where it is broken.
#[derive(Debug)]
pub enum ReloadError {
    /// The pipeline is draining, or has ended.
    Draining,
    /// The pipeline delivers exactly once, or is to: its stages begin together.
    ExactlyOnce,
    /// A stage of the new plan cannot be made.
    Assemble(AssembleError),
    /// The machine has no room for either plan.
    Broken(AssembleError),
    /// A sink does not take the events that stages would have to give up first.
    Stuck {
        /// The stage whose ring is full.
        stage: String,
    },
}

impl Pipeline {
    /// Puts `plan` in place of the running one. Blocks: for a millisecond, or as long as a sink is slow, at most 10 s.
    pub fn reload(&self, plan: Plan, registry: &mut Registry) -> Result<Reloaded, ReloadError> {
        self.reload_among(plan, registry, &Ports::new())
    }

    /// The same, where other pipelines are about to give up the ports `given`: sources that want those wait for them.
    pub(crate) fn reload_among(
        &self,
        plan: Plan,
        registry: &mut Registry,
        given: &Ports,
    ) -> Result<Reloaded, ReloadError> {
        let mut running = self.running();
        if running.draining {
            return Err(ReloadError::Draining);
        }
        if [running.plan.delivery, plan.delivery].contains(&Delivery::ExactlyOnce) {
            // A sink that came alone would not know what the one before it still had in its hand.
            return Err(ReloadError::ExactlyOnce);
        }
        self.replace(&mut running, plan, registry, given)
    }

    /// Has a pipeline that drains go on with `plan`, its sources made anew. It is an error where it has come to its end.
    pub(crate) fn go_on(&self, plan: Plan, given: &Ports) -> Result<Reloaded, ReloadError> {
        let mut running = self.running();
        if running.is_broken || self.has_ended() {
            return Err(ReloadError::Draining);
        }
        if [running.plan.delivery, plan.delivery].contains(&Delivery::ExactlyOnce) {
            return Err(ReloadError::ExactlyOnce);
        }
        // What drains is as what halts, with all its edges closed.
        (running.draining, running.halted) = (false, Some(Vec::new()));
        let outcome = self.replace(&mut running, plan, &mut Registry::default(), given);
        if outcome.is_err() {
            (running.draining, running.halted) = (true, None);
        }
        outcome
    }

    /// Whether `plan` could be put in place of the running one, as far as that can be said without touching it.
    pub(crate) fn would_take(&self, plan: &Plan, given: &Ports) -> Result<(), AssembleError> {
        let old = self.plan();
        let is_kept = |stage: &Stage| old.stage(&stage.name).is_some_and(|(_, own)| own.kind == stage.kind);
        let own = ports_beyond(&old, Some(plan));
        let prepared = prepare(plan, &self.world, &mut Registry::default(), is_kept)?;
        prepared
            .open(plan, |stage| port(stage).is_some_and(|port| given.contains(port) || own.contains(port)))?;
        Ok(())
    }

    pub(crate) fn replace(
        &self,
        running: &mut Running,
        wanted: Plan,
        registry: &mut Registry,
        given: &Ports,
    ) -> Result<Reloaded, ReloadError> {
        let begun = self.world.clock.now();
        let old = running.plan.clone();
        let is_over = running.is_beside_over();
        let has_gone = |queue: &str| is_over && running.is_queue_beside(queue);
        let beside = queues::with_queues(&wanted, &old, has_gone);
        let plan = &beside.plan;
        if running.halted.is_some() {
            running.assembly.sinks.values().for_each(RunningSink::go_on);
        }
        let Retired { mut runs, rested } = retire(&mut running.assembly);
        let change = Change::between(
            &old,
            plan,
            runs.iter().flat_map(|run| &run.operators).chain(&rested),
            &running.assembly,
        );

        let prepared = prepare(plan, &self.world, registry, |stage| change.keeps(&stage.name));
        let opened =
            prepared.and_then(|prepared| prepared.open(plan, |stage| change.has_to_wait(stage, &old, given)));
        let mut prepared = match opened {
            Ok(prepared) => prepared,
            Err(error) => {
                self.resume(running, Retired { runs, rested })?;
                return Err(ReloadError::Assemble(error));
            }
        };
        let until = begun + PATIENCE;
        if let Err(stage) = self.settle(&mut runs, &change, until, &old) {
            self.resume(running, Retired { runs, rested })?;
            return Err(ReloadError::Stuck { stage });
        }
        let leaving = self.end_sources(running, &mut runs, &change, until, &old);
        self.flush_leaving(&mut runs, &change, until, &old);
        let mut parts = dismantle(&old, Retired { runs, rested }, &mut running.assembly);
        pass_on(leaving, plan, &change, &mut prepared, &mut parts, &mut running.past);
        self.end_sinks(running, &old, plan, &change, &mut parts, until);
        // Also one that an earlier reload left is to have settled before what has its name sends; of several the newest.
        parts.after =
            running.leaving_edges().map(|own| (own.name().to_owned(), own.ended().clone())).collect();
        parts.beside.clone_from(&beside.names);

        running.assembly = assemble(plan, prepared, parts, &self.pool, &self.world)
            .map_err(|error| self.broken(running, AssembleError::Machine(error)))?;
        // What was lost may find a way now.
        self.world.peering().inspect(|peering| peering.ask_again(&plan.pipeline));
        queues::name(&beside, &running.beside);
        let Beside { plan, names } = beside;
        (running.plan, running.wanted, running.beside) = (Arc::new(plan), Arc::new(wanted), names);
        running.halted = None;
        running.finish_beside();
        self.turn(running);
        Ok(change.told(self.world.clock.now().since(begun)))
    }

    /// Lets the old plan go on.
    fn resume(&self, running: &mut Running, retired: Retired) -> Result<(), ReloadError> {
        let plan = running.plan.clone();
        let whens = prepare(&plan, &self.world, &mut Registry::default(), |_| true)
            .map_err(|error| self.broken(running, error))?;
        let mut parts = dismantle(&plan, retired, &mut running.assembly);
        parts.beside.clone_from(&running.beside);
        running.assembly = assemble(
            &plan,
            Prepared { whens: whens.whens, ..Prepared::default() },
            parts,
            &self.pool,
            &self.world,
        )
        .map_err(|error| self.broken(running, AssembleError::Machine(error)))?;
        running.finish_beside();
        self.turn(running);
        if running.halted.is_some() {
            running.assembly.sinks.values().for_each(|sink| sink.finish());
        }
        Ok(())
    }

    /// Nothing runs any more: it has ended, and whoever wants it starts it anew.
    fn broken(&self, running: &mut Running, error: AssembleError) -> ReloadError {
        (running.is_broken, running.draining) = (true, true);
        self.ended.set();
        ReloadError::Broken(error)
    }

    /// Works off what is between the stages. The error is the stage that does not take it.
    fn settle(&self, runs: &mut [Run], change: &Change, until: Moment, plan: &Plan) -> Result<(), String> {
        loop {
            let stuck = settle_once(runs, change);
            if !stuck.iter().any(|stuck| *stuck) {
                return Ok(());
            }
            // Whatever stays in a ring that stays is no obstacle; only what would lose its ring is.
            let obstacle = runs.iter_mut().zip(stuck).find_map(|(run, stuck)| {
                (stuck && !change.can_leave(run, plan)).then(|| stage_in_front(run))
            });
            match obstacle {
                None => return Ok(()),
                Some(stage) if self.world.clock.now() >= until => return Err(stage),
                Some(_) => {}
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends the sources that leave, and takes what they have brought in.
    fn end_sources(
        &self,
        running: &mut Running,
        runs: &mut [Run],
        change: &Change,
        until: Moment,
        plan: &Plan,
    ) -> HashMap<String, RunningSource> {
        let leaving: HashMap<_, _> =
            running.assembly.sources.extract_if(|name, _| !change.keeps(name)).collect();
        if leaving.is_empty() {
            return leaving;
        }
        leaving.iter().for_each(|(name, source)| match change.heirs.contains_key(name) {
            true => source.stop_for_heir(),
            false => source.stop(),
        });
        for run in
            runs.iter_mut().filter(|run| run.source.as_ref().is_some_and(|own| !change.keeps(&own.name)))
        {
            run.inlet.drop_feed();
        }
        let stopped = self.world.clock.now() + SOURCE_STOPS_WITHIN;
        while !leaving.values().all(|source| source.has_ended()) && self.world.clock.now() < stopped {
            // A source that waits for room must get it to see that it is stopped.
            settle_once(runs, change);
            thread::sleep(LOOK_AGAIN);
        }
        // An error means that a sink does not take what is left; it then goes with its ring, counted as dropped.
        let _ = self.settle(runs, change, until, plan);
        leaving
    }

    /// Lets the stages that leave give up what they hold, upstream first.
    fn flush_leaving(&self, runs: &mut [Run], change: &Change, until: Moment, plan: &Plan) {
        for index in 0..runs.len() {
            for place in 0..runs[index].operators.len() {
                if !change.keeps(&runs[index].operators[place].name) {
                    runs[index].flush_operator(place);
                }
            }
            let _ = self.settle(runs, change, until, plan);
        }
    }

    /// Ends the sinks that leave. One that is replaced leaves what it had to the one that comes; one of an edge that nobody
    /// takes over goes on until that is delivered.
    fn end_sinks(
        &self,
        running: &mut Running,
        old: &Plan,
        new: &Plan,
        change: &Change,
        parts: &mut Parts,
        until: Moment,
    ) {
        let clock = &self.world.clock;
        let leaving: Vec<_> = parts.sinks.extract_if(|name, _| !change.keeps(name)).collect();
        for (name, sink) in leaving {
            if change.leaves(&name) {
                self.let_leave(running, name, sink, parts);
                continue;
            }
            let remains = if change.replaced.contains(&name) {
                let remains = sink.stop(Fate::Replaced, until.since(clock.now()).max(LAST_TRY), clock);
                remains.map(|remains| take_over(new, &name, remains, parts))
            } else {
                let routes = parts.routes.extract_if(|(_, to), _| *to == name);
                let waiting: Vec<Batch> = routes.flat_map(|(_, route)| route.into_waiting()).collect();
                sink.finish();
                // What is on a disk need not be delivered now.
                let patience =
                    if change.is_on_disk(&name) { Duration::ZERO } else { until.since(clock.now()) };
                if sink.ended().wait_blocking(patience, clock) && waiting.is_empty() {
                    continue;
                }
                let remains = sink.stop(Fate::Removed, LAST_TRY, clock);
                let waiting = Remains { letters: waiting, ..Remains::default() }.drop(Fate::Removed);
                remains.map(|remains| {
                    let dropped = waiting + remains.drop(Fate::Removed);
                    if change.is_on_disk(&name) {
                        return;
                    }
                    parts.stats.get(&name).inspect(|own| own.count_dropped(Fate::Removed.reason(), dropped));
                    tracing::warn!(stage = name, dropped, "the stage was removed before it took all events");
                })
            };
            if remains.is_none() {
                // It hangs, with its rings: new ones are laid, and what it had counts as dropped when it lets go.
                parts.routes.retain(|(_, to), _| *to != name);
                let before = running.assembly.rings.iter().filter(|(_, to, _)| *to == name);
                let rings = before.map(|(_, _, gauge)| gauge.clone()).collect();
                let hung = sink.hung(name, rings);
                tracing::warn!(
                    stage = hung.name,
                    events = hung.has(),
                    "the sink does not stop, and has these events with it"
                );
                running.hung.push(hung);
            }
        }
        running.hung.retain(|hung| hung.has() > 0);
        debug_assert!(
            parts
                .sinks
                .keys()
                .all(|name| old.stage(name).is_some_and(|(index, _)| is_driven_sink(old, index)))
        );
    }
}

impl Pipeline {
    /// Lets the sink of an edge deliver what it has beside the new plan. What takes its name follows after it.
    fn let_leave(&self, running: &mut Running, name: String, sink: RunningSink, parts: &mut Parts) {
        let routes = parts.routes.extract_if(|(_, to), _| *to == name);
        let waits = routes.map(|((from, _), route)| (from, route.into_waiting().collect())).collect();
        let rings = running.assembly.rings.iter().filter(|(_, to, _)| *to == name);
        let rings = rings.map(|(_, _, gauge)| gauge.clone()).collect();
        let stats = parts.stats.get(&name).cloned().unwrap_or_default();
        let leaving = Leaving::new(name, sink, rings, waits, stats);
        if let Some(oldest) = running.add_leaving(leaving) {
            oldest.give_up(&self.world.clock);
        }
    }
}

fn settle_once(runs: &mut [Run], change: &Change) -> Vec<bool> {
    runs.iter_mut()
        .map(|run| {
            // A source that stays keeps what it has in its ring; everybody else's ring is emptied, as far as it goes.
            let take = run.source.as_ref().is_none_or(|source| !change.keeps(&source.name));
            !run.settle(take)
        })
        .collect()
}

fn stage_in_front(run: &Run) -> String {
    let route = run.outlet.routes().iter().find(|route| !route.is_flushed());
    let held = run.operators.first().map(|operator| operator.name.to_string());
    route.map(|route| route.to.name.to_string()).or(held).unwrap_or_default()
}

impl fmt::Display for ReloadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Assemble(error) => write!(out, "{error}; the old plan is running"),
            ReloadError::Broken(error) => write!(out, "{error}; nothing runs now: start the pipeline anew"),
            ReloadError::Draining => {
                out.write_str("the pipeline is draining: start it anew with the new plan")
            }
            ReloadError::ExactlyOnce => out.write_str(
                "a pipeline that delivers exactly once is not changed while it runs: drain it, and start it anew with the new plan",
            ),
            ReloadError::Stuck { stage } => write!(
                out,
                "stage `{stage}` does not take the events on their way to it; the old plan is running: try again when it does"
            ),
        }
    }
}

impl std::error::Error for ReloadError {}

/// How long a reload waits for slow sinks before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a sink that is to stop may take for the try that is going on.
const LAST_TRY: Duration = Duration::from_secs(1);
/// A source that does not end within this, when asked, hangs in a read.
const SOURCE_STOPS_WITHIN: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_micros(100);
