//! The ControllerRevision: an accepted plan, kept, so that the last good one goes on running through bad edits and
//! restarts of the operator, and can be gone back to.
//!
//! Its name is that of its content. It is immutable: the API server refuses a change of `data`.

use k8s_openapi::{
    api::apps::v1::ControllerRevision, apimachinery::pkg::apis::meta::v1::ObjectMeta,
    apimachinery::pkg::runtime::RawExtension,
};
use kube::{Resource, core::DynamicObject};
use serde_json::{Value, json};
use sidestream_crds::{Pipeline, SidecarPlan};
use sidestream_plan::Plan;

use crate::{labels, object};

/// How many are kept of a pipeline.
pub const REVISIONS_KEPT: usize = 3;

/// The revision that keeps `sidecars`. `number` grows: the largest is the one that runs.
pub fn revision(pipeline: &Pipeline, sidecars: &[SidecarPlan], number: i64) -> DynamicObject {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    object::seal(&ControllerRevision {
        metadata: ObjectMeta {
            name: Some(revision_name(name, &hash(sidecars))),
            namespace: pipeline.metadata.namespace.clone(),
            labels: Some(labels::of_pipeline(name)),
            owner_references: pipeline.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({ "sidecars": sidecars }))),
        revision: number,
    })
}

/// The name of the revision whose content has this [`hash`]: `latency-watch-3b0c44298fc1c149-spl`.
pub fn revision_name(pipeline: &str, hash: &str) -> String {
    format!("{pipeline}-{hash}-spl")
}

/// What a revision keeps; none where this program does not understand it.
pub fn read_revision(revision: &ControllerRevision) -> Option<Vec<SidecarPlan>> {
    let sidecars = revision.data.as_ref()?.0.get("sidecars")?;
    serde_json::from_value(sidecars.clone()).ok()
}

/// The name of the content of all plans of a pipeline.
pub fn hash(sidecars: &[SidecarPlan]) -> String {
    object::short_hash(&json!(sidecars))
}

/// The name of the content of one plan.
pub fn plan_hash(plan: &Plan) -> String {
    object::short_hash(&serde_json::to_value(plan).unwrap_or(Value::Null))
}
