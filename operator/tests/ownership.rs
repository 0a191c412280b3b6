//! What is somebody else's stays as it is; what is ours comes back.

mod world;

use serde_json::json;
use world::{HELLO, Operator, Server};

const BROKEN: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  stages:
  - {name: show, from: [tock], sink: {console: {}}}
";
const SERVICE: &str = "/api/v1/namespaces/shop/services/hello-main-spl";
const ACCOUNT: &str = "/api/v1/namespaces/shop/serviceaccounts/hello-main-spl";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/hello-main-spl";
const TRUST: &str = "/api/v1/namespaces/shop/configmaps/sidestream-trust";

/// Type, status and reason of a condition.
fn condition(server: &Server, kind: &str) -> (String, String) {
    let pipeline = server.get("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello").unwrap();
    let conditions = pipeline["status"]["conditions"].as_array().unwrap().clone();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap();
    (found["reason"].as_str().unwrap().into(), found["message"].as_str().unwrap().into())
}

#[tokio::test]
async fn a_foreign_object_of_our_name_is_named_and_left_alone() {
    for (path, kind) in [(ACCOUNT, "ServiceAccount"), (SERVICE, "Service"), (TRUST, "ConfigMap")] {
        let server = Server::default();
        let name = path.rsplit('/').next().unwrap();
        let foreign = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "mine": true});
        server.put(path, foreign);
        let before = server.get(path);
        server.user_applies(HELLO);
        Operator::new(&server).seeing().settle("hello").await;
        assert_eq!(server.get(path), before, "{kind}");
        assert_eq!(server.get(DEPLOYMENT), None, "{kind}: what leans on it is not made");
        let (reason, message) = condition(&server, "Ready");
        assert_eq!(reason, "NameConflict");
        assert!(message.contains(kind) && message.contains(name), "{message}");
    }
}

#[tokio::test]
async fn what_runs_goes_on_when_somebody_puts_an_object_in_our_place() {
    let server = Server::default();
    server.user_applies(HELLO);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    let told = operator.connect("hello-main-spl", "hello-1");
    for (path, kind) in [(TRUST, "ConfigMap"), (SERVICE, "Service")] {
        let ours = server.get(path).unwrap();
        let name = path.rsplit('/').next().unwrap();
        server.put(path, json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}));
        // Its watch shows that ours is gone: what is there now has not our label.
        let group = if kind == "ConfigMap" { "shop/" } else { "shop/hello" };
        operator.context.observed.forget(group, &(kind, name.into()));
        operator.settle("hello").await;
        assert_eq!(condition(&server, "Ready").0, "NameConflict", "{kind}");
        assert_eq!(told.plans().unwrap().len(), 1, "{kind}");
        server.put(path, ours);
        operator.settle("hello").await;
        assert_ne!(condition(&server, "Ready").0, "NameConflict", "{kind}");
    }
}

#[tokio::test]
async fn an_object_of_an_earlier_pipeline_of_the_same_name_is_waited_for() {
    let server = Server::default();
    server.user_applies(HELLO);
    Operator::new(&server).seeing().settle("hello").await;
    let old = server.get(ACCOUNT).unwrap();
    server.user_deletes("hello");
    server.put(ACCOUNT, old);
    server.user_applies(HELLO);
    let operator = Operator::new(&server).seeing();
    operator.settle("hello").await;
    assert!(condition(&server, "Ready").1.contains("still being removed"));
    assert_eq!(server.get(DEPLOYMENT), None);
}

#[tokio::test]
async fn what_somebody_changes_or_removes_is_put_back() {
    let server = Server::default();
    server.user_applies(HELLO);
    let operator = Operator::new(&server).seeing();
    operator.settle("hello").await;
    let expected = server.objects();
    let mut service = server.get(SERVICE).unwrap();
    service["spec"]["ports"] = json!([]);
    server.put(SERVICE, service);
    operator.settle("hello").await;
    assert_eq!(server.objects(), expected);
}

#[tokio::test]
async fn replicas_that_nobody_named_stay_as_they_were_scaled() {
    let server = Server::default();
    server.user_applies(HELLO);
    let operator = Operator::new(&server).seeing();
    operator.settle("hello").await;
    let mut deployment = server.get(DEPLOYMENT).unwrap();
    deployment["spec"]["replicas"] = json!(4);
    server.put(DEPLOYMENT, deployment);
    server.revive(None);
    operator.settle("hello").await;
    assert_eq!(server.get(DEPLOYMENT).unwrap()["spec"]["replicas"], 4);
    let touched: Vec<_> = server.writes().into_iter().filter(|write| write.contains("deployments")).collect();
    assert!(touched.is_empty(), "{touched:?}");
}

#[tokio::test]
async fn the_last_good_plan_goes_on_through_a_bad_edit_and_a_new_operator() {
    let server = Server::default();
    server.user_applies(HELLO);
    Operator::new(&server).seeing().settle("hello").await;
    let good = server.get(DEPLOYMENT);
    server.user_applies(BROKEN);
    let next = Operator::new(&server).seeing();
    next.context.fleet.expect(["shop/hello".into()]);
    next.settle("hello").await;
    assert_eq!(server.get(DEPLOYMENT), good);
    let told = next.connect("hello-main-spl", "hello-1");
    assert_eq!(told.plans().unwrap().len(), 1, "a sidecar that connects now is told the last good plan");
    let (reason, message) = condition(&server, "Accepted");
    assert_eq!(reason, "Invalid");
    assert!(message.contains("unknown-stage") && message.contains("goes on running"), "{message}");
}

#[tokio::test]
async fn three_revisions_are_kept() {
    let server = Server::default();
    for rate in 1..=6 {
        server.user_applies(&HELLO.replace("rate: 10", &format!("rate: {rate}")));
        Operator::new(&server).seeing().settle("hello").await;
    }
    let kept: Vec<i64> = (server.everything().into_iter())
        .filter(|(path, _)| path.contains("controllerrevisions"))
        .map(|(_, object)| object["revision"].as_i64().unwrap())
        .collect();
    let mut sorted = kept.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [4, 5, 6], "{kept:?}");
}
