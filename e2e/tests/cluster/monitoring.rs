//! A real Prometheus with the configuration, the rules and the dashboard that we ship.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use sidestream_e2e::eventually;

use crate::{
    injection,
    world::{Namespace, SOON, kubeconfig},
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
    shop.wait_ready("orders");
    let prometheus = Prometheus::start();

    let own = format!("up{{namespace=\"{}\"}}", shop.name);
    let containers = "count by (container) (up{job=\"sidestream\"} == 1)";
    eventually("a made and two injected sidecars are up", SOON, || {
        let up = prometheus.ask(&format!("sum({own})"))?;
        if up.starts_with("{} => 3 ") { Ok(()) } else { Err(prometheus.ask(&own)?) }
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

fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(name)
}

/// Debian's, outside the cluster, that finds pods through the API server.
struct Prometheus {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start() -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let shipped = fs::read_to_string(manifest("prometheus/scrape.yaml")).expect("the shipped file");
        let outside = format!("- role: pod\n    kubeconfig_file: {}", kubeconfig());
        assert!(shipped.contains("- role: pod"), "{shipped}");
        let configuration = format!(
            "global: {{scrape_interval: 2s}}\nrule_files: [{}]\nscrape_configs:\n{}",
            manifest("prometheus/alerts.yaml").display(),
            shipped.replace("- role: pod", &outside),
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
