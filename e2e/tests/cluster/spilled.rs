//! Events wait on the disk of the pod they are from while the sidecar they are for is away.

use sidestream_e2e::eventually;

use crate::{
    collector::Collector,
    no_api_server::{signal, the_process},
    world::{Namespace, SOON},
};

/// How many events there are, and in a second: few enough for programs that are not optimised.
const COUNT: usize = 10_000;
const RATE: usize = 1_000;

struct Spilling {
    shop: Namespace,
    events: Collector,
}

impl Spilling {
    /// All events are on the disk of the sidecar they are from, and the other one has no pods. `None` where pods do not reach
    /// this machine.
    fn start(name: &str) -> Option<Spilling> {
        let events = Collector::listen()?;
        let own = Spilling { shop: Namespace::new(name), events };
        // Before the first event: what is to arrive is then all of them.
        own.apply("numbers", 0);
        own.shop.wait_ready("spilling");
        own.scale(0);
        own.apply("numbers", COUNT);
        own.until_stored(COUNT);
        Some(own)
    }

    /// The source has this name, and with it the edge, and gives so many events.
    fn apply(&self, source: &str, count: usize) {
        let url = &self.events.url;
        // A generator without end would give more; one of no events is one that nobody lets through.
        let (count, keep) = (count.max(1), if count == 0 { "false" } else { "true" });
        self.shop.apply(&format!(
            "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: spilling}}
spec:
  sidecars:
  - {{name: field, workload: {{spill: {{size: 128Mi}}}}}}
  - {{name: hub, workload: {{}}}}
  stages:
  - {{name: numbers-of-{source}, sidecar: field, source: {{generator: {{rate: {RATE}, count: {count}, keys: 8}}}}}}
  - {{name: {source}, sidecar: field, process: {{filter: {{keep: '{keep}'}}}}}}
  - {{name: pass, sidecar: hub, input: {{capacity: 100, overflow: Spill}}, process: {{filter: {{keep: 'true'}}}}}}
  - name: send
    sink: {{webhook: {{url: \"{url}\"}}}}
    onError: {{retry: {{limit: 1000, initial: 100ms, max: 1s}}}}
"
        ));
    }

    fn scale(&self, pods: usize) {
        let replicas = format!("--replicas={pods}");
        self.shop.kubectl(&["scale", "deployment/spilling-hub-spl", &replicas]).expect("scaled");
        // One that is told to end takes events for a while.
        eventually("the pods are as many", 2 * SOON, || {
            let selector = "sidestream.dev/pipeline=spilling,sidestream.dev/sidecar=hub";
            let all = self.shop.get(&["pods", "--selector", selector])?;
            match all["items"].as_array().map(Vec::len) {
                Some(own) if own == pods => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Waits until so many events have been spilled by the sidecar they are from.
    fn until_stored(&self, events: usize) {
        eventually("what waits is on the disk", 2 * SOON, || {
            match self.spilled("sidestream_spilled_events_total", "numbers")? as usize {
                own if own >= events => Ok(()),
                own => Err(format!("{own} are")),
            }
        });
    }

    /// A metric of the queue before the edge from this stage.
    fn spilled(&self, metric: &str, from: &str) -> Result<f64, String> {
        self.shop.metric("spilling", "field", metric, &format!("stage=\"{from}->pass\""))
    }

    /// Ends the process of the sidecar whose disk it is, as the kernel would, and waits for the next one in the pod.
    fn kill(&self) {
        let restarts = || -> i64 {
            let labels = "sidestream.dev/pipeline=spilling,sidestream.dev/sidecar=field";
            self.shop.who_runs(labels).iter().flat_map(|(_, restarts)| restarts).sum()
        };
        let (pod, before) = (self.shop.pods("spilling", "field").remove(0), restarts());
        signal(
            "KILL",
            the_process(|process| {
                process.says("cmdline", "/sidestream-sidecar")
                    && process.says("environ", &format!("POD_NAME={pod}\0"))
            }),
        );
        eventually("the container is there again", 2 * SOON, || match restarts() {
            after if after > before => Ok(()),
            after => Err(format!("{after} restarts")),
        });
        assert_eq!(self.shop.pods("spilling", "field"), [pod], "the pod, and with it its volume, stays");
    }

    /// Everything arrives, and nothing is left on the disk of the queue before the edge from this stage.
    fn all_arrive(&self, from: &str) {
        let account = self.events.all_arrive(COUNT, 4 * SOON);
        println!("{account:?}");
        assert_eq!(account.reordered, 0, "{account:?}");
        eventually("the disk is free again", SOON, || {
            match self.spilled("sidestream_spill_stored_bytes", from)? as u64 {
                0 => Ok(()),
                bytes => Err(format!("{bytes} bytes are there")),
            }
        });
        self.shop.wait_ready("spilling");
    }
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_waits_for_a_sidecar_that_is_away_is_on_the_disk_and_arrives_when_that_is_back() {
    let Some(own) = Spilling::start("e2e-spilled") else { return };
    let volumes = own.shop.get(&["deployment/spilling-field-spl"]).expect("a deployment");
    let volumes = volumes["spec"]["template"]["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let cache =
        volumes.iter().find(|volume| volume["name"] == "cache").expect("a volume for what is spilled");
    assert_eq!(cache["emptyDir"]["sizeLimit"], "208Mi", "room for 128Mi");
    assert_eq!(own.events.account(COUNT).arrived, 0, "nobody was there to take anything");
    own.scale(1);
    own.all_arrive("numbers");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_waits_before_an_edge_that_has_another_name_now_arrives_though_its_container_is_killed() {
    let Some(own) = Spilling::start("e2e-spilled-renamed") else { return };
    // From now on nothing comes from the source: what arrives was on the disk.
    own.apply("others", 0);
    eventually("the new plan is at work beside it", 2 * SOON, || {
        match own.shop.metric("spilling", "field", "sidestream_stage_events_in_total", "stage=\"others\"")? {
            0.0 => Err("its stage has had no event".into()),
            _ => Ok(()),
        }
    });
    assert!(own.spilled("sidestream_spill_stored_bytes", "numbers").expect("a metric") > 0.0);
    own.kill();
    own.scale(1);
    own.all_arrive("numbers");
}
