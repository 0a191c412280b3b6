//! What one plan keeps of another.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use sidestream_graph::{Operator, Route, Run};
use sidestream_plan::{Kind, Plan, Sink, Source, Stage};

use super::Reloaded;
use crate::{
    assemble::{Assembly, is_driven_sink, is_within},
    leaving::{is_edge, leaves},
    sink::RunningSink,
};

/// Which stages stay, and which do not.
pub(super) struct Change {
    kept: Vec<String>,
    pub(super) replaced: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
    /// Edges out that go on with what they have until it is delivered.
    leaving: HashSet<String>,
    /// Sinks that are removed and the sources before them whose events are all on a disk, and stay there.
    on_disk: HashSet<String>,
    /// Rings that stay, by the stages they lead from and to.
    rings: HashSet<(String, String)>,
    /// Which source comes after one that leaves: it takes what is left in its ring, and may go on where it stopped.
    pub(super) heirs: HashMap<String, String>,
}

impl Change {
    pub(super) fn between<'a>(
        old: &Plan,
        new: &Plan,
        operators: impl Iterator<Item = &'a Operator>,
        assembly: &Assembly,
    ) -> Change {
        let operators: HashSet<&str> = operators.map(|operator| &*operator.name).collect();
        let at_work = |stage: &Stage| match &stage.kind {
            // A sink that has ended takes nothing more: it is made anew.
            Kind::Sink(_) if assembly.sinks.get(&stage.name).is_some_and(RunningSink::has_ended) => false,
            // The two ends of a queue end together, the first before the second.
            Kind::Source(Source::Spill(queue)) => old.stages.iter().all(|first| {
                let is_first = matches!(&first.kind, Kind::Sink(Sink::Spill(own)) if own == queue);
                !is_first || assembly.sinks.get(&first.name).is_some_and(|sink| !sink.has_ended())
            }),
            // A source that was told to stop brings nothing more: it is made anew.
            Kind::Source(_) => assembly.sources.get(&stage.name).is_some_and(|source| !source.is_stopped()),
            Kind::Process(_) | Kind::Sink(Sink::Blackhole(_)) => operators.contains(&*stage.name),
            _ => true,
        };
        // Told to come to its end, it has given away all it had, and waits for its receivers: what is made anew waits for it.
        let still_settles = |stage: &Stage| {
            let sink = assembly.sinks.get(&stage.name);
            sink.is_some_and(|sink| sink.has_ended() && !sink.ended().is_set())
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
            heirs: heirs(old, new, &is_same),
            kept: named(&new.stages, &is_same),
            replaced: named(&new.stages, &|stage| old.stage(&stage.name).is_some() && !is_same(stage)),
            added: named(&new.stages, &|stage| old.stage(&stage.name).is_none()),
            removed: named(&old.stages, &|stage| new.stage(&stage.name).is_none()),
            leaving: old
                .stages
                .iter()
                .filter(|before| {
                    let after = new.stage(&before.name).map(|(_, after)| after);
                    leaves(before, after) || is_edge(before) && still_settles(before)
                })
                .map(|before| before.name.clone())
                .collect(),
            on_disk: on_disk(old, new),
            rings: &rings(old) & &rings(new),
        }
    }

    pub(super) fn keeps(&self, stage: &str) -> bool {
        self.kept.iter().any(|own| own == stage)
    }

    /// Whether an edge out goes on with what it has until it is delivered, beside the new plan.
    pub(super) fn leaves(&self, stage: &str) -> bool {
        self.leaving.contains(stage)
    }

    /// Whether everything on its way to a stage that is removed, or from one, is on a disk and stays there.
    pub(super) fn is_on_disk(&self, stage: &str) -> bool {
        self.on_disk.contains(stage)
    }

    /// Whether what a run has not got rid of may stay where it is.
    pub(super) fn can_leave(&self, run: &mut Run, plan: &Plan) -> bool {
        let name = |index: usize| plan.stages[index].name.clone();
        let last = run.operators.last().map(|own| own.stage).or(run.source.as_ref().map(|own| own.stage));
        let stays = |from: &str, to: &str| self.rings.contains(&(from.to_owned(), to.to_owned()));
        let mut routes = run.outlet.routes().iter();
        let ways_out = routes.all(|route| {
            let is_kept = last.is_some_and(|from| stays(&name(from), &route.to.name));
            route.is_flushed() || is_kept || self.leaves(&route.to.name) || self.is_on_disk(&route.to.name)
        });
        let is_taken =
            |source: &str| self.keeps(source) || self.heirs.contains_key(source) || self.is_on_disk(source);
        let ways_in =
            run.inlet.rings().iter().filter(|input| !input.receiver.is_empty()).all(|input| {
                match (&run.source, run.operators.first()) {
                    (Some(source), _) => is_taken(&source.name),
                    (None, Some(first)) if input.is_letters => {
                        !self.removed.iter().any(|own| **own == *first.name)
                    }
                    (None, Some(first)) => stays(&input.from, &first.name),
                    (None, None) => false,
                }
            });
        // What a stage holds goes to the stage of its name, made anew or not.
        let is_removed = |place: usize| self.removed.iter().any(|name| **name == *run.operators[place].name);
        let operators = !run.held_places().any(is_removed);
        let letters = run.dead_letter_routes.iter().all(Route::is_flushed);
        ways_out && ways_in && operators && letters
    }

    /// Whether somebody who leaves has the port this one is to have, be it a source of `old` or one of another pipeline
    /// that gives its ports up: until it is gone, nobody can take it.
    pub(super) fn has_to_wait(&self, stage: &Stage, old: &Plan, given: &Ports) -> bool {
        let mut leaving = old.stages.iter().filter(|before| !self.keeps(&before.name));
        port(stage).is_some_and(|wanted| {
            given.contains(wanted) || leaving.any(|before| port(before) == Some(wanted))
        })
    }

    pub(super) fn told(self, paused: Duration) -> Reloaded {
        Reloaded {
            kept: self.kept,
            replaced: self.replaced,
            added: self.added,
            removed: self.removed,
            paused,
        }
    }
}

/// The sinks of `old` that `new` does not have and that take from nothing but a disk, and what they take from.
fn on_disk(old: &Plan, new: &Plan) -> HashSet<String> {
    let is_gone = |stage: &Stage| new.stage(&stage.name).is_none();
    let sinks = (0..old.stages.len()).filter(|index| is_driven_sink(old, *index));
    let pairs = sinks.filter_map(|index| match old.stages[index].from.as_slice() {
        [from] => Some([&old.stages[*from], &old.stages[index]]),
        _ => None,
    });
    let gone = pairs.filter(|[from, sink]| is_within(from) && is_gone(from) && is_gone(sink));
    gone.flatten().map(|stage| stage.name.clone()).collect()
}

/// Every ring a plan has, by the names of its ends.
fn rings(plan: &Plan) -> HashSet<(String, String)> {
    let name = |stage: usize| plan.stages[stage].name.clone();
    plan.rings().map(|(from, to)| (name(from), name(to))).collect()
}

/// Ports, as they are written.
pub(crate) type Ports = BTreeSet<String>;

/// The ports that sources of `plan` listen on and those of `other` as they are do not.
pub(crate) fn ports_beyond(plan: &Plan, other: Option<&Plan>) -> Ports {
    let is_there = |stage: &Stage| {
        let same = other.and_then(|other| other.stage(&stage.name));
        same.is_some_and(|(_, same)| same.kind == stage.kind)
    };
    let beyond = plan.stages.iter().filter(|stage| !is_there(stage));
    beyond.filter_map(port).map(str::to_owned).collect()
}

/// The port that a source listens on, whatever address goes before it.
pub(super) fn port(stage: &Stage) -> Option<&str> {
    match &stage.kind {
        Kind::Source(Source::Http(http)) => http.listen.rsplit(':').next(),
        _ => None,
    }
}

/// Which source comes after each one that leaves: the one that has its checkpoint now, or else the one that has its name.
fn heirs(old: &Plan, new: &Plan, keeps: &dyn Fn(&Stage) -> bool) -> HashMap<String, String> {
    let source = |stage: &&Stage| matches!(stage.kind, Kind::Source(_));
    let mut made: Vec<&Stage> = new.stages.iter().filter(source).filter(|stage| !keeps(stage)).collect();
    let is_kept = |stage: &Stage| new.stage(&stage.name).is_some_and(|(_, own)| keeps(own));
    let mut leaving: Vec<&Stage> = old.stages.iter().filter(source).filter(|stage| !is_kept(stage)).collect();
    let mut heirs = HashMap::new();
    for is_heir in [has_checkpoint_of, has_name_of] {
        leaving.retain(|before| {
            let heir = made.iter().position(|after| is_heir(after, before)).map(|place| made.remove(place));
            heirs.extend(heir.map(|heir| (before.name.clone(), heir.name.clone())));
            heir.is_none()
        });
    }
    heirs
}

fn has_checkpoint_of(after: &Stage, before: &Stage) -> bool {
    let checkpoint = |stage: &Stage| match &stage.kind {
        Kind::Source(Source::File(file)) => file.checkpoint.clone(),
        _ => None,
    };
    checkpoint(after).is_some_and(|own| checkpoint(before) == Some(own))
}

fn has_name_of(after: &Stage, before: &Stage) -> bool {
    after.name == before.name
}
