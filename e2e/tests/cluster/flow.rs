//! A pipeline over two sidecars, `field` to `hub`, whose every event is counted when it comes out.

use std::time::Duration;

use sidestream_e2e::eventually;

use crate::{
    collector::{Account, Collector},
    world::{Namespace, SOON},
};

/// Events a second: few enough for programs that are not optimised on a machine that builds something else beside.
const RATE: usize = 500;
const SECONDS: usize = 20;
pub(crate) const COUNT: usize = RATE * SECONDS;

pub(crate) struct Flow {
    pub(crate) shop: Namespace,
    collector: Collector,
}

impl Flow {
    /// Events arrive, and will for some seconds. `None` where pods do not reach this machine.
    pub(crate) fn start(make: fn(&str) -> Namespace, name: &str) -> Option<Flow> {
        let collector = Collector::listen()?;
        let flow = Flow { shop: make(name), collector };
        flow.shop.apply(&pipeline(&flow.collector.url));
        flow.shop.wait_ready("flow");
        flow.goes_on();
        Some(flow)
    }

    /// Waits until more events have arrived than have now.
    pub(crate) fn goes_on(&self) {
        let before = self.collector.account(COUNT).arrived;
        eventually("events arrive", SOON, || match self.collector.account(COUNT).arrived {
            after if after > before || after == COUNT => Ok(()),
            after => Err(format!("{after} have")),
        });
    }

    /// What became of all events; none of them may be lost.
    pub(crate) fn all_arrive(&self) -> Account {
        let limit = Duration::from_secs(SECONDS as u64) + SOON;
        let account = eventually("every event arrives", limit, || match self.collector.account(COUNT) {
            account if account.lost == 0 => Ok(account),
            account => Err(format!("{account:?}")),
        });
        println!("{account:?}");
        account
    }
}

fn pipeline(url: &str) -> String {
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
  - {{name: numbers, sidecar: field, source: {{generator: {{rate: {RATE}, count: {COUNT}}}}}}}
  - name: send
    sidecar: hub
    sink: {{webhook: {{url: \"{url}\"}}}}
    onError: {{retry: {{limit: 1000, initial: 100ms, max: 1s}}}}
"
    )
}
