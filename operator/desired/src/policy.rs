//! The NetworkPolicy: who may open a connection to the pods.
//!
//! A first fence, for where the network enforces it. Who may *send* is decided by identity, in the sidecar.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use sidestream_crds::names;
use sidestream_plan::{Kind, Source};

use crate::{Of, labels, ports};

pub(crate) fn build(of: &Of<'_>) -> NetworkPolicy {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    let mut ingress = Vec::new();
    let senders = senders(of);
    if !senders.is_empty() {
        ingress.push(rule(vec![port(ports::EDGE_NAME)], Some(senders)));
    }
    // Whoever scrapes, and the probes of the node.
    ingress.push(rule(vec![port(ports::METRICS_NAME)], None));
    let open = ports::of_stages(&of.sidecar.plan);
    if !open.is_empty() {
        ingress
            .push(rule(open.into_iter().map(|number| port(&ports::name_of_stages(number))).collect(), None));
    }
    NetworkPolicy {
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(select(pipeline, &of.sidecar.name)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(ingress),
            ..NetworkPolicySpec::default()
        }),
        ..NetworkPolicy::default()
    }
}

/// The pods of the sidecars that have an edge into this one.
fn senders(of: &Of<'_>) -> Vec<NetworkPolicyPeer> {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    let mut accounts: Vec<&str> = (of.sidecar.plan.stages.iter())
        .filter_map(|stage| match &stage.kind {
            Kind::Source(Source::Edge(edge)) => Some(edge.from.name.as_str()),
            _ => None,
        })
        .collect();
    accounts.sort_unstable();
    accounts.dedup();
    (of.sidecars.iter())
        .filter(|sidecar| accounts.contains(&names::object(pipeline, &sidecar.name).as_str()))
        .map(|sidecar| NetworkPolicyPeer {
            pod_selector: Some(select(pipeline, &sidecar.name)),
            ..NetworkPolicyPeer::default()
        })
        .collect()
}

fn select(pipeline: &str, sidecar: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels::selector(pipeline, sidecar)), ..LabelSelector::default() }
}

fn rule(ports: Vec<NetworkPolicyPort>, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule { ports: Some(ports), from }
}

fn port(name: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        ..NetworkPolicyPort::default()
    }
}
