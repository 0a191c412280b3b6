//! What changes under events that flow: the plan, every certificate and the root they come from, the number of pods.

use serde_json::Value;
use sidestream_e2e::eventually;

use crate::{
    flow::Flow,
    no_operator::operator,
    world::{Namespace, SOON},
};

/// Long enough for all of them, one after the other.
const SECONDS: usize = 60;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn plan_certificates_root_and_replicas_change_under_load_and_nothing_is_lost_repeated_or_restarted() {
    let Some(flow) = Flow::fast(SECONDS, Namespace::alone, "e2e-changes") else { return };
    flow.change("- {name: some, sidecar: hub, process: {filter: {keep: \"event.sequence >= 0\"}}}");
    eventually("the new stage sees events", SOON, || {
        match flow.shop.metric("flow", "hub", "sidestream_stage_events_in_total", "stage=\"some\"")? {
            0.0 => Err("none".into()),
            some => Ok(some),
        }
    });
    flow.goes_on();

    let before = roots(&flow.shop).expect("there are some");
    // Another one each time, also on a cluster that was tested before.
    let now = format!("sidestream.dev/rotate={}", std::process::id());
    operator(&["annotate", "--overwrite", "secret", "sidestream-ca", &now]);
    eventually("another root is alone", SOON, || match roots(&flow.shop)? {
        roots if roots != before && roots.matches("BEGIN CERTIFICATE").count() == 1 => Ok(()),
        roots => Err(roots),
    });
    flow.goes_on();

    assert_eq!(flow.so_far().reordered, 0, "by key");

    // Of several receivers any may take an event, so from here on the order is not kept.
    for replicas in [2_usize, 1] {
        flow.shop
            .kubectl(&["scale", "deployment/flow-hub-spl", &format!("--replicas={replicas}")])
            .expect("scaled");
        eventually("the pods are as many", SOON, || {
            let ready = flow.shop.get(&["deployment/flow-hub-spl"])?["status"]["readyReplicas"].clone();
            let pods = flow.shop.pods("flow", "hub").len();
            if ready == replicas && pods == replicas { Ok(()) } else { Err(format!("{pods}, ready {ready}")) }
        });
        flow.goes_on();
    }

    let account = flow.all_arrive();
    assert_eq!((account.lost, account.repeated), (0, 0));
    let pods = flow.shop.get(&["pods"]).expect("pods can be listed");
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let all: Vec<_> = pods["items"].as_array().expect("a list").iter().map(restarts).collect();
    assert!(all.iter().all(|count| *count == Some(0)), "restarts: {all:?}");
}

/// The certificates that new sidecars of the namespace begin with.
fn roots(shop: &Namespace) -> Result<String, String> {
    shop.kubectl(&["get", "configmap", "sidestream-trust", "-o", "jsonpath={.data.anchors\\.pem}"])
}
