//! Which sidecars of a pipeline are joined: an edge has the same name at both of its ends.

use sidestream_crds::SidecarPlan;
use sidestream_plan::{
    Kind, Plan, Sink, Source,
    stage::{EdgeSink, EdgeSource, EdgeTransport},
};

/// Whether an edge leads into `plan`.
pub fn receives(plan: &Plan) -> bool {
    edges_in(plan).next().is_some()
}

/// Whether an edge leads from `sender` to `receiver`.
pub fn sends(sender: &SidecarPlan, receiver: &SidecarPlan) -> bool {
    edges_in(&receiver.plan).any(|edge| edges_out(&sender.plan).any(|other| other == edge))
}

/// Whether pods of `receiver` each own a share of the keys of what some of `all` send to it.
pub fn is_keyed(receiver: &SidecarPlan, all: &[SidecarPlan]) -> bool {
    into(receiver, all).any(|edge| edge.slots.is_some())
}

/// Whether an edge that leads into `receiver` is carried by QUIC.
pub(crate) fn is_called_by_quic(receiver: &SidecarPlan, all: &[SidecarPlan]) -> bool {
    into(receiver, all).any(|edge| edge.transport == EdgeTransport::Quic)
}

/// The sending ends of the edges that lead into `receiver`.
fn into<'a>(receiver: &'a SidecarPlan, all: &'a [SidecarPlan]) -> impl Iterator<Item = &'a EdgeSink> {
    let sinks = all.iter().flat_map(|other| edge_sinks(&other.plan));
    sinks.filter(|sink| edges_in(&receiver.plan).any(|edge| edge == sink.edge))
}

/// The names of the edges that lead into `plan`.
pub fn edges_in(plan: &Plan) -> impl Iterator<Item = &str> {
    let arrives = |kind: &Kind| matches!(kind, Kind::Source(Source::Edge(_)));
    plan.stages.iter().filter(move |stage| arrives(&stage.kind)).map(|stage| stage.name.as_str())
}

/// The names of the edges that lead out of `plan`.
pub fn edges_out(plan: &Plan) -> impl Iterator<Item = &str> {
    let leaves = |kind: &Kind| matches!(kind, Kind::Sink(Sink::Edge(_)));
    plan.stages.iter().filter(move |stage| leaves(&stage.kind)).map(|stage| stage.name.as_str())
}

/// The receiving ends in `plan`.
pub fn edge_sources(plan: &Plan) -> impl Iterator<Item = &EdgeSource> {
    plan.stages.iter().filter_map(|stage| match &stage.kind {
        Kind::Source(Source::Edge(source)) => Some(source),
        _ => None,
    })
}

/// The sending ends in `plan`.
pub fn edge_sinks(plan: &Plan) -> impl Iterator<Item = &EdgeSink> {
    plan.stages.iter().filter_map(|stage| match &stage.kind {
        Kind::Sink(Sink::Edge(sink)) => Some(sink),
        _ => None,
    })
}
