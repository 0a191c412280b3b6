//! Which stages one worker calls in a row, and where a ring must stand.

use sidestream_crds::compile;

/// The runs of a pipeline with these stages, by the names of its stages.
fn runs(stages: &[&str]) -> Vec<String> {
    let list: String = stages.iter().map(|stage| format!("  - {{{stage}}}\n")).collect();
    let text = format!("kind: Pipeline\nmetadata: {{name: fused}}\nspec:\n  stages:\n{list}");
    let compiled = compile(text.as_bytes(), "fused.yaml");
    let said: Vec<String> = compiled.diagnostics.iter().map(ToString::to_string).collect();
    let plan = compiled.pipelines[0].plan.as_ref().unwrap_or_else(|| panic!("{}", said.join("\n")));
    plan.runs
        .iter()
        .map(|run| {
            run.stages.iter().map(|stage| plan.stages[*stage].name.as_str()).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

const MADE: &str = "name: made, source: {generator: {}}";
const NONE: &str = "name: none, sink: {blackhole: {}}";

#[test]
fn a_line_of_stages_that_only_compute_is_one_run() {
    let few = r#"name: few, when: "event.value > 1.0", process: {filter: {keep: "event.value > 5.0"}}"#;
    let map = r#"name: half, process: {map: {body: "event.value / 2.0"}}"#;
    assert_eq!(runs(&[MADE, few, map, NONE]), ["made few half none"]);
}

#[test]
fn a_source_heads_the_run_behind_it_and_a_sink_that_waits_for_the_world_is_alone() {
    let lines = "name: lines, source: {stdin: {}}";
    let parse = "name: parse, process: {parse: {json: {}}}";
    let show = "name: show, sink: {console: {}}";
    assert_eq!(runs(&[lines, parse, show]), ["lines parse", "show"]);
}

#[test]
fn a_ring_stands_between_branches_and_before_what_brings_them_together() {
    let low = r#"name: low, from: [made], when: "event.value < 50.0", process: {batch: {size: 5}}"#;
    let high = "name: high, from: [made], otherwise: true, process: {batch: {size: 5}}";
    let both = "name: both, from: [low, high], process: {merge: {}}";
    assert_eq!(runs(&[MADE, low, high, both, NONE]), ["made", "low", "high", "both none"]);
}

#[test]
fn a_ring_stands_between_priorities_and_where_a_queue_is_asked_for() {
    let few = r#"name: few, priority: High, process: {filter: {keep: "true"}}"#;
    let queued = r#"name: queued, priority: High, input: {capacity: 64}, process: {filter: {keep: "true"}}"#;
    assert_eq!(runs(&[MADE, few, queued, NONE]), ["made", "few", "queued", "none"]);
}
