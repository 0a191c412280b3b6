//! A new plan goes along the flow: what is on its way over an edge that it no longer has must arrive before that is gone.

mod world;

use sidestream_control::{Applied, Report};
use sidestream_operator::control::Connected;
use world::{
    Operator, Server, leaves,
    two::{TWO, edges_into, told, with_another_edge},
};

/// The pipeline of two, which both of its sidecars run.
async fn running() -> (Server, Operator, Connected, Connected) {
    let server = Server::default();
    server.user_applies(TWO);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    let (door, hub) = operator.connect_door_and_hub();
    operator.settle("hello").await;
    answers(&door, None);
    answers(&hub, None);
    (server, operator, door, hub)
}

fn answers(sidecar: &Connected, error: Option<&str>) {
    let error = error.map(str::to_owned);
    sidecar.report(Report::Applied(Applied { pipeline: "shop/hello".into(), hash: told(sidecar), error }));
}

#[tokio::test]
async fn a_receiver_follows_when_those_that_send_to_it_have_taken_the_new_plan() {
    for refusal in [None, Some("no such file")] {
        let (server, operator, door, hub) = running().await;
        let before = (told(&door), told(&hub));

        server.user_applies(&with_another_edge());
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

#[tokio::test]
async fn a_receiver_keeps_an_edge_that_is_gone_until_its_sender_has_delivered_what_it_had() {
    // The edge has another name, or leads to somebody else.
    let third =
        TWO.replace("{name: hub, workload: {}}", "{name: hub, workload: {}}, {name: other, workload: {}}");
    let elsewhere = third.replace("show, sidecar: hub", "show, sidecar: other")
        + "  - {name: tock, sidecar: hub, source: {generator: {}}}\n  - {name: gone, sink: {blackhole: {}}}\n";
    for edited in [with_another_edge(), elsewhere] {
        let (server, operator, door, hub) = running().await;
        let before = told(&hub);

        server.user_applies(&edited);
        operator.settle("hello").await;
        assert_eq!(told(&hub), before, "its sender has not taken the new plan");
        leaves(&door, &["tick->show"]);
        answers(&door, None);
        operator.settle("hello").await;
        assert_eq!(told(&hub), before, "some is on its way");
        let status = server.get("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello").unwrap();
        assert!(!status["status"]["conditions"].to_string().contains("\"Running\""), "{status}");
        leaves(&door, &[]);
        operator.settle("hello").await;
        assert_ne!(told(&hub), before);
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_take_what_is_on_its_way_gets_the_plan_that_may_mend_that() {
    let (server, operator, door, hub) = running().await;
    let before = told(&hub);
    server.user_applies(&with_another_edge());
    operator.settle("hello").await;
    leaves(&door, &["tick->show"]);
    answers(&door, None);
    operator.settle("hello").await;
    assert_eq!(told(&hub), before);
    operator.let_holds_end();
    operator.settle("hello").await;
    let edges = || edges_into(&hub);
    assert_eq!(edges(), ["tick->show", "tick->even"], "with the edge by which some still comes");
    let both = told(&hub);
    operator.settle("hello").await;
    assert_eq!(told(&hub), both);
    leaves(&door, &[]);
    operator.settle("hello").await;
    assert_eq!(edges(), ["tick->even"]);
}

#[tokio::test]
async fn a_receiver_keeps_an_edge_that_is_gone_while_its_sender_is_away_for_a_moment() {
    let (server, operator, door, hub) = running().await;
    let before = told(&hub);
    server.user_applies(&with_another_edge());
    operator.settle("hello").await;
    leaves(&door, &["tick->show"]);
    answers(&door, None);
    drop(door);
    operator.settle("hello").await;
    assert_eq!(told(&hub), before, "its line has dropped");
    operator.let_holds_end();
    operator.settle("hello").await;
    let edges = || edges_into(&hub);
    assert_eq!(edges(), ["tick->show", "tick->even"]);
    let door = operator.connect("hello-door-spl", "hello-door-spl-1");
    operator.settle("hello").await;
    assert_eq!(edges(), ["tick->show", "tick->even"], "it has not said anything yet");
    leaves(&door, &["tick->show"]);
    answers(&door, None);
    operator.settle("hello").await;
    assert_eq!(edges(), ["tick->show", "tick->even"]);
    leaves(&door, &[]);
    operator.settle("hello").await;
    assert_eq!(edges(), ["tick->even"]);
}

#[tokio::test]
async fn one_behind_a_receiver_that_keeps_an_edge_beside_its_new_plan_does_not_wait_for_that() {
    const THREE: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars: [{name: door, workload: {}}, {name: hub, workload: {}}, {name: end, workload: {}}]
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: even, sidecar: hub, process: {sample: {every: 2}}}
  - {name: show, sidecar: end, sink: {console: {}}}
";
    let server = Server::default();
    server.user_applies(THREE);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    let (door, hub) = operator.connect_door_and_hub();
    let end = operator.connect("hello-end-spl", "hello-end-spl-1");
    operator.settle("hello").await;
    let before = [told(&hub), told(&end)];
    for own in [&door, &hub, &end] {
        answers(own, None);
    }
    let first = "  - {name: first, sidecar: hub, process: {sample: {every: 3}}}\n  - {name: even";
    let edited = THREE.replace("  - {name: even", first).replace("console: {}", "blackhole: {}");
    server.user_applies(&edited);
    operator.settle("hello").await;
    leaves(&door, &["tick->even"]);
    answers(&door, None);
    operator.settle("hello").await;
    assert_eq!([told(&hub), told(&end)], before);
    operator.let_holds_end();
    operator.settle("hello").await;
    assert_ne!(told(&hub), before[0], "the new one with the edge beside");
    assert_eq!(told(&end), before[1], "it has not taken it yet");
    answers(&hub, None);
    operator.settle("hello").await;
    assert_ne!(told(&end), before[1]);
}
