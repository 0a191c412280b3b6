//! The operator goes away, or another one takes over.

use sidestream_e2e::eventually;

use crate::{
    collector::Account,
    flow::Flow,
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
    assert_eq!(flow.all_arrive(), Account { arrived: flow.count, lost: 0, repeated: 0, reordered: 0 });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn another_replica_leads_when_the_leader_is_killed_and_no_event_is_lost_or_repeated() {
    let Some(flow) = Flow::lasting(40, Namespace::alone, "e2e-leader") else { return };
    scale(2);
    flow.goes_on();

    let leader = leader();
    operator(&["delete", "pod", &leader, "--grace-period=0", "--force"]);
    // What only a leader does.
    flow.change("- {name: some, sidecar: hub, process: {filter: {keep: \"event.sequence >= 0\"}}}");
    eventually("the new plan runs", 2 * SOON, || {
        match flow.shop.metric("flow", "hub", "sidestream_stage_events_in_total", "stage=\"some\"")? {
            0.0 => Err("it sees no event".into()),
            some => Ok(some),
        }
    });
    flow.shop.wait_ready("flow");
    assert_ne!(self::leader(), leader);

    eventually("the dead leader's pod is replaced", SOON, || {
        let pods = operator(&["get", "pods", "--selector", POD, "-o", "name"]);
        if pods.lines().count() == 2 { Ok(()) } else { Err(pods) }
    });
    scale(1);
    assert_eq!(flow.all_arrive(), Account { arrived: flow.count, lost: 0, repeated: 0, reordered: 0 });
}

fn leader() -> String {
    operator(&["get", "lease", "sidestream-operator", "-o", "jsonpath={.spec.holderIdentity}"])
}

pub(crate) fn scale(replicas: u32) {
    operator(&["scale", "deployment/sidestream-operator", &format!("--replicas={replicas}")]);
    operator(&["rollout", "status", "deployment/sidestream-operator", "--timeout=60s"]);
}

/// `kubectl` where the operator is.
pub(crate) fn operator(arguments: &[&str]) -> String {
    kubectl(&[&["--namespace", "sidestream-system"], arguments].concat(), "").expect("done")
}
