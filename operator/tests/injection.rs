//! Sidecars in the user's own pods: added when a pod is made, told the plans of every pipeline that selects it.

mod world;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::ByteString;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use sidestream_desired::Facts;
use sidestream_host::Clock;
use sidestream_operator::{
    control::Connected,
    metrics::Metrics,
    trust::{Roots, own_identity},
    webhook::{Injector, serve},
};
use sidestream_plan::{Kind, Plan, Sink, Source, stage::Account};
use sidestream_trust::{Anchors, SpiffeId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use world::{Death, HELLO, Operator, Server};

const OWN_NAMESPACE: &str = "sidestream-system";
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/desired/cases/injection");

fn case(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("{CASES}/{name}.yaml")).unwrap();
    text.split("\n---\n").map(|document| serde_yaml::from_str(document).unwrap()).collect()
}

/// As the chart installs it, and `sidestream inject` assumes it.
fn injector(server: &Server) -> Injector {
    let facts = Facts {
        sidecar_image: "sidestream.dev/sidecar:0.1.0".into(),
        image_pull_policy: Some("IfNotPresent".into()),
        operator: "sidestream-operator.sidestream-system.svc:9443".into(),
        operator_id: "spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator".into(),
    };
    Injector::new(server.client(), facts, OWN_NAMESPACE, Metrics::default())
}

async fn reviewed(server: &Server, namespace: &str, pod: &Value) -> Value {
    let request = json!({"uid": "7", "namespace": namespace, "operation": "CREATE", "object": pod});
    injector(server).review(&json!({ "request": request })).await["response"].clone()
}

/// `pod` after the patch in `response`, which adds and does nothing else.
fn patched(mut pod: Value, response: &Value) -> Value {
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    for step in serde_json::from_slice::<Vec<Value>>(&patch.0).unwrap() {
        assert_eq!(step["op"], "add");
        let (parent, last) = step["path"].as_str().unwrap().rsplit_once('/').unwrap();
        match pod.pointer_mut(parent).unwrap() {
            Value::Array(list) if last == "-" => list.push(step["value"].clone()),
            Value::Array(list) => list.insert(last.parse().unwrap(), step["value"].clone()),
            parent => parent[last] = step["value"].clone(),
        }
    }
    pod
}

fn pod() -> Value {
    case("deployment")[0]["spec"]["template"].clone()
}

#[tokio::test]
async fn a_pod_gets_what_the_command_line_would_add_to_its_deployment() {
    let server = Server::default();
    for pipeline in case("pipelines") {
        let [namespace, name] =
            ["namespace", "name"].map(|field| pipeline["metadata"][field].as_str().unwrap().to_owned());
        let path = format!("/apis/sidestream.dev/v1alpha1/namespaces/{namespace}/pipelines/{name}");
        server.put(&path, pipeline);
    }
    let response = reviewed(&server, "shop", &pod()).await;
    assert_eq!(patched(pod(), &response), case("injected")[0]["spec"]["template"], "{response}");
    let again = reviewed(&server, "shop", &patched(pod(), &response)).await;
    assert!(again["allowed"] == true && again["patch"].is_null(), "{again}");
}

#[tokio::test]
async fn a_pod_that_mounts_the_volume_for_it_gets_a_socket_to_dnpipes_as_by_the_command_line() {
    let pod = case("socket")[0]["spec"]["template"].clone();
    let response = reviewed(&Server::default(), "shop", &pod).await;
    assert_eq!(patched(pod, &response), case("socket.injected")[0]["spec"]["template"], "{response}");
}

#[tokio::test]
async fn some_pods_are_let_alone_whatever_the_configuration_sends_here() {
    let server = Server::default();
    let changed = |change: fn(&mut Value)| {
        let mut pod = pod();
        change(&mut pod);
        pod
    };
    let unasked = changed(|pod| pod["metadata"]["labels"] = json!({"app": "shopfront"}));
    let no = changed(|pod| pod["metadata"]["labels"]["sidestream.dev/inject"] = "disabled".into());
    let mirror = changed(|pod| pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "1"}));
    for (namespace, pod) in
        [("kube-system", pod()), (OWN_NAMESPACE, pod()), ("shop", unasked), ("shop", no), ("shop", mirror)]
    {
        let response = reviewed(&server, namespace, &pod).await;
        assert!(response["allowed"] == true && response["patch"].is_null(), "{namespace}: {response}");
    }
}

#[tokio::test]
async fn a_pod_in_which_a_sidecar_would_be_in_the_way_is_refused_with_the_reason() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = true.into();
    let response = reviewed(&Server::default(), "shop", &pod).await;
    assert_eq!(response["allowed"], false);
    assert!(response["status"]["message"].as_str().unwrap().contains("hostNetwork"), "{response}");
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_keeps_no_pod_from_its_sidecar() {
    let server = Server::default();
    server.revive(Some((0, Death::Before)));
    let _ = server.client().send(http::Request::post("/x").body(kube::client::Body::empty()).unwrap()).await;
    let response = reviewed(&server, "shop", &pod()).await;
    assert!(response["allowed"] == true && response["patch"].is_string(), "{response}");
    assert!(response["warnings"][0].as_str().unwrap().contains("no Secrets"), "{response}");
}

#[tokio::test]
async fn a_pod_made_while_a_spec_does_not_compile_gets_the_secrets_of_what_runs() {
    const GOOD: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars: [{name: app, inject: {podSelector: {matchLabels: {app: shopfront}}}}]
  stages:
  - {name: tick, source: {generator: {}}}
  - {name: page, sink: {webhook: {url: 'http://a', credentials: {secretRef: {name: am, key: token}}}}}
";
    let server = Server::default();
    for bad in [GOOD.replace("name: page", "name: page, from: [nobody]"), GOOD.replace("stages:", "steps:")] {
        for spec in [GOOD, &bad] {
            server.user_applies(spec);
            Operator::new(&server).seeing().settle("hello").await;
        }
        let response = reviewed(&server, "shop", &pod()).await;
        let pod = patched(pod(), &response).to_string();
        assert!(pod.contains(r#""secretName":"am""#), "{bad}: {pod}");
    }
}

/// The Secret of this name is in what a pod of the user's gets.
async fn gets(injector: &Injector, secret: &str) -> bool {
    let review =
        json!({"request": {"uid": "7", "namespace": "shop", "operation": "CREATE", "object": pod()}});
    let response = injector.review(&review).await["response"].clone();
    assert!(response["warnings"].as_array().is_some_and(Vec::is_empty), "{response}");
    patched(pod(), &response).to_string().contains(&format!("\"{secret}\""))
}

fn with_secret(name: &str, secret: &str) -> String {
    format!(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  sidecars: [{{name: app, inject: {{podSelector: {{matchLabels: {{app: shopfront}}}}}}}}]
  stages:
  - {{name: tick, source: {{generator: {{}}}}}}
  - {{name: page, sink: {{webhook: {{url: 'http://a', credentials: {{secretRef: {{name: {secret}, key: token}}}}}}}}}}
"
    )
}

/// Waits until a review asks the server for nothing, or for something.
async fn until_it(asks: bool, injector: &Injector, server: &Server, secret: &str) {
    for _ in 0..1000 {
        let before = server.lists();
        assert!(gets(injector, secret).await, "all along");
        if (server.lists() > before) == asks {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it asks where it should not, or does not where it should");
}

#[tokio::test]
async fn a_review_asks_nobody_once_all_pipelines_have_been_seen() {
    let server = Server::default();
    for number in 0..100 {
        server.user_applies(&with_secret(&format!("hello-{number}"), &format!("am-{number}")));
    }
    let injector = injector(&server);
    assert!(gets(&injector, "am-0").await && gets(&injector, "am-99").await);
    assert!(server.lists() > 0, "it knows nothing yet");
    let following = tokio::spawn(injector.follow());
    until_it(false, &injector, &server, "am-0").await;
    let before = server.lists();
    for _ in 0..100 {
        assert!(gets(&injector, "am-0").await && gets(&injector, "am-99").await);
    }
    assert_eq!(server.lists(), before);
    following.abort();
}

#[tokio::test]
async fn a_review_asks_again_while_pipelines_cannot_be_watched() {
    let server = Server::default();
    server.user_applies(&with_secret("hello", "am"));
    let injector = injector(&server);
    let following = tokio::spawn(injector.follow());
    until_it(false, &injector, &server, "am").await;
    server.breaks_watches();
    until_it(true, &injector, &server, "am").await;
    server.user_applies(&with_secret("later", "bm"));
    assert!(gets(&injector, "bm").await, "which no watch has shown");
    following.abort();
}

/// What the API server gets who asks at `address`, trusting `anchors` and going by the Service's name.
async fn ask(address: SocketAddr, anchors: &Anchors, review: &Value) -> std::io::Result<Value> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(anchors.certificates().iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("sidestream-operator.sidestream-system.svc").unwrap();
    let socket = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    let body = review.to_string();
    let head =
        "POST /mutate HTTP/1.1\r\nhost: operator\r\ncontent-type: application/json\r\nconnection: close";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Whoever closes a connection without a farewell has still answered.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    Ok(serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap())
}

#[tokio::test]
async fn the_api_server_is_answered_with_a_certificate_of_the_roots_of_the_moment() {
    let clock = Clock::machine();
    let id = SpiffeId::of_service_account("cluster.local", OWN_NAMESPACE, "sidestream-operator").unwrap();
    let names = ["sidestream-operator.sidestream-system.svc".to_owned()];
    let hour = Duration::from_secs(3600);
    let [old, new] = [(); 2].map(|()| Roots::create("cluster.local", &clock).unwrap());
    let identity = own_identity(&old, &id, &names, hour, &clock).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = serve(listener, identity.clone(), injector(&Server::default()), std::future::pending());
    tokio::spawn(serving);

    let review = json!({"request": {"uid": "7", "namespace": "shop", "object": pod()}});
    let answer = ask(address, &old.anchors, &review).await.unwrap();
    assert_eq!(answer["response"]["uid"], "7");
    assert!(ask(address, &new.anchors, &review).await.is_err(), "who trusts others");
    let renewed = own_identity(&new, &id, &names, hour, &clock).unwrap().credentials();
    identity.replace(Arc::into_inner(renewed).expect("nobody else has it"));
    assert!(ask(address, &new.anchors, &review).await.is_ok());
}

const ORDERS: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars:
  - {name: app, inject: {podSelector: {matchLabels: {app: front}}}}
  - {name: hub, workload: {}}
  stages:
  - {name: tick, sidecar: app, source: {generator: {rate: 10}}}
  - {name: show, sidecar: hub, sink: {console: {}}}
";

/// A pod of the user's, as the watch shows it.
fn see(operator: &Operator, name: &str, account: &str, has_sidecar: bool) {
    let sidecar = json!({"name": "sidestream", "restartPolicy": "Always"});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "front"}},
        "spec": {"serviceAccountName": account, "initContainers": if has_sidecar { json!([sidecar]) } else { json!([]) }},
        "status": {"phase": "Running"},
    });
    operator.context.user_pods.see(&serde_json::from_value(pod).unwrap());
}

fn plan(connected: &Connected, pipeline: &str) -> Plan {
    let plans = connected.plans().expect("all pipelines have been looked at");
    plans.iter().find(|plan| plan.pipeline == pipeline).expect(pipeline).unwrap().unwrap()
}

fn ready(server: &Server) -> (String, String) {
    let pipeline = server.get("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/hello").unwrap();
    let conditions = pipeline["status"]["conditions"].as_array().unwrap().clone();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap();
    ["reason", "message"].map(|field| ready[field].as_str().unwrap().to_owned()).into()
}

#[tokio::test]
async fn who_may_send_over_an_edge_is_whoever_the_pods_run_as() {
    let server = Server::default();
    server.user_applies(ORDERS);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    let hub = operator.connect("hello-hub-spl", "hub-1");
    let senders = || {
        let plan = plan(&hub, "shop/hello");
        match &plan.stages[0].kind {
            Kind::Source(Source::Edge(edge)) => edge.from.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(senders(), []);
    assert_eq!(ready(&server).0, "NoPods");

    see(&operator, "front-1", "till", true);
    see(&operator, "front-2", "desk", true);
    operator.settle("hello").await;
    let account = |name: &str| Account { namespace: "shop".into(), name: name.into() };
    assert_eq!(senders(), [account("desk"), account("till")]);
}

#[tokio::test]
async fn one_sidecar_is_told_the_plans_of_every_pipeline_that_selects_its_pod_and_no_other_is() {
    let server = Server::default();
    server.user_applies(ORDERS);
    server.user_applies(&ORDERS.replace("name: hello", "name: later"));
    server.user_applies(&HELLO.replace("name: hello", "name: other"));
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect(["hello", "later", "other"].map(|name| format!("shop/{name}")));
    see(&operator, "front-1", "till", true);
    let (front, stranger) = (operator.connect("till", "front-1"), operator.connect("till", "back-1"));
    for name in ["hello", "other"] {
        operator.settle(name).await;
        assert!(front.plans().is_none(), "what is told is all there is");
    }
    operator.settle("later").await;
    let names: Vec<String> = front.plans().unwrap().into_iter().map(|plan| plan.pipeline).collect();
    assert_eq!(names, ["shop/hello", "shop/later"]);
    assert_eq!(stranger.plans().unwrap().len(), 0, "whom no pipeline selects");
}

#[tokio::test]
async fn a_pod_without_the_sidecar_it_asks_for_is_named_in_the_status() {
    let server = Server::default();
    server.user_applies(ORDERS);
    let operator = Operator::new(&server).seeing();
    see(&operator, "front-1", "till", false);
    operator.settle("hello").await;
    let (reason, message) = ready(&server);
    assert!(reason == "NotInjected" && message.contains("front-1"), "{message}");
}

#[tokio::test]
async fn a_plan_that_listens_on_a_port_of_the_apps_is_not_told_to_its_sidecar() {
    let server = Server::default();
    server.user_applies(&ORDERS.replace("generator: {rate: 10}", "http: {listen: '0.0.0.0:8080'}"));
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "front-1", "namespace": "shop", "labels": {"app": "front"}},
        "spec": {
            "serviceAccountName": "till",
            "initContainers": [{"name": "sidestream", "restartPolicy": "Always"}],
            "containers": [{"name": "shop", "ports": [{"containerPort": 8080}]}],
        },
        "status": {"phase": "Running"},
    });
    operator.context.user_pods.see(&serde_json::from_value(pod).unwrap());
    let front = operator.connect("till", "front-1");
    operator.settle("hello").await;
    assert_eq!(front.plans().unwrap().len(), 0);
    let (reason, message) = ready(&server);
    assert!(reason == "PortClash" && message.contains("8080") && message.contains("front-1"), "{message}");
}

#[tokio::test]
async fn events_go_to_pods_that_stay_and_have_a_sidecar() {
    let server = Server::default();
    let back = ORDERS.replace(
        "sidecar: hub, sink",
        "sidecar: hub, process: {filter: {keep: 'true'}}}\n  - {name: end, sidecar: app, sink",
    );
    server.user_applies(&back.replace("name: show", "name: all"));
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    let pod = |name: &str, account: &str, has_sidecar: bool, is_leaving: bool| {
        see(&operator, name, account, has_sidecar);
        if is_leaving {
            leave(&operator, name, account);
        }
    };
    pod("front-1", "anna", false, false);
    pod("front-2", "bert", true, true);
    pod("front-3", "carl", true, false);
    operator.settle("hello").await;
    let hub = operator.connect("hello-hub-spl", "hub-1");
    let stages = plan(&hub, "shop/hello").stages;
    let account = |name: &str| Account { namespace: "shop".into(), name: name.into() };
    for stage in stages {
        match stage.kind {
            Kind::Source(Source::Edge(edge)) => assert_eq!(edge.from, [account("carl"), account("bert")]),
            Kind::Sink(Sink::Edge(edge)) => assert_eq!(edge.to, account("carl")),
            _ => {}
        }
    }
}

/// The same pod, being removed.
fn leave(operator: &Operator, name: &str, account: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "labels": {"app": "front"}, "deletionTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "serviceAccountName": account,
            "initContainers": [{"name": "sidestream", "restartPolicy": "Always"}],
        },
        "status": {"phase": "Running"},
    });
    operator.context.user_pods.see(&serde_json::from_value(pod).unwrap());
}

#[tokio::test]
async fn pods_of_the_users_get_no_object_of_ours() {
    let server = Server::default();
    server.user_applies(ORDERS);
    let operator = Operator::new(&server).seeing();
    see(&operator, "front-1", "till", true);
    operator.settle("hello").await;
    let made: Vec<String> =
        server.objects().into_keys().filter(|path| path.ends_with("hello-app-spl")).collect();
    assert!(made.is_empty(), "{made:?}");
    assert!(server.objects().keys().any(|path| path.ends_with("deployments/hello-hub-spl")));
}
