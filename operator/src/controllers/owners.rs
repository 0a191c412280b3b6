//! Pods that each own a share of the keys: nobody sends to an owner that is not there yet, and none goes before whoever sends
//! to it has heard of its heirs.
//!
//! ```text
//! another number of pods ─▶ set applied ─▶ its pods ready ─▶ senders told the new owners ─▶ a workload of the kind before goes
//! ```
//!
//! A sender that has the new map takes it when the owners before have settled what they have; that is its edge's business.

use std::collections::BTreeSet;

use sidestream_desired::edge_sinks;
use sidestream_plan::{
    Plan,
    stage::{Account, EdgeSink},
};

use crate::{
    observed::Pods,
    status::{Crew, Part},
};

/// The kinds of object that keep the pods of a sidecar.
pub(super) const WORKLOADS: [&str; 2] = ["Deployment", "StatefulSet"];

/// Whether `plan` names owners that `old`, which runs as far as it is known, does not, while not all pods of theirs are there.
pub(super) fn awaits_owners(
    plan: &Plan,
    old: Option<&Plan>,
    pods: impl Fn(&Account) -> Option<Pods>,
) -> bool {
    let known = |edge: &str| {
        let before = old.and_then(|old| edge_sinks(old).find(|before| before.edge == edge));
        before.map(owners).unwrap_or_default()
    };
    let has_new = |edge: &&EdgeSink| !owners(edge).is_subset(&known(&edge.edge));
    edge_sinks(plan).filter(has_new).any(|edge| !pods(&edge.to).is_some_and(are_there))
}

/// Whether `plan` sends to pods each of which owns a share of the keys.
pub(super) fn has_owners(plan: &Plan) -> bool {
    edge_sinks(plan).any(|edge| edge.slots.is_some())
}

/// Whether all the pods that there should be are ready.
pub(super) fn are_there(pods: Pods) -> bool {
    pods.is_current && pods.ready.min(pods.updated) >= pods.wanted
}

/// Whether every pod of a sidecar has taken what it is told.
pub(super) fn has_taken(part: &Part<'_>) -> bool {
    let working = match part.crew {
        Crew::Made(pods) => usize::try_from(pods.map_or(0, |pods| pods.ready)).unwrap_or_default(),
        Crew::Users(pods) => {
            pods.iter().filter(|pod| pod.runs(&part.sidecar.plan) && !pod.is_leaving).count()
        }
    };
    part.said.applied.max(part.said.drained) >= part.said.connected.max(working)
}

fn owners(edge: &EdgeSink) -> BTreeSet<u32> {
    edge.slots.iter().flat_map(|slots| &slots.ordinals).copied().collect()
}

#[cfg(test)]
mod tests {
    use sidestream_crds::{SidecarPlan, compile};

    use super::*;

    /// The plan of the sidecar that sends, to a hub of so many pods.
    fn sender(replicas: u32) -> Plan {
        let text = format!(
            "kind: Pipeline\nmetadata: {{name: p}}\nspec:\n  sidecars: [{{name: a, workload: {{}}}}, {{name: hub, workload: {{replicas: {replicas}}}}}]\n  stages:\n  - {{name: s, sidecar: a, source: {{generator: {{}}}}}}\n  - {{name: once, sidecar: hub, process: {{dedupe: {{by: event.key, window: 1m}}}}}}\n  - {{name: show, sink: {{console: {{}}}}}}\n"
        );
        let sidecars: Vec<SidecarPlan> = compile(text.as_bytes(), "p").pipelines.remove(0).sidecars;
        sidecars.into_iter().find(|own| own.name == "a").expect("it has stages").plan
    }

    fn pods(ready: i32, wanted: i32) -> impl Fn(&Account) -> Option<Pods> {
        move |_| Some(Pods { wanted, updated: ready, ready, all: ready, is_current: true })
    }

    #[test]
    fn new_owners_are_told_when_all_of_them_are_there() {
        let (two, three) = (sender(2), sender(3));
        assert!(awaits_owners(&three, Some(&two), pods(2, 3)));
        assert!(!awaits_owners(&three, Some(&two), pods(3, 3)));
        assert!(
            awaits_owners(&three, Some(&two), |_| None),
            "of a set that was not seen yet nothing is known"
        );
    }

    #[test]
    fn nothing_waits_where_nobody_is_new_however_few_are_there() {
        let (one, two, three) = (sender(1), sender(2), sender(3));
        assert!(!awaits_owners(&two, Some(&three), pods(1, 2)), "fewer than before");
        assert!(!awaits_owners(&three, Some(&three), pods(2, 3)), "as before");
        assert!(!awaits_owners(&one, Some(&two), pods(0, 1)), "any may take them");
        assert!(awaits_owners(&two, Some(&one), pods(0, 2)), "any could");
    }
}
