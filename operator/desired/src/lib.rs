//! The Kubernetes objects that run a Pipeline, and those that serve a [`pool`] of dnpipes: pure, from resource to YAML.
//!
//! ```text
//! Pipeline, its SidecarPlans, Facts ──▶ for each sidecar, in the order they are applied:
//!     Service         first: a name that does not exist yet is remembered as absent by DNS
//!     ServiceAccount  whom the pods run as, hence their SPIFFE ID
//!     NetworkPolicy   who may connect
//!     PodDisruptionBudget
//!     Deployment      last: it needs the others; a StatefulSet where each pod owns a share of the keys
//!
//! of a sidecar in the user's own pods only the Service, where an edge leads into it
//! ```
//!
//! A file for each kind of object. Everything here is a function of its arguments: the same resource gives the same
//! bytes, so what is applied can be compared, printed and checked in (`cases/`). Nothing here asks the cluster anything.

mod account;
mod accounts;
mod anchors;
mod budget;
mod container;
mod deployment;
mod edges;
mod object;
mod pod;
mod policy;
mod quantity;
mod revision;
mod service;
mod stateful_set;

pub mod inject;
pub mod labels;
pub mod pool;
pub mod ports;

use kube::core::DynamicObject;
use sidestream_crds::{Host, Pipeline, SidecarPlan};

pub use accounts::{with_accounts, with_senders};
pub use anchors::{ANCHORS_KEY, ROTATION, TRUST_CONFIG_MAP, anchors};
pub use container::{CONTAINER, Secrets};
pub use edges::{edge_sinks, edge_sources, edges_in, edges_out, is_keyed, receives, sends};
pub use object::{applied_hash, is_contained};
pub use pool::{Claim, Pool, dnpipe_hash, homes, pool_objects};
pub use revision::{REVISIONS_KEPT, hash, plan_hash, read_revision, revision, revision_name};

/// Who applies: the field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "sidestream-operator";

/// What the objects say about the world around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The image of the sidecar: `sidestream.dev/sidecar:0.1.0`.
    pub sidecar_image: String,
    /// `Always`, `IfNotPresent` or `Never`; absent: what Kubernetes makes of the image's tag.
    pub image_pull_policy: Option<String>,
    /// Where the operator's control server is: `sidestream-operator.sidestream-system.svc:9443`.
    pub operator: String,
    /// Who the operator is: `spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator`.
    pub operator_id: String,
}

/// Everything that runs `sidecar`, one of `sidecars`, the parts of `pipeline`; in the order it is to be applied.
///
/// The objects name `pipeline` as their owner, so it must have a `uid`: it comes from an API server.
pub fn objects(
    pipeline: &Pipeline,
    sidecar: &SidecarPlan,
    sidecars: &[SidecarPlan],
    facts: &Facts,
) -> Vec<DynamicObject> {
    let of = Of { pipeline, sidecar, sidecars, facts };
    match &sidecar.host {
        Host::Workload(workload) => vec![
            object::finish(service::build(&of), &of),
            object::finish(account::build(&of), &of),
            object::finish(policy::build(&of), &of),
            object::finish(budget::build(&of), &of),
            match is_keyed(sidecar, sidecars) {
                true => object::finish(stateful_set::build(&of, workload), &of),
                false => object::finish(deployment::build(&of, workload), &of),
            },
        ],
        // Nothing that would say how the user's pods are scaled, disrupted or reached.
        Host::Inject(_) if !receives(&sidecar.plan) => vec![],
        Host::Inject(inject) => vec![object::finish(service::of_injected(&of, &inject.pod_selector), &of)],
    }
}

/// What keeps the pods of `sidecar`, one of `sidecars`, of which the operator makes: a kind of object.
pub fn workload_kind(sidecar: &SidecarPlan, sidecars: &[SidecarPlan]) -> &'static str {
    if is_keyed(sidecar, sidecars) { "StatefulSet" } else { "Deployment" }
}

/// What an object is made of.
struct Of<'a> {
    pipeline: &'a Pipeline,
    sidecar: &'a SidecarPlan,
    /// All of the pipeline, `sidecar` among them.
    sidecars: &'a [SidecarPlan],
    facts: &'a Facts,
}

impl Of<'_> {
    /// What every object of this sidecar is called.
    fn name(&self) -> String {
        let pipeline = self.pipeline.metadata.name.as_deref().unwrap_or_default();
        sidestream_crds::names::object(pipeline, &self.sidecar.name)
    }
}
