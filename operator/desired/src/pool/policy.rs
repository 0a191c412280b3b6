//! The NetworkPolicy of a pool: which namespaces may open a connection to its servers.
//!
//! A first fence, for where the network enforces it. Who may push, pull or reset is decided by identity, in the server.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::Pool;
use crate::ports;

/// The label that every namespace has.
const NAMESPACE: &str = "kubernetes.io/metadata.name";

pub(super) fn build(pool: &Pool<'_>) -> NetworkPolicy {
    let port = |name: &str| NetworkPolicyPort {
        port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        ..NetworkPolicyPort::default()
    };
    let rule = |name: &str, from| NetworkPolicyIngressRule { ports: Some(vec![port(name)]), from };
    NetworkPolicy {
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pool.selector()),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![
                rule(ports::DNPIPES_NAME, Some(namespaces(pool).into_iter().map(of_namespace).collect())),
                // Whoever scrapes, and the probes of the node.
                rule(ports::METRICS_NAME, None),
            ]),
            ..NetworkPolicySpec::default()
        }),
        ..NetworkPolicy::default()
    }
}

/// Those that the access rules of its members name; its own always, so that the list is never empty, which would mean all.
fn namespaces<'a>(pool: &'a Pool<'_>) -> BTreeSet<&'a str> {
    let rules = pool.members.iter().flat_map(|member| &member.access);
    rules.filter_map(|rule| rule.from.namespace.as_deref()).chain([pool.namespace]).collect()
}

fn of_namespace(name: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some([(NAMESPACE.to_owned(), name.to_owned())].into()),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    }
}
