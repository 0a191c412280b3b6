//! Which sidecars of a pipeline are joined: an edge has the same name at both of its ends.

use sidestream_crds::SidecarPlan;
use sidestream_plan::{Kind, Plan, Sink, Source};

/// Whether an edge leads into `plan`.
pub fn receives(plan: &Plan) -> bool {
    arriving(plan).next().is_some()
}

/// Whether an edge leads from `sender` to `receiver`.
pub fn sends(sender: &SidecarPlan, receiver: &SidecarPlan) -> bool {
    arriving(&receiver.plan).any(|edge| leaving(&sender.plan).any(|other| other == edge))
}

/// The names of the edges that lead into `plan`.
fn arriving(plan: &Plan) -> impl Iterator<Item = &str> {
    let arrives = |kind: &Kind| matches!(kind, Kind::Source(Source::Edge(_)));
    plan.stages.iter().filter(move |stage| arrives(&stage.kind)).map(|stage| stage.name.as_str())
}

/// The names of the edges that lead out of `plan`.
fn leaving(plan: &Plan) -> impl Iterator<Item = &str> {
    let leaves = |kind: &Kind| matches!(kind, Kind::Sink(Sink::Edge(_)));
    plan.stages.iter().filter(move |stage| leaves(&stage.kind)).map(|stage| stage.name.as_str())
}
