//! The headless Service: the addresses of the pods, in DNS.
//!
//! Pods are in it before they are ready: sidecars that wait for each other must be able to find each other.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use sidestream_crds::PodSelector;

use crate::{Of, edges::is_called_by_quic, labels, ports};

pub(crate) fn build(of: &Of<'_>) -> Service {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    let mut all = vec![
        port(ports::EDGE_SERVICE_NAME, ports::EDGE, ports::EDGE_NAME),
        port(ports::METRICS_NAME, ports::METRICS, ports::METRICS_NAME),
    ];
    all.extend(udp(of).into_iter().map(|number| ServicePort {
        protocol: Some("UDP".into()),
        ..port(ports::QUIC_SERVICE_NAME, number, ports::QUIC_NAME)
    }));
    for number in ports::of_stages(&of.sidecar.plan) {
        let name = ports::name_of_stages(number);
        all.push(ServicePort { app_protocol: Some("http".into()), ..port(&name, number, &name) });
    }
    headless(labels::selector(pipeline, &of.sidecar.name), all)
}

/// That of a sidecar in the user's pods: the way for edges and nothing else.
pub(crate) fn of_injected(of: &Of<'_>, pods: &PodSelector) -> Service {
    let mut selector = pods.match_labels.clone();
    selector.insert(labels::INJECT.into(), labels::INJECT_ENABLED.into());
    // By its number: the names of a pod's ports are the user's.
    let by_number = |name: &str, number: i32| ServicePort {
        target_port: Some(IntOrString::Int(number)),
        ..port(name, number, "")
    };
    let mut all = vec![by_number(ports::EDGE_SERVICE_NAME, ports::EDGE)];
    all.extend(udp(of).into_iter().map(|number| ServicePort {
        protocol: Some("UDP".into()),
        ..by_number(ports::QUIC_SERVICE_NAME, number)
    }));
    headless(selector, all)
}

/// The port for QUIC, where an edge comes by it.
fn udp(of: &Of<'_>) -> Option<i32> {
    is_called_by_quic(of.sidecar, of.sidecars).then_some(ports::EDGE)
}

fn headless(selector: BTreeMap<String, String>, ports: Vec<ServicePort>) -> Service {
    Service {
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: i32, target: &str) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(target.into())),
        ..ServicePort::default()
    }
}
