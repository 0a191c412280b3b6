//! A pipeline over two sidecars, `field` to `hub`, whose every event is counted when it comes out.

use std::{
    env,
    time::{Duration, Instant},
};

use sidestream_e2e::eventually;

use crate::{
    collector::{Account, Collector},
    world::{Namespace, SOON},
};

/// For how long events come, unless somebody asks for more time.
const SECONDS: usize = 20;
/// Events a second where nothing but their number matters.
const MANY: usize = 10_000;

pub(crate) struct Flow {
    pub(crate) shop: Namespace,
    /// How many events there are.
    pub(crate) count: usize,
    /// How many there are in a second.
    rate: usize,
    begun: Instant,
    collector: Collector,
    /// The sidecar that sends to the collector.
    last: &'static str,
}

impl Flow {
    /// Events arrive, and will for some seconds. `None` where pods do not reach this machine.
    pub(crate) fn start(make: fn(&str) -> Namespace, name: &str) -> Option<Flow> {
        Flow::lasting(SECONDS, make, name)
    }

    /// As [`Flow::start`], with events for so many seconds.
    pub(crate) fn lasting(seconds: usize, make: fn(&str) -> Namespace, name: &str) -> Option<Flow> {
        Flow::begin(seconds, few(), "hub", make, name)
    }

    /// As [`Flow::lasting`], with ten thousand events a second.
    pub(crate) fn fast(seconds: usize, make: fn(&str) -> Namespace, name: &str) -> Option<Flow> {
        Flow::begin(seconds, MANY, "hub", make, name)
    }

    /// As [`Flow::start`], with events that come back to the sidecar they are from.
    pub(crate) fn circling(make: fn(&str) -> Namespace, name: &str) -> Option<Flow> {
        Flow::begin(SECONDS, few(), "field", make, name)
    }

    fn begin(
        seconds: usize,
        rate: usize,
        last: &'static str,
        make: fn(&str) -> Namespace,
        name: &str,
    ) -> Option<Flow> {
        let collector = Collector::listen()?;
        let shop = make(name);
        let flow = Flow { shop, count: seconds * rate, rate, begun: Instant::now(), collector, last };
        let through = "- {name: pass, sidecar: hub, process: {filter: {keep: 'true'}}}";
        flow.shop.apply(&flow.pipeline(if last == "hub" { "" } else { through }));
        flow.shop.wait_ready("flow");
        flow.goes_on();
        Some(flow)
    }

    /// Applies the pipeline with one more stage in the receiving sidecar, a line of YAML.
    pub(crate) fn change(&self, stage: &str) {
        self.shop.apply(&self.pipeline(stage));
    }

    /// Waits until more events have arrived than have now.
    pub(crate) fn goes_on(&self) {
        let before = self.collector.account(self.count).arrived;
        eventually("events arrive", SOON, || match self.collector.account(self.count).arrived {
            after if after > before || after == self.count => Ok(()),
            after => Err(format!("{after} have")),
        });
    }

    /// What has become of the events until now.
    pub(crate) fn so_far(&self) -> Account {
        self.collector.account(self.count)
    }

    /// What has become of the first `count` events until now.
    pub(crate) fn first(&self, count: usize) -> Account {
        self.collector.account(count)
    }

    /// What became of all events; none of them may be lost.
    pub(crate) fn all_arrive(&self) -> Account {
        // A machine that builds something else beside may be slower than the source would be.
        let limit = Duration::from_secs((4 * self.count / self.rate) as u64) + SOON;
        let account = self.collector.all_arrive(self.count, limit);
        println!("{account:?} after {:.1} s", self.begun.elapsed().as_secs_f64());
        account
    }

    fn pipeline(&self, stage: &str) -> String {
        let (url, count, last, rate) = (&self.collector.url, self.count, self.last, self.rate);
        format!(
            "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: flow}}
spec:
  sidecars:
  - {{name: field, workload: {{}}}}
  - {{name: hub, workload: {{}}}}
  stages:
  - {{name: numbers, sidecar: field, source: {{generator: {{rate: {rate}, count: {count}, keys: 8}}}}}}
  {stage}
  - name: send
    sidecar: {last}
    sink: {{webhook: {{url: \"{url}\"}}}}
    onError: {{retry: {{limit: 1000, initial: 100ms, max: 1s}}}}
"
        )
    }
}

/// Events a second: few enough for programs that are not optimised, on a machine that builds something else beside.
fn few() -> usize {
    if is_optimised() { MANY } else { 500 }
}

/// Whether the programs in the images are: `make e2e E2E_PROFILE=release`.
pub(crate) fn is_optimised() -> bool {
    env::var("SIDESTREAM_E2E_PROFILE").is_ok_and(|profile| profile != "dev")
}
