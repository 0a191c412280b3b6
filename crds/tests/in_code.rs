//! Pipelines that a program builds compile to the same plans, and may use kinds that text has no words for.

use sidestream_crds::{Code, Pipeline, PipelineSpec, StageSpec, compile, compile_pipeline};
use sidestream_plan::{
    Kind, Process, Sink, Source,
    stage::{Blackhole, Console, Custom, Filter, Generator, Push, Threshold},
};

fn pipeline(stages: Vec<StageSpec>) -> Pipeline {
    Pipeline::new("built", PipelineSpec { stages, ..PipelineSpec::default() })
}

fn source(name: &str, source: Source) -> StageSpec {
    StageSpec::new(name, Kind::Source(source))
}

fn process(name: &str, process: Process) -> StageSpec {
    StageSpec::new(name, Kind::Process(process))
}

fn sink(name: &str, sink: Sink) -> StageSpec {
    StageSpec::new(name, Kind::Sink(sink))
}

#[test]
fn a_graph_built_in_code_is_the_same_plan_as_the_text() {
    let built = pipeline(vec![
        source("tick", Source::Generator(Generator { rate: Some(10.0), ..Generator::default() })),
        process("few", Process::Filter(Filter { keep: "event.value > 50.0".into() })),
        sink("show", Sink::Console(Console::default())),
    ]);
    let text = "kind: Pipeline\nmetadata: {name: built}\nspec:\n  stages:\n  - {name: tick, source: {generator: {rate: 10}}}\n  \
        - {name: few, process: {filter: {keep: event.value > 50.0}}}\n  - {name: show, sink: {console: {}}}\n";
    let written = compile(text.as_bytes(), "built.yaml").pipelines.remove(0);
    assert_eq!(written.resource.spec, built.spec);
    assert_eq!(compile_pipeline(&built), (written.plan, Vec::new()));
}

#[test]
fn a_program_pushes_events_and_brings_its_own_processor() {
    let built = pipeline(vec![
        source("in", Source::Push(Push {})),
        process("mine", Process::Custom(Custom { processor: "mine".into() })),
        sink("out", Sink::Blackhole(Blackhole {})),
    ]);
    let (plan, found) = compile_pipeline(&built);
    assert_eq!(found, []);
    let plan = plan.unwrap();
    assert_eq!(plan.kinds, ["process/custom", "sink/blackhole", "source/push"]);
    let runs: Vec<Vec<usize>> = plan.runs.into_iter().map(|run| run.stages).collect();
    assert_eq!(runs, [[0, 1, 2]]);
}

#[test]
fn mistakes_in_code_get_the_same_diagnostics_without_a_place() {
    let hot = Threshold {
        value: "event.valeu".into(),
        above: Some(f64::NAN),
        clear_below: None,
        below: None,
        clear_above: None,
        by: None,
        hold: None,
        max_keys: None,
    };
    let built = pipeline(vec![
        source("tick", Source::Generator(Generator::default())),
        process("hot", Process::Threshold(hot)),
        sink("Show", Sink::Console(Console::default())),
    ]);
    let (plan, found) = compile_pipeline(&built);
    assert_eq!(plan, None);
    let codes: Vec<Code> = found.iter().map(|diagnostic| diagnostic.code).collect();
    assert_eq!(codes, [Code::BadText, Code::BadThreshold, Code::UnfitExpression]);
    assert_eq!(found[0].resource.as_deref(), Some("default/built"));
    assert!(found[0].place.is_none() && found[0].file.is_none());

    let mut built = built;
    built.spec.stages[2].name = "show".into();
    let codes: Vec<Code> = compile_pipeline(&built).1.iter().map(|diagnostic| diagnostic.code).collect();
    assert_eq!(codes, [Code::BadThreshold, Code::UnfitExpression]);
}

#[test]
fn a_stage_that_does_nothing_or_two_things_is_no_stage() {
    let mut two = sink("two", Sink::Console(Console::default()));
    two.source = Some(Source::Generator(Generator::default()));
    let built = pipeline(vec![two, StageSpec { name: "none".into(), ..StageSpec::default() }]);
    let codes: Vec<Code> = compile_pipeline(&built).1.iter().map(|diagnostic| diagnostic.code).collect();
    assert_eq!(codes, [Code::TwoKinds, Code::NoKind]);
}
