//! The ports of a sidecar, and of a server of dnpipes.

use std::collections::BTreeSet;

use sidestream_plan::{Kind, Plan, Source};

/// Where other sidecars connect, by TCP or by UDP.
pub const EDGE: i32 = 7443;
/// Where Prometheus and the probes ask: `/metrics`, `/livez`, `/readyz`, `/stages`.
pub const METRICS: i32 = 9464;

/// Where clients of dnpipes connect.
pub const DNPIPES: i32 = sidestream_crds::names::DNPIPES_PORT as i32;

/// The name of [`DNPIPES`] in the container.
pub const DNPIPES_NAME: &str = "dnpipes";
/// The name of [`DNPIPES`] in the Service, so that DNS has `_sidestream-dnp._tcp` (RFC 2782).
pub const DNPIPES_SERVICE_NAME: &str = "sidestream-dnp";
/// The name of [`EDGE`] in the container.
pub const EDGE_NAME: &str = "edge";
/// The name of [`EDGE`] in the Service, so that DNS has `_sidestream-edge._tcp` (RFC 2782).
pub const EDGE_SERVICE_NAME: &str = "sidestream-edge";
/// The name of [`EDGE`] in the container for UDP.
pub const QUIC_NAME: &str = "edge-quic";
/// The name of [`EDGE`] in the Service for UDP; it is found by the other name.
pub const QUIC_SERVICE_NAME: &str = "sidestream-quic";
/// The name of [`METRICS`].
pub const METRICS_NAME: &str = "metrics";
/// The name of [`EDGE`] in a pod of the user's, whose Services may go by names of ports.
pub const INJECTED_EDGE_NAME: &str = "spl-edge";
/// The name of [`EDGE`] in a pod of the user's for UDP.
pub const INJECTED_QUIC_NAME: &str = "spl-edge-quic";
/// The name of [`METRICS`] in a pod of the user's.
pub const INJECTED_METRICS_NAME: &str = "spl-metrics";

/// Ports on which stages of `plan` take requests from outside the pod, each once.
pub fn of_stages(plan: &Plan) -> BTreeSet<i32> {
    addresses(plan).filter(|(host, _)| !is_loopback(host)).map(|(_, port)| port).collect()
}

/// Ports on which stages of `plan` listen, each once: also those that only the pod itself reaches.
pub fn listened(plan: &Plan) -> BTreeSet<i32> {
    addresses(plan).map(|(_, port)| port).collect()
}

fn addresses(plan: &Plan) -> impl Iterator<Item = (&str, i32)> {
    let listened = plan.stages.iter().filter_map(|stage| match &stage.kind {
        Kind::Source(Source::Http(http)) => http.listen.rsplit_once(':'),
        _ => None,
    });
    listened.filter_map(|(host, port)| Some((host, i32::from(port.parse::<u16>().ok()?))))
}

/// What such a port is called: at most 15 characters, unique in the pod.
pub fn name_of_stages(port: i32) -> String {
    format!("http-{port}")
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
