//! Pods that each own a share of the keys, and become more and fewer under events that flow.

use std::{thread, time::Duration};

use serde_json::Value;
use sidestream_e2e::eventually;

use crate::{
    collector::Collector,
    world::{Namespace, SOON},
};

/// Events a second: few enough for programs that are not optimised on a machine that builds something else beside.
const RATE: usize = 500;
const SECONDS: usize = 60;
const COUNT: usize = RATE * SECONDS;
const SET: &str = "statefulset/keyed-hub-spl";

#[test]
#[ignore = "needs a cluster: make e2e"]
fn owners_of_keys_become_more_and_fewer_under_load_and_every_key_keeps_its_order() {
    let Some(keyed) = Keyed::start("e2e-keyed", 2) else { return };
    for replicas in [3, 2] {
        keyed.change_to(replicas);
        let last = format!("keyed-hub-spl-{}", replicas - 1);
        let seen = || {
            keyed.shop.metric_of(
                std::slice::from_ref(&last),
                "sidestream_stage_events_in_total",
                "stage=\"second\"",
            )
        };
        let before = seen().unwrap_or_default();
        eventually("the last of the owners has a share", SOON, || match seen()? {
            some if some > before || keyed.events.account(COUNT).arrived == COUNT => Ok(()),
            some => Err(format!("{some} events")),
        });
        keyed.goes_on();
    }
    let reordered = keyed.all_arrive();
    assert_eq!(reordered, 0, "by key");
    let pods = keyed.shop.get(&["pods"]).expect("pods can be listed");
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let all: Vec<_> = pods["items"].as_array().expect("a list").iter().map(restarts).collect();
    assert!(all.iter().all(|count| *count == Some(0)), "restarts: {all:?}");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn one_pod_becomes_several_that_own_keys_and_one_again_and_no_event_is_lost_or_repeated() {
    let Some(keyed) = Keyed::start("e2e-becomes-keyed", 1) else { return };
    for (replicas, gone) in [(2, "deployment"), (1, "statefulset")] {
        keyed.change_to(replicas);
        eventually("the workload before is gone", SOON, || {
            let found = keyed.shop.get(&[gone, "--selector", "sidestream.dev/sidecar=hub"])?;
            match found["items"].as_array().map(Vec::len) {
                Some(0) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        keyed.goes_on();
    }
    keyed.all_arrive();
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_owner_that_is_killed_comes_back_to_its_keys_and_no_event_is_lost() {
    let Some(keyed) = Keyed::start("e2e-keyed-kill", 2) else { return };
    keyed.shop.kubectl(&["delete", "pod", "keyed-hub-spl-1", "--grace-period=0", "--force"]).expect("killed");
    keyed.shop.kubectl(&["rollout", "status", SET, "--timeout=60s"]).expect("there again");
    keyed.events.all_arrive(COUNT, SOON + Duration::from_secs(SECONDS as u64));
}

/// Events of eight keys, which the hub lets pass one by one, and counts in windows of a second, each kept by key. What waits
/// while keys change hands is not late.
struct Keyed {
    shop: Namespace,
    events: Collector,
    windows: Collector,
}

impl Keyed {
    /// Events arrive, in so many pods. `None` where pods do not reach this machine.
    fn start(name: &str, replicas: usize) -> Option<Keyed> {
        let (events, windows) = (Collector::listen()?, Collector::listen()?);
        let keyed = Keyed { shop: Namespace::new(name), events, windows };
        keyed.shop.apply(&keyed.pipeline(replicas));
        keyed.shop.wait_ready("keyed");
        keyed.goes_on();
        Some(keyed)
    }

    /// The hub has so many pods from now on, all of which are there and have the plan.
    fn change_to(&self, replicas: usize) {
        self.shop.apply(&self.pipeline(replicas));
        eventually("the pods are as many, and have the plan", SOON, || {
            let pipeline = self.shop.get(&["pipeline/keyed"])?;
            let generation = &pipeline["metadata"]["generation"];
            let conditions = pipeline["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready = |condition: &Value| {
                condition["type"] == "Ready"
                    && condition["status"] == "True"
                    && condition["observedGeneration"] == *generation
            };
            let pods = self.shop.pods("keyed", "hub");
            match conditions.iter().any(is_ready) && pods.len() == replicas {
                true => Ok(()),
                false => Err(format!("{pods:?}, {}", pipeline["status"])),
            }
        });
    }

    fn goes_on(&self) {
        let before = self.events.account(COUNT).arrived;
        eventually("events arrive", SOON, || match self.events.account(COUNT).arrived {
            after if after > before || after == COUNT => Ok(()),
            after => Err(format!("{after} have")),
        });
    }

    /// Every event arrives once, alone and in a window; says how many came behind a later one of their key.
    fn all_arrive(&self) -> usize {
        let limit = SOON + Duration::from_secs(SECONDS as u64);
        let account = self.events.all_arrive(COUNT, limit);
        println!("{account:?}");
        assert_eq!(account.repeated, 0);
        eventually("every event is in a window", SOON, || match self.windows.counted() {
            counted if counted >= COUNT as u64 => Ok(()),
            counted => Err(format!("{counted} are")),
        });
        thread::sleep(Duration::from_secs(2));
        assert_eq!(self.windows.counted(), COUNT as u64, "each is in one");
        account.reordered
    }

    fn pipeline(&self, replicas: usize) -> String {
        let on_error = "{retry: {limit: 1000, initial: 100ms, max: 1s}}";
        format!(
            "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: keyed}}
spec:
  sidecars:
  - {{name: field, workload: {{}}}}
  - {{name: hub, workload: {{replicas: {replicas}}}}}
  stages:
  - {{name: numbers, sidecar: field, source: {{generator: {{rate: {RATE}, count: {COUNT}, keys: 8}}}}}}
  - {{name: pass, sidecar: hub, process: {{throttle: {{rate: 1000000, by: event.key}}}}}}
  - {{name: send, sink: {{webhook: {{url: \"{}\"}}}}, onError: {on_error}}}
  - {{name: second, sidecar: hub, from: [numbers], process: {{window: {{tumbling: 1s, lateness: 20s, by: event.key, emit: {{count: 'true'}}}}}}}}
  - {{name: tell, sink: {{webhook: {{url: \"{}\"}}}}, onError: {on_error}}}
",
            self.events.url, self.windows.url
        )
    }
}
