//! How fast and how small, on a cluster, as `make bench` writes it down: a JSON line a figure. Only of optimised programs,
//! `make e2e E2E_PROFILE=release E2E_TESTS=speed:: E2E_FLAGS=--nocapture`, and on a machine that does nothing else.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    flow::is_optimised,
    injection,
    world::{Namespace, SOON},
};

/// Pipelines that are applied, one after the other.
const APPLIED: usize = 11;
/// How long an idle sidecar is left alone before it is looked at.
const IDLE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn how_long_kubectl_apply_to_ready_takes() {
    if !is_optimised() {
        return println!("skipped: speed is that of optimised programs, E2E_PROFILE=release");
    }
    let shop = Namespace::alone("e2e-speed");
    let mut seconds = Vec::new();
    // The first one brings the namespace its trust.
    for number in 0..=APPLIED {
        let name = format!("run-{number}");
        let begun = Instant::now();
        shop.apply(&two_sidecars(&name));
        let timeout = format!("--timeout={}s", SOON.as_secs());
        shop.kubectl(&["wait", "--for=condition=Ready", &format!("pipeline/{name}"), &timeout])
            .expect("Ready");
        seconds.push(begun.elapsed().as_secs_f64());
        shop.kubectl(&["delete", "pipeline", &name]).expect("deleted");
        shop.kubectl(&["wait", "--for=delete", "pod", "--all", &timeout]).expect("gone");
    }
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    say("cluster: kubectl apply to Ready, median", seconds[APPLIED / 2], "s");
    say(&format!("cluster: kubectl apply to Ready, longest of {APPLIED}"), seconds[APPLIED - 1], "s");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn how_much_memory_an_idle_injected_sidecar_has() {
    if !is_optimised() {
        return println!("skipped: speed is that of optimised programs, E2E_PROFILE=release");
    }
    let shop = Namespace::alone("e2e-idle");
    shop.apply(&injection::deployment());
    shop.kubectl(&["rollout", "status", "deployment/shopfront", "--timeout=60s"]).expect("it runs");
    thread::sleep(IDLE);
    say("cluster: idle injected sidecar, no pipeline, resident memory", memory(&shop), "MiB");
    // It selects the pods, and nothing ever comes to it.
    let quiet =
        injection::pipeline("orders").replace("generator: {rate: 200}", "http: {listen: \"127.0.0.1:8089\"}");
    shop.apply(&quiet);
    shop.wait_ready("orders");
    thread::sleep(IDLE);
    say("cluster: idle injected sidecar, resident memory", memory(&shop), "MiB");
}

fn two_sidecars(name: &str) -> String {
    let example = include_str!("../../../manifests/examples/two-sidecars.yaml");
    example.replace("name: two-sidecars", &format!("name: {name}"))
}

/// Of the larger of the sidecars in the user's pods.
fn memory(shop: &Namespace) -> f64 {
    let pods =
        shop.kubectl(&["get", "pods", "-l", "app=shopfront", "-o", "jsonpath={.items[*].metadata.name}"]);
    let pods = pods.expect("pods can be listed");
    let each = pods.split(' ').map(|pod| {
        shop.metric_of(&[pod.to_owned()], "process_resident_memory_bytes", "").expect("a metric")
            / 1_048_576.0
    });
    each.fold(0.0, f64::max)
}

fn say(bench: &str, value: f64, unit: &str) {
    println!("{}", json!({"bench": bench, "who": "sidestream", "value": value, "unit": unit}));
}
