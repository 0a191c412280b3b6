//! A sidecar in the middle gets another name under events that flow.

use std::time::Duration;

use sidestream_e2e::eventually;

use crate::{
    collector::Collector,
    world::{Namespace, SOON},
};

/// Events a second: few enough for programs that are not optimised on a machine that builds something else beside.
const RATE: usize = 500;
const SECONDS: usize = 30;
const COUNT: usize = RATE * SECONDS;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_is_on_its_way_to_a_sidecar_that_is_renamed_arrives_and_its_objects_go() {
    let Some(events) = Collector::listen() else { return };
    let shop = Namespace::new("e2e-renamed");
    shop.apply(&pipeline("hub", &events.url));
    shop.wait_ready("renamed");
    for name in ["core", "hub"] {
        let before = events.account(COUNT).arrived;
        eventually("events arrive", SOON, || match events.account(COUNT).arrived {
            after if after > before + RATE || after == COUNT => Ok(()),
            after => Err(format!("{after} have")),
        });
        shop.apply(&pipeline(name, &events.url));
        let gone = if name == "hub" { "core" } else { "hub" };
        // As long as those that part may take, and the pods to end.
        eventually("the one before is gone", 3 * SOON, || {
            let selector = format!("sidestream.dev/sidecar={gone}");
            let found = shop.get(&["deployments,pods", "--selector", &selector])?;
            match found["items"].as_array().map(Vec::len) {
                Some(0) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        shop.wait_ready("renamed");
    }
    let account = events.all_arrive(COUNT, SOON + Duration::from_secs(SECONDS as u64));
    println!("{account:?}");
    assert_eq!(account.repeated, 0);
}

/// From the one to the next, which is called `middle`, to the last.
fn pipeline(middle: &str, url: &str) -> String {
    let on_error = "{retry: {limit: 1000, initial: 100ms, max: 1s}}";
    format!(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: renamed}}
spec:
  sidecars:
  - {{name: field, workload: {{}}}}
  - {{name: {middle}, workload: {{}}}}
  - {{name: end, workload: {{}}}}
  stages:
  - {{name: numbers, sidecar: field, source: {{generator: {{rate: {RATE}, count: {COUNT}, keys: 8}}}}}}
  - {{name: pass, sidecar: {middle}, process: {{filter: {{keep: 'true'}}}}}}
  - {{name: send, sidecar: end, sink: {{webhook: {{url: \"{url}\"}}}}, onError: {on_error}}}
"
    )
}
