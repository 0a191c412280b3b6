//! A new plan goes along the flow: what is on its way over an edge that it no longer has must arrive before that is gone.

mod world;

use sidestream_control::{Applied, Report};
use sidestream_operator::control::Connected;
use world::{Operator, Server};

const TWO: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars: [{name: door, workload: {}}, {name: hub, workload: {}}]
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: show, sidecar: hub, sink: {console: {}}}
";

/// The plan that the sidecar is told.
fn told(sidecar: &Connected) -> String {
    sidecar.plans().unwrap().remove(0).hash
}

fn answers(sidecar: &Connected, error: Option<&str>) {
    let error = error.map(str::to_owned);
    sidecar.report(Report::Applied(Applied { pipeline: "shop/hello".into(), hash: told(sidecar), error }));
}

#[tokio::test]
async fn a_receiver_follows_when_those_that_send_to_it_have_taken_the_new_plan() {
    for refusal in [None, Some("no such file")] {
        let server = Server::default();
        server.user_applies(TWO);
        let operator = Operator::new(&server).seeing();
        operator.context.fleet.expect([]);
        operator.settle("hello").await;
        let (door, hub) = operator.connect_door_and_hub();
        operator.settle("hello").await;
        let before = (told(&door), told(&hub));
        answers(&door, None);
        answers(&hub, None);

        // Another stage is the first behind the edge, so the edge is another one.
        let even = "  - {name: even, sidecar: hub, process: {sample: {every: 2}}}\n  - {name: show";
        server.user_applies(&TWO.replace("  - {name: show", even));
        operator.settle("hello").await;
        assert_ne!(told(&door), before.0, "the sender goes first");
        assert_eq!(told(&hub), before.1, "the receiver still has the edge");
        answers(&door, refusal);
        operator.settle("hello").await;
        assert_ne!(told(&hub), before.1);
    }
}

#[tokio::test]
async fn a_receiver_waits_for_nobody_who_is_not_there() {
    let server = Server::default();
    server.user_applies(TWO);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    let hub = operator.connect("hello-hub-spl", "hello-hub-spl-1");
    operator.settle("hello").await;
    let before = told(&hub);
    server.user_applies(&TWO.replace("console: {}", "blackhole: {}"));
    operator.settle("hello").await;
    assert_ne!(told(&hub), before);
}
