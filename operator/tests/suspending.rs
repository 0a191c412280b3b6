//! A suspended pipeline stops in the order its data flows, so that what is in flight has somewhere to go.

mod world;

use serde_json::json;
use sidestream_control::{Counts, Drained, Report};
use sidestream_operator::control::Connected;
use world::{Operator, Server};

const TWO: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  suspend: true
  sidecars: [{name: door, workload: {}}, {name: hub, workload: {}}]
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: show, sidecar: hub, sink: {console: {}}}
";

/// Whether the sidecar is told to stop, and which plan.
fn told(sidecar: &Connected) -> (bool, String) {
    let plan = sidecar.plans().unwrap().remove(0);
    (plan.suspend, plan.hash)
}

#[tokio::test]
async fn what_only_receives_stops_when_those_that_send_to_it_have_drained() {
    let server = Server::default();
    server.user_applies(TWO);
    let operator = Operator::new(&server).seeing();
    operator.context.fleet.expect([]);
    operator.settle("hello").await;
    for name in ["hello-door-spl", "hello-hub-spl"] {
        let path = format!("/apis/apps/v1/namespaces/shop/deployments/{name}");
        let mut deployment = server.get(&path).unwrap();
        deployment["status"] =
            json!({"replicas": 1, "observedGeneration": deployment["metadata"]["generation"]});
        server.put(&path, deployment);
    }
    let connect =
        |name: &str| operator.context.fleet.connect(("shop".into(), name.into()), format!("{name}-1"));
    let (door, hub) = (connect("hello-door-spl"), connect("hello-hub-spl"));
    operator.settle("hello").await;
    assert_eq!((told(&door).0, told(&hub).0), (true, false));

    let drained = |in_flight| {
        let counts = Some(Counts { in_flight, ..Counts::default() });
        door.report(Report::Drained(Drained { pipeline: "shop/hello".into(), hash: told(&door).1, counts }));
    };
    drained(3);
    operator.settle("hello").await;
    assert!(!told(&hub).0, "some events are on their way to it");
    drained(0);
    operator.settle("hello").await;
    assert!(told(&hub).0);
}
