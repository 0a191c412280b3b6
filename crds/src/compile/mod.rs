//! Resources -> plans, and everything that is wrong with them. Pure: the same text gives the same answer, anywhere.
//!
//! ```text
//! text --yaml--> documents --structure--> Pipeline --+-> wiring ----> who takes events from whom
//!                                                    +-> failure ---> who gets what nobody could handle
//!                                                    +-> placement -> which sidecar each stage lives in
//!                                                    +-> hosts -----> which pods each sidecar runs in
//!                                                    +-> settings --> what a kind asks for beyond its schema
//!                                                    +-> flow ------> what is in the events, and do expressions fit it
//!                                                    +-> keyed -----> which of several pods owns which events
//!                                                    +-> once ------> can each result be there exactly once
//!                                                    +-> spill -----> what stands before a stage whose input goes to disk
//!                                                    \-> fuse ------> which stages one worker calls in a row --> Plan
//!                                                          \-> cut -> the part of each sidecar, with edges between
//! ```
//!
//! A Dnpipe has no stages: `dnpipe` looks at its fields beside their schema, and fills in the defaults.
//!
//! No step stops at the first mistake, and a later step looks at everything that the earlier ones left sound; `mend` puts
//! right what `structure` found, so that the later ones have something to look at.

mod cut;
mod dnpipe;
mod expressions;
mod failure;
mod flow;
mod fuse;
mod hosts;
mod keyed;
mod leaving;
mod mend;
pub mod names;
mod once;
mod placement;
mod resource;
mod settings;
mod shape;
mod spill;
mod wiring;

pub use dnpipe::{CompiledDnpipe, compile_dnpipe};
pub use leaving::with_leaving;
use mend::Doubts;
use serde::{Deserialize, Serialize};
use sidestream_plan::{Delivery, Input, Kind, Latency, Plan, Stage};

use crate::{
    crd::PIPELINE_SCHEMA,
    diagnostic::{Code, Diagnostic, Severity},
    path::Path,
    pipeline::{Host, Pipeline},
    structure::{self, Origin},
};

/// What became of a file.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The pipelines that could be read, in the order of the file.
    pub pipelines: Vec<CompiledPipeline>,
    /// The dnpipes that could be read, in the order of the file.
    pub dnpipes: Vec<CompiledDnpipe>,
    /// All that is wrong or worth knowing, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// One pipeline.
#[derive(Clone, Debug)]
pub struct CompiledPipeline {
    /// As it was written.
    pub resource: Pipeline,
    /// What runs where one process runs all of it; none where there is an error.
    pub plan: Option<Plan>,
    /// The same cut at the borders of its sidecars, in the order they were written; none where there is an error.
    pub sidecars: Vec<SidecarPlan>,
}

/// What one sidecar of a pipeline runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarPlan {
    /// The sidecar's name.
    pub name: String,
    /// The pods it runs in.
    #[serde(flatten)]
    pub host: Host,
    /// Its stages, and the ends of the edges to the others.
    pub plan: Plan,
}

impl Compiled {
    /// Whether everything in the file may run.
    pub fn is_ok(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Compiles the text of a file; `file` is what diagnostics call it.
pub fn compile(text: &[u8], file: &str) -> Compiled {
    resource::compile_file(text, file)
}

/// Compiles a pipeline that a program built, which may use the kinds `push` and `custom`.
pub fn compile_pipeline(pipeline: &Pipeline) -> (Option<Plan>, Vec<Diagnostic>) {
    let (compiled, found) = compile_object(pipeline, Origin::Code);
    (compiled.plan, found)
}

/// Compiles a resource as an API server holds it.
pub fn compile_resource(pipeline: &Pipeline) -> (CompiledPipeline, Vec<Diagnostic>) {
    compile_object(pipeline, Origin::Text)
}

fn compile_object(pipeline: &Pipeline, origin: Origin) -> (CompiledPipeline, Vec<Diagnostic>) {
    let mut value = serde_json::to_value(pipeline).unwrap_or_default();
    // Ours to write, not to check.
    value.as_object_mut().map(|object| object.remove("status"));
    let mut found = structure::check(&value, &PIPELINE_SCHEMA, &[], origin);
    let mut parts = None;
    if found.is_empty() {
        (parts, found) = compile_sound(pipeline, &Doubts::default());
    } else {
        let beyond = look_beyond(value, &found, &[]);
        found.extend(beyond);
    }
    for diagnostic in &mut found {
        diagnostic.resource = Some(pipeline.full_name());
    }
    (CompiledPipeline::new(pipeline.clone(), parts), found)
}

/// A plan, and what each sidecar has of it.
type Parts = (Plan, Vec<SidecarPlan>);

impl CompiledPipeline {
    fn new(resource: Pipeline, parts: Option<Parts>) -> Self {
        let (plan, sidecars) = parts.map_or((None, Vec::new()), |(plan, sidecars)| (Some(plan), sidecars));
        Self { resource, plan, sidecars }
    }
}

/// What is wrong with a resource beside its fields, of which `found` says what is wrong.
fn look_beyond(value: serde_json::Value, found: &[Diagnostic], refused: &[Path]) -> Vec<Diagnostic> {
    let mended = mend::mend(value, &PIPELINE_SCHEMA, found, refused);
    let read = mended.and_then(|own| Some((resource::read_pipeline(own.value).ok()?, own.doubts)));
    let Some((pipeline, doubts)) = read else { return Vec::new() };
    let (_, beyond) = compile_sound(&pipeline, &doubts);
    beyond.into_iter().filter(|found| doubts.believes(found)).collect()
}

/// Compiles a pipeline whose fields are known to have the shapes of the schema; `doubts` says which are not those that
/// were written.
fn compile_sound(pipeline: &Pipeline, doubts: &Doubts) -> (Option<Parts>, Vec<Diagnostic>) {
    let mut report = Report::default();
    let spec = &pipeline.spec;
    let mut kinds: Vec<Kind> = spec.stages.iter().filter_map(|stage| stage.kind()).collect();
    if kinds.len() != spec.stages.len() {
        return (None, report.diagnostics);
    }
    let wiring = wiring::resolve(spec, &kinds, &mut report);
    let on_error = failure::resolve(spec, &kinds, &mut report);
    let placement = placement::resolve(pipeline, &wiring, &on_error, &mut report);
    hosts::check(spec, &wiring, &on_error, &placement, &mut report);
    settings::check(&kinds, &mut report);
    flow::check(spec, &mut kinds, &wiring, doubts, &mut report);
    let owners = keyed::resolve(spec, &kinds, &wiring, &placement, &mut report);
    let graph = once::Graph {
        own: once::namespace_of(pipeline),
        spec,
        kinds: &kinds,
        wiring: &wiring,
        on_error: &on_error,
        placement: &placement,
    };
    once::check(&graph, &mut report);
    spill::note(spec, &mut report);
    spill::check_volumes(spec, &mut report);
    placement.check_names(pipeline, &owners, &mut report);
    if report.diagnostics.iter().any(Diagnostic::is_error) {
        // What is worth knowing of a pipeline that runs is noise beside what keeps it from running.
        report.diagnostics.retain(|diagnostic| diagnostic.severity != Severity::Note);
        return (None, report.diagnostics);
    }

    let stages: Vec<Stage> = (spec.stages.iter().zip(kinds).zip(wiring).zip(on_error))
        .map(|(((stage, kind), from), on_error)| Stage {
            name: stage.name.clone(),
            from,
            when: stage.when.clone(),
            otherwise: stage.otherwise == Some(true),
            priority: stage.priority.unwrap_or_default(),
            input: stage.input.clone().unwrap_or_else(Input::default),
            on_error,
            kind,
        })
        .collect();
    let latency = spec.latency.unwrap_or(Latency::Park);
    let delivery = spec.delivery.unwrap_or_default();
    let whole = cut::Whole { name: pipeline.full_name(), latency, delivery, stages };
    let sidecars = cut::at_borders(&whole, &placement, &owners, pipeline);
    let plan = plan(whole.name, latency, delivery, whole.stages);
    (Some((plan, sidecars)), report.diagnostics)
}

/// The plan of stages that are in order.
fn plan(pipeline: String, latency: Latency, delivery: Delivery, stages: Vec<Stage>) -> Plan {
    let stages = spill::divided(stages);
    let mut kinds: Vec<String> =
        stages.iter().map(|stage| format!("{}/{}", stage.kind.role(), stage.kind.name())).collect();
    kinds.sort();
    kinds.dedup();
    let runs = fuse::runs(&stages);
    Plan { version: delivery.version(), pipeline, kinds, latency, delivery, stages, runs }
}

/// Where the steps write down what they find.
#[derive(Default)]
struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    fn say(&mut self, code: Code, path: Path, reason: impl Into<String>, cure: impl Into<String>) {
        self.diagnostics.push(Diagnostic::new(code, path, reason, cure));
    }
}
