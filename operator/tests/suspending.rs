//! A suspended pipeline stops in the order its data flows, so that what is in flight has somewhere to go.

mod world;

use serde_json::json;
use sidestream_control::{Applied, Counts, Drained, Halting, Report, Suspend};
use sidestream_operator::control::Connected;
use world::{Death, Operator, Server, drained};

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

/// What the receiver counts goes back to where the events come from, and from there once more to the receiver.
const CIRCLE: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  suspend: true
  sidecars: [{name: door, workload: {}}, {name: hub, workload: {replicas: 1}}]
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: count, sidecar: hub, process: {window: {tumbling: 1m, emit: {count: 'true'}}}}
  - {name: some, sidecar: door, process: {sample: {every: 2}}}
  - {name: show, sidecar: hub, sink: {console: {}}}
";

/// It is applied, and both of its sidecars are connected.
async fn suspended() -> (Server, Operator, Connected, Connected) {
    applied(TWO).await
}

/// The same where they send to each other, and each has said that it ran something before.
async fn circle() -> (Server, Operator, Connected, Connected) {
    let (server, operator, door, hub) = applied(CIRCLE).await;
    for sidecar in [&door, &hub] {
        let (pipeline, hash) = ("shop/hello".into(), "before".into());
        sidecar.report(Report::Applied(Applied { pipeline, hash, error: None }));
    }
    operator.settle("hello").await;
    (server, operator, door, hub)
}

async fn applied(pipeline: &str) -> (Server, Operator, Connected, Connected) {
    let server = Server::default();
    server.user_applies(pipeline);
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
    (plan.stance() == Suspend::Stop, plan.hash)
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

/// It says which edges still go out of it.
fn halts(sidecar: &Connected, open: &[&str]) {
    let (pipeline, open) = ("shop/hello".into(), open.iter().map(|edge| (*edge).to_owned()).collect());
    sidecar.report(Report::Halting(Halting { pipeline, hash: told(sidecar).1, open }));
}

/// What stands still, and which of the edges that come in.
fn stance(sidecar: &Connected) -> (Suspend, Vec<String>) {
    let plan = sidecar.plans().unwrap().remove(0);
    (plan.stance(), plan.closed)
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

#[tokio::test]
async fn sidecars_that_send_to_each_other_stop_edge_by_edge_along_the_flow() {
    let (server, operator, door, hub) = circle().await;
    let settled = async || operator.settle("hello").await;
    let halted = |edges: &[&str]| {
        (Suspend::StopSources, edges.iter().map(|edge| (*edge).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(stance(&door), halted(&[]), "its source stops, and what comes back to it is taken");
    assert_eq!(stance(&hub), (Suspend::Run, vec![]), "it has no source of its own");

    halts(&door, &["tick->count", "some->show"]);
    settled().await;
    assert_eq!(stance(&hub), (Suspend::Run, vec![]), "some is on its way");
    halts(&door, &["some->show"]);
    settled().await;
    assert_eq!(stance(&hub), halted(&["tick->count"]));
    assert_eq!(stance(&door), halted(&[]), "the window has not given all");
    halts(&hub, &[]);
    settled().await;
    assert_eq!(stance(&door), (Suspend::Stop, vec![]), "nothing more comes by the one edge into it");
    assert_eq!(stance(&hub), halted(&["tick->count"]), "the last edge is still open");
    drained(&door, &told(&door).1);
    settled().await;
    assert_eq!(stance(&hub), (Suspend::Stop, vec![]));
    assert!(!is_drained(&server));
    drained(&hub, &told(&hub).1);
    settled().await;
    assert!(is_drained(&server));
}

#[tokio::test]
async fn a_sidecar_that_knows_no_parts_and_stops_everything_at_once_holds_up_nobody() {
    let (server, operator, door, hub) = circle().await;
    drained(&door, &told(&door).1);
    operator.settle("hello").await;
    assert_eq!(stance(&hub), (Suspend::Stop, vec![]), "nothing more comes to it");
    drained(&hub, &told(&hub).1);
    operator.settle("hello").await;
    assert!(is_drained(&server));
}

#[tokio::test]
async fn what_still_has_an_edge_of_an_older_plan_has_closed_none() {
    let (_server, operator, door, hub) = circle().await;
    halts(&door, &["tick->before"]);
    halts(&hub, &["count->some"]);
    operator.settle("hello").await;
    assert_eq!(stance(&hub), (Suspend::Run, vec![]));
    halts(&door, &[]);
    operator.settle("hello").await;
    assert_eq!(stance(&hub), (Suspend::Stop, vec![]));
}

/// A pipeline that ran, and is to stop from now on.
async fn to_stop() -> Server {
    let server = Server::default();
    server.user_applies(&TWO.replace("suspend: true", "suspend: false"));
    Operator::new(&server).seeing().settle("hello").await;
    pods_run(&server);
    server.user_applies(TWO);
    server
}

/// Stops it, with sidecars that do as they are told; `done` is what each has drained. False where the operator dies.
async fn stop(server: &Server, operator: &Operator, done: &mut [Option<String>; 2]) -> bool {
    operator.context.fleet.expect(["shop/hello".into()]);
    let sidecars = operator.connect_door_and_hub();
    for _ in 0..100 {
        server.show(&operator.context.observed);
        let before = server.writes().len();
        if !operator.look("hello").await {
            return false;
        }
        if is_drained(server) && server.writes().len() == before {
            return true;
        }
        for (sidecar, done) in [&sidecars.0, &sidecars.1].into_iter().zip(done.iter_mut()) {
            let plan = sidecar.plans().map(|mut plans| plans.remove(0));
            let stops = plan.filter(|plan| plan.stance() == Suspend::Stop).map(|plan| plan.hash);
            *done = stops.or(done.take());
            done.iter().for_each(|hash| drained(sidecar, hash));
        }
    }
    panic!("it never ends: {:#?}", server.writes());
}

#[tokio::test]
async fn an_operator_that_dies_at_any_write_of_a_suspension_leaves_what_the_next_one_ends() {
    let server = to_stop().await;
    server.revive(None);
    assert!(stop(&server, &Operator::new(&server).seeing(), &mut [None, None]).await);
    let (expected, writes) = (server.objects(), server.writes().len());
    assert!(writes >= 2, "only {writes}");
    for at in 0..writes {
        for death in [Death::Before, Death::After] {
            let (server, mut done) = (to_stop().await, [None, None]);
            server.revive(Some((at, death)));
            assert!(!stop(&server, &Operator::new(&server).seeing(), &mut done).await, "it does not die");
            server.revive(None);
            let next = Operator::new(&server).seeing();
            assert!(stop(&server, &next, &mut done).await);
            let found = server.objects();
            assert_eq!(
                serde_yaml::to_string(&found).unwrap(),
                serde_yaml::to_string(&expected).unwrap(),
                "died {death:?} write {at}"
            );
        }
    }
}
