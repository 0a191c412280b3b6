//! The socket by which an app reaches dnpipes: on a volume of the pod that the user names, so that only those containers have
//! it that mount it. A pod that does not speak of the volume has neither.

use k8s_openapi::api::core::v1::{EnvVar, VolumeMount};
use serde_json::{Value, json};

use super::{Refusal, list};
use crate::{container::variable, labels};

/// The volume. A container that mounts it may use dnpipes as whom the pod runs as.
pub const SOCKET_VOLUME: &str = "sidestream-dnpipes";
/// The socket on it.
pub const SOCKET_FILE: &str = "sidestream.sock";

/// Where the sidecar has the volume.
const PATH: &str = "/var/run/sidestream/dnpipes";

/// What a sidecar gets for the socket.
pub(super) struct Socket {
    pub(super) mount: VolumeMount,
    pub(super) variables: Vec<EnvVar>,
    /// The volume, where containers mount it and the pod does not say what it is.
    pub(super) volume: Option<Value>,
}

/// The socket of `pod`; none where nobody speaks of its volume.
pub(super) fn of(pod: &Value) -> Result<Option<Socket>, Refusal> {
    let spec = &pod["spec"];
    let declared = list(spec, "volumes").find(|volume| volume["name"] == SOCKET_VOLUME);
    let mut containers = list(spec, "initContainers").chain(list(spec, "containers"));
    let mounts = |own: &Value| list(own, "volumeMounts").any(|mount| mount["name"] == SOCKET_VOLUME);
    if declared.is_none() && !containers.any(mounts) {
        return Ok(None);
    }
    // On what other pods reach, too, their sockets would take each other's place. A volume that does not say is one.
    let is_of_pod = |volume: &Value| {
        volume.as_object().is_some_and(|fields| fields.keys().all(|own| own == "name" || own == "emptyDir"))
    };
    if declared.is_some_and(|volume| !is_of_pod(volume)) {
        return Err(Refusal::SocketVolume);
    }
    let mut variables = vec![variable("SIDESTREAM_SOCKET", &format!("{PATH}/{SOCKET_FILE}"))];
    if let Some(pools) = pod["metadata"]["annotations"][labels::POOLS].as_str() {
        variables.push(variable("SIDESTREAM_POOLS", pools));
    }
    let mount = VolumeMount { name: SOCKET_VOLUME.into(), mount_path: PATH.into(), ..VolumeMount::default() };
    // In memory: what is full there is full, and the pod is not evicted for it.
    let own = || json!({"name": SOCKET_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    Ok(Some(Socket { mount, variables, volume: declared.is_none().then(own) }))
}
