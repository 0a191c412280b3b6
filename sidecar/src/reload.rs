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
//! A stage is kept when its name and its kind are the same; whatever else changes around it, its state is not touched.

use std::{collections::HashSet, fmt, sync::Arc, thread, time::Duration};

use sidestream_event::Outcome;
use sidestream_graph::{Input, Route, Run};
use sidestream_host::Moment;
use sidestream_plan::{Plan, Stage};
use sidestream_scheduler::Task;

use crate::{
    AssembleError, Pipeline, Registry,
    assemble::{Assembly, Parts, assemble, is_driven_sink},
    latch::Latch,
    pipeline::Running,
    prepare::{Prepared, prepare},
    sink::Remains,
    source::Head,
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

/// The new plan was not taken; the old one is running.
#[derive(Debug)]
pub enum ReloadError {
    /// The pipeline is draining, or has ended.
    Draining,
    /// A stage of the new plan cannot be made.
    Assemble(AssembleError),
    /// A sink does not take the events that stages would have to give up first.
    Stuck {
        /// The stage whose ring is full.
        stage: String,
    },
}

impl Pipeline {
    /// Puts `plan` in place of the running one. Blocks: for a millisecond, or as long as a sink is slow, at most 10 s.
    pub fn reload(&self, plan: Plan, registry: &mut Registry) -> Result<Reloaded, ReloadError> {
        let mut running = self.running();
        if running.draining {
            return Err(ReloadError::Draining);
        }
        let retired = running.runs_ended();
        let reloaded = self.replace(&mut running, plan, registry);
        drop(running);
        // Whoever waits for the runs of the old plan looks again; only now, since it will want the lock.
        retired.iter().for_each(Latch::set);
        reloaded
    }

    fn replace(
        &self,
        running: &mut Running,
        plan: Plan,
        registry: &mut Registry,
    ) -> Result<Reloaded, ReloadError> {
        let begun = self.world.clock.now();
        let old = running.plan.clone();
        let mut runs = retire(&mut running.assembly);
        let change = Change::between(&old, &plan, &runs, &running.assembly);

        let prepared = match prepare(&plan, &self.world, registry, |stage| change.keeps(&stage.name)) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.resume(running, runs)?;
                return Err(ReloadError::Assemble(error));
            }
        };
        let until = begun + PATIENCE;
        if let Err(stage) = self.settle(&mut runs, &change, until, &old) {
            self.resume(running, runs)?;
            return Err(ReloadError::Stuck { stage });
        }
        self.end_sources(running, &mut runs, &change, until, &old);
        self.flush_leaving(&mut runs, &change, until, &old);
        let mut parts = dismantle(&old, runs, &mut running.assembly);
        self.end_sinks(&old, &plan, &change, &mut parts, until);

        running.assembly = assemble(&plan, prepared, parts, &self.pool, &self.world)
            .map_err(|error| ReloadError::Assemble(AssembleError::Machine(error)))?;
        running.plan = Arc::new(plan);
        running.generation += 1;
        Ok(change.told(self.world.clock.now().since(begun)))
    }

    /// Lets the old plan go on.
    fn resume(&self, running: &mut Running, runs: Vec<Run>) -> Result<(), ReloadError> {
        let plan = running.plan.clone();
        let whens =
            prepare(&plan, &self.world, &mut Registry::default(), |_| true).map_err(ReloadError::Assemble)?;
        let parts = dismantle(&plan, runs, &mut running.assembly);
        running.assembly = assemble(
            &plan,
            Prepared { whens: whens.whens, ..Prepared::default() },
            parts,
            &self.pool,
            &self.world,
        )
        .map_err(|error| ReloadError::Assemble(AssembleError::Machine(error)))?;
        running.generation += 1;
        Ok(())
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
                (stuck && !change.can_leave(run, plan)).then(|| stage_in_front(run, plan))
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
    ) {
        let leaving: Vec<_> = running
            .assembly
            .sources
            .extract_if(|name, _| !change.keeps(name))
            .map(|(_, source)| source)
            .collect();
        if leaving.is_empty() {
            return;
        }
        running.past.extend(leaving.iter().map(|source| source.origin.clone()));
        leaving.iter().for_each(|source| source.stop());
        for run in
            runs.iter_mut().filter(|run| run.source.as_ref().is_some_and(|own| !change.keeps(&own.name)))
        {
            run.inlet.drop_feed();
        }
        let stopped = self.world.clock.now() + SOURCE_STOPS_WITHIN;
        while !leaving.iter().all(|source| source.has_ended()) && self.world.clock.now() < stopped {
            // A source that waits for room must get it to see that it is stopped.
            settle_once(runs, change);
            thread::sleep(LOOK_AGAIN);
        }
        // An error means that a sink does not take what is left; it then goes with its ring, counted as dropped.
        let _ = self.settle(runs, change, until, plan);
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

    /// Ends the sinks that leave. One that is replaced leaves what it had to the one that comes.
    fn end_sinks(&self, old: &Plan, new: &Plan, change: &Change, parts: &mut Parts, until: Moment) {
        let leaving: Vec<_> = parts.sinks.extract_if(|name, _| !change.keeps(name)).collect();
        for (name, sink) in leaving {
            if change.replaced.contains(&name) {
                match sink.stop(until.since(self.world.clock.now()).max(LAST_TRY), &self.world.clock) {
                    Some(remains) => take_over(old, new, &name, remains, parts),
                    // It hangs, with its rings: new ones are laid, and what it had counts as dropped when it lets go.
                    None => {
                        tracing::warn!(stage = name, "the sink does not stop; what it had is lost with it");
                        parts.routes.retain(|(_, to), _| *to != name);
                    }
                }
                continue;
            }
            parts.routes.retain(|(_, to), _| *to != name);
            sink.finish();
            if !sink.ended().wait_blocking(until.since(self.world.clock.now()), &self.world.clock) {
                let remains = sink.stop(LAST_TRY, &self.world.clock).unwrap_or_default();
                let dropped = drop_remains(remains);
                let stats = parts.stats.get(&name);
                stats.inspect(|stats| stats.count_dropped("removed", dropped));
                tracing::warn!(stage = name, dropped, "the stage was removed before it took all events");
            }
        }
        debug_assert!(
            parts
                .sinks
                .keys()
                .all(|name| old.stage(name).is_some_and(|(index, _)| is_driven_sink(old, index)))
        );
    }
}

/// Gives what a sink had to whoever takes its name: a driver takes it whole, a stage of a run by its rings.
fn take_over(old: &Plan, new: &Plan, name: &str, remains: Remains, parts: &mut Parts) {
    if new.stage(name).is_some_and(|(index, _)| is_driven_sink(new, index)) {
        parts.remains.insert(name.to_owned(), remains);
        return;
    }
    parts.held.entry(name.to_owned()).or_default().extend(remains.in_hand);
    for input in remains.inputs.into_iter().filter(|input| !input.is_letters) {
        // A driver that outlived plans may know a stage by an index of long ago; such a ring ends here, counted.
        let Some(from) = old.stages.get(input.from) else { continue };
        parts.inputs.insert((from.name.clone(), name.to_owned()), input);
    }
}

/// Takes every run from its task, in the order of the plan.
fn retire(assembly: &mut Assembly) -> Vec<Run> {
    let tasks = std::mem::take(&mut assembly.tasks);
    let works = tasks.iter().filter_map(|run| Task::retire(&run.task));
    works.filter_map(|work| (work as Box<dyn std::any::Any>).downcast::<Run>().ok()).map(|run| *run).collect()
}

fn settle_once(runs: &mut [Run], change: &Change) -> Vec<bool> {
    runs.iter_mut()
        .map(|run| {
            // A source that stays keeps what it has in its ring; everybody else's ring is emptied.
            let take = run.source.as_ref().is_none_or(|source| !change.keeps(&source.name));
            !run.settle(take)
        })
        .collect()
}

/// Stages and rings by name.
fn dismantle(plan: &Plan, runs: Vec<Run>, assembly: &mut Assembly) -> Parts {
    let name = |index: usize| plan.stages[index].name.clone();
    let mut parts = Parts {
        sources: std::mem::take(&mut assembly.sources),
        sinks: std::mem::take(&mut assembly.sinks),
        stats: std::mem::take(&mut assembly.stats),
        ..Parts::default()
    };
    for mut run in runs {
        let last = run.operators.last().map(|operator| operator.stage);
        let last = last.or(run.source.as_ref().map(|source| source.stage));
        for (place, batch) in run.take_held() {
            parts.held.entry(run.operators[place].name.to_string()).or_default().push(batch);
        }
        let (feed, inputs) = run.inlet.into_parts();
        match (&run.source, feed) {
            (Some(source), Some(feed)) => {
                parts.heads.insert(source.name.to_string(), Head::Feed(feed));
            }
            (Some(source), None) => {
                let rings =
                    inputs.into_iter().map(|input| (source.name.to_string(), Head::Ring(input.receiver)));
                parts.heads.extend(rings);
            }
            (None, _) => {
                let first = run.operators.first().map(|operator| operator.stage);
                for input in inputs.into_iter().filter(|input| !input.is_letters) {
                    let to = first.map(name).unwrap_or_default();
                    parts.inputs.insert((name(input.from), to), input);
                }
            }
        }
        for route in run.outlet.into_routes() {
            let from = last.map(name).unwrap_or_default();
            parts.routes.insert((from, name(route.to)), route);
        }
        parts
            .operators
            .extend(run.operators.into_iter().map(|operator| (operator.name.to_string(), operator)));
    }
    parts
}

/// Which stages stay, and which do not.
struct Change {
    kept: Vec<String>,
    replaced: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
    /// Rings that stay, by the stages they lead from and to.
    rings: HashSet<(String, String)>,
}

impl Change {
    fn between(old: &Plan, new: &Plan, runs: &[Run], assembly: &Assembly) -> Change {
        let at_work = |stage: &Stage| match &stage.kind {
            // A sink that has ended takes nothing more: it is made anew.
            sidestream_plan::Kind::Sink(_)
                if assembly.sinks.get(&stage.name).is_some_and(|sink| sink.ended().is_set()) =>
            {
                false
            }
            sidestream_plan::Kind::Process(_)
            | sidestream_plan::Kind::Sink(sidestream_plan::Sink::Blackhole(_)) => {
                runs.iter().flat_map(|run| &run.operators).any(|operator| *operator.name == *stage.name)
            }
            _ => true,
        };
        let is_same = |stage: &Stage| {
            old.stage(&stage.name).is_some_and(|(index, before)| {
                before.kind == stage.kind
                    && (!is_driven_sink(old, index) || before.on_error == stage.on_error)
            }) && at_work(stage)
        };
        let named = |stages: &[Stage], take: &dyn Fn(&Stage) -> bool| -> Vec<String> {
            stages.iter().filter(|stage| take(stage)).map(|stage| stage.name.clone()).collect()
        };
        Change {
            kept: named(&new.stages, &is_same),
            replaced: named(&new.stages, &|stage| old.stage(&stage.name).is_some() && !is_same(stage)),
            added: named(&new.stages, &|stage| old.stage(&stage.name).is_none()),
            removed: named(&old.stages, &|stage| new.stage(&stage.name).is_none()),
            rings: &rings(old) & &rings(new),
        }
    }

    fn keeps(&self, stage: &str) -> bool {
        self.kept.iter().any(|own| own == stage)
    }

    /// Whether what a run has not got rid of may stay where it is.
    fn can_leave(&self, run: &mut Run, plan: &Plan) -> bool {
        let name = |index: usize| plan.stages[index].name.clone();
        let last = run.operators.last().map(|own| own.stage).or(run.source.as_ref().map(|own| own.stage));
        let stays = |from: usize, to: usize| self.rings.contains(&(name(from), name(to)));
        let first = run.operators.first().map(|own| own.stage);
        let ways_out = run
            .outlet
            .routes()
            .iter()
            .all(|route| route.is_flushed() || last.is_some_and(|from| stays(from, route.to)));
        let from_kept_source = run.source.as_ref().is_some_and(|source| self.keeps(&source.name));
        let rings_stay = first.is_some_and(|to| run.inlet.froms().all(|from| stays(from, to)));
        let ways_in = run.inlet.is_empty() || from_kept_source || rings_stay;
        // What a stage holds goes to the stage of its name, made anew or not.
        let is_removed = |place: usize| self.removed.iter().any(|name| **name == *run.operators[place].name);
        let operators = !run.held_places().any(is_removed);
        let letters = run.dead_letter_routes.iter().all(Route::is_flushed);
        ways_out && ways_in && operators && letters
    }

    fn told(self, paused: Duration) -> Reloaded {
        Reloaded {
            kept: self.kept,
            replaced: self.replaced,
            added: self.added,
            removed: self.removed,
            paused,
        }
    }
}

/// Every ring a plan has, by the names of its ends.
fn rings(plan: &Plan) -> HashSet<(String, String)> {
    let mut rings = HashSet::new();
    for (to, stage) in plan.stages.iter().enumerate() {
        for from in stage.from.iter().filter(|from| !plan.are_fused(**from, to)) {
            rings.insert((plan.stages[*from].name.clone(), stage.name.clone()));
        }
    }
    rings
}

fn stage_in_front(run: &Run, plan: &Plan) -> String {
    let route = run.outlet.routes().iter().find(|route| !route.is_flushed());
    let held = run.operators.first().map(|operator| operator.name.to_string());
    route.map(|route| plan.stages[route.to].name.clone()).or(held).unwrap_or_default()
}

fn drop_remains(remains: Remains) -> u64 {
    let mut dropped = 0;
    let queued = remains
        .inputs
        .into_iter()
        .flat_map(|Input { mut receiver, .. }| std::iter::from_fn(move || receiver.try_recv()));
    for batch in remains.in_hand.into_iter().chain(queued) {
        dropped += batch.len() as u64;
        batch.events().iter().for_each(|event| batch.mark().end(event.meta.sequence, Outcome::Dropped));
    }
    dropped
}

impl fmt::Display for ReloadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Assemble(error) => write!(out, "{error}; the old plan is running"),
            ReloadError::Draining => {
                out.write_str("the pipeline is draining: start it anew with the new plan")
            }
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
