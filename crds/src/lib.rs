//! The language: what a user may write, and what it means.
//!
//! [`compile`] turns text into plans that a sidecar runs, and into everything that is wrong with it; [`Pipeline`] and
//! [`Dnpipe`] are the resources themselves, for those who build them in code or read them from a cluster. The stage kinds are
//! structs of `sidestream-plan`.
//!
//! This crate does no I/O and knows no room of the sidecar.

mod compile;
mod crd;
mod diagnostic;
mod dnpipe;
mod path;
mod pipeline;
mod reference;
mod selector;
mod structure;
mod suggest;
mod yaml;

pub use compile::{
    Compiled, CompiledDnpipe, CompiledPipeline, SidecarPlan, compile, compile_dnpipe, compile_pipeline,
    compile_resource, names, with_leaving,
};
pub use crd::{
    dnpipe_crd, dnpipe_crd_yaml, dnpipe_schema_json, pipeline_crd, pipeline_crd_yaml, pipeline_schema_json,
};
pub use diagnostic::{Code, Diagnostic, FileCode, Place, Severity};
pub use dnpipe::{Dedupe, Dnpipe, DnpipeSpec, DnpipeStatus, Encryption, Reclaim, SERVERS_MAX, Storage};
pub use path::{Path, Step};
pub use pipeline::{
    Host, INPUTS_MAX, Inject, Pipeline, PipelineSpec, PipelineStatus, SIDECARS_MAX, STAGES_MAX, SidecarSpec,
    SpillVolume, StageSpec, TEXT_BYTES_MAX, Workload,
};
pub use reference::{diagnostics_page, dnpipe_page, pipeline_page};
pub use selector::{Operator, PodSelector, Requirement};
pub use yaml::{documents, to_yaml};

/// Every file that is generated from the types, by its path in the repository.
pub fn generated() -> [(&'static str, String); 8] {
    [
        ("crds/dnpipes.schema.json", dnpipe_schema_json()),
        ("crds/dnpipes.yaml", dnpipe_crd_yaml()),
        ("docs/reference/dnpipe.md", dnpipe_page()),
        ("crds/pipelines.schema.json", pipeline_schema_json()),
        ("crds/pipelines.yaml", pipeline_crd_yaml()),
        ("docs/reference/pipeline.md", pipeline_page()),
        ("docs/reference/expressions.md", sidestream_expr::expressions_page()),
        ("docs/reference/diagnostics.md", diagnostics_page()),
    ]
}
