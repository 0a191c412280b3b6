//! The PodDisruptionBudget: one pod at a time goes when a node is drained.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::{Of, labels};

pub(crate) fn build(of: &Of<'_>) -> PodDisruptionBudget {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    PodDisruptionBudget {
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(labels::selector(pipeline, &of.sidecar.name)),
                ..LabelSelector::default()
            }),
            // A pod that does not work must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
