//! The operator goes away, or another one takes over.

use sidestream_e2e::eventually;

use crate::{
    collector::Account,
    flow::{COUNT, Flow},
    world::{Namespace, SOON, kubectl},
};

pub(crate) const POD: &str = "app.kubernetes.io/name=sidestream-operator";

#[test]
#[ignore = "needs a cluster: make e2e"]
fn sidecars_run_on_without_an_operator_and_lose_and_repeat_nothing() {
    let Some(flow) = Flow::start(Namespace::alone, "e2e-no-operator") else { return };
    scale(0);
    operator(&["wait", "--for=delete", "pod", "--selector", POD, "--timeout=60s"]);
    flow.goes_on();
    scale(1);
    flow.shop.wait_ready("flow");
    assert_eq!(flow.all_arrive(), Account { arrived: COUNT, lost: 0, repeated: 0, reordered: 0 });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn another_replica_leads_when_the_leader_is_killed() {
    let shop = Namespace::alone("e2e-leader");
    scale(2);
    shop.apply_example("two-sidecars.yaml");
    shop.wait_ready("two-sidecars");

    let leader = operator(&["get", "lease", "sidestream-operator", "-o", "jsonpath={.spec.holderIdentity}"]);
    operator(&["delete", "pod", &leader, "--grace-period=0", "--force"]);
    shop.kubectl(&["delete", "pipeline", "two-sidecars"]).expect("deleted");
    shop.apply_example("hello.yaml");
    shop.wait_ready("hello");
    let next = operator(&["get", "lease", "sidestream-operator", "-o", "jsonpath={.spec.holderIdentity}"]);
    assert_ne!(next, leader);

    eventually("the dead leader's pod is replaced", SOON, || {
        let pods = operator(&["get", "pods", "--selector", POD, "-o", "name"]);
        if pods.lines().count() == 2 { Ok(()) } else { Err(pods) }
    });
    scale(1);
}

pub(crate) fn scale(replicas: u32) {
    operator(&["scale", "deployment/sidestream-operator", &format!("--replicas={replicas}")]);
    operator(&["rollout", "status", "deployment/sidestream-operator", "--timeout=60s"]);
}

/// `kubectl` where the operator is.
pub(crate) fn operator(arguments: &[&str]) -> String {
    kubectl(&[&["--namespace", "sidestream-system"], arguments].concat(), "").expect("done")
}
