//! The `Pipeline` resource: what a user writes, and what the operator answers.
//!
//! The stage kinds themselves are structs of `sidestream-plan`; this file adds what joins them. A field enters here
//! when it works: until then it is an unknown key.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidestream_plan::{
    Delivery, Expression, Input, Kind, Latency, OnError, Priority, Process, Sink, Size, Source,
    stage::EdgeTransport,
};

use crate::selector::PodSelector;

/// The most stages a pipeline has.
pub const STAGES_MAX: usize = 64;
/// The most sidecars a pipeline has.
pub const SIDECARS_MAX: usize = 16;
/// The most stages one stage takes events from.
pub const INPUTS_MAX: usize = 16;
/// The longest text anywhere in a resource, in bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 4096;

/// A graph of stages: sources bring events in, processors change them, sinks take them out.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sidestream.dev",
    version = "v1alpha1",
    kind = "Pipeline",
    plural = "pipelines",
    shortname = "spl",
    category = "sidestream",
    namespaced,
    status = "PipelineStatus",
    derive = "PartialEq",
    doc = "A graph of stages: sources bring events in, processors change them, sinks take them out.",
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Stages", "type": "integer", "jsonPath": ".status.stages"}"#,
    printcolumn = r#"{"name": "Sidecars", "type": "integer", "jsonPath": ".status.sidecars"}"#,
    printcolumn = r#"{"name": "Edges", "type": "integer", "jsonPath": ".status.edges"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name": "Plan", "type": "string", "priority": 1, "jsonPath": ".status.plan"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineSpec {
    /// Where the stages run on a cluster. Absent: all of them in one workload that the operator makes. `sidestream run`
    /// runs all of them in its own process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = SIDECARS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub sidecars: Vec<SidecarSpec>,
    /// The stages, in the order data flows: a stage takes input only from stages above it.
    #[schemars(length(min = 1, max = STAGES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub stages: Vec<StageSpec>,
    /// What happens to events a stage cannot handle, for every stage that does not say otherwise: a stage's own `retry`
    /// and `deadLetter` go before these, each for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// How often the result of an event may be there, whatever crashes; AtLeastOnce by default. ExactlyOnce is taken where it can
    /// be proved: dnpipes at both ends, each group read by this pipeline alone, all stages in one sidecar, and between them only
    /// `filter`, `map`, `set`, `unset`, `rename`, `merge`, `parse`, `encode`, `sample` with `by`, and `throttle` with `mode: Block`.
    /// What goes to `deadLetter` comes at least once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// How the workers wait for events; Park by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// `true`, on a cluster: the sources stop, what is in flight drains, and the condition `Drained` says when nothing is
    /// left. The pods stay. `sidestream run` runs it all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// A place where stages run: they share a process, and rings join them. Stages of different sidecars are joined by mTLS
/// edges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.workload) != has(self.inject)",
    "message": "a sidecar has exactly one of `workload` and `inject`",
}]))]
pub struct SidecarSpec {
    /// Its name, unique in the pipeline: lower-case letters, digits and `-`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Pods that the operator makes. A sidecar has this or `inject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Pods of your own. A sidecar has this or `workload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Inject>,
    /// What carries the edges that lead into it; Tcp by default. Either is TLS 1.3 with both ends proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<EdgeTransport>,
}

/// The pods that a sidecar runs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Host {
    /// Made by the operator.
    Workload(Workload),
    /// The user's own.
    Inject(Inject),
}

/// Pods that the operator makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// How many. Absent: one, until `kubectl scale` or an autoscaler says otherwise. A sidecar where stages behind an edge
    /// bring events together must say it. With several pods, each of them owns a share of the keys: another number here
    /// moves keys once their events before have arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// The volume of each pod for what its stages with `overflow: Spill` spill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillVolume>,
}

/// A volume of a pod for what is spilled. It goes with its pod, also where another size has the pods made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpillVolume {
    /// Bytes of spilled events it may have, 16Mi at least: `4Gi`; 32Mi where there is no `spill`. Then the stages before them
    /// wait. The volume is half as large again, and 16Mi.
    pub size: Size,
}

/// Pods of your own, in the namespace of the pipeline, which also have the label `sidestream.dev/inject: enabled`. Each gets
/// one sidecar when it is made, for all pipelines that select it now or later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inject {
    /// Which of them.
    pub pod_selector: PodSelector,
}

/// One stage: a name, where its events come from, and exactly one of `source`, `process` and `sink`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.source) ? 1 : 0) + (has(self.process) ? 1 : 0) + (has(self.sink) ? 1 : 0) == 1",
    "message": "a stage has exactly one of `source`, `process` and `sink`",
}]))]
pub struct StageSpec {
    /// Its name, unique in the pipeline: lower-case letters, digits and `-`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The stages above whose events it takes: `[minute]`. Absent: the stage just above, which must not be a sink. Empty:
    /// none, for a sink that only takes dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = INPUTS_MAX), inner(length(min = 1, max = 63)))]
    pub from: Option<Vec<String>>,
    /// The sidecar it runs in. Absent: that of its first input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub sidecar: Option<String>,
    /// Takes only the events this says yes to: `event.status >= 500`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
    /// `true`: takes only the events that no `when` of another stage with the same input took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<bool>,
    /// Which stages go first when there is not time for all; Normal by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The queue in front of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
    /// What happens to events it cannot handle; `spec.onError` where this is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// Brings events in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Changes events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Takes events out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Sink>,
}

/// What became of a Pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    /// The generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many stages run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = STAGES_MAX))]
    pub stages: Option<i32>,
    /// How many sidecars they run in, of those that `spec.sidecars` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = SIDECARS_MAX))]
    pub sidecars: Option<i32>,
    /// How many edges join the sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = STAGES_MAX * INPUTS_MAX))]
    pub edges: Option<i32>,
    /// The plan that runs: part of the name of the ControllerRevision that keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub plan: Option<String>,
    /// `Accepted`: the spec compiles; where it does not, the plan before goes on running. `ResolvedRefs`: what the
    /// stages name is there. `Ready`: every stage runs. `Drained`: the pipeline is suspended and nothing is in flight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

impl SidecarSpec {
    /// The pods it runs in; none unless exactly one of `workload` and `inject` is there.
    pub fn host(&self) -> Option<Host> {
        match (&self.workload, &self.inject) {
            (Some(workload), None) => Some(Host::Workload(workload.clone())),
            (None, Some(inject)) => Some(Host::Inject(inject.clone())),
            _ => None,
        }
    }
}

impl Host {
    /// Whether the user's pods host it.
    pub fn selector(&self) -> Option<&PodSelector> {
        match self {
            Host::Inject(inject) => Some(&inject.pod_selector),
            Host::Workload(_) => None,
        }
    }

    /// How much each of its pods may spill, where it says so.
    pub fn spill_size(&self) -> Option<Size> {
        match self {
            Host::Workload(workload) => workload.spill.as_ref().map(|volume| volume.size),
            Host::Inject(_) => None,
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host::Workload(Workload::default())
    }
}

impl StageSpec {
    /// A stage that takes events from the stage above it.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        let mut stage = Self { name: name.into(), ..Self::default() };
        match kind {
            Kind::Source(source) => stage.source = Some(source),
            Kind::Process(process) => stage.process = Some(process),
            Kind::Sink(sink) => stage.sink = Some(sink),
        }
        stage
    }

    /// What it does; none unless exactly one of `source`, `process` and `sink` is there.
    pub fn kind(&self) -> Option<Kind> {
        match (&self.source, &self.process, &self.sink) {
            (Some(source), None, None) => Some(Kind::Source(source.clone())),
            (None, Some(process), None) => Some(Kind::Process(process.clone())),
            (None, None, Some(sink)) => Some(Kind::Sink(sink.clone())),
            _ => None,
        }
    }
}

impl Pipeline {
    /// `namespace/name`, the namespace being `default` where none is named.
    pub fn full_name(&self) -> String {
        let namespace = self.metadata.namespace.as_deref().unwrap_or("default");
        format!("{namespace}/{}", self.metadata.name.as_deref().unwrap_or_default())
    }
}
