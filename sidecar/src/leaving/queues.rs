//! Queues that go to disk before stages that the plan does not have any more.
//!
//! ```text
//!   old plan   a ─▶ b:spill ┄ b:spilled ─▶ b ─▶ c
//!   new plan   a ─▶ c          beside it   b:spill ┄ b:spilled ─▶ b ─▶ c
//! ```
//!
//! Nothing more comes into such a queue, so it ends when all of it is delivered, and the stages behind it after it. Then the plan
//! is put in place as it was asked for. A stage that stays and does not spill any more takes what waits for it before all else.
//! Nothing of it is ever dropped: what is not delivered while the process lives is on its disk.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sidestream_plan::{Kind, Plan, Run, Sink, Source, Stage};

use crate::{Pipeline, Registry, assemble::RunTask, latch::Latch, pipeline::Running, reload::Ports};

/// A plan, and which of its stages only an earlier one had.
pub(crate) struct Beside {
    pub(crate) plan: Plan,
    pub(crate) names: BTreeSet<String>,
}

/// `new`, with the queues of `old` beside it that it does not have and that are not `over`, and with the stages behind them that
/// are gone.
pub(crate) fn with_queues(new: &Plan, old: &Plan, is_over: impl Fn(&str) -> bool) -> Beside {
    let has = |queue: &str| new.stages.iter().filter_map(queue_of).any(|own| own == queue);
    // What waits before a stage that is a source now has nobody who could take it: it stays on the disk, and is named.
    let mut stuck: BTreeSet<&str> = BTreeSet::new();
    let beside = loop {
        let is_left = |queue: &str| !has(queue) && !is_over(queue) && !stuck.contains(queue);
        let beside = stages_beside(new, old, &|stage| queue_of(stage).is_some_and(is_left));
        let found = before_sources(new, old, &beside);
        if found.is_empty() {
            break beside;
        }
        stuck.extend(found);
    };
    let place = |index: &usize| beside.iter().position(|own| own == index);
    let mut stages: Vec<Stage> = beside.iter().map(|index| old.stages[*index].clone()).collect();
    for stage in &mut stages {
        stage.from = stage.from.iter().filter_map(place).collect();
        if stage.from.is_empty() {
            // Nobody is left who would ask.
            (stage.when, stage.otherwise) = (None, false);
        }
    }
    let names = stages.iter().map(|stage| stage.name.clone()).collect();
    let mut joined = BTreeSet::new();
    for stage in &new.stages {
        let mut stage = stage.clone();
        stage.from.iter_mut().for_each(|from| *from += beside.len());
        let before: Vec<usize> = came_from(&stage.name, new, old).filter_map(|from| place(&from)).collect();
        if !before.is_empty() {
            joined.insert(stages.len());
            // What has waited comes first.
            stage.from.splice(0..0, before);
        }
        stages.push(stage);
    }
    let runs_beside = old.runs.iter().flat_map(|run| pieces(run, place, |_| false));
    let runs_of_new = |run: &Run| {
        pieces(run, |index| Some(index + beside.len()), |index| joined.contains(&index)).collect::<Vec<_>>()
    };
    let runs = runs_beside.chain(new.runs.iter().flat_map(runs_of_new)).collect();
    let kinds: BTreeSet<String> =
        stages.iter().map(|stage| format!("{}/{}", stage.kind.role(), stage.kind.name())).collect();
    let plan = Plan { kinds: kinds.into_iter().collect(), stages, runs, ..new.clone() };
    Beside { plan, names }
}

/// Says which queues leave that did not before.
pub(crate) fn name(beside: &Beside, before: &BTreeSet<String>) {
    let stages = beside.plan.stages.iter().filter(|stage| beside.names.contains(&stage.name));
    let new = stages.filter(|stage| !before.contains(&stage.name));
    let queues: BTreeSet<&str> = new.filter_map(queue_of).collect();
    for queue in queues {
        let pipeline = &beside.plan.pipeline;
        tracing::info!(
            pipeline,
            stage = queue,
            "left to deliver what is spilled for it: the new plan does not have its queue"
        );
    }
}

/// Whether a plan has such queues.
pub(crate) fn spills(plan: &Plan) -> bool {
    plan.stages.iter().any(|stage| queue_of(stage).is_some())
}

/// The queue of which a stage is an end.
pub(crate) fn queue_of(stage: &Stage) -> Option<&str> {
    match &stage.kind {
        Kind::Sink(Sink::Spill(queue)) | Kind::Source(Source::Spill(queue)) => Some(&queue.stage),
        _ => None,
    }
}

/// The stages of `old` that are an end of a queue that `leaves`, or take from such and are gone, in their order.
fn stages_beside(new: &Plan, old: &Plan, leaves: &dyn Fn(&Stage) -> bool) -> Vec<usize> {
    let mut beside: BTreeSet<usize> = BTreeSet::new();
    loop {
        let letters = beside.iter().filter_map(|index| old.stages[*index].on_error.dead_letter.as_ref());
        let letters: BTreeSet<&String> = letters.collect();
        let is_beside = |index: &usize| {
            let stage = &old.stages[*index];
            let is_gone = new.stage(&stage.name).is_none();
            let takes = stage.from.iter().any(|from| beside.contains(from));
            is_gone && (leaves(stage) || takes || letters.contains(&stage.name))
        };
        let found: BTreeSet<usize> = (0..old.stages.len()).filter(is_beside).collect();
        if found == beside {
            return found.into_iter().collect();
        }
        beside = found;
    }
}

/// The queues among `beside` from which what comes would come to a stage that is a source in `new`.
fn before_sources<'p>(new: &Plan, old: &'p Plan, beside: &[usize]) -> BTreeSet<&'p str> {
    let is_source =
        |name: &str| new.stage(name).is_some_and(|(_, stage)| matches!(stage.kind, Kind::Source(_)));
    let became = old.stages.iter().filter(|stage| is_source(&stage.name));
    let mut open: Vec<usize> = became.flat_map(|stage| stage.from.iter().copied()).collect();
    let mut seen = BTreeSet::new();
    while let Some(index) = open.pop() {
        if beside.contains(&index) && seen.insert(index) {
            open.extend(&old.stages[index].from);
        }
    }
    seen.into_iter().filter_map(|index| queue_of(&old.stages[index])).collect()
}

/// The stages of `old` that a stage of `new` took from: the first end of its queue where it has one now.
fn came_from<'p>(name: &str, new: &'p Plan, old: &'p Plan) -> impl Iterator<Item = usize> + use<'p> {
    let is_behind_queue = |name: &str| {
        let own = new.stage(name).into_iter().flat_map(|(_, stage)| &stage.from);
        own.into_iter().any(|from| matches!(new.stages[*from].kind, Kind::Source(Source::Spill(_))))
    };
    let first_end = new.stage(name).and_then(|(_, stage)| match &stage.kind {
        Kind::Sink(Sink::Spill(queue)) => Some(queue.stage.as_str()),
        _ => None,
    });
    let own = old.stage(name).filter(|_| !is_behind_queue(name));
    let behind = first_end.filter(|_| old.stage(name).is_none()).and_then(|behind| old.stage(behind));
    own.or(behind).into_iter().flat_map(|(_, stage)| stage.from.iter().copied())
}

/// What is left of a run of which only some stages have a place, and some `begin` one of their own.
fn pieces(
    run: &Run,
    place: impl Fn(&usize) -> Option<usize>,
    begins: impl Fn(usize) -> bool,
) -> impl Iterator<Item = Run> {
    let mut pieces: Vec<Run> = Vec::new();
    let mut is_whole = false;
    for index in &run.stages {
        let Some(place) = place(index) else {
            is_whole = false;
            continue;
        };
        match pieces.last_mut().filter(|_| is_whole && !begins(place)) {
            Some(piece) => piece.stages.push(place),
            None => pieces.push(Run { stages: vec![place] }),
        }
        is_whole = true;
    }
    pieces.into_iter()
}

impl Running {
    /// Lets the sinks that only earlier plans had end when what feeds them has.
    pub(crate) fn finish_beside(&self) {
        let sinks = self.assembly.sinks.iter().filter(|(name, _)| self.beside.contains(*name));
        sinks.for_each(|(_, sink)| sink.finish());
    }

    /// The edges of earlier plans whose queues still have something to deliver.
    pub(crate) fn queued_edges(&self) -> impl Iterator<Item = &str> {
        let sinks = self.assembly.sinks.iter();
        let left = sinks.filter(|(name, sink)| self.beside.contains(*name) && !sink.ended().is_set());
        let is_edge = |name: &str| self.plan.stage(name).is_some_and(|(_, stage)| super::is_edge(stage));
        left.map(|(name, _)| name.as_str()).filter(move |name| is_edge(name))
    }

    /// Whether a queue is of stages that only earlier plans had.
    pub(crate) fn is_queue_beside(&self, queue: &str) -> bool {
        let mut stages = self.plan.stages.iter().filter(|stage| self.beside.contains(&stage.name));
        stages.any(|stage| queue_of(stage) == Some(queue))
    }

    /// Set when the stages have ended that only earlier plans had.
    fn beside_ended(&self) -> Vec<Latch> {
        let sinks = self.assembly.sinks.iter().filter(|(name, _)| self.beside.contains(*name));
        // Fused are either all of them or none.
        let is_beside = |run: &&RunTask| run.stages.iter().any(|stage| self.beside.contains(stage));
        let runs = self.assembly.tasks.iter().filter(is_beside);
        sinks.map(|(_, sink)| sink.ended().clone()).chain(runs.map(|run| run.ended.clone())).collect()
    }

    /// Whether they have, and whoever takes from them has all they gave.
    pub(crate) fn is_beside_over(&self) -> bool {
        let mut rings = self.assembly.rings.iter();
        self.beside_ended().iter().all(Latch::is_set)
            && rings.all(|(from, _, ring)| !self.beside.contains(from) || ring.depth() == 0)
    }
}

/// Puts the plan in place as it was asked for, each time the queues beside it are empty.
pub(crate) async fn see_off_queues(pipeline: Arc<Pipeline>) {
    let mut turned = pipeline.turned.subscribe();
    loop {
        let (generation, latches) = pipeline
            .look(|running| {
                let latches =
                    (!running.beside.is_empty() && running.halted.is_none()).then(|| running.beside_ended());
                (running.generation, latches)
            })
            .await;
        let is_over = async {
            let Some(latches) = latches else { return std::future::pending().await };
            for latch in latches {
                latch.wait().await;
            }
            while !pipeline.look(|running| running.is_beside_over()).await {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let turns = async {
            // Never an error: the pipeline has the other end.
            let _ = turned.wait_for(|newest| *newest != generation).await;
        };
        tokio::select! {
            () = pipeline.ended.wait() => return,
            () = turns => continue,
            () = is_over => {}
        }
        let own = pipeline.clone();
        // It blocks. An error is a runtime that ends, and the pipeline with it.
        let _ = tokio::task::spawn_blocking(move || own.see_off(generation)).await;
        tokio::select! {
            () = pipeline.ended.wait() => return,
            () = tokio::time::sleep(TRY_AGAIN) => {}
            _ = turned.wait_for(|newest| *newest != generation) => {}
        }
    }
}

impl Pipeline {
    fn see_off(&self, generation: u64) {
        let mut running = self.running();
        if running.generation != generation || running.draining || running.halted.is_some() {
            return;
        }
        let wanted = running.wanted.clone();
        let stages = running.beside.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.replace(&mut running, (*wanted).clone(), &mut Registry::default(), &Ports::new()) {
            Ok(_) => tracing::info!(stages, "gone: all that was spilled for them is delivered"),
            Err(error) => {
                tracing::warn!(stages, "all that was spilled for them is delivered, and they stay: {error}")
            }
        }
    }
}

/// How often whoever takes from a stage that has ended is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a plan that could not be put in place is left alone.
const TRY_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(stages: &str) -> Plan {
        let text = format!("{{kind: Pipeline, metadata: {{name: p}}, spec: {{stages: [{stages}]}}}}");
        let compiled = sidestream_crds::compile(text.as_bytes(), "p");
        assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
        compiled.pipelines[0].plan.clone().expect("a plan of one process")
    }

    fn joined(plan: &Plan) -> Vec<String> {
        let in_runs: Vec<usize> = plan.runs.iter().flat_map(|run| run.stages.clone()).collect();
        assert_eq!(in_runs.iter().collect::<BTreeSet<_>>().len(), plan.stages.len(), "{:?}", plan.runs);
        assert_eq!(in_runs.len(), plan.stages.len(), "each is in one run: {:?}", plan.runs);
        let name = |index: &usize| plan.stages[*index].name.as_str();
        let from = |from: &[usize]| from.iter().map(name).collect::<Vec<_>>().join(",");
        plan.stages.iter().map(|stage| format!("{} < {}", stage.name, from(&stage.from))).collect()
    }

    const TICK: &str = "{name: tick, source: {generator: {}}}";
    const SHOW: &str = "{name: show, sink: {blackhole: {}}}";

    #[test]
    fn what_is_gone_stays_beside_as_far_as_a_stage_that_is_still_there() {
        let few = "{name: few, input: {overflow: Spill}, process: {sample: {every: 2}}}";
        let old =
            compiled(&format!("{TICK}, {few}, {{name: more, process: {{sample: {{every: 3}}}}}}, {SHOW}"));
        let new = compiled(&format!("{TICK}, {{name: all, process: {{sample: {{every: 1}}}}}}, {SHOW}"));
        let both = with_queues(&new, &old, |_| false);
        let expected = [
            "few:spill < ",
            "few:spilled < ",
            "few < few:spilled",
            "more < few",
            "tick < ",
            "all < tick",
            "show < more,all",
        ];
        assert_eq!(joined(&both.plan), expected);
        assert!(both.plan.are_fused(1, 3) && both.plan.are_fused(4, 5) && !both.plan.are_fused(5, 6));
        assert!(both.names.iter().eq(["few", "few:spill", "few:spilled", "more"]), "{:?}", both.names);
        let again = with_queues(&new, &both.plan, |_| false);
        assert_eq!((&again.plan, &again.names), (&both.plan, &both.names), "asked again it is the same");
        assert_eq!(with_queues(&new, &both.plan, |queue| queue == "few").plan, new);
    }

    #[test]
    fn a_queue_whose_stage_does_not_spill_any_more_comes_before_what_is_new() {
        let few = |input: &str| {
            compiled(&format!("{TICK}, {{name: few, {input} process: {{sample: {{every: 2}}}}}}, {SHOW}"))
        };
        let (old, new) = (few("input: {overflow: Spill},"), few(""));
        let both = with_queues(&new, &old, |_| false).plan;
        let expected = ["few:spill < ", "few:spilled < ", "tick < ", "few < few:spilled,tick", "show < few"];
        assert_eq!(joined(&both), expected);
        assert!(new.are_fused(0, 1) && !both.are_fused(2, 3), "it takes from two");
        assert_eq!(with_queues(&old, &both, |_| false).plan, old, "it spills again");
    }

    #[test]
    fn what_waits_before_a_stage_that_is_a_source_now_stays_on_the_disk() {
        let few = "{name: few, input: {overflow: Spill}, process: {sample: {every: 2}}}";
        let source = "{name: few, source: {generator: {}}}";
        let old = compiled(&format!("{TICK}, {few}, {SHOW}"));
        let new = compiled(&format!("{source}, {SHOW}"));
        assert_eq!(with_queues(&new, &old, |_| false).plan, new);
        // Also behind others that are gone.
        let old = compiled(&format!(
            "{TICK}, {{name: some, input: {{overflow: Spill}}, process: {{sample: {{every: 3}}}}}}, {{name: few, process: {{sample: \
             {{every: 2}}}}}}, {SHOW}"
        ));
        assert_eq!(with_queues(&new, &old, |_| false).plan, new);
    }

    #[test]
    fn what_comes_to_a_stage_that_spills_now_goes_through_its_queue() {
        let chain = |few: &str, show: &str| {
            compiled(&format!("{TICK}, {few} {{name: show, {show} sink: {{blackhole: {{}}}}}}"))
        };
        let old = chain("{name: few, input: {overflow: Spill}, process: {sample: {every: 2}}},", "");
        let new = chain("", "input: {overflow: Spill},");
        let expected = [
            "few:spill < ",
            "few:spilled < ",
            "few < few:spilled",
            "tick < ",
            "show:spill < few,tick",
            "show:spilled < ",
            "show < show:spilled",
        ];
        assert_eq!(joined(&with_queues(&new, &old, |_| false).plan), expected);
    }
}
