//! A real Prometheus with the configuration, the rules and the dashboard that we ship.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use sidestream_e2e::eventually;

use crate::{
    dnpipes::Volume,
    injection,
    world::{Namespace, SOON, kubectl},
};

const PROMETHEUS: &str = "/usr/bin/prometheus";

#[test]
#[ignore = "needs a cluster: make e2e"]
fn prometheus_scrapes_operator_and_sidecars_and_every_query_of_the_dashboard_answers() {
    // On a cluster that was not raised here, pods' addresses are not reached.
    if std::env::var("SIDESTREAM_E2E_HOST").is_err() || !Path::new(PROMETHEUS).exists() {
        return println!("skipped: needs a cluster that was raised here, and `apt install prometheus`");
    }
    let shop = Namespace::new("e2e-monitoring");
    shop.apply(&injection::pipeline("orders"));
    shop.apply(&injection::deployment());
    let _volume = Volume::of(&shop);
    shop.apply(&format!(
        "{{apiVersion: sidestream.dev/v1alpha1, kind: Dnpipe, metadata: {{name: orders}}, spec: {{groups: [{{name: billing}}], \
         storage: {{storageClassName: {}}}}}}}",
        shop.name
    ));
    shop.wait_ready("orders");
    shop.kubectl(&["wait", "--for=condition=Ready", "dnpipe/orders", "--timeout=120s"])
        .expect("a served dnpipe");
    let prometheus = Prometheus::start();

    let own = format!("up{{namespace=\"{}\"}}", shop.name);
    let containers = "count by (container) (up{job=\"sidestream\"} == 1)";
    eventually("a made and two injected sidecars and a server of dnpipes are up", SOON, || {
        let up = prometheus.ask(&format!("sum({own})"))?;
        if up.starts_with("{} => 4 ") { Ok(()) } else { Err(prometheus.ask(&own)?) }
    });
    eventually("the operator is up", SOON, || match prometheus.ask(containers)? {
        up if up.contains("container=\"operator\"") => Ok(()),
        up => Err(up),
    });
    // A rate wants two samples.
    for query in queries() {
        let answer = eventually(&query, SOON, || match prometheus.ask(&query)? {
            // That nothing was dropped is an answer, too.
            empty if empty.trim().is_empty() && !query.ends_with("> 0") => Err("no series".into()),
            answer => Ok(answer),
        });
        println!("{query}: {} series", answer.lines().count());
    }
}

/// What the dashboard asks, as Grafana would fill it in.
fn queries() -> Vec<String> {
    let dashboard = fs::read_to_string(manifest("grafana/sidestream.json")).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let filled = |target: &Value| {
        let query = target["expr"].as_str().expect("a query");
        query.replace("$pipeline", ".+").replace("$__rate_interval", "15s")
    };
    let queries: Vec<String> = targets.map(filled).collect();
    assert!(queries.len() > 10 && !queries.iter().any(|query| query.contains('$')), "{queries:?}");
    queries
}

/// Every port of every pod, as Prometheus's own discovery labels them. Debian builds it without that, so it reads a file.
fn discovered() -> Value {
    let pods = kubectl(&["get", "pods", "--all-namespaces", "-o", "json"], "").expect("pods can be listed");
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut targets = Vec::new();
    for pod in list(&pods["items"]) {
        let (about, spec) = (&pod["metadata"], &pod["spec"]);
        let mut labels = serde_json::Map::new();
        labels.insert("__meta_kubernetes_namespace".into(), about["namespace"].clone());
        labels.insert("__meta_kubernetes_pod_name".into(), about["name"].clone());
        for (name, value) in about["labels"].as_object().into_iter().flatten() {
            let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
            labels.insert(format!("__meta_kubernetes_pod_label_{name}"), value.clone());
            labels.insert(format!("__meta_kubernetes_pod_labelpresent_{name}"), "true".into());
        }
        for container in list(&spec["containers"]).iter().chain(&list(&spec["initContainers"])) {
            for port in list(&container["ports"]) {
                let mut labels = labels.clone();
                labels.insert("__meta_kubernetes_pod_container_name".into(), container["name"].clone());
                labels.insert("__meta_kubernetes_pod_container_port_name".into(), port["name"].clone());
                let target = format!("{}:{}", text(&pod["status"]["podIP"]), port["containerPort"]);
                labels.retain(|_, value| value.is_string());
                targets.push(json!({"targets": [target], "labels": labels}));
            }
        }
    }
    Value::from(targets)
}

fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(name)
}

/// Debian's, outside the cluster.
struct Prometheus {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start() -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let shipped = fs::read_to_string(manifest("prometheus/scrape.yaml")).expect("the shipped file");
        let discovery = "kubernetes_sd_configs:\n  - role: pod";
        assert!(shipped.contains(discovery), "{shipped}");
        let targets = folder.path().join("targets.json");
        fs::write(&targets, discovered().to_string()).expect("written");
        let from_file = format!("file_sd_configs:\n  - files: [{}]", targets.display());
        let configuration = format!(
            "global: {{scrape_interval: 2s}}\nrule_files: [{}]\nscrape_configs:\n{}",
            manifest("prometheus/alerts.yaml").display(),
            shipped.replace(discovery, &from_file),
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, configuration).expect("written");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port").to_string();
        let process = Command::new(PROMETHEUS)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).expect("a log"))
            .spawn()
            .expect("prometheus starts");
        let prometheus = Prometheus { process, url: format!("http://{address}"), _folder: folder };
        eventually("Prometheus answers", SOON, || prometheus.ask("vector(1)"));
        prometheus
    }

    /// An instant query: a line for each series.
    fn ask(&self, query: &str) -> Result<String, String> {
        let said = Command::new("promtool").args(["query", "instant", &self.url, query]).output();
        let said = said.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
