//! Sidecars in pods of their own, joined by edges.

use sidestream_e2e::eventually;

use crate::world::{Namespace, SOON};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn events_cross_an_edge_between_two_sidecars_and_nothing_stays_when_the_pipeline_is_deleted() {
    let shop = Namespace::new("e2e-two-sidecars");
    shop.apply_example("two-sidecars.yaml");
    shop.wait_ready("two-sidecars");
    for sidecar in ["field", "hub"] {
        assert_eq!(shop.pods("two-sidecars", sidecar).len(), 1, "an unset `replicas` is one pod: {sidecar}");
    }

    let shown = || shop.metric("two-sidecars", "hub", "sidestream_stage_events_out_total", "stage=\"show\"");
    eventually("events arrive in the second sidecar", SOON, || match shown()? {
        few if few < 300.0 => Err(format!("{few} events")),
        enough => Ok(enough),
    });

    shop.kubectl(&["delete", "pipeline", "two-sidecars"]).expect("deleted");
    eventually("what the operator made is gone", SOON, || {
        let kinds = "deployments,services,poddisruptionbudgets,networkpolicies,controllerrevisions,pods";
        let left = shop.get(&[kinds, "--selector", "sidestream.dev/pipeline=two-sidecars"])?;
        let left = left["items"].as_array().expect("a list").iter().map(|one| one["kind"].to_string());
        let left: Vec<_> = left.collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
}
