//! A plan that still takes what is on its way by edges of the plan before.

use std::collections::BTreeSet;

use sidestream_plan::{Kind, Plan, Source, Stage};

use super::plan;

/// `new` with those of `edges` that lead into `old` and not into it: what comes by them goes to the stages that took it,
/// where those are still there. The same as `new` where none is.
pub fn with_leaving(new: &Plan, old: &Plan, edges: &BTreeSet<String>) -> Plan {
    let is_leaving = |stage: &Stage| {
        let is_edge = matches!(stage.kind, Kind::Source(Source::Edge(_)));
        is_edge && edges.contains(&stage.name) && new.stage(&stage.name).is_none()
    };
    let mut sources: Vec<(Stage, Vec<usize>)> = Vec::new();
    for (index, stage) in old.stages.iter().enumerate().filter(|(_, stage)| is_leaving(stage)) {
        let takers = old.consumers(index).filter_map(|taker| new.stage(&old.stages[taker].name));
        let takers: Vec<usize> = takers.map(|(taker, _)| taker).collect();
        if !takers.is_empty() {
            sources.push((stage.clone(), takers));
        }
    }
    // Stages take input only from those before them, so the edges come first.
    let before = sources.len();
    let mut stages: Vec<Stage> = new.stages.clone();
    stages.iter_mut().flat_map(|stage| &mut stage.from).for_each(|from| *from += before);
    for (place, (_, takers)) in sources.iter().enumerate() {
        takers.iter().for_each(|taker| stages[*taker].from.push(place));
    }
    let stages = sources.into_iter().map(|(source, _)| source).chain(stages).collect();
    plan(new.pipeline.clone(), new.latency, stages)
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
    fn what_nobody_takes_any_more_is_not_kept() {
        let old = hub("{name: show, sidecar: hub, sink: {console: {}}}");
        let new = hub("{name: gone, sidecar: hub, sink: {blackhole: {}}}");
        assert_eq!(with_leaving(&new, &old, &["tick->show".to_owned()].into()), new);
    }
}
