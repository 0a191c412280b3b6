//! Another replica begins to lead: what ran under the one before goes on, and what was edited meanwhile goes along the flow.

mod world;

use sidestream_control::Suspend;
use sidestream_operator::control::Connected;
use world::{
    Death, Operator, Server, leaves,
    two::{TWO, edges_into, runs, told, with_another_edge},
};

/// A pipeline of two ran under the leader before; which plans its sidecars had. Its pods are there.
async fn ran() -> (Server, [String; 2]) {
    let server = Server::default();
    server.user_applies(TWO);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    let (door, hub) = operator.connect_door_and_hub();
    for name in ["door", "hub"] {
        server.makes_ready(&format!("/apis/apps/v1/namespaces/shop/deployments/hello-{name}-spl"));
    }
    operator.settle("hello").await;
    (server, [told(&door), told(&hub)])
}

/// Another leader, to which nobody is connected.
fn leads(server: &Server) -> Operator {
    let operator = Operator::new(server).seeing();
    operator.context.fleet.expect(["shop/hello".into()]);
    operator
}

/// What ran was edited before the next leader looked at it for the first time.
async fn edited_without_a_leader(edited: &str) -> (Server, Operator, [String; 2]) {
    let (server, ran) = ran().await;
    server.user_applies(edited);
    let operator = leads(&server);
    operator.settle("hello").await;
    (server, operator, ran)
}

/// It runs what it is told.
fn answers(sidecar: &Connected) {
    runs(sidecar, &told(sidecar));
}

#[tokio::test]
async fn nothing_changes_for_a_receiver_before_those_that_send_to_it_have_spoken() {
    let server = Server::default();
    server.user_applies(TWO);
    let operator = leads(&server);
    let hub = operator.connect("hello-hub-spl", "hello-hub-spl-1");
    runs(&hub, "before");
    operator.settle("hello").await;
    operator.settle("hello").await;
    assert!(hub.plans().is_none(), "the one before it has not said whether some is on its way");
    let door = operator.connect("hello-door-spl", "hello-door-spl-1");
    leaves(&door, &["tick->even"]);
    answers(&door);
    operator.settle("hello").await;
    assert!(hub.plans().is_none(), "some is");
    leaves(&door, &[]);
    operator.settle("hello").await;
    assert_eq!(hub.plans().unwrap().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_has_not_spoken_is_told_nothing_before_those_that_send_to_it_follow() {
    let (_server, operator, [by_door, _]) = edited_without_a_leader(&with_another_edge()).await;
    let hub = operator.connect("hello-hub-spl", "hello-hub-spl-1");
    operator.settle("hello").await;
    assert!(hub.plans().is_none(), "nobody knows what it runs, nor what is on its way to it");
    let door = operator.connect("hello-door-spl", "hello-door-spl-1");
    operator.settle("hello").await;
    runs(&door, &by_door);
    operator.settle("hello").await;
    assert_ne!(told(&door), by_door, "the sender goes first");
    assert!(hub.plans().is_none(), "it has not taken it");
    answers(&door);
    operator.settle("hello").await;
    assert_eq!(edges_into(&hub), ["tick->even"]);
}

#[tokio::test]
async fn a_look_that_failed_changes_nothing_about_that() {
    let (server, [by_door, _]) = ran().await;
    server.user_applies(&with_another_edge());
    let operator = leads(&server);
    let (door, hub) = operator.connect_door_and_hub();
    runs(&door, &by_door);
    server.revive(Some((0, Death::Before)));
    assert!(!operator.look("hello").await, "it dies at its first write");
    server.revive(None);
    operator.settle("hello").await;
    assert!(hub.plans().is_none(), "it has not spoken, and the one before it has not taken the new plan");
}

#[tokio::test]
async fn what_ran_whole_by_the_new_plan_is_told_it_at_once() {
    let (server, operator, _) = edited_without_a_leader(&with_another_edge()).await;
    let (door, hub) = operator.connect_door_and_hub();
    operator.settle("hello").await;
    for own in [&door, &hub] {
        answers(own);
        operator.settle("hello").await;
    }
    let path = "/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello";
    let mut pipeline = server.get(path).unwrap();
    for condition in pipeline["status"]["conditions"].as_array_mut().unwrap() {
        if condition["type"] == "Ready" {
            condition["status"] = "True".into();
        }
    }
    server.put(path, pipeline);
    let operator = leads(&server);
    let hub = operator.connect("hello-hub-spl", "hello-hub-spl-2");
    operator.settle("hello").await;
    assert_eq!(edges_into(&hub), ["tick->even"]);
}

#[tokio::test]
async fn which_edges_a_receiver_has_is_known_by_the_kept_revisions() {
    let (_server, operator, [by_door, by_hub]) = edited_without_a_leader(&with_another_edge()).await;
    let (door, hub) = operator.connect_door_and_hub();
    runs(&door, &by_door);
    runs(&hub, &by_hub);
    operator.settle("hello").await;
    assert_eq!(told(&hub), by_hub);
    leaves(&door, &["tick->show"]);
    answers(&door);
    operator.settle("hello").await;
    assert_eq!(told(&hub), by_hub, "some is on its way");
    operator.let_holds_end();
    operator.settle("hello").await;
    assert_eq!(edges_into(&hub), ["tick->show", "tick->even"]);
    leaves(&door, &[]);
    operator.settle("hello").await;
    assert_eq!(edges_into(&hub), ["tick->even"]);
}

#[tokio::test]
async fn a_receiver_keeps_the_edge_of_a_sender_that_the_new_plan_does_not_have() {
    let alone = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars: [{name: hub, workload: {}}]
  stages:
  - {name: tock, source: {generator: {rate: 10}}}
  - {name: show, sink: {console: {}}}
";
    let (_server, operator, [by_door, by_hub]) = edited_without_a_leader(alone).await;
    let (door, hub) = operator.connect_door_and_hub();
    operator.settle("hello").await;
    assert!(hub.plans().is_none(), "nobody knows what it runs");
    runs(&hub, &by_hub);
    operator.settle("hello").await;
    operator.context.holds.lock().unwrap().clear();
    operator.settle("hello").await;
    assert_eq!(edges_into(&hub), ["tick->show"], "nobody knows what the other one has for it");
    runs(&door, &by_door);
    operator.settle("hello").await;
    assert_eq!(door.plans().unwrap()[0].stance(), Suspend::Stop);
    assert_eq!(edges_into(&hub), ["tick->show"], "it delivers what it has");
    world::drained(&door, &by_door);
    operator.settle("hello").await;
    assert_eq!(edges_into(&hub), [""; 0]);
}

/// All of it in the sidecar that was there to send; the other one parts.
const WITHOUT_HUB: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars: [{name: door, workload: {}}]
  stages:
  - {name: tick, source: {generator: {rate: 10}}}
  - {name: show, sink: {console: {}}}
";

fn has_objects_of_hub(server: &Server) -> bool {
    server.objects().into_keys().any(|path| path.ends_with("/hello-hub-spl"))
}

#[tokio::test]
async fn one_that_parts_and_has_not_spoken_stays_while_it_has_pods() {
    let (server, operator, [by_door, by_hub]) = edited_without_a_leader(WITHOUT_HUB).await;
    let door = operator.connect("hello-door-spl", "hello-door-spl-1");
    runs(&door, &by_door);
    operator.settle("hello").await;
    answers(&door);
    operator.settle("hello").await;
    assert!(has_objects_of_hub(&server), "it may have something");
    let hub = operator.connect("hello-hub-spl", "hello-hub-spl-1");
    runs(&hub, &by_hub);
    operator.settle("hello").await;
    assert_eq!(hub.plans().unwrap()[0].stance(), Suspend::Stop, "nobody sends to it");
    assert!(has_objects_of_hub(&server));
    world::drained(&hub, &by_hub);
    operator.settle("hello").await;
    assert!(!has_objects_of_hub(&server));
}

#[tokio::test]
async fn a_pipeline_has_not_drained_while_one_that_parts_has_not_spoken() {
    let suspended = WITHOUT_HUB.replace("  sidecars:", "  suspend: true\n  sidecars:");
    let (server, operator, [_, by_hub]) = edited_without_a_leader(&suspended).await;
    let is_drained = || {
        let pipeline = server.get("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello").unwrap();
        let conditions = pipeline["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|one| one["type"] == "Drained" && one["status"] == "True")
    };
    server.makes_ready("/apis/apps/v1/namespaces/shop/deployments/hello-door-spl");
    let door = operator.connect("hello-door-spl", "hello-door-spl-1");
    operator.settle("hello").await;
    world::drained(&door, &told(&door));
    operator.settle("hello").await;
    assert!(!is_drained(), "of the other one nothing is known");
    let hub = operator.connect("hello-hub-spl", "hello-hub-spl-1");
    runs(&hub, &by_hub);
    operator.settle("hello").await;
    assert_eq!(hub.plans().unwrap()[0].stance(), Suspend::Stop);
    assert!(!is_drained());
    world::drained(&hub, &by_hub);
    operator.settle("hello").await;
    assert!(is_drained());
}

#[tokio::test]
async fn receivers_side_by_side_do_not_wait_for_each_other() {
    let both = TWO
        .replace("{name: hub, workload: {}}", "{name: hub, workload: {}}, {name: end, workload: {}}")
        + "  - {name: also, sidecar: end, from: [tick], sink: {blackhole: {}}}\n";
    let (_server, operator, [by_door, _]) = edited_without_a_leader(&both).await;
    let (door, hub) = operator.connect_door_and_hub();
    let end = operator.connect("hello-end-spl", "hello-end-spl-1");
    runs(&door, &by_door);
    for own in [&hub, &end] {
        runs(own, "with edges beside");
    }
    operator.settle("hello").await;
    assert!(hub.plans().is_none() && end.plans().is_none(), "the one before them has not taken the new plan");
    answers(&door);
    operator.settle("hello").await;
    assert_eq!([edges_into(&hub).len(), edges_into(&end).len()], [1, 1]);
}

#[tokio::test]
async fn one_pod_that_is_late_takes_none_of_the_others_back() {
    let (server, operator, [by_door, by_hub]) = edited_without_a_leader(&with_another_edge()).await;
    let (door, hub) = operator.connect_door_and_hub();
    runs(&door, &by_door);
    operator.settle("hello").await;
    answers(&door);
    operator.settle("hello").await;
    let new = told(&hub);
    drop((operator, door, hub));
    let operator = leads(&server);
    let (_door, hub) = operator.connect_door_and_hub();
    let late = operator.connect("hello-hub-spl", "hello-hub-spl-2");
    runs(&hub, &new);
    runs(&late, &by_hub);
    operator.settle("hello").await;
    assert!(hub.plans().is_none_or(|plans| plans[0].hash == new));
}
