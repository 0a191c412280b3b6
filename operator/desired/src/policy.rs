//! The NetworkPolicy: who may open a connection to the pods.
//!
//! A first fence, for where the network enforces it. Who may *send* is decided by identity, in the sidecar.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};
use sidestream_crds::{Host, PodSelector};

use crate::{
    Of,
    edges::{is_called_by_quic, sends},
    labels, ports,
};

pub(crate) fn build(of: &Of<'_>) -> NetworkPolicy {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    let mut ingress = Vec::new();
    let senders = senders(of);
    if !senders.is_empty() {
        let mut edges = vec![port(ports::EDGE_NAME)];
        if is_called_by_quic(of.sidecar, of.sidecars) {
            edges.push(NetworkPolicyPort { protocol: Some("UDP".into()), ..port(ports::QUIC_NAME) });
        }
        ingress.push(rule(edges, Some(senders)));
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
    (of.sidecars.iter().filter(|other| sends(other, of.sidecar)))
        .map(|sender| {
            let pods = match &sender.host {
                Host::Workload(_) => select(pipeline, &sender.name),
                Host::Inject(inject) => select_injected(&inject.pod_selector),
            };
            NetworkPolicyPeer { pod_selector: Some(pods), ..NetworkPolicyPeer::default() }
        })
        .collect()
}

fn select(pipeline: &str, sidecar: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels::selector(pipeline, sidecar)), ..LabelSelector::default() }
}

/// The user's pods that `pods` selects and that ask for a sidecar.
fn select_injected(pods: &PodSelector) -> LabelSelector {
    let mut match_labels = pods.match_labels.clone();
    match_labels.insert(labels::INJECT.into(), labels::INJECT_ENABLED.into());
    let expressions = pods.match_expressions.iter().map(|asked| LabelSelectorRequirement {
        key: asked.key.clone(),
        operator: format!("{:?}", asked.operator),
        values: (!asked.values.is_empty()).then(|| asked.values.clone()),
    });
    let expressions: Vec<_> = expressions.collect();
    LabelSelector {
        match_labels: Some(match_labels),
        match_expressions: (!expressions.is_empty()).then_some(expressions),
    }
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
