//! The StatefulSet of a pool: its servers, each with a volume of its own that outlives it.
//!
//! Which dnpipes there are is not in it: a server is told by the operator, so another dnpipe restarts nothing, but for the first
//! that names some Secret: a pod has the Secrets that it began with.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
            StatefulSetUpdateStrategy,
        },
        core::v1::{
            Container, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec,
            PodTemplateSpec, VolumeMount, VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use sidestream_plan::stage::PodSpill;

use super::Pool;
use crate::{
    Facts,
    container::{self, Secrets, Storage, USER, port, variable},
    labels, ports,
};

/// The name of the volume, and of the claim for it.
pub(crate) const VOLUME: &str = "data";
/// Where it is mounted.
const DATA: &str = "/var/lib/sidestream";
/// How long a server may take to answer what it was asked. What is not answered after that was not promised.
const GRACE_SECONDS: i64 = 30;
/// As [`crate::pod`] has them.
const STORAGE: Storage = Storage { prefix: "", mode: 0o440, is_trust_optional: false };

pub(super) fn build(pool: &Pool<'_>, facts: &Facts) -> StatefulSet {
    let keep = || Some("Retain".to_owned());
    StatefulSet {
        spec: Some(StatefulSetSpec {
            replicas: Some(i32::try_from(pool.servers).unwrap_or(i32::MAX)),
            selector: pool.selector(),
            service_name: Some(pool.object_name()),
            // Nobody needs another to begin, and one that cannot begin must not keep it from being mended.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(1),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: keep(),
                when_scaled: keep(),
            }),
            volume_claim_templates: Some(vec![claim(pool)]),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels::of_pool(pool.name)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(pool, facts)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim(pool: &Pool<'_>) -> PersistentVolumeClaim {
    let size = BTreeMap::from([("storage".to_owned(), Quantity(pool.claim.size.clone()))]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME.into()),
            // Whoever looks for what a pool has left finds it by them.
            labels: Some(labels::of_pool(pool.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: pool.claim.class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(size),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn pod(pool: &Pool<'_>, facts: &Facts) -> PodSpec {
    let (volumes, mounts): (Vec<_>, Vec<VolumeMount>) =
        STORAGE.volumes(secrets(pool), PodSpill::DEFAULT).into_iter().unzip();
    PodSpec {
        service_account_name: Some(pool.object_name()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // A volume of many segments is not walked again at every start.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(container::seccomp()),
            ..PodSecurityContext::default()
        }),
        containers: vec![only_container(facts, mounts)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// The Secrets with the keys that encrypted members name.
fn secrets(pool: &Pool<'_>) -> Secrets {
    let mut secrets = Secrets::new();
    for key in pool.members.iter().filter_map(|member| member.encryption.as_ref()) {
        secrets.entry(key.name.clone()).or_default().insert(key.key.clone());
    }
    secrets
}

fn only_container(facts: &Facts, mut mounts: Vec<VolumeMount>) -> Container {
    mounts.push(VolumeMount { name: VOLUME.into(), mount_path: DATA.into(), ..VolumeMount::default() });
    let mut container = container::alone(facts, "50m", "128Mi");
    container.env.get_or_insert_default().extend([
        variable("SIDESTREAM_DATA_DIR", DATA),
        variable("SIDESTREAM_DNPIPES", &format!("0.0.0.0:{}", ports::DNPIPES)),
    ]);
    Container {
        ports: Some(vec![
            port(ports::DNPIPES_NAME, ports::DNPIPES),
            port(ports::METRICS_NAME, ports::METRICS),
        ]),
        volume_mounts: Some(mounts),
        ..container
    }
}
