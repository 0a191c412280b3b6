//! Events flow on while pods come and go.

use crate::{flow::Flow, world::Namespace};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn rolling_restarts_of_the_receiving_sidecar_lose_no_event() {
    let Some(flow) = Flow::start(Namespace::new, "e2e-restart") else { return };
    for _ in 0..3 {
        flow.shop.kubectl(&["rollout", "restart", "deployment/flow-hub-spl"]).expect("restarted");
        flow.shop
            .kubectl(&["rollout", "status", "deployment/flow-hub-spl", "--timeout=60s"])
            .expect("rolled out");
    }
    flow.all_arrive();
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_receiving_pod_that_is_killed_is_replaced_and_no_event_is_lost() {
    let Some(flow) = Flow::start(Namespace::new, "e2e-kill") else { return };
    let hub = flow.shop.pods("flow", "hub").remove(0);
    flow.shop.kubectl(&["delete", "pod", &hub, "--grace-period=0", "--force"]).expect("killed");
    flow.shop
        .kubectl(&["rollout", "status", "deployment/flow-hub-spl", "--timeout=60s"])
        .expect("there again");
    flow.all_arrive();
}
