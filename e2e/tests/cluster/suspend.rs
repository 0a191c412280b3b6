//! A pipeline that is told to pause, and to go on.

use std::{thread, time::Duration};

use crate::{flow::Flow, world::Namespace};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_suspended_pipeline_drains_stands_still_and_goes_on_in_the_pods_that_are_there() {
    if let Some(flow) = Flow::start(Namespace::new, "e2e-suspend") {
        pauses(&flow);
    }
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_pipeline_whose_events_come_back_to_where_they_are_from_drains_as_well() {
    if let Some(flow) = Flow::circling(Namespace::new, "e2e-suspend-circle") {
        pauses(&flow);
    }
}

fn pauses(flow: &Flow) {
    let pods = || ["field", "hub"].map(|sidecar| flow.shop.pods("flow", sidecar));
    let before = pods();
    suspend(flow, true);
    flow.shop
        .kubectl(&["wait", "--for=condition=Drained", "pipeline/flow", "--timeout=60s"])
        .expect("it drains");
    let drained = flow.so_far().arrived;
    thread::sleep(Duration::from_secs(2));
    assert_eq!(flow.so_far().arrived, drained, "nothing is on its way any more");
    assert_eq!(flow.first(drained).lost, 0, "what the source had given has arrived");

    suspend(flow, false);
    flow.shop.wait_ready("flow");
    // The generator counts from the start again, so what came before comes a second time.
    flow.all_arrive();
    assert_eq!(pods(), before);
}

fn suspend(flow: &Flow, is: bool) {
    let patch = format!("{{\"spec\":{{\"suspend\":{is}}}}}");
    flow.shop.kubectl(&["patch", "pipeline", "flow", "--type=merge", "-p", &patch]).expect("patched");
}
