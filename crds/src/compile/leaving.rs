//! A plan that still takes what is on its way by edges of the plan before.

use std::collections::BTreeSet;

use sidestream_plan::{Delivery, Kind, Plan, Sink, Source, Stage};

use super::plan;

/// `new` with those of `edges` beside that lead into `old` and not into it: what comes by them goes the way it went, through
/// stages of the new plan where those are still there, else through those of the old one. The same as `new` where none is.
pub fn with_leaving(new: &Plan, old: &Plan, edges: &BTreeSet<String>) -> Plan {
    let beside = stages_beside(new, old, edges);
    // Stages take input only from those before them, and those of the new plan from all of these.
    let place = |index: &usize| beside.iter().position(|own| own == index);
    let mut stages: Vec<Stage> = beside.iter().map(|index| old.stages[*index].clone()).collect();
    stages.iter_mut().for_each(|stage| stage.from = stage.from.iter().filter_map(place).collect());
    for stage in &new.stages {
        let mut stage = stage.clone();
        stage.from.iter_mut().for_each(|from| *from += beside.len());
        let before = old.stage(&stage.name).map(|(_, before)| &before.from);
        stage.from.extend(before.into_iter().flatten().filter_map(place));
        stages.push(stage);
    }
    // What comes by an edge has no place in a dnpipe by which it is known when it comes again.
    let delivery = if beside.is_empty() { new.delivery } else { Delivery::AtLeastOnce };
    plan(new.pipeline.clone(), new.latency, delivery, stages)
}

/// The stages of `old` that `new` does not have and that what comes by `edges` goes through, the edges among them, in their
/// order.
fn stages_beside(new: &Plan, old: &Plan, edges: &BTreeSet<String>) -> Vec<usize> {
    let is_leaving =
        |stage: &Stage| matches!(stage.kind, Kind::Source(Source::Edge(_))) && edges.contains(&stage.name);
    let gone = |index: &usize| new.stage(&old.stages[*index].name).is_none();
    let mut beside: BTreeSet<usize> = BTreeSet::new();
    loop {
        let letters: Vec<&String> =
            beside.iter().filter_map(|index| old.stages[*index].on_error.dead_letter.as_ref()).collect();
        let is_beside = |index: &usize| {
            let stage = &old.stages[*index];
            let takes =
                || stage.from.iter().any(|from| beside.contains(from)) || spilled_by(old, stage, &beside);
            gone(index) && (is_leaving(stage) || takes() || letters.contains(&&stage.name))
        };
        let found: BTreeSet<usize> = (0..old.stages.len()).filter(is_beside).collect();
        if found == beside {
            return found.into_iter().collect();
        }
        beside = found;
    }
}

/// Whether a stage brings what one of `beside` spills.
fn spilled_by(old: &Plan, stage: &Stage, beside: &BTreeSet<usize>) -> bool {
    let Kind::Source(Source::Spill(queue)) = &stage.kind else { return false };
    let mut first_ends = beside.iter().filter_map(|index| match &old.stages[*index].kind {
        Kind::Sink(Sink::Spill(own)) => Some(&own.stage),
        _ => None,
    });
    first_ends.any(|own| *own == queue.stage)
}

#[cfg(test)]
mod tests {
    use crate::compile;

    use super::*;

    fn hub(stages: &str) -> Plan {
        let text = format!(
            "{{kind: Pipeline, metadata: {{name: p}}, spec: {{
            sidecars: [{{name: door, workload: {{}}}}, {{name: hub, workload: {{}}}}], stages: [
            {{name: tick, sidecar: door, source: {{generator: {{}}}}}}, {stages}]}}}}"
        );
        let compiled = compile(text.as_bytes(), "p");
        assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
        compiled.pipelines[0].sidecars[1].plan.clone()
    }

    #[test]
    fn what_comes_by_an_edge_that_leaves_goes_to_the_stage_that_took_it() {
        let old = hub("{name: show, sidecar: hub, sink: {console: {}}}");
        let new = hub(
            "{name: even, sidecar: hub, process: {sample: {every: 2}}}, {name: show, sink: {console: {}}}",
        );
        let edges: BTreeSet<String> = ["tick->show".to_owned()].into();
        let both = with_leaving(&new, &old, &edges);
        let names: Vec<&str> = both.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["tick->show", "tick->even", "even", "show"]);
        assert_eq!((&both.stages[2].from, &both.stages[3].from), (&vec![1], &vec![2, 0]));
        let in_runs: usize = both.runs.iter().map(|run| run.stages.len()).sum();
        assert_eq!(in_runs, both.stages.len(), "each is in one run: {:?}", both.runs);
        assert_eq!(with_leaving(&new, &both, &edges), both, "asked again it is the same");
        assert_eq!(with_leaving(&new, &both, &BTreeSet::new()), new);
    }

    #[test]
    fn what_comes_by_an_edge_that_leaves_goes_through_stages_that_leave_with_it() {
        let old = hub(
            "{name: tock, sidecar: hub, source: {generator: {}}}, {name: odd, sidecar: hub, from: [tick, tock], process: {sample: {every: 2}},
             onError: {deadLetter: lost}}, {name: show, sink: {console: {}}}, {name: lost, sidecar: hub, from: [], sink: {blackhole: {}}}",
        );
        let new = hub(
            "{name: even, sidecar: hub, process: {sample: {every: 2}}}, {name: show, sink: {console: {}}}",
        );
        let edges: BTreeSet<String> = ["tick->odd".to_owned()].into();
        let both = with_leaving(&new, &old, &edges);
        let stages: Vec<(&str, &[usize])> =
            both.stages.iter().map(|stage| (stage.name.as_str(), stage.from.as_slice())).collect();
        let expected: [(&str, &[usize]); 6] = [
            ("tick->odd", &[]),
            ("odd", &[0]),
            ("lost", &[]),
            ("tick->even", &[]),
            ("even", &[3]),
            ("show", &[4, 1]),
        ];
        assert_eq!(stages, expected, "but for what only another source was for");
        assert_eq!(with_leaving(&new, &both, &edges), both, "asked again it is the same");
        assert_eq!(with_leaving(&new, &both, &BTreeSet::new()), new);
        assert_eq!(with_leaving(&new, &old, &BTreeSet::new()), new);
    }
}
