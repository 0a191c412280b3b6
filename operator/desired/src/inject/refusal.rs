//! Why a pod gets no sidecar although it asks for one: where it would get in the way of what is there.

use std::fmt;

use serde_json::Value;

use super::{list, socket::SOCKET_VOLUME};
use crate::{container::CONTAINER, labels, ports};

/// Where the sidecar listens. Edges may come by TCP and by UDP.
const OWN_PORTS: [(i32, &[&str]); 2] = [(ports::EDGE, &["TCP", "UDP"]), (ports::METRICS, &["TCP"])];

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The pod uses its node's network: the sidecar's ports would be the node's.
    HostNetwork,
    /// The pod runs on Windows.
    Windows,
    /// A container has a port of the sidecar's.
    Port {
        /// Which container.
        container: String,
        /// Which port.
        port: i32,
    },
    /// A part of the pod is not what the API has it be.
    Malformed {
        /// Which: `metadata.labels`.
        part: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The volume for the socket of the app is none of the pod's own.
    SocketVolume,
    /// What its annotation says of how much may be spilled is no size, or too small.
    Spill {
        /// What is wrong with it.
        reason: String,
    },
    /// Something has a name of the sidecar's.
    Name {
        /// `container` or `volume`.
        what: &'static str,
        /// Its name.
        name: String,
    },
}

/// Whether a sidecar with these `volumes` gets in the way of what `spec` has.
pub(super) fn check<'a>(spec: &Value, volumes: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    for field in ["initContainers", "containers", "volumes"] {
        if !spec[field].is_array() && !spec[field].is_null() {
            return Err(Refusal::Malformed { part: format!("spec.{field}"), expected: "a list" });
        }
    }
    if spec["hostNetwork"] == true {
        return Err(Refusal::HostNetwork);
    }
    if spec["os"]["name"] == "windows" {
        return Err(Refusal::Windows);
    }
    let containers = || list(spec, "initContainers").chain(list(spec, "containers"));
    for container in containers() {
        let name = container["name"].as_str().unwrap_or_default();
        if name == CONTAINER {
            return Err(Refusal::Name { what: "container", name: name.into() });
        }
        let is_taken = |(own, protocols): &(i32, &[&str])| {
            list(container, "ports").any(|port| {
                let protocol = port["protocol"].as_str().unwrap_or("TCP");
                port["containerPort"] == *own && protocols.contains(&protocol)
            })
        };
        if let Some((port, _)) = OWN_PORTS.iter().find(|own| is_taken(own)) {
            return Err(Refusal::Port { container: name.into(), port: *port });
        }
    }
    for name in volumes {
        if list(spec, "volumes").any(|volume| volume["name"] == name) {
            return Err(Refusal::Name { what: "volume", name: name.into() });
        }
    }
    Ok(())
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => {
                out.write_str("the pod has `hostNetwork: true`, so the sidecar's ports would be its node's")
            }
            Self::Malformed { part, expected } => {
                return write!(
                    out,
                    "`{part}` of the pod is not {expected}; the API server would refuse it, too"
                );
            }
            Self::SocketVolume => write!(
                out,
                "the volume `{SOCKET_VOLUME}` is not an `emptyDir`, and other pods may reach the socket on it"
            ),
            Self::Spill { reason } => write!(out, "the annotation `{}` of the pod: {reason}", labels::SPILL),
            Self::Windows => out.write_str("the pod runs on Windows, and the sidecar on Linux"),
            Self::Port { container, port } => {
                write!(out, "container `{container}` has port {port}, which is the sidecar's")
            }
            Self::Name { what, name } => {
                write!(out, "the pod has a {what} called `{name}`, which is the sidecar's name for one")
            }
        }?;
        out.write_str("; change that, or take the label `sidestream.dev/inject` off")
    }
}

impl std::error::Error for Refusal {}
