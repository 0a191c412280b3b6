//! A new release of the chart while events flow, and the way back: the operator and every sidecar it made are replaced.
//!
//! Both sidecars are, also the one with the source, so the events come from outside: a client that posts to whichever pod
//! takes them, and again where it was not told that they arrived.

use std::{
    env,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use sidestream_e2e::eventually;

use crate::{
    collector::{Account, Collector},
    no_operator::operator,
    world::{Namespace, SOON, kubectl},
};

/// Events of a request.
const TOGETHER: usize = 50;
const PORT: u16 = 8088;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_rolling_upgrade_and_the_way_back_lose_and_repeat_nothing() {
    let Some(collector) = Collector::listen() else { return };
    let shop = Namespace::alone("e2e-upgrade");
    shop.apply(&pipeline(&collector.url));
    shop.wait_ready("upgraded");
    let client = Client::start(&shop);
    arrives(&collector, &client, 10 * TOGETHER);

    let old = image(&["--namespace", "sidestream-system", "get", "deployment/sidestream-operator"]);
    let tag = old.rsplit_once(':').expect("a tag").1;
    for image in [&old, &old.replace("operator", "sidecar")] {
        on_every_node(&["ctr", "-n", "k8s.io", "images", "tag", "--force", image, &format!("{image}-next")]);
    }
    helm(&[
        "upgrade",
        "sidestream",
        "charts/sidestream",
        "--reuse-values",
        "--set",
        &format!("images.tag={tag}-next"),
    ]);
    converges(&shop, &format!("{tag}-next"));
    arrives(&collector, &client, client.posted() + 10 * TOGETHER);

    helm(&["rollback", "sidestream"]);
    converges(&shop, tag);
    arrives(&collector, &client, client.posted() + 10 * TOGETHER);

    let count = client.stop();
    let account = collector.all_arrive(count, SOON);
    println!("{account:?}");
    assert_eq!(account, Account { arrived: count, lost: 0, repeated: 0, reordered: 0 });
}

fn pipeline(url: &str) -> String {
    format!(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: upgraded}}
spec:
  sidecars: [{{name: field, workload: {{}}}}, {{name: hub, workload: {{}}}}]
  stages:
  - {{name: events, sidecar: field, source: {{http: {{listen: \"0.0.0.0:{PORT}\"}}}}}}
  - name: send
    sidecar: hub
    sink: {{webhook: {{url: \"{url}\"}}}}
    onError: {{retry: {{limit: 1000, initial: 100ms, max: 1s}}}}
"
    )
}

/// Posts events, numbered from 0, one request after the other, until it is told to stop.
struct Client {
    posted: Arc<Mutex<usize>>,
    stop: SyncSender<()>,
    runs: thread::JoinHandle<()>,
}

impl Client {
    fn start(shop: &Namespace) -> Client {
        let posted = Arc::<Mutex<usize>>::default();
        let (stop, stopped) = sync_channel(1);
        let (counted, namespace) = (posted.clone(), shop.name.clone());
        let runs = thread::spawn(move || post(&namespace, &counted, &stopped));
        Client { posted, stop, runs }
    }

    /// How many events are known to have been delivered.
    fn posted(&self) -> usize {
        *self.posted.lock().expect("nobody panics with it")
    }

    fn stop(self) -> usize {
        self.stop.send(()).expect("it runs");
        self.runs.join().expect("it ends well");
        *self.posted.lock().expect("nobody panics with it")
    }
}

fn post(namespace: &str, posted: &Mutex<usize>, stopped: &Receiver<()>) {
    let mut pods = Vec::new();
    while stopped.try_recv().is_err() {
        let first = *posted.lock().expect("nobody panics with it");
        let lines =
            (first..first + TOGETHER).map(|number| json!({"sequence": number, "key": "k"}).to_string());
        let body = lines.collect::<Vec<_>>().join("\n");
        if pods
            .iter()
            .any(|pod: &String| ask(pod, &body).is_some_and(|answer| answer.starts_with("HTTP/1.1 202 ")))
        {
            *posted.lock().expect("nobody panics with it") += TOGETHER;
        } else {
            pods = ready_pods(namespace).unwrap_or_default();
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The addresses of the pods that take events, as a Service would have them.
fn ready_pods(namespace: &str) -> Option<Vec<String>> {
    let slices = [
        "--namespace",
        namespace,
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=upgraded-field-spl",
    ];
    let slices = kubectl(&[&slices[..], &["-o", "json"]].concat(), "").ok()?;
    let slices: serde_json::Value = serde_json::from_str(&slices).ok()?;
    let endpoints =
        slices["items"].as_array()?.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
    // The Service has pods before they are ready, and while they end.
    let serving = endpoints.filter(|one| one["conditions"]["terminating"] != true);
    Some(serving.filter_map(|one| Some(format!("{}:{PORT}", one["addresses"][0].as_str()?))).collect())
}

fn ask(pod: &str, body: &str) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&pod.parse().ok()?, Duration::from_secs(1)).ok()?;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {pod}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes())).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn arrives(collector: &Collector, client: &Client, count: usize) {
    eventually("events go on", SOON, || match (client.posted(), collector.account(count)) {
        (posted, account) if posted >= count && account.lost == 0 => Ok(()),
        (posted, account) => Err(format!("{posted} posted, {account:?}")),
    });
}

/// The operator and both sidecars are of this tag, and nothing of another is left.
fn converges(shop: &Namespace, tag: &str) {
    operator(&["rollout", "status", "deployment/sidestream-operator", "--timeout=90s"]);
    for sidecar in ["field", "hub"] {
        let deployment = format!("deployment/upgraded-{sidecar}-spl");
        eventually(&format!("{deployment} is of {tag}"), SOON, || {
            match image(&["--namespace", &shop.name, "get", &deployment]) {
                image if image.ends_with(&format!(":{tag}")) => Ok(()),
                other => Err(other),
            }
        });
        shop.kubectl(&["rollout", "status", &deployment, "--timeout=120s"]).expect("rolled out");
    }
    eventually("the old pods are gone", 2 * SOON, || {
        let pods = ["field", "hub"].map(|sidecar| shop.pods("upgraded", sidecar));
        if pods.iter().all(|pods| pods.len() == 1) { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    shop.wait_ready("upgraded");
}

fn image(get: &[&str]) -> String {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    kubectl(&[get, &["-o", path]].concat(), "").expect("a deployment")
}

fn helm(arguments: &[&str]) {
    let config = env::var("SIDESTREAM_E2E_KUBECONFIG").expect("a cluster");
    let said = Command::new("helm")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(arguments)
        .args(["--kubeconfig", &config, "--namespace", "sidestream-system", "--wait", "--timeout", "2m"])
        .output()
        .expect("helm starts");
    assert!(said.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
}

fn on_every_node(command: &[&str]) {
    let nodes = kubectl(&["get", "nodes", "-o", "name"], "").expect("nodes");
    for node in nodes.lines() {
        let number = node.trim_start_matches("node/node");
        let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.sh");
        let said = Command::new(cluster).args(["enter", number]).args(command).output().expect("bash starts");
        assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
    }
}
