//! Events flow on while pods of the data plane and of the control plane come and go.

use std::{thread, time::Duration};

use crate::{
    collector::{Account, Collector},
    world::{Namespace, SOON, eventually, kubectl},
};

/// Events a second: few enough for programs that are not optimised on a machine that builds something else beside.
const RATE: usize = 500;
const SECONDS: usize = 20;
const COUNT: usize = RATE * SECONDS;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_rolling_restart_of_the_receiving_sidecar_loses_no_event() {
    let Some(collector) = Collector::listen() else { return };
    let shop = flowing("e2e-restart", &collector);
    for _ in 0..3 {
        shop.kubectl(&["rollout", "restart", "deployment/flow-hub-spl"]).expect("restarted");
        shop.kubectl(&["rollout", "status", "deployment/flow-hub-spl", "--timeout=60s"]).expect("rolled out");
    }
    lost_none_of(&collector);
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_killed_receiving_pod_is_replaced_and_no_event_is_lost() {
    let Some(collector) = Collector::listen() else { return };
    let shop = flowing("e2e-kill", &collector);
    let hub = shop.pods("flow", "hub").remove(0);
    shop.kubectl(&["delete", "pod", &hub, "--grace-period=0", "--force"]).expect("killed");
    shop.kubectl(&["rollout", "status", "deployment/flow-hub-spl", "--timeout=60s"]).expect("there again");
    lost_none_of(&collector);
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn sidecars_run_on_without_an_operator() {
    let Some(collector) = Collector::listen() else { return };
    let shop = flowing("e2e-alone", &collector);
    let operator = |arguments: &[&str]| {
        kubectl(&[&["--namespace", "sidestream-system"], arguments].concat(), "").expect("done")
    };
    operator(&["scale", "deployment/sidestream-operator", "--replicas=0"]);
    operator(&[
        "wait",
        "--for=delete",
        "pod",
        "-l",
        "app.kubernetes.io/name=sidestream-operator",
        "--timeout=60s",
    ]);
    let before = collector.account(COUNT).arrived;
    thread::sleep(Duration::from_secs(3));
    let after = collector.account(COUNT).arrived;
    operator(&["scale", "deployment/sidestream-operator", "--replicas=1"]);
    operator(&["rollout", "status", "deployment/sidestream-operator", "--timeout=60s"]);
    assert!(after > before, "{before} events, then {after} three seconds later, without an operator");
    shop.wait_ready("flow");
    assert_eq!(all_of(&collector), Account { arrived: COUNT, lost: 0, repeated: 0 });
}

/// A pipeline over two sidecars whose events arrive at the collector.
fn flowing(name: &str, collector: &Collector) -> Namespace {
    let shop = Namespace::new(name);
    let url = &collector.url;
    shop.apply(&format!(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: flow}}
spec:
  sidecars:
  - {{name: field, workload: {{}}}}
  - {{name: hub, workload: {{}}}}
  stages:
  - {{name: numbers, sidecar: field, source: {{generator: {{rate: {RATE}, count: {COUNT}}}}}}}
  - name: send
    sidecar: hub
    sink: {{webhook: {{url: \"{url}\"}}}}
    onError: {{retry: {{limit: 100, initial: 100ms, max: 1s}}}}
"
    ));
    shop.wait_ready("flow");
    eventually("events arrive", SOON, || match collector.account(COUNT).arrived {
        0 => Err("none".into()),
        some => Ok(some),
    });
    shop
}

fn lost_none_of(collector: &Collector) {
    let account = all_of(collector);
    println!("{account:?}");
    assert_eq!(account.lost, 0);
}

/// What became of all events, once they have had the time.
fn all_of(collector: &Collector) -> Account {
    let limit = Duration::from_secs(SECONDS as u64) + SOON;
    eventually("every event arrives", limit, || match collector.account(COUNT) {
        account if account.lost == 0 => Ok(account),
        account => Err(format!("{account:?}")),
    })
}
