//! The pods that run a sidecar's part of the pipeline, whoever keeps their number.
//!
//! The plan is not in them: a sidecar is told its plan by the operator, so a new plan restarts nothing. Only what a running
//! pod can't be given makes new pods: another image, another port, a Secret it has not mounted.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, Lifecycle, LifecycleHandler, PodSecurityContext, PodSpec, PodTemplateSpec, SleepAction,
        TopologySpreadConstraint, VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use sidestream_crds::SidecarPlan;
use sidestream_plan::stage::PodSpill;

use crate::{
    Of,
    container::{self, Storage, USER, port, udp_port},
    edges::sends,
    labels, ports,
};

/// How long a pod may take to drain. What is in flight after that is replayed by its source, or counted as lost.
const GRACE_SECONDS: i64 = 60;
/// How much longer than those that send to it a sidecar goes on when all of them are told to end: as long as it takes to
/// deliver what is in flight where nothing is in the way.
const OUTLIVE_SECONDS: i64 = 2;
/// All that is in such a pod is its sidecar's.
const STORAGE: Storage = Storage { prefix: "", mode: 0o440, is_trust_optional: false };

/// What selects them.
pub(crate) fn selector(of: &Of<'_>) -> LabelSelector {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    LabelSelector {
        match_labels: Some(labels::selector(pipeline, &of.sidecar.name)),
        ..LabelSelector::default()
    }
}

/// What each is made of.
pub(crate) fn template(of: &Of<'_>) -> PodTemplateSpec {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::of_sidecar(pipeline, &of.sidecar.name)),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(of, selector(of))),
    }
}

fn pod(of: &Of<'_>, selector: LabelSelector) -> PodSpec {
    let (volumes, mounts) = STORAGE.volumes(of.sidecar.plan.secrets(), spill(of)).into_iter().unzip();
    PodSpec {
        service_account_name: Some(of.name()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(container::seccomp()),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(selector),
            ..TopologySpreadConstraint::default()
        }]),
        containers: vec![only_container(of, mounts)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn only_container(of: &Of<'_>, mounts: Vec<VolumeMount>) -> Container {
    let mut all = vec![
        port(ports::EDGE_NAME, ports::EDGE),
        udp_port(ports::QUIC_NAME, ports::EDGE),
        port(ports::METRICS_NAME, ports::METRICS),
    ];
    all.extend(
        ports::of_stages(&of.sidecar.plan)
            .into_iter()
            .map(|number| port(&ports::name_of_stages(number), number)),
    );
    let mut container = container::alone(of.facts, "10m", "32Mi");
    container.env.get_or_insert_default().extend(container::spill_variable(spill(of)));
    Container { ports: Some(all), lifecycle: outlive(of), volume_mounts: Some(mounts), ..container }
}

/// How much it may spill.
fn spill(of: &Of<'_>) -> PodSpill {
    // What is too small has not been compiled.
    let size = of.sidecar.host.spill_size().and_then(|size| PodSpill::new(size).ok());
    size.unwrap_or(PodSpill::DEFAULT)
}

/// Whoever deletes a pipeline deletes all of its pods at once. One that receives is told so later than those that send to
/// it, and those that send to them: until then it takes what they have in flight.
fn outlive(of: &Of<'_>) -> Option<Lifecycle> {
    let depth = depths(of.sidecars).get(of.sidecar.name.as_str()).copied().unwrap_or_default();
    (depth > 0).then(|| Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction { seconds: depth * OUTLIVE_SECONDS }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    })
}

/// How many sidecars events pass at most before they come to each. Of two that send to each other neither comes first.
fn depths(sidecars: &[SidecarPlan]) -> BTreeMap<&str, i64> {
    let mut depths: BTreeMap<&str, i64> = sidecars.iter().map(|own| (own.name.as_str(), 0)).collect();
    // As many rounds as the longest way can have steps.
    for _ in sidecars {
        for own in sidecars {
            let senders = sidecars.iter().filter(|other| sends(other, own) && !sends(own, other));
            let before = senders.map(|sender| depths[sender.name.as_str()] + 1).max().unwrap_or_default();
            let most = i64::try_from(sidecars.len()).unwrap_or_default() - 1;
            depths.insert(&own.name, before.min(most));
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use sidestream_crds::compile;

    use super::*;

    fn sidecars(edges: &str) -> Vec<SidecarPlan> {
        let text = format!(
            "kind: Pipeline\nmetadata: {{name: p}}\nspec:\n  sidecars: [{{name: a, workload: {{}}}}, {{name: b, workload: {{}}}}, {{name: c, workload: {{}}}}]\n  stages:\n{edges}"
        );
        let compiled = compile(text.as_bytes(), "p");
        assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
        compiled.pipelines.into_iter().next().unwrap().sidecars
    }

    #[test]
    fn a_sidecar_outlives_those_that_send_to_it_wherever_it_is_written() {
        let chain = sidecars(
            "  - {name: tick, sidecar: c, source: {generator: {}}}\n  \
               - {name: all, sidecar: a, process: {filter: {keep: 'true'}}}\n  \
               - {name: show, sidecar: b, sink: {console: {}}}\n",
        );
        assert_eq!(depths(&chain), [("c", 0), ("a", 1), ("b", 2)].into());
        let there_and_back = sidecars(
            "  - {name: tick, sidecar: a, source: {generator: {}}}\n  \
               - {name: all, sidecar: b, process: {filter: {keep: 'true'}}}\n  \
               - {name: back, sidecar: a, process: {filter: {keep: 'true'}}}\n  \
               - {name: show, sidecar: c, sink: {console: {}}}\n",
        );
        assert_eq!(depths(&there_and_back), [("a", 0), ("b", 0), ("c", 1)].into());
    }
}
