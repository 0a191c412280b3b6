//! Inputs that spill: before such a stage stand the two ends of a queue that goes to disk.
//!
//! ```text
//!   a ─▶ b     becomes     a ─▶ sink `b:spill` ┄┄ source `b:spilled` ─▶ b
//! ```
//!
//! The first end asks `when` and `otherwise`, as `b` would, and takes the dead letters that are for `b`. An edge spills where it
//! begins: what its peer does not take waits on this side.

use std::collections::BTreeMap;

use sidestream_plan::{
    Input, Kind, OnError, Overflow, Sink, Source, Stage,
    stage::{PodSpill, Spill},
};

use super::Report;
use crate::{
    diagnostic::Code,
    path::Path,
    pipeline::{PipelineSpec, StageSpec},
};

/// Whether what waits for a stage with this input goes to disk.
pub(super) fn spills(input: &Input) -> bool {
    input.overflow == Overflow::Spill
}

/// Says of each input that spills where that is.
pub(super) fn note(spec: &PipelineSpec, report: &mut Report) {
    let is_spilled = |stage: &&StageSpec| stage.input.as_ref().is_some_and(spills);
    let stages = spec.stages.iter().enumerate();
    for (index, stage) in stages.filter(|(_, stage)| stage.source.is_none() && is_spilled(stage)) {
        let reason = format!(
            "what waits for `{}` is spilled to the disk of its process: of `sidestream run` in its --data-dir, of a pod in a volume \
             that goes with the pod, where it may have 32 MiB if `spill` of its workload does not say otherwise",
            stage.name
        );
        let cure = "nothing need be done where that is enough; what must outlive a pod goes through a dnpipe";
        report.say(Code::SpilledToDisk, Path::stage(index).fields(&["input", "overflow"]), reason, cure);
    }
}

/// Says of each volume for it that it is too small.
pub(super) fn check_volumes(spec: &PipelineSpec, report: &mut Report) {
    for (index, sidecar) in spec.sidecars.iter().enumerate() {
        let Some(volume) = sidecar.workload.as_ref().and_then(|workload| workload.spill.as_ref()) else {
            continue;
        };
        if let Err(reason) = PodSpill::new(volume.size) {
            let path = Path::top().field("spec").field("sidecars").element(index);
            let path = path.fields(&["workload", "spill", "size"]);
            report.say(Code::OutOfRange, path, reason, format!("write `size: {}` or more", PodSpill::MIN));
        }
    }
}

/// The same stages, those that spill with the ends of their queue before them.
pub(super) fn divided(stages: Vec<Stage>) -> Vec<Stage> {
    let spilled: BTreeMap<String, String> = (stages.iter())
        .filter(|stage| spills(&stage.input))
        .map(|stage| (stage.name.clone(), format!("{}:spill", stage.name)))
        .collect();
    if spilled.is_empty() {
        return stages;
    }
    // Where each stage is now.
    let mut places = Vec::with_capacity(stages.len());
    let mut divided = Vec::with_capacity(stages.len() + 2 * spilled.len());
    for mut stage in stages {
        stage.from = stage.from.iter().filter_map(|from| places.get(*from).copied()).collect();
        stage.on_error.dead_letter =
            stage.on_error.dead_letter.map(|name| spilled.get(&name).cloned().unwrap_or(name));
        if let Some(name) = spilled.get(&stage.name) {
            divided.push(first_end(&mut stage, name.clone()));
            stage.from = vec![divided.len()];
            divided.push(second_end(&stage));
            // The queue has what waits; only a sink that a ring leads to anyway has some in that too.
            let is_called = !matches!(&stage.kind, Kind::Sink(sink) if !matches!(sink, Sink::Blackhole(_)));
            let capacity = stage.input.capacity.filter(|_| !is_called);
            stage.input = Input { capacity, ..Input::default() };
        }
        places.push(divided.len());
        divided.push(stage);
    }
    divided
}

/// Takes what is for `stage`, in its place.
fn first_end(stage: &mut Stage, name: String) -> Stage {
    Stage {
        name,
        from: std::mem::take(&mut stage.from),
        when: stage.when.take(),
        otherwise: std::mem::take(&mut stage.otherwise),
        priority: stage.priority,
        input: Input { capacity: stage.input.capacity, ..Input::default() },
        // An event its `when` fails on.
        on_error: OnError { dead_letter: stage.on_error.dead_letter.clone(), ..OnError::default() },
        kind: Kind::Sink(Sink::Spill(queue(stage))),
    }
}

fn second_end(stage: &Stage) -> Stage {
    Stage {
        name: format!("{}:spilled", stage.name),
        from: Vec::new(),
        when: None,
        otherwise: false,
        priority: stage.priority,
        input: Input::default(),
        on_error: OnError::default(),
        kind: Kind::Source(Source::Spill(queue(stage))),
    }
}

fn queue(stage: &Stage) -> Spill {
    Spill { stage: stage.name.clone(), capacity: stage.input.capacity }
}

#[cfg(test)]
mod tests {
    use sidestream_plan::Plan;

    use crate::compile;

    fn compiled(stages: &str, sidecars: &str) -> (Plan, Vec<Plan>) {
        let text =
            format!("{{kind: Pipeline, metadata: {{name: p}}, spec: {{{sidecars} stages: [{stages}]}}}}");
        let compiled = compile(text.as_bytes(), "p");
        assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
        let pipeline = &compiled.pipelines[0];
        let sidecars = pipeline.sidecars.iter().map(|own| own.plan.clone()).collect();
        (pipeline.plan.clone().unwrap(), sidecars)
    }

    fn joined(plan: &Plan) -> Vec<String> {
        let name = |index: &usize| plan.stages[*index].name.as_str();
        let from = |from: &[usize]| from.iter().map(name).collect::<Vec<_>>().join(",");
        plan.stages.iter().map(|stage| format!("{} < {}", stage.name, from(&stage.from))).collect()
    }

    #[test]
    fn the_ends_of_the_queue_stand_before_the_stage_and_take_its_events_conditions_and_dead_letters() {
        let (plan, _) = compiled(
            "{name: tick, source: {generator: {}}},
             {name: few, when: 'event.value > 1.0', input: {capacity: 64, overflow: Spill}, process: {sample: {every: 2}}},
             {name: show, sink: {console: {}}, onError: {deadLetter: lost}},
             {name: lost, from: [], input: {overflow: Spill}, sink: {file: {path: lost}}}",
            "",
        );
        assert_eq!(
            joined(&plan),
            [
                "tick < ",
                "few:spill < tick",
                "few:spilled < ",
                "few < few:spilled",
                "show < few",
                "lost:spill < ",
                "lost:spilled < ",
                "lost < lost:spilled"
            ]
        );
        assert!(plan.stages[1].when.is_some() && plan.stages[3].when.is_none());
        assert_eq!(plan.stages[1].input.capacity, Some(64));
        assert_eq!(plan.stages[4].on_error.dead_letter.as_deref(), Some("lost:spill"));
        assert!(plan.are_fused(2, 3), "the queue hands to the stage itself: {:?}", plan.runs);
        assert!(
            plan.kinds.contains(&"sink/spill".to_owned()) && plan.kinds.contains(&"source/spill".to_owned())
        );
    }

    #[test]
    fn a_volume_in_which_nothing_can_be_spilled_is_refused_where_it_is_written() {
        let said = |size: &str| {
            let text = format!(
                "{{kind: Pipeline, metadata: {{name: p}}, spec: {{sidecars: [{{name: site, workload: {{spill: {{size: {size}}}}}}}],
                 stages: [{{name: tick, source: {{generator: {{}}}}}}, {{name: show, input: {{overflow: Spill}}, sink: {{console: {{}}}}}}]}}}}"
            );
            let compiled = compile(text.as_bytes(), "p");
            (compiled.is_ok(), compiled.diagnostics.iter().map(ToString::to_string).collect::<String>())
        };
        let (is_ok, text) = said("15Mi");
        assert!(!is_ok && text.contains("error[out-of-range]: 15Mi is too little to spill to"), "{text}");
        assert!(text.contains("spec.sidecars[0].workload.spill.size"), "{text}");
        assert!(said("16Mi").0 && said("4Gi").0);
    }

    #[test]
    fn an_edge_spills_where_it_begins_and_not_where_it_ends() {
        let (_, parts) = compiled(
            "{name: tick, sidecar: app, source: {generator: {}}},
             {name: show, sidecar: hub, input: {overflow: Spill}, sink: {console: {}}}",
            "sidecars: [{name: app, workload: {}}, {name: hub, workload: {}}],",
        );
        assert_eq!(
            joined(&parts[0]),
            [
                "tick < ",
                "tick->show:spill < tick",
                "tick->show:spilled < ",
                "tick->show < tick->show:spilled"
            ]
        );
        assert_eq!(joined(&parts[1]), ["tick->show < ", "show < tick->show"]);
    }

    #[test]
    fn dead_letters_for_another_sidecar_are_spilled_before_they_leave() {
        let (_, parts) = compiled(
            "{name: tick, sidecar: app, source: {generator: {}}},
             {name: half, process: {map: {body: 'event.value / 2.0'}}, onError: {deadLetter: lost}},
             {name: none, sink: {blackhole: {}}},
             {name: lost, sidecar: hub, from: [], input: {overflow: Spill}, sink: {console: {}}}",
            "sidecars: [{name: app, workload: {}}, {name: hub, workload: {}}],",
        );
        let half = parts[0].stage("half").unwrap().1;
        assert_eq!(half.on_error.dead_letter.as_deref(), Some("app:errors->lost:spill"));
        assert_eq!(joined(&parts[1]), ["app:errors->lost < ", "lost < app:errors->lost"]);
    }
}
