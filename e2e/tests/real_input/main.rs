//! The main job on real input: a node exporter is scraped, filtered, windowed and watched by `sidestream run`; the alert
//! stands in an Alertmanager while the cause lasts and is resolved there when it goes; a Prometheus scrapes the sidecar.

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "a test of real programs waits in real time")]

mod world;

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;
use sidestream_e2e::{eventually, sidestream_binary};
use world::{Notified, World, free_port, get, get_json};

const NODE_EXPORTER: &str = "/usr/bin/prometheus-node-exporter";
const ALERTMANAGER: &str = "/usr/bin/prometheus-alertmanager";
const PROMETHEUS: &str = "/usr/bin/prometheus";
const PROMTOOL: &str = "/usr/bin/promtool";

#[test]
fn an_alert_stands_in_alertmanager_while_its_cause_lasts_and_prometheus_sees_the_sidecar() {
    let missing: Vec<_> = [NODE_EXPORTER, ALERTMANAGER, PROMETHEUS, PROMTOOL]
        .into_iter()
        .filter(|path| !Path::new(path).exists())
        .collect();
    if !missing.is_empty() {
        println!("skipped: not installed: {}; on Debian: make test installs them", missing.join(", "));
        return;
    }
    let mut world = World::new();
    let notified = Notified::listen();
    let [exporter, alertmanager, prometheus, metrics] = std::array::from_fn(|_| free_port());
    queue_is(&world, 3);
    start_node_exporter(&mut world, exporter);
    start_alertmanager(&mut world, alertmanager, notified.port);
    start_prometheus(&mut world, prometheus, metrics);
    start_sidestream(&mut world, exporter, alertmanager, metrics);

    // All is well: windows are computed, nobody is alarmed.
    eventually("windows reach the threshold", Duration::from_secs(20), || {
        let text = get(metrics, "/metrics")?;
        let windows = sample(&text, "sidestream_stage_events_in_total", "stage=\"long\"").unwrap_or(0.0);
        if windows >= 2.0 { Ok(()) } else { Err(format!("{windows} windows")) }
    });
    assert_eq!(standing_alerts(alertmanager), Vec::<Value>::new());

    // The cause comes: the alert stands, and whoever is on duty is told.
    queue_is(&world, 250);
    let alert = eventually("the alert stands", Duration::from_secs(20), || {
        standing_alerts(alertmanager).into_iter().next().ok_or_else(|| "no alert".into())
    });
    assert_eq!(alert["labels"]["alertname"], "QueueTooLong");
    assert_eq!(alert["labels"]["queue"], "orders");
    assert_eq!(alert["annotations"]["length"], "250");
    eventually("the notification of the alert", Duration::from_secs(20), || {
        notified.with_status("firing").ok_or_else(|| "none".into())
    });

    // Below the bound, but not below where it clears: it still stands.
    queue_is(&world, 80);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(standing_alerts(alertmanager).len(), 1, "hysteresis keeps the alert");

    // The cause goes: it is resolved.
    queue_is(&world, 5);
    let resolved = eventually("the notification of the resolution", Duration::from_secs(30), || {
        notified.with_status("resolved").ok_or_else(|| "none".into())
    });
    assert_eq!(resolved["alerts"][0]["labels"]["queue"], "orders");
    eventually("the alert is gone", Duration::from_secs(10), || match standing_alerts(alertmanager).len() {
        0 => Ok(()),
        standing => Err(format!("{standing} stand")),
    });

    // Prometheus sees the sidecar.
    eventually("Prometheus's target is up", Duration::from_secs(20), || {
        let targets = get_json(prometheus, "/api/v1/targets")?;
        let health = targets["data"]["activeTargets"][0]["health"].as_str().unwrap_or("none").to_owned();
        if health == "up" { Ok(()) } else { Err(health) }
    });
    eventually("Prometheus has the stage's count", Duration::from_secs(20), || {
        let found = get_json(
            prometheus,
            "/api/v1/query?query=sidestream_stage_events_in_total%7Bstage%3D%22long%22%7D",
        )?;
        found["data"]["result"][0]["value"][1].as_str().map(drop).ok_or_else(|| found.to_string())
    });
    promtool_accepts(&world, &get(metrics, "/metrics").expect("the metrics"));
    let ledger = get_json(metrics, "/ledger").expect("the ledger");
    assert_eq!(ledger["balanced"], true, "{ledger}");

    assert_eq!(world.stop("sidestream"), Some(0), "it drains: {}", world.log("sidestream"));
}

/// Sets the length of the queue that the node exporter reports.
fn queue_is(world: &World, length: u32) {
    world.write("textfile/shop.prom", &format!("shop_queue_length{{queue=\"orders\"}} {length}\n"));
}

fn start_node_exporter(world: &mut World, port: u16) {
    let folder = world.folder.path().join("textfile").display().to_string();
    let arguments = [
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--collector.textfile.directory={folder}"),
    ];
    world.start("node-exporter", Path::new(NODE_EXPORTER), &arguments.each_ref().map(String::as_str));
    eventually("the node exporter answers", Duration::from_secs(10), || get(port, "/metrics").map(drop));
}

fn start_alertmanager(world: &mut World, port: u16, notified: u16) {
    let config = world.write(
        "alertmanager.yml",
        &format!(
            "route: {{receiver: duty, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
             receivers:\n- name: duty\n  webhook_configs:\n  - {{url: 'http://127.0.0.1:{notified}/', send_resolved: true}}\n"
        ),
    );
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", world.folder.path().join("alertmanager").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--cluster.listen-address=".to_owned(),
    ];
    world.start("alertmanager", Path::new(ALERTMANAGER), &arguments.each_ref().map(String::as_str));
    eventually("the Alertmanager is ready", Duration::from_secs(10), || get(port, "/-/ready").map(drop));
}

fn start_prometheus(world: &mut World, port: u16, metrics: u16) {
    let config = world.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: sidestream\n  static_configs:\n  - targets: ['127.0.0.1:{metrics}']\n"
        ),
    );
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", world.folder.path().join("prometheus").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    world.start("prometheus", Path::new(PROMETHEUS), &arguments.each_ref().map(String::as_str));
    eventually("Prometheus is ready", Duration::from_secs(20), || get(port, "/-/ready").map(drop));
}

fn start_sidestream(world: &mut World, exporter: u16, alertmanager: u16, metrics: u16) {
    let pipeline = world.write(
        "queues.yaml",
        &format!(
            r#"
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: queues, namespace: shop}}
spec:
  stages:
  - {{name: scrape, source: {{prometheus: {{url: "http://127.0.0.1:{exporter}/metrics", interval: 250ms}}}}}}
  - {{name: lengths, process: {{filter: {{keep: "event.name == 'shop_queue_length'"}}}}}}
  - {{name: second, process: {{window: {{tumbling: 1s, by: event.labels.queue, emit: {{max: event.value}}}}}}}}
  - {{name: long, process: {{threshold: {{value: event.max, above: 100, clearBelow: 50, by: event.by}}}}}}
  - name: page
    sink:
      alertmanager:
        url: "http://127.0.0.1:{alertmanager}"
        name: QueueTooLong
        labels: {{queue: event.by}}
        annotations: {{length: string(event.value)}}
        resend: 1s
"#
        ),
    );
    let arguments = ["run", &pipeline.display().to_string(), "--metrics", &format!("127.0.0.1:{metrics}")];
    world.start("sidestream", &sidestream_binary(), &arguments);
    eventually("sidestream is ready", Duration::from_secs(10), || get(metrics, "/readyz").map(drop));
}

fn standing_alerts(port: u16) -> Vec<Value> {
    let alerts = get_json(port, "/api/v2/alerts").expect("the Alertmanager answers");
    alerts.as_array().cloned().unwrap_or_default()
}

/// The value of the first sample of `name` that carries `label`.
fn sample(text: &str, name: &str, label: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(label))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn promtool_accepts(world: &World, metrics: &str) {
    let path = world.write("metrics.txt", metrics);
    let file = std::fs::File::open(path).expect("the file just written");
    let output =
        Command::new(PROMTOOL).args(["check", "metrics"]).stdin(file).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "promtool check metrics: {said}");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/prometheus/alerts.yaml");
    let output = Command::new(PROMTOOL).args(["check", "rules", rules]).output().expect("promtool runs");
    assert!(output.status.success(), "promtool check rules: {}", String::from_utf8_lossy(&output.stderr));
}
