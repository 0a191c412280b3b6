//! A node is emptied for maintenance.

use crate::{
    flow::Flow,
    world::{Namespace, kubectl},
};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_receiving_sidecar_moves_off_a_node_that_is_drained_and_no_event_is_lost() {
    let nodes = kubectl(&["get", "nodes", "-o", "name"], "").expect("nodes");
    if nodes.lines().count() < 2 {
        println!("skipped: with one node there is nowhere to go");
        return;
    }
    let Some(flow) = Flow::start(Namespace::alone, "e2e-drain") else { return };
    let hub = flow.shop.pods("flow", "hub").remove(0);
    let node = flow.shop.kubectl(&["get", "pod", &hub, "-o", "jsonpath={.spec.nodeName}"]).expect("a node");
    let only_hub = "--pod-selector=sidestream.dev/sidecar=hub";
    let drained = kubectl(&["drain", &node, only_hub, "--delete-emptydir-data", "--timeout=60s"], "");
    let moved = flow.shop.kubectl(&["rollout", "status", "deployment/flow-hub-spl", "--timeout=60s"]);
    kubectl(&["uncordon", &node], "").expect("open again");
    drained.expect("drained, as the disruption budget lets it");
    moved.expect("it runs elsewhere");
    flow.all_arrive();
}
