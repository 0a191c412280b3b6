//! A suspended pipeline stops in the order its data flows, so that what is in flight has somewhere to go.

mod world;

use serde_json::json;
use sidestream_control::{Counts, Drained, Report};
use sidestream_operator::control::Connected;
use world::{Operator, Server};

const TWO: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  suspend: true
  sidecars: [{name: door, workload: {}}, {name: hub, workload: {}}]
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: show, sidecar: hub, sink: {console: {}}}
";

/// It is applied, and both of its sidecars are connected.
async fn suspended() -> (Server, Operator, Connected, Connected) {
    let server = Server::default();
    server.user_applies(TWO);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    pods_run(&server);
    let (door, hub) = operator.connect_door_and_hub();
    operator.settle("hello").await;
    (server, operator, door, hub)
}

/// Whether the sidecar is told to stop, and which plan.
fn told(sidecar: &Connected) -> (bool, String) {
    let plan = sidecar.plans().unwrap().remove(0);
    (plan.suspend, plan.hash)
}

/// Every pod of both sidecars is there.
fn pods_run(server: &Server) {
    for name in ["hello-door-spl", "hello-hub-spl"] {
        let path = format!("/apis/apps/v1/namespaces/shop/deployments/{name}");
        let mut deployment = server.get(&path).unwrap();
        deployment["status"] =
            json!({"replicas": 1, "observedGeneration": deployment["metadata"]["generation"]});
        server.put(&path, deployment);
    }
}

/// It says that it has drained what it is told.
fn drained(sidecar: &Connected, hash: &str) {
    let (pipeline, counts) = ("shop/hello".into(), Some(Counts::default()));
    sidecar.report(Report::Drained(Drained { pipeline, hash: hash.into(), counts }));
}

fn is_drained(server: &Server) -> bool {
    let pipeline = server.get("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello").unwrap();
    let conditions = pipeline["status"]["conditions"].as_array().unwrap();
    conditions.iter().any(|condition| condition["type"] == "Drained" && condition["status"] == "True")
}

#[tokio::test]
async fn what_has_stopped_stays_so_whoever_is_not_connected() {
    let (server, operator, door, hub) = suspended().await;
    let door_hash = told(&door).1;
    drained(&door, &door_hash);
    operator.settle("hello").await;
    assert!(told(&hub).0);
    drop(door);
    operator.settle("hello").await;
    assert!(told(&hub).0, "the one before it is not connected, and has nothing for it");

    // Another leader, which the receiver finds first.
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect(["shop/hello".into()]);
    let hub = operator.connect("hello-hub-spl", "hello-hub-spl-1");
    operator.settle("hello").await;
    assert!(hub.plans().is_none(), "it is told nothing before it is known what the one before it does");
    let door = operator.connect("hello-door-spl", "hello-door-spl-1");
    operator.settle("hello").await;
    assert!(hub.plans().is_none(), "nor before that one has said so");
    drained(&door, &door_hash);
    operator.settle("hello").await;
    assert!(told(&hub).0);
    drained(&hub, &told(&hub).1);
    operator.settle("hello").await;
    assert!(is_drained(&server));

    // Yet another, to which nobody is connected.
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect(["shop/hello".into()]);
    operator.settle("hello").await;
    assert!(is_drained(&server));
    assert!(told(&operator.connect("hello-hub-spl", "hello-hub-spl-1")).0);
}

#[tokio::test]
async fn what_only_receives_stops_when_those_that_send_to_it_have_drained() {
    let (_server, operator, door, hub) = suspended().await;
    assert!(told(&door).0);
    assert!(hub.plans().is_none(), "the one before it has not said yet whether it has stopped already");

    let drained = |in_flight| {
        let counts = Some(Counts { in_flight, ..Counts::default() });
        door.report(Report::Drained(Drained { pipeline: "shop/hello".into(), hash: told(&door).1, counts }));
    };
    drained(3);
    operator.settle("hello").await;
    assert!(!told(&hub).0, "some events are on their way to it");
    drained(0);
    operator.settle("hello").await;
    assert!(told(&hub).0);
}
