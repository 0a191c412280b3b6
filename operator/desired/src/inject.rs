//! Injection: a pod of the user's, and the same pod with a sidecar. Pure: the webhook and `sidestream inject` give the same.
//!
//! ```text
//! pod (label sidestream.dev/inject: enabled) ── injection ──▶ one container, first of the init containers
//!                                                 │           its volumes
//!                                                 └─ or a refusal that says why
//! ```
//!
//! It adds, and changes nothing that is there: no container, label, annotation, probe or grace period of the user's. The
//! container is a native sidecar (an init container that is always restarted): first up, last down. It has a start-up
//! probe, since the next container waits for it, which passes as soon as the process listens; it has no other, because a
//! sidecar that is not ready, or is restarted for being slow, would take the app out of its Services. Containers that mount the
//! volume [`SOCKET_VOLUME`] find the way to dnpipes there, as whom the pod runs as; in other pods there is none.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, ResourceRequirements, SecurityContext},
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use serde_json::{Value, json};
use sidestream_crds::SidecarPlan;
use sidestream_plan::{Size, stage::PodSpill};

use crate::{
    Facts,
    container::{self, CONTAINER, Secrets, Storage, USER, port, udp_port},
    labels, ports, quantity,
};

mod manifest;
mod refusal;
mod socket;

pub use manifest::into_manifest;
pub use refusal::Refusal;
pub use socket::{SOCKET_FILE, SOCKET_VOLUME};

/// Among the user's volumes and with the user's file group, if any.
const STORAGE: Storage = Storage { prefix: "sidestream-", mode: 0o444, is_trust_optional: true };
/// What the volumes of Secrets are called, before their number.
const SECRET_PREFIX: &str = "sidestream-secret-";
/// What Kubernetes gives a pod that does not say how long it may take to end.
const GRACE_SECONDS_DEFAULT: i64 = 30;
/// How much earlier than its pod the sidecar is at its end.
const GRACE_SECONDS_SPARE: i64 = 5;

/// What is added to a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    container: Value,
    volumes: Vec<Value>,
}

/// Whether a pod with these labels asks for a sidecar.
pub fn is_wanted(labels: &BTreeMap<String, String>) -> bool {
    labels.get(labels::INJECT).is_some_and(|value| value == labels::INJECT_ENABLED)
}

/// Whether `spec`, of a pod, has a sidecar.
pub fn has_sidecar(spec: &Value) -> bool {
    list(spec, "initContainers").any(is_sidecar)
}

/// The sidecar of a pipeline, of all its `sidecars`, that runs in pods with these labels: the first that selects them.
pub fn hosted<'a>(
    labels: &BTreeMap<String, String>,
    sidecars: impl IntoIterator<Item = &'a SidecarPlan>,
) -> Option<&'a SidecarPlan> {
    let selects = |own: &&SidecarPlan| own.host.selector().is_some_and(|selector| selector.matches(labels));
    sidecars.into_iter().find(selects)
}

/// The Secrets that `pipelines`, the sidecars of each, name for a pod with these labels.
pub fn secrets_of<'a>(
    labels: &BTreeMap<String, String>,
    pipelines: impl IntoIterator<Item = &'a [SidecarPlan]>,
) -> Secrets {
    let mut secrets = Secrets::new();
    for own in pipelines.into_iter().filter_map(|sidecars| hosted(labels, sidecars)) {
        for (name, keys) in own.plan.secrets() {
            secrets.entry(name).or_default().extend(keys);
        }
    }
    secrets
}

/// The Secrets of `spec`, of a pod, that its sidecar has mounted.
pub fn mounted_secrets(spec: &Value) -> Secrets {
    let volumes = list(spec, "volumes")
        .filter(|volume| volume["name"].as_str().is_some_and(|name| name.starts_with(SECRET_PREFIX)));
    volumes
        .filter_map(|volume| {
            let secret = &volume["secret"];
            let keys = list(secret, "items").filter_map(|item| item["key"].as_str().map(str::to_owned));
            Some((secret["secretName"].as_str()?.to_owned(), keys.collect()))
        })
        .collect()
}

/// The ports for TCP that containers of `spec`, of a pod, say they have, the sidecar's own left out.
pub fn declared_ports(spec: &Value) -> BTreeSet<i32> {
    let containers = list(spec, "initContainers").chain(list(spec, "containers"));
    let ports = containers.filter(|own| !is_sidecar(own)).flat_map(|own| list(own, "ports"));
    let of_tcp = ports.filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"));
    of_tcp.filter_map(|port| i32::try_from(port["containerPort"].as_i64()?).ok()).collect()
}

/// What to add to `pod`, an object with `metadata` and `spec`, so that it has a sidecar with these `secrets`. None where it
/// has one already.
///
/// # Errors
/// Where a sidecar would get in the way of what is there.
pub fn injection(pod: &Value, secrets: Secrets, facts: &Facts) -> Result<Option<Injection>, Refusal> {
    let spec = &pod["spec"];
    if has_sidecar(spec) {
        return Ok(None);
    }
    let spill = spill(pod)?;
    let (volumes, mut mounts): (Vec<_>, Vec<_>) = STORAGE.volumes(secrets, spill).into_iter().unzip();
    refusal::check(spec, volumes.iter().map(|volume| volume.name.as_str()))?;
    let mut volumes: Vec<Value> = volumes.iter().map(to_value).collect();
    let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(GRACE_SECONDS_DEFAULT);
    let grace = format!("{}s", (grace - GRACE_SECONDS_SPARE).max(1));
    let mut variables = container::variables(facts);
    variables.push(container::variable("SIDESTREAM_GRACE", &grace));
    variables.extend(container::spill_variable(spill));
    if let Some(socket) = socket::of(pod)? {
        variables.extend(socket.variables);
        mounts.push(socket.mount);
        volumes.extend(socket.volume);
    }
    let container = Container {
        name: CONTAINER.into(),
        image: Some(facts.sidecar_image.clone()),
        image_pull_policy: facts.image_pull_policy.clone(),
        restart_policy: Some("Always".into()),
        env: Some(variables),
        ports: Some(vec![
            port(ports::INJECTED_EDGE_NAME, ports::EDGE),
            udp_port(ports::INJECTED_QUIC_NAME, ports::EDGE),
            port(ports::INJECTED_METRICS_NAME, ports::METRICS),
        ]),
        resources: resources(spec),
        startup_probe: Some(container::startup(IntOrString::Int(ports::METRICS))),
        // The pod's own says what suits the app; this container must be let in wherever it runs.
        security_context: Some(SecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(container::seccomp()),
            ..container::security()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    Ok(Some(Injection { container: to_value(&container), volumes }))
}

/// How much the sidecar may spill, as the pod says.
fn spill(pod: &Value) -> Result<PodSpill, Refusal> {
    let Some(text) = pod["metadata"]["annotations"][labels::SPILL].as_str() else {
        return Ok(PodSpill::DEFAULT);
    };
    let size = text.parse::<Size>().and_then(PodSpill::new);
    size.map_err(|reason| Refusal::Spill { reason })
}

impl Injection {
    /// Adds it to `pod`.
    pub fn apply(&self, pod: &mut Value) {
        let spec = &mut pod["spec"];
        entries(spec, "initContainers").insert(0, self.container.clone());
        entries(spec, "volumes").extend(self.volumes.iter().cloned());
    }

    /// The same as a JSON Patch (RFC 6902) of `pod`.
    pub fn patch(&self, pod: &Value) -> Value {
        let has = |field: &str| pod["spec"][field].is_array();
        let mut steps = vec![match has("initContainers") {
            true => add("/spec/initContainers/0", self.container.clone()),
            false => add("/spec/initContainers", json!([self.container])),
        }];
        match has("volumes") {
            true => steps.extend(self.volumes.iter().map(|volume| add("/spec/volumes/-", volume.clone()))),
            false => steps.push(add("/spec/volumes", json!(self.volumes))),
        }
        json!(steps)
    }
}

/// What it asks for and may take: a little, and no more than that where the pod is Guaranteed, which it stays. Processors
/// are limited where every other container's are.
fn resources(spec: &Value) -> Option<ResourceRequirements> {
    let of = |cpu: Option<&str>, memory: &str| {
        let cpu = cpu.map(|cpu| ("cpu".to_owned(), Quantity(cpu.into())));
        Some(cpu.into_iter().chain([("memory".to_owned(), Quantity(memory.into()))]).collect())
    };
    // What the pod has as a whole, its containers share; more asked for by one might be more than there is.
    if spec["resources"].is_object() {
        return None;
    }
    let (requests, limits) = match is_guaranteed(spec) {
        true => (of(Some("100m"), "64Mi"), of(Some("100m"), "64Mi")),
        // A quota of the namespace's may ask for what the pod's own containers have.
        false => (of(Some("10m"), "32Mi"), of(has_cpu_limits(spec).then_some("1"), "256Mi")),
    };
    Some(ResourceRequirements { requests, limits, ..ResourceRequirements::default() })
}

/// Whether every container has limits of processors and memory, and asks for as much
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/#guaranteed>).
fn is_guaranteed(spec: &Value) -> bool {
    let is_fixed = |container: &Value, resource: &str| {
        let of = |part: &str| quantity::parse(&container["resources"][part][resource]);
        of("limits").is_some_and(|limit| limit > 0.0 && of("requests").is_none_or(|asked| asked == limit))
    };
    let mut all = list(spec, "initContainers").chain(list(spec, "containers"));
    all.all(|container| is_fixed(container, "cpu") && is_fixed(container, "memory"))
}

/// Whether every container has a limit of processors.
fn has_cpu_limits(spec: &Value) -> bool {
    let mut all = list(spec, "initContainers").chain(list(spec, "containers"));
    all.all(|container| quantity::parse(&container["resources"]["limits"]["cpu"]).is_some())
}

fn to_value<T: serde::Serialize>(part: &T) -> Value {
    serde_json::to_value(part).expect("a part of a pod is a tree of text and numbers")
}

fn is_sidecar(container: &Value) -> bool {
    container["name"] == CONTAINER && container["restartPolicy"] == "Always"
}

fn list<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + Clone + use<'a> {
    object[field].as_array().into_iter().flatten()
}

/// The list, made where there is none.
fn entries<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let list = &mut object[field];
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().expect("it was made a list")
}

fn add(path: &str, value: Value) -> Value {
    json!({"op": "add", "path": path, "value": value})
}
