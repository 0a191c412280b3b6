//! A sidecar that a pipeline has no more takes what is on its way to it, and goes when it has delivered that.

mod world;

use serde_json::Value;
use sidestream_control::{Applied, Halting, Plan, Report, Suspend};
use sidestream_operator::control::Connected;
use sidestream_plan::{Kind, Source};
use world::{Operator, Server, leaves};

/// The middle one is renamed.
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

struct Sidecars {
    door: Connected,
    hub: Connected,
    end: Connected,
}

impl Sidecars {
    /// All of them, as pods of the pipeline, connect to an operator.
    fn connect(operator: &Operator) -> Sidecars {
        let pod = |name: &str| operator.connect(&format!("hello-{name}-spl"), &format!("hello-{name}-spl-1"));
        Sidecars { door: pod("door"), hub: pod("hub"), end: pod("end") }
    }
}

/// A pipeline of three that runs, and whose middle one has another name from then on.
async fn renamed() -> (Server, Operator, Sidecars) {
    let server = Server::default();
    server.user_applies(THREE);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    let sidecars = Sidecars::connect(&operator);
    operator.settle("hello").await;
    for sidecar in [&sidecars.door, &sidecars.hub, &sidecars.end] {
        runs(sidecar);
        operator.settle("hello").await;
    }
    server.user_applies(&THREE.replace("hub", "core"));
    operator.settle("hello").await;
    (server, operator, sidecars)
}

fn told(sidecar: &Connected) -> Plan {
    sidecar.plans().expect("it is told something").remove(0)
}

/// It says that it runs what it is told.
fn runs(sidecar: &Connected) {
    let (pipeline, hash) = ("shop/hello".into(), told(sidecar).hash);
    sidecar.report(Report::Applied(Applied { pipeline, hash, error: None }));
}

/// It says that it has drained what it is told.
fn drained(sidecar: &Connected) {
    world::drained(sidecar, &told(sidecar).hash);
}

/// Who may send to the last one.
fn let_in_by_end(end: &Connected) -> Vec<String> {
    let plan = told(end).unwrap().expect("a plan that can be read");
    let edges = plan.stages.iter().filter_map(|stage| match &stage.kind {
        Kind::Source(Source::Edge(edge)) => Some(edge.from.iter().map(|from| from.name.clone())),
        _ => None,
    });
    edges.flatten().collect()
}

/// The objects that were made for the sidecar `hub`.
fn objects_of_hub(server: &Server) -> Vec<String> {
    let all: Vec<String> = server.objects().into_keys().collect();
    all.into_iter().filter(|path| path.ends_with("/hello-hub-spl")).collect()
}

fn workload(name: &str) -> String {
    format!("/apis/apps/v1/namespaces/shop/deployments/hello-{name}-spl")
}

#[tokio::test]
async fn it_stays_until_nobody_sends_to_it_and_it_has_delivered_what_it_had() {
    let (server, operator, Sidecars { door, hub, end }) = renamed().await;
    let settled = async || operator.settle("hello").await;
    assert_eq!(told(&hub).stance(), Suspend::StopSources, "the one before it has not taken the new plan");
    assert_eq!(objects_of_hub(&server).len(), 5, "{:#?}", objects_of_hub(&server));
    let policy = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/hello-end-spl";
    let let_in = || server.get(policy).unwrap()["spec"]["ingress"][0]["from"].to_string();
    assert!(let_in().contains("\"hub\"") && let_in().contains("\"core\""), "{}", let_in());

    server.makes_ready(&workload("core"));
    let core = operator.connect("hello-core-spl", "hello-core-spl-1");
    settled().await;
    leaves(&door, &["tick->even"]);
    runs(&door);
    settled().await;
    runs(&core);
    settled().await;
    assert_eq!(let_in_by_end(&end), ["hello-core-spl", "hello-hub-spl"]);
    runs(&end);
    settled().await;
    assert_eq!(told(&hub).stance(), Suspend::StopSources, "some is on its way to it");
    leaves(&door, &[]);
    settled().await;
    assert_eq!(told(&hub).stance(), Suspend::Stop, "nothing more comes to it");
    assert_eq!(objects_of_hub(&server).len(), 5);
    let (pipeline, hash) = ("shop/hello".into(), told(&hub).hash);
    hub.report(Report::Halting(Halting { pipeline, hash, open: vec!["even->show".into()] }));
    settled().await;
    assert_eq!(let_in_by_end(&end), ["hello-core-spl", "hello-hub-spl"], "it still delivers");

    drained(&hub);
    settled().await;
    assert_eq!(hub.plans(), Some(vec![]), "it runs nothing");
    assert_eq!(objects_of_hub(&server), [""; 0]);
    assert_eq!(let_in_by_end(&end), ["hello-core-spl"]);
    assert!(!let_in().contains("\"hub\""), "{}", let_in());
    assert_eq!(told(&end).stance(), Suspend::Run);
}

#[tokio::test]
async fn it_does_not_stay_for_ever_whatever_is_left_for_it() {
    let (server, operator, Sidecars { door, hub, .. }) = renamed().await;
    leaves(&door, &["tick->even"]);
    runs(&door);
    operator.settle("hello").await;
    assert!(!objects_of_hub(&server).is_empty());
    operator.let_holds_end();
    operator.settle("hello").await;
    assert_eq!((hub.plans(), objects_of_hub(&server)), (Some(vec![]), vec![]));
}

#[tokio::test]
async fn another_leader_leaves_it_alone_until_it_has_heard_that_nobody_sends_to_it() {
    let (server, before, sidecars) = renamed().await;
    for sidecar in [&sidecars.door, &sidecars.end] {
        runs(sidecar);
    }
    before.settle("hello").await;
    drop((before, sidecars));
    let deployment: Value = server.get(&workload("hub")).expect("it stays");

    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect(["shop/hello".into()]);
    let Sidecars { door, hub, end } = Sidecars::connect(&operator);
    let core = operator.connect("hello-core-spl", "hello-core-spl-1");
    operator.settle("hello").await;
    assert_eq!(hub.plans(), None, "it runs what it runs");
    for sidecar in [&door, &core, &end] {
        operator.settle("hello").await;
        leaves(sidecar, &[]);
        if let Some(plan) = sidecar.plans().map(|mut plans| plans.remove(0)) {
            let (pipeline, hash) = ("shop/hello".into(), plan.hash);
            sidecar.report(Report::Applied(Applied { pipeline, hash, error: None }));
        }
        assert_eq!(server.get(&workload("hub")).as_ref(), Some(&deployment));
    }
    operator.settle("hello").await;
    operator.settle("hello").await;
    assert_eq!((hub.plans(), objects_of_hub(&server)), (Some(vec![]), vec![]));
}

#[tokio::test]
async fn another_leader_that_hears_what_it_runs_knows_who_sends_to_it() {
    let (server, before, sidecars) = renamed().await;
    let by_hub = told(&sidecars.hub).hash;
    drop((before, sidecars));
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect(["shop/hello".into()]);
    let Sidecars { door, hub, end } = Sidecars::connect(&operator);
    let core = operator.connect("hello-core-spl", "hello-core-spl-1");
    let settled = async || operator.settle("hello").await;
    let pipeline = || "shop/hello".into();
    door.report(Report::Applied(Applied { pipeline: pipeline(), hash: "before".into(), error: None }));
    hub.report(Report::Halting(Halting {
        pipeline: pipeline(),
        hash: by_hub,
        open: vec!["even->show".into()],
    }));
    settled().await;
    assert_eq!(told(&hub).stance(), Suspend::StopSources, "the one before it has not taken the new plan");
    leaves(&door, &["tick->even"]);
    runs(&door);
    settled().await;
    assert_eq!(told(&hub).stance(), Suspend::StopSources, "some is on its way to it");
    leaves(&door, &[]);
    settled().await;
    assert_eq!(told(&hub).stance(), Suspend::Stop, "nothing more comes to it");
    runs(&core);
    settled().await;
    assert_eq!(let_in_by_end(&end), ["hello-core-spl", "hello-hub-spl"], "it still delivers");
    drained(&hub);
    settled().await;
    assert_eq!((hub.plans(), objects_of_hub(&server)), (Some(vec![]), vec![]));
}

#[tokio::test]
async fn what_receives_from_it_stops_after_it_where_the_pipeline_is_suspended_meanwhile() {
    let (server, operator, Sidecars { door, hub, end }) = renamed().await;
    let settled = async || operator.settle("hello").await;
    for name in ["door", "hub", "end", "core"] {
        server.makes_ready(&workload(name));
    }
    let core = operator.connect("hello-core-spl", "hello-core-spl-1");
    settled().await;
    let suspended = THREE.replace("hub", "core").replace("  sidecars:", "  suspend: true\n  sidecars:");
    server.user_applies(&suspended);
    settled().await;
    for sidecar in [&door, &core] {
        assert_eq!(told(sidecar).stance(), Suspend::Stop);
        drained(sidecar);
        settled().await;
    }
    assert_eq!(told(&hub).stance(), Suspend::Stop, "nobody sends to it any more");
    assert_eq!(told(&end).stance(), Suspend::Run, "some may come of what parts");
    let status = server.get("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello").unwrap();
    assert!(
        status["status"]["conditions"].to_string().contains("`hub`, which the pipeline has no more"),
        "{status}"
    );
    drained(&hub);
    settled().await;
    assert_eq!(told(&end).stance(), Suspend::Stop);
    drained(&end);
    settled().await;
    assert_eq!(objects_of_hub(&server), [""; 0]);
    let status = server.get("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello").unwrap();
    assert!(status["status"]["conditions"].to_string().contains("nothing is in flight"), "{status}");
}

#[tokio::test]
async fn each_of_its_pods_is_to_say_that_it_has_drained() {
    let (server, operator, Sidecars { door, hub, .. }) = renamed().await;
    server.makes_ready(&workload("hub"));
    let mut two = server.get(&workload("hub")).unwrap();
    two["status"]["replicas"] = 2.into();
    server.put(&workload("hub"), two);
    let core = operator.connect("hello-core-spl", "hello-core-spl-1");
    server.makes_ready(&workload("core"));
    operator.settle("hello").await;
    for sidecar in [&door, &core] {
        runs(sidecar);
        operator.settle("hello").await;
    }
    assert_eq!(told(&hub).stance(), Suspend::Stop);
    drained(&hub);
    operator.settle("hello").await;
    assert_eq!(objects_of_hub(&server).len(), 5, "the other pod is not connected");
    let other = operator.connect("hello-hub-spl", "hello-hub-spl-2");
    operator.settle("hello").await;
    drained(&other);
    operator.settle("hello").await;
    assert_eq!(objects_of_hub(&server), [""; 0]);
}
