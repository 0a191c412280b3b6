//! The language: what a user may write, and what it means.
//!
//! [`compile`] turns text into plans that a sidecar runs, and into everything that is wrong with it; [`Pipeline`] is the
//! resource itself, for those who build it in code or read it from a cluster. The stage kinds are structs of
//! `sidestream-plan`.
//!
//! This crate does no I/O and knows no room of the sidecar.

mod compile;
mod crd;
mod diagnostic;
mod path;
mod pipeline;
mod reference;
mod selector;
mod structure;
mod suggest;
mod yaml;

pub use compile::{
    Compiled, CompiledPipeline, SidecarPlan, compile, compile_pipeline, compile_resource, names, with_leaving,
};
pub use crd::{pipeline_crd, pipeline_crd_yaml, pipeline_schema_json};
pub use diagnostic::{Code, Diagnostic, FileCode, Place, Severity};
pub use path::{Path, Step};
pub use pipeline::{
    Host, INPUTS_MAX, Inject, Pipeline, PipelineSpec, PipelineStatus, SIDECARS_MAX, STAGES_MAX, SidecarSpec,
    StageSpec, TEXT_BYTES_MAX, Workload,
};
pub use reference::{diagnostics_page, pipeline_page};
pub use selector::{Operator, PodSelector, Requirement};
pub use yaml::{documents, to_yaml};

/// Every file that is generated from the types, by its path in the repository.
pub fn generated() -> [(&'static str, String); 5] {
    [
        ("crds/pipelines.schema.json", pipeline_schema_json()),
        ("crds/pipelines.yaml", pipeline_crd_yaml()),
        ("docs/reference/pipeline.md", pipeline_page()),
        ("docs/reference/expressions.md", sidestream_expr::expressions_page()),
        ("docs/reference/diagnostics.md", diagnostics_page()),
    ]
}
