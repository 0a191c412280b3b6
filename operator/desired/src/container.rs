//! The sidecar's container and what it mounts: what is the same in pods that the operator makes and in pods of the user's.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
        EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, Probe, ProjectedVolumeSource,
        ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext,
        ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use sidestream_plan::stage::PodSpill;

use crate::{ANCHORS_KEY, Facts, TRUST_CONFIG_MAP, ports};

/// Its name.
pub const CONTAINER: &str = "sidestream";
/// Whom the container runs as: nobody in particular, and not root.
pub(crate) const USER: i64 = 65532;
/// How long a process may take to listen.
pub(crate) const STARTUP_SECONDS_MAX: i32 = 60;

/// How long a token is good for; the kubelet renews it.
const TOKEN_SECONDS: i64 = 3600;
/// Whom the token is for; it is good for nothing else.
const TOKEN_AUDIENCE: &str = "sidestream.dev";

/// Secrets by name, each with the keys that are wanted of it.
pub type Secrets = BTreeMap<String, BTreeSet<String>>;

/// How the volumes are in a pod.
pub(crate) struct Storage {
    /// What their names begin with.
    pub(crate) prefix: &'static str,
    /// Who may read the files.
    pub(crate) mode: i32,
    /// Whether the pod starts without the roots to trust: the sidecar waits for them, and nobody else.
    pub(crate) is_trust_optional: bool,
}

/// What the process is told.
pub(crate) fn variables(facts: &Facts) -> Vec<EnvVar> {
    vec![
        of_pod("POD_NAME", "metadata.name"),
        of_pod("POD_NAMESPACE", "metadata.namespace"),
        of_pod("POD_IP", "status.podIP"),
        of_pod("NODE_NAME", "spec.nodeName"),
        variable("SIDESTREAM_OPERATOR", &facts.operator),
        variable("SIDESTREAM_OPERATOR_ID", &facts.operator_id),
    ]
}

/// What the process is told of how much it may spill, where that is not the usual.
pub(crate) fn spill_variable(spill: PodSpill) -> Option<EnvVar> {
    (spill != PodSpill::DEFAULT).then(|| variable("SIDESTREAM_SPILL_MAX", &spill.spilled().to_string()))
}

/// The container of a pod that the operator makes, which has no other: without ports and mounts. `cpu` and `memory` are what
/// it asks for.
pub(crate) fn alone(facts: &Facts, cpu: &str, memory: &str) -> Container {
    let requests = [("cpu", cpu), ("memory", memory)];
    let requests = requests.map(|(what, amount)| (what.to_owned(), Quantity(amount.to_owned())));
    Container {
        name: CONTAINER.into(),
        image: Some(facts.sidecar_image.clone()),
        image_pull_policy: facts.image_pull_policy.clone(),
        env: Some(variables(facts)),
        resources: Some(ResourceRequirements {
            requests: Some(requests.into()),
            ..ResourceRequirements::default()
        }),
        startup_probe: Some(startup(own_port())),
        liveness_probe: Some(Probe { failure_threshold: Some(3), ..probe("/livez", own_port(), 10) }),
        readiness_probe: Some(Probe { failure_threshold: Some(2), ..probe("/readyz", own_port(), 1) }),
        security_context: Some(security()),
        ..Container::default()
    }
}

/// What it may do: nothing that the restricted Pod Security standard forbids.
pub(crate) fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
        ..SecurityContext::default()
    }
}

/// The system calls it may make.
pub(crate) fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }
}

/// A port of the container.
pub(crate) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

/// A port of the container for UDP.
pub(crate) fn udp_port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { protocol: Some("UDP".into()), ..port(name, number) }
}

/// Asks the process at `path`.
pub(crate) fn probe(path: &str, port: IntOrString, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction { path: Some(path.into()), port, ..HTTPGetAction::default() }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(1),
        ..Probe::default()
    }
}

/// That the process listens; the first answer is what starting waits for.
pub(crate) fn startup(port: IntOrString) -> Probe {
    Probe { failure_threshold: Some(STARTUP_SECONDS_MAX), ..probe("/livez", port, 1) }
}

/// That the process listens, on the named port of a pod of ours.
pub(crate) fn own_port() -> IntOrString {
    IntOrString::String(ports::METRICS_NAME.into())
}

impl Storage {
    /// The volumes, each with where it is mounted.
    pub(crate) fn volumes(&self, secrets: Secrets, spill: PodSpill) -> Vec<(Volume, VolumeMount)> {
        let token = ProjectedVolumeSource {
            default_mode: Some(self.mode),
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
            optional: self.is_trust_optional.then_some(true),
            ..ConfigMapVolumeSource::default()
        };
        // Key and certificate: in memory, and there for a container that is restarted.
        let identity =
            EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(Quantity("1Mi".into())) };
        // The last plan, with which a container that is restarted needs nobody, and what is spilled.
        let cache = EmptyDirVolumeSource {
            size_limit: Some(Quantity(spill.volume().to_string())),
            ..EmptyDirVolumeSource::default()
        };
        let run = "/var/run/sidestream";
        let mut all = vec![
            mounted(Volume { projected: Some(token), ..self.volume("token") }, &format!("{run}/token"), true),
            mounted(
                Volume { config_map: Some(trust), ..self.volume("trust") },
                &format!("{run}/trust"),
                true,
            ),
            mounted(
                Volume { empty_dir: Some(identity), ..self.volume("identity") },
                &format!("{run}/identity"),
                false,
            ),
            mounted(
                Volume { empty_dir: Some(cache), ..self.volume("cache") },
                "/var/cache/sidestream",
                false,
            ),
        ];
        for (index, (name, keys)) in secrets.into_iter().enumerate() {
            let path = format!("{run}/secrets/{name}");
            let secret = SecretVolumeSource {
                secret_name: Some(name),
                items: Some(keys.iter().map(|key| file(key)).collect()),
                default_mode: Some(self.mode),
                // A missing one is the business of the stage that wants it, which says so and takes it when it comes.
                optional: Some(true),
            };
            let volume = Volume { secret: Some(secret), ..self.volume(&format!("secret-{index}")) };
            all.push(mounted(volume, &path, true));
        }
        all
    }

    fn volume(&self, name: &str) -> Volume {
        Volume { name: format!("{}{name}", self.prefix), ..Volume::default() }
    }
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

fn file(key: &str) -> KeyToPath {
    KeyToPath { key: key.into(), path: key.into(), mode: None }
}

pub(crate) fn variable(name: &str, value: &str) -> EnvVar {
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
