//! The Deployment: keeps the pods of a sidecar of which any may take any event.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};
use sidestream_crds::Workload;

use crate::{Of, pod};

pub(crate) fn build(of: &Of<'_>, workload: &Workload) -> Deployment {
    Deployment {
        spec: Some(DeploymentSpec {
            // Unset, it is nobody's: `kubectl scale` and autoscalers own it.
            replicas: workload.replicas,
            selector: pod::selector(of),
            // The new pod works before the old one goes.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: pod::template(of),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}
