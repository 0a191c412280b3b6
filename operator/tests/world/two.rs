//! A pipeline of two sidecars, an edit of it, and what they are told and say.

use sidestream_control::{Applied, Report};
use sidestream_desired::edges_in;
use sidestream_operator::control::Connected;

/// What the one makes goes to the other.
pub const TWO: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars: [{name: door, workload: {}}, {name: hub, workload: {}}]
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: show, sidecar: hub, sink: {console: {}}}
";

/// Another stage is the first behind the edge, so the edge is another one.
pub fn with_another_edge() -> String {
    let even = "  - {name: even, sidecar: hub, process: {sample: {every: 2}}}\n  - {name: show";
    TWO.replace("  - {name: show", even)
}

/// The plan that the sidecar is told.
pub fn told(sidecar: &Connected) -> String {
    sidecar.plans().unwrap().remove(0).hash
}

/// The edges into it, by that plan.
pub fn edges_into(sidecar: &Connected) -> Vec<String> {
    let plan = sidecar.plans().unwrap().remove(0).unwrap().unwrap();
    edges_in(&plan).map(str::to_owned).collect()
}

/// It says that it runs the plan of this hash.
pub fn runs(sidecar: &Connected, hash: &str) {
    let (pipeline, hash) = ("shop/hello".into(), hash.into());
    sidecar.report(Report::Applied(Applied { pipeline, hash, error: None }));
}
