//! Whether each result can be there exactly once, whatever crashes: proved here, or refused.
//!
//! ```text
//!   record (partition, offset) ──▶ at most one event, the same each time ──▶ ... ──▶ result, pushed with that offset
//! ```
//!
//! A sink that starts anew asks its dnpipe up to which offset of a source's partition it has results, and pushes those behind.
//! That is exact where
//! 1. every source is a dnpipe: its records have offsets, and come again in their order;
//! 2. a stage makes of an event the same each time, one event or none: then an offset names a result;
//! 3. the events of a source come to a stage by one way: then they come in their order;
//! 4. no event goes for want of room or of patience: then none below the highest offset is missing;
//! 5. every sink that takes events is a dnpipe, which keeps the offset with the result.

use std::collections::BTreeSet;

use sidestream_expr::reads;
use sidestream_plan::{
    Delivery, Kind, OnError, Overflow, Process, Sink, Source,
    stage::{DnpipeSource, Parse, ThrottleMode},
};

use super::{CompiledPipeline, Report, expressions, keyed::untold, placement::Placement};
use crate::{
    diagnostic::{Code, Diagnostic},
    path::Path,
    pipeline::{Pipeline, PipelineSpec},
};

/// What the steps before have found.
pub(super) struct Graph<'a> {
    /// The pipeline's namespace.
    pub(super) own: &'a str,
    pub(super) spec: &'a PipelineSpec,
    pub(super) kinds: &'a [Kind],
    pub(super) wiring: &'a [Vec<usize>],
    pub(super) on_error: &'a [OnError],
    pub(super) placement: &'a Placement,
}

/// Says of a pipeline that is to deliver exactly once what stands in the way.
pub(super) fn check(graph: &Graph<'_>, report: &mut Report) {
    if graph.spec.delivery != Some(Delivery::ExactlyOnce) {
        return;
    }
    let mut origins: Vec<BTreeSet<usize>> = Vec::new();
    for (index, kind) in graph.kinds.iter().enumerate() {
        let mut stage = Stage { graph, index, report };
        let own = stage.origins(&origins);
        origins.push(own);
        stage.check_place();
        match kind {
            Kind::Source(source) => stage.check_source(source),
            Kind::Process(process) => stage.check_process(process),
            Kind::Sink(sink) => {
                // One that takes only dead letters gets them at least once.
                if !graph.wiring[index].is_empty() {
                    stage.check_sink(sink);
                }
                stage.check_patience();
            }
        }
        stage.check_expressions();
        stage.check_queue();
    }
}

/// What is wrong with `pipeline` beside `others` of its file: of a group, two pipelines each have results of their own.
pub(super) fn check_groups(pipeline: &Pipeline, others: &[CompiledPipeline]) -> Vec<Diagnostic> {
    let is_once = |pipeline: &Pipeline| pipeline.spec.delivery == Some(Delivery::ExactlyOnce);
    let mut report = Report::default();
    for other in others.iter().map(|other| &other.resource) {
        let once = if is_once(pipeline) { pipeline } else { other };
        if !is_once(once) || other.full_name() == pipeline.full_name() {
            continue;
        }
        let taken: Vec<[&str; 3]> = groups(other).map(|(_, group)| group).collect();
        for (index, group) in groups(pipeline).filter(|(_, group)| taken.contains(group)) {
            let reason = format!(
                "`delivery: ExactlyOnce` of {} can't be proved: {} and {} read one group, so after a crash a record may have the \
                 results of both",
                once.full_name(),
                other.full_name(),
                pipeline.full_name()
            );
            let path = Path::stage(index).fields(&["source", "dnpipe", "group"]);
            let cure = format!("give the pipelines a group each, not both `{}`", group[2]);
            report.say(Code::UnprovenDelivery, path, reason, cure);
        }
    }
    report.diagnostics
}

/// The groups that a pipeline reads, by the stages that do: namespace, dnpipe and group.
fn groups(pipeline: &Pipeline) -> impl Iterator<Item = (usize, [&str; 3])> {
    let own = namespace_of(pipeline);
    pipeline.spec.stages.iter().enumerate().filter_map(move |(index, stage)| match &stage.source {
        Some(Source::Dnpipe(source)) => Some((index, group_of(source, own))),
        _ => None,
    })
}

/// The group of a source in a pipeline of the namespace `own`: namespace, dnpipe and group.
fn group_of<'a>(source: &'a DnpipeSource, own: &'a str) -> [&'a str; 3] {
    [source.namespace.as_deref().unwrap_or(own), &source.name, &source.group]
}

/// The namespace of what a pipeline names without one.
pub(super) fn namespace_of(pipeline: &Pipeline) -> &str {
    pipeline.metadata.namespace.as_deref().unwrap_or("default")
}

struct Stage<'a> {
    graph: &'a Graph<'a>,
    index: usize,
    report: &'a mut Report,
}

impl Stage<'_> {
    /// The sources whose events come to it, each by one way.
    fn origins(&mut self, before: &[BTreeSet<usize>]) -> BTreeSet<usize> {
        let kind = &self.graph.kinds[self.index];
        if matches!(kind, Kind::Source(_)) {
            return BTreeSet::from([self.index]);
        }
        let mut own = BTreeSet::new();
        for input in &self.graph.wiring[self.index] {
            let again: Vec<usize> = own.intersection(&before[*input]).copied().collect();
            if let Some(source) = again.first() {
                let reason = format!(
                    "events of `{}` come to `{}` by two ways, so they are not in their order there",
                    self.name(*source),
                    self.name(self.index)
                );
                let cure = "give each way a sink of its own; they may be of one dnpipe";
                self.say(self.path().field("from"), reason, cure);
                break;
            }
            own.extend(&before[*input]);
        }
        own
    }

    fn check_place(&mut self) {
        let of_stage = &self.graph.placement.of_stage;
        if of_stage[self.index] != of_stage[0] {
            let reason = format!(
                "`{}` runs in another sidecar than `{}`, and events are numbered anew where an edge ends",
                self.name(self.index),
                self.name(0)
            );
            self.say(
                self.path(),
                reason,
                "run all stages in one sidecar, or join two pipelines by a dnpipe between them",
            );
        }
    }

    fn check_source(&mut self, source: &Source) {
        let path = self.path().fields(&["source", self.graph.kinds[self.index].name()]);
        let Source::Dnpipe(dnpipe) = source else {
            let reason = format!(
                "what `{}` brings in has no offset by which it would be known when it comes again",
                self.name(self.index)
            );
            return self.say(path, reason, "read a `dnpipe`, and fill that by another pipeline");
        };
        let is_same =
            |other: &DnpipeSource| group_of(other, self.graph.own) == group_of(dnpipe, self.graph.own);
        let mut above = self.graph.kinds[..self.index].iter();
        let first =
            above.position(|kind| matches!(kind, Kind::Source(Source::Dnpipe(other)) if is_same(other)));
        if let Some(first) = first {
            let reason = format!(
                "a record of the group may come to `{}` once and to `{}` the next time",
                self.name(first),
                self.name(self.index)
            );
            self.say(path.field("group"), reason, "give this source a group of its own");
        }
    }

    fn check_process(&mut self, process: &Process) {
        let why = match process {
            Process::Filter(_)
            | Process::Map(_)
            | Process::Set(_)
            | Process::Unset(_)
            | Process::Rename(_) => return,
            Process::Merge(_) | Process::Encode(_) => return,
            Process::Parse(parse) if !matches!(parse, Parse::Prometheus(_)) => return,
            Process::Sample(sample) if sample.by.is_some() => return,
            Process::Throttle(throttle) if throttle.mode == Some(ThrottleMode::Block) => return,
            Process::Sample(_) => {
                ("counts events, and after a crash begins with another", "give it `by`, or take it out")
            }
            Process::Throttle(_) => ("drops events by the clock", "write `mode: Block`"),
            Process::Parse(_) | Process::Split(_) => {
                ("makes several events of one, which a crash may part", DO_IT_BEHIND)
            }
            Process::Batch(_) => ("makes one event of several, and after a crash of others", DO_IT_BEHIND),
            Process::Window(_) | Process::Threshold(_) | Process::Dedupe(_) => {
                ("has a state that a crash loses", DO_IT_BEHIND)
            }
            Process::Custom(_) => ("may make something else of an event that comes again", DO_IT_BEHIND),
        };
        let (does, cure) = why;
        let kind = self.graph.kinds[self.index].name();
        let reason = format!("`{}` {does}", self.name(self.index));
        self.say(self.path().fields(&["process", kind]), reason, cure);
    }

    fn check_sink(&mut self, sink: &Sink) {
        if !matches!(sink, Sink::Dnpipe(_)) {
            let kind = self.graph.kinds[self.index].name();
            let reason = format!("a `{kind}` can't say which results it has");
            self.say(
                self.path().fields(&["sink", kind]),
                reason,
                "push to a `dnpipe`, and take it from there by another pipeline",
            );
        }
        let name = Some(&self.graph.spec.stages[self.index].name);
        if self.graph.on_error.iter().any(|on_error| on_error.dead_letter.as_ref() == name) {
            let reason = format!(
                "`{}` takes dead letters beside events, which come in no order",
                self.name(self.index)
            );
            self.say(self.path(), reason, "add a sink for dead letters alone, with `from: []`");
        }
    }

    fn check_patience(&mut self) {
        let limit = self.graph.on_error[self.index].retry.as_ref().and_then(|retry| retry.limit);
        if limit.is_some() {
            let own = self.graph.spec.stages[self.index].on_error.as_ref();
            let is_own = own.is_some_and(|on_error| on_error.retry.is_some());
            let path = if is_own { self.path() } else { Path::top().field("spec") };
            let reason = format!(
                "`{}` drops results that were not taken when it has tried that often",
                self.name(self.index)
            );
            self.say(
                path.fields(&["onError", "retry", "limit"]),
                reason,
                "take `limit` out: it tries until they are taken",
            );
        }
    }

    fn check_expressions(&mut self) {
        let kind = &self.graph.kinds[self.index];
        let of_kind = self.path().fields(&[kind.role(), kind.name()]);
        let mut found: Vec<(Path, &str)> = expressions::of(kind)
            .into_iter()
            .map(|own| (of_kind.fields(&own.at), own.expression.source()))
            .collect();
        let when = self.graph.spec.stages[self.index].when.as_ref();
        found.extend(when.map(|when| (self.path().field("when"), when.source())));
        for (path, source) in found {
            if reads(source).is_some()
                && let Some(field) = untold(source)
            {
                let reason = format!("this reads `{field}`, which is another when a record comes again");
                self.say(path, reason, "read the event itself, its key or its time");
            }
        }
    }

    fn check_queue(&mut self) {
        let input = self.graph.spec.stages[self.index].input.as_ref();
        let name = self.name(self.index);
        let reason = match input.map(|input| input.overflow).unwrap_or_default() {
            Overflow::Block => return,
            Overflow::Spill => format!("what was spilled before `{name}` has no offset any more"),
            Overflow::DropOldest | Overflow::DropNewest => {
                format!("events go where the queue of `{name}` is full")
            }
        };
        let cure = "take `overflow` out: the source waits, and its dnpipe keeps what it has not read";
        self.say(self.path().fields(&["input", "overflow"]), reason, cure);
    }

    fn path(&self) -> Path {
        Path::stage(self.index)
    }

    fn name(&self, stage: usize) -> &str {
        &self.graph.spec.stages[stage].name
    }

    fn say(&mut self, path: Path, why: impl Into<String>, cure: &str) {
        let reason = format!("`delivery: ExactlyOnce` can't be proved: {}", why.into());
        self.report.say(Code::UnprovenDelivery, path, reason, format!("{cure}; or leave `delivery` out"));
    }
}

const DO_IT_BEHIND: &str = "do it in another pipeline, which takes the results of this one from their dnpipe";
