//! The StatefulSet: keeps the pods of a sidecar each of which owns a share of the keys.
//!
//! A pod's number is the last part of its name, which DNS has, and the plans of those that send say which number owns which
//! keys. So the number of pods is part of the plan: it changes by an edit of the Pipeline, and whoever scales the set by
//! hand finds it put back.

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use sidestream_crds::Workload;

use crate::{Of, pod};

/// Revisions of its own that the set keeps: they are to go back by hand, and a plan goes back by the Pipeline.
const REVISIONS_KEPT: i32 = 1;

pub(crate) fn build(of: &Of<'_>, workload: &Workload) -> StatefulSet {
    StatefulSet {
        spec: Some(StatefulSetSpec {
            replicas: workload.replicas,
            selector: pod::selector(of),
            // Gives each pod its name in DNS.
            service_name: Some(of.name()),
            // Nobody needs another to begin or to end.
            pod_management_policy: Some("Parallel".into()),
            // One after the other: there is one owner of a key, and its events wait for it.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    ..RollingUpdateStatefulSetStrategy::default()
                }),
            }),
            revision_history_limit: Some(REVISIONS_KEPT),
            template: pod::template(of),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}
