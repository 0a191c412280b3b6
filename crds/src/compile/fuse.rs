//! Which stages one worker calls one after the other, with no ring between them.
//!
//! A call costs nanoseconds and a hop tens, so a stage joins the run of its input wherever nothing is lost by it: it is
//! that stage's only consumer and has no other input, both have one priority, and it asks for no queue of its own. A
//! source heads the run of what follows it: a worker calls it, or takes from the one ring that its thread or task fills. A
//! sink that waits for the outside world is alone in its own.

use sidestream_plan::{Input, Kind, Run, Sink, Stage};

/// Every stage in exactly one run, runs in the order of their first stages.
pub(super) fn runs(stages: &[Stage]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let run =
            runs.iter_mut().find(|run| run.stages.last().is_some_and(|last| joins(stages, *last, stage)));
        match run {
            Some(run) => run.stages.push(index),
            None => runs.push(Run { stages: vec![index] }),
        }
    }
    runs
}

fn joins(stages: &[Stage], last: usize, stage: &Stage) -> bool {
    let consumers = stages.iter().filter(|other| other.from.contains(&last)).count();
    stage.from == [last]
        && consumers == 1
        && is_called(&stages[last].kind)
        && is_called(&stage.kind)
        && stages[last].priority == stage.priority
        && stage.input == Input::default()
        && !stage.otherwise
}

/// Whether it can be in a run with others.
fn is_called(kind: &Kind) -> bool {
    match kind {
        Kind::Source(_) => true,
        Kind::Process(_) => true,
        Kind::Sink(sink) => matches!(sink, Sink::Blackhole(_)),
    }
}
