//! The Deployment: the pods that run a sidecar's part of the pipeline.
//!
//! The plan is not in it: a sidecar is told its plan by the operator, so a new plan restarts nothing. Only what a running
//! pod can't be given makes new pods: another image, another port, a Secret it has not mounted.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
            EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, PodSecurityContext, PodSpec,
            PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile,
            SecretVolumeSource, SecurityContext, ServiceAccountTokenProjection, TopologySpreadConstraint,
            Volume, VolumeMount, VolumeProjection,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use crate::{ANCHORS_KEY, Facts, Of, TRUST_CONFIG_MAP, labels, ports};

/// Whom the container runs as: nobody in particular, and not root.
const USER: i64 = 65532;
/// How long a pod may take to drain. What is in flight after that is replayed by its source, or counted as lost.
const GRACE_SECONDS: i64 = 60;
/// How long a token is good for; the kubelet renews it.
const TOKEN_SECONDS: i64 = 3600;
/// Whom the token is for; it is good for nothing else.
const TOKEN_AUDIENCE: &str = "sidestream.dev";
/// How long a process may take to listen.
const STARTUP_SECONDS_MAX: i32 = 60;

pub(crate) fn build(of: &Of<'_>) -> Deployment {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    let selector = LabelSelector {
        match_labels: Some(labels::selector(pipeline, &of.sidecar.name)),
        ..LabelSelector::default()
    };
    Deployment {
        spec: Some(DeploymentSpec {
            // Unset, it is nobody's: `kubectl scale` and autoscalers own it.
            replicas: of.sidecar.workload.replicas,
            selector: selector.clone(),
            // The new pod works before the old one goes.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels::of_sidecar(pipeline, &of.sidecar.name)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(of, selector)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod(of: &Of<'_>, selector: LabelSelector) -> PodSpec {
    let storage = storage(of);
    let (volumes, mounts) = storage.into_iter().unzip();
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
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(selector),
            ..TopologySpreadConstraint::default()
        }]),
        containers: vec![container(of, mounts)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn container(of: &Of<'_>, mounts: Vec<VolumeMount>) -> Container {
    let Facts { sidecar_image, image_pull_policy, operator, operator_id } = of.facts;
    let port = |name: &str, number| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let mut all = vec![port(ports::EDGE_NAME, ports::EDGE), port(ports::METRICS_NAME, ports::METRICS)];
    all.extend(
        ports::of_stages(&of.sidecar.plan)
            .into_iter()
            .map(|number| port(&ports::name_of_stages(number), number)),
    );
    Container {
        name: "sidestream".into(),
        image: Some(sidecar_image.clone()),
        image_pull_policy: image_pull_policy.clone(),
        env: Some(vec![
            of_pod("POD_NAME", "metadata.name"),
            of_pod("POD_NAMESPACE", "metadata.namespace"),
            of_pod("POD_IP", "status.podIP"),
            variable("SIDESTREAM_OPERATOR", operator),
            variable("SIDESTREAM_OPERATOR_ID", operator_id),
        ]),
        ports: Some(all),
        resources: Some(ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".into(), Quantity("10m".into())),
                ("memory".into(), Quantity("32Mi".into())),
            ])),
            ..ResourceRequirements::default()
        }),
        startup_probe: Some(Probe { failure_threshold: Some(STARTUP_SECONDS_MAX), ..probe("/livez", 1) }),
        liveness_probe: Some(Probe { failure_threshold: Some(3), ..probe("/livez", 10) }),
        readiness_probe: Some(Probe { failure_threshold: Some(2), ..probe("/readyz", 1) }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// The volumes, each with where it is mounted.
fn storage(of: &Of<'_>) -> Vec<(Volume, VolumeMount)> {
    let token = ProjectedVolumeSource {
        default_mode: Some(0o440),
        sources: Some(vec![VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                audience: Some(TOKEN_AUDIENCE.into()),
                expiration_seconds: Some(TOKEN_SECONDS),
                path: "token".into(),
            }),
            ..VolumeProjection::default()
        }]),
    };
    let trust = ConfigMapVolumeSource {
        name: TRUST_CONFIG_MAP.into(),
        items: Some(vec![file(ANCHORS_KEY)]),
        ..ConfigMapVolumeSource::default()
    };
    // Key and certificate: in memory, and there for a container that is restarted.
    let identity =
        EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(Quantity("1Mi".into())) };
    // The last plan: a container that is restarted needs nobody.
    let cache =
        EmptyDirVolumeSource { size_limit: Some(Quantity("64Mi".into())), ..EmptyDirVolumeSource::default() };
    let mut all = vec![
        mounted(Volume { projected: Some(token), ..volume("token") }, "/var/run/sidestream/token", true),
        mounted(Volume { config_map: Some(trust), ..volume("trust") }, "/var/run/sidestream/trust", true),
        mounted(
            Volume { empty_dir: Some(identity), ..volume("identity") },
            "/var/run/sidestream/identity",
            false,
        ),
        mounted(Volume { empty_dir: Some(cache), ..volume("cache") }, "/var/cache/sidestream", false),
    ];
    for (index, (name, keys)) in of.sidecar.plan.secrets().into_iter().enumerate() {
        let path = format!("/var/run/sidestream/secrets/{name}");
        let secret = SecretVolumeSource {
            secret_name: Some(name),
            items: Some(keys.iter().map(|key| file(key)).collect()),
            default_mode: Some(0o440),
            // A missing one is the business of the stage that wants it, which says so and takes it when it comes.
            optional: Some(true),
        };
        all.push(mounted(Volume { secret: Some(secret), ..volume(&format!("secret-{index}")) }, &path, true));
    }
    all
}

fn mounted(volume: Volume, path: &str, is_read_only: bool) -> (Volume, VolumeMount) {
    let mount = VolumeMount {
        name: volume.name.clone(),
        mount_path: path.into(),
        read_only: is_read_only.then_some(true),
        ..VolumeMount::default()
    };
    (volume, mount)
}

fn volume(name: &str) -> Volume {
    Volume { name: name.into(), ..Volume::default() }
}

fn file(key: &str) -> KeyToPath {
    KeyToPath { key: key.into(), path: key.into(), mode: None }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), ..EnvVar::default() }
}

/// A variable that has a field of the pod.
fn of_pod(name: &str, field: &str) -> EnvVar {
    let field_ref = Some(ObjectFieldSelector { field_path: field.into(), api_version: Some("v1".into()) });
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource { field_ref, ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

fn probe(path: &str, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(ports::METRICS_NAME.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(1),
        ..Probe::default()
    }
}
