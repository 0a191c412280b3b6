//! In which order the sidecars of a pipeline are told a new plan: along the flow.
//!
//! A new plan may have other edges. What a sender still has on its way over an old one arrives only while the receiver runs
//! the plan with that edge; what it has for a new one waits until the receiver has it. So senders go first, and a receiver
//! follows when they have taken the new plan.

use sidestream_crds::SidecarPlan;
use sidestream_desired::sends;
use sidestream_plan::{Kind, Source};

/// Those of `all` that are to have the new plan before `sidecar`. In a cycle nobody would be first, so there those go first
/// that have sources of their own.
pub(super) fn before<'a>(
    sidecar: &'a SidecarPlan,
    all: &'a [SidecarPlan],
) -> impl Iterator<Item = &'a SidecarPlan> {
    let is_before = move |sender: &&SidecarPlan| {
        let is_cycle = leads(sidecar, sender, all);
        sends(sender, sidecar) && (!is_cycle || has_sources(sender) && !has_sources(sidecar))
    };
    all.iter().filter(is_before)
}

/// Those of `all` that may have sent to `sidecar` by edges of an earlier plan, and take the new one before it.
pub(super) fn before_it_by_any_plan<'a>(
    sidecar: &'a SidecarPlan,
    all: &'a [SidecarPlan],
) -> impl Iterator<Item = &'a SidecarPlan> {
    let is_before = move |other: &&SidecarPlan| {
        let is_behind = leads(sidecar, other, all);
        other.name != sidecar.name && (!is_behind || has_sources(other) && !has_sources(sidecar))
    };
    all.iter().filter(is_before)
}

/// Those of `all` that are ahead of `sidecar` along the flow: that lead to it, or have sources where neither leads to the other
/// and it has none.
pub(super) fn ahead<'a>(
    sidecar: &'a SidecarPlan,
    all: &'a [SidecarPlan],
) -> impl Iterator<Item = &'a SidecarPlan> {
    let has_sources_where_it_has_none = move |other| has_sources(other) && !has_sources(sidecar);
    before_it_by_any_plan(sidecar, all)
        .filter(move |other| leads(other, sidecar, all) || has_sources_where_it_has_none(other))
}

/// Whether a sidecar has sources that are no edges.
pub(super) fn has_sources(sidecar: &SidecarPlan) -> bool {
    let is_own = |source: &Source| !matches!(source, Source::Edge(_) | Source::Spill(_));
    sidecar.plan.stages.iter().any(|stage| matches!(&stage.kind, Kind::Source(source) if is_own(source)))
}

/// Whether events go from one to the other, however far.
fn leads(from: &SidecarPlan, to: &SidecarPlan, all: &[SidecarPlan]) -> bool {
    let mut reached: Vec<&SidecarPlan> = vec![from];
    let mut next = 0;
    while let Some(at) = reached.get(next).copied() {
        next += 1;
        for other in all.iter().filter(|other| sends(at, other)) {
            if other.name == to.name {
                return true;
            }
            if reached.iter().all(|known| known.name != other.name) {
                reached.push(other);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use sidestream_crds::compile;

    use super::*;

    fn first(sidecar: &str, stages: &str) -> Vec<String> {
        let names = ["a", "b", "c"].map(|name| format!("{{name: {name}, workload: {{}}}}")).join(", ");
        let text = format!(
            "{{kind: Pipeline, metadata: {{name: p}}, spec: {{sidecars: [{names}], stages: [{stages}]}}}}"
        );
        let all = compile(text.as_bytes(), "p").pipelines.remove(0).sidecars;
        let sidecar = all.iter().find(|own| own.name == sidecar).expect("it has stages");
        before(sidecar, &all).map(|own| own.name.clone()).collect()
    }

    const CHAIN: &str = "{name: s, sidecar: a, source: {generator: {}}}, {name: t, sidecar: b, process: {sample: {every: 2}}},
        {name: u, sidecar: c, sink: {blackhole: {}}}";
    const CYCLE: &str = "{name: s, sidecar: a, source: {generator: {}}}, {name: t, sidecar: b, process: {sample: {every: 2}}},
        {name: u, sidecar: a, sink: {blackhole: {}}}, {name: w, sidecar: c, from: [t], sink: {blackhole: {}}}";

    #[test]
    fn each_follows_those_that_send_to_it() {
        assert_eq!(first("a", CHAIN), Vec::<String>::new());
        assert_eq!(first("b", CHAIN), ["a"]);
        assert_eq!(first("c", CHAIN), ["b"]);
    }

    #[test]
    fn in_a_cycle_the_one_with_the_source_is_first_and_nobody_waits_for_ever() {
        assert_eq!(first("a", CYCLE), Vec::<String>::new());
        assert_eq!(first("b", CYCLE), ["a"]);
        assert_eq!(first("c", CYCLE), ["b"]);
    }
}
