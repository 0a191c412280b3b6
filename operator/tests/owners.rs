//! Pods that each own a share of the keys: nobody sends to one that is not there, and none goes before its heirs are known.

mod world;

use sidestream_control::{Applied, Report};
use sidestream_operator::control::Connected;
use world::{Operator, Server};

const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/hello-hub-spl";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/hello-hub-spl";

/// The hub brings the events of a key together, in so many pods.
fn pods(replicas: u32) -> String {
    format!(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: hello}}
spec:
  sidecars: [{{name: door, workload: {{}}}}, {{name: hub, workload: {{replicas: {replicas}}}}}]
  stages:
  - {{name: tick, sidecar: door, source: {{generator: {{rate: 10}}}}}}
  - {{name: once, sidecar: hub, process: {{dedupe: {{by: event.key, window: 1m}}}}}}
  - {{name: show, sink: {{console: {{}}}}}}
"
    )
}

/// It runs in so many pods, and its senders know it.
async fn running(replicas: u32, workload: &str) -> (Server, Operator, Connected, Connected) {
    let server = Server::default();
    server.user_applies(&pods(replicas));
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    server.makes_ready(workload);
    let (door, hub) = operator.connect_door_and_hub();
    operator.settle("hello").await;
    answers(&door);
    answers(&hub);
    operator.settle("hello").await;
    (server, operator, door, hub)
}

/// The plan that the sidecar is told.
fn told(sidecar: &Connected) -> String {
    sidecar.plans().unwrap().remove(0).hash
}

fn answers(sidecar: &Connected) {
    let (pipeline, hash) = ("shop/hello".into(), told(sidecar));
    sidecar.report(Report::Applied(Applied { pipeline, hash, error: None }));
}

#[tokio::test]
async fn senders_hear_of_more_owners_when_all_are_there_and_of_fewer_at_once() {
    let (server, operator, door, _hub) = running(2, SET).await;
    let two = told(&door);
    server.user_applies(&pods(3));
    operator.settle("hello").await;
    assert_eq!(server.get(SET).unwrap()["spec"]["replicas"], 3);
    assert_eq!(told(&door), two, "the third is not there yet");
    server.makes_ready(SET);
    operator.settle("hello").await;
    assert_ne!(told(&door), two);

    server.user_applies(&pods(2));
    operator.settle("hello").await;
    assert_eq!(told(&door), two, "the plan is what it says, whenever it was told");
    assert_eq!(server.get(SET).unwrap()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn whoever_scales_the_set_by_hand_finds_it_put_back() {
    let (server, operator, ..) = running(2, SET).await;
    let mut set = server.get(SET).unwrap();
    set["spec"]["replicas"] = 5.into();
    server.put(SET, set);
    operator.settle("hello").await;
    assert_eq!(server.get(SET).unwrap()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn a_deployment_becomes_a_set_and_goes_when_its_pods_are_there_and_the_senders_know_them() {
    let (server, operator, door, hub) = running(1, DEPLOYMENT).await;
    let one = told(&door);
    server.user_applies(&pods(2));
    operator.settle("hello").await;
    assert!(server.get(SET).is_some() && server.get(DEPLOYMENT).is_some());
    assert_eq!(told(&door), one, "its pods are not there yet");
    server.makes_ready(SET);
    operator.settle("hello").await;
    assert_ne!(told(&door), one);
    assert!(server.get(DEPLOYMENT).is_some(), "the sender has not taken it yet");
    answers(&door);
    answers(&hub);
    operator.settle("hello").await;
    assert!(server.get(SET).is_some() && server.get(DEPLOYMENT).is_none());
}

#[tokio::test]
async fn a_set_becomes_a_deployment_and_goes_when_its_pods_are_there_and_the_senders_know_them() {
    let (server, operator, door, hub) = running(2, SET).await;
    let two = told(&door);
    server.user_applies(&pods(1));
    operator.settle("hello").await;
    assert_ne!(told(&door), two, "any of them may take what comes");
    answers(&door);
    answers(&hub);
    operator.settle("hello").await;
    assert!(server.get(SET).is_some() && server.get(DEPLOYMENT).is_some(), "the new pod is not there yet");
    server.makes_ready(DEPLOYMENT);
    operator.settle("hello").await;
    assert!(server.get(SET).is_none() && server.get(DEPLOYMENT).is_some());
}

#[tokio::test]
async fn a_set_goes_with_its_sidecar() {
    let (server, operator, ..) = running(2, SET).await;
    server.user_applies(&pods(2).replace("hub", "other"));
    operator.settle_for_good("hello").await;
    assert_eq!(server.get(SET), None);
}

#[tokio::test]
async fn a_new_leader_tells_senders_of_owners_that_are_there_only() {
    let (server, before, door, hub) = running(2, SET).await;
    server.makes_ready("/apis/apps/v1/namespaces/shop/deployments/hello-door-spl");
    let two = told(&door);
    drop((before, door, hub));
    server.user_applies(&pods(3));
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect(["shop/hello".into()]);
    operator.settle("hello").await;
    let (door, _hub) = operator.connect_door_and_hub();
    operator.settle("hello").await;
    assert!(door.plans().is_none(), "nobody knows whom it knows, and the third is not there");
    let (pipeline, hash) = ("shop/hello".into(), two.clone());
    door.report(Report::Applied(Applied { pipeline, hash, error: None }));
    operator.settle("hello").await;
    assert_eq!(told(&door), two);
    server.makes_ready(SET);
    operator.settle("hello").await;
    assert_ne!(told(&door), two);
}
