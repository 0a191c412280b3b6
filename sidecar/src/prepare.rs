//! Everything about a plan that can fail, done before anything is touched.

use std::{collections::HashMap, fmt};

use sidestream_connector::{ExactlyOnce, InlineSink, Sink, Source, build as connector};
use sidestream_event::Batch;
use sidestream_expr::{Program, Type};
use sidestream_graph::{Flow, Output, Processor, operator};
use sidestream_plan::{
    Delivery, Kind, PLAN_VERSION, Plan, Process, Sink as SinkKind, Source as SourceKind, Stage,
};

use crate::{Door, Registry, World, edge, spill};

/// The stages of a plan, made but not yet joined. By index of the stage.
#[derive(Default)]
pub(crate) struct Prepared {
    pub(crate) sources: HashMap<usize, Source>,
    pub(crate) doors: HashMap<usize, Door>,
    pub(crate) operators: HashMap<usize, Box<dyn Processor>>,
    pub(crate) sinks: HashMap<usize, Sink>,
    pub(crate) whens: HashMap<usize, Program>,
}

/// A plan cannot run here.
#[derive(Debug)]
pub enum AssembleError {
    /// It was made by a newer compiler.
    Version {
        /// The version of the plan.
        plan: u32,
    },
    /// A stage cannot be made.
    Stage {
        /// Its name.
        stage: String,
        /// What is wrong, and the cure.
        reason: String,
    },
    /// The machine refused a thread.
    Machine(std::io::Error),
}

/// Makes the stages of `plan` for which `kept` is false.
pub(crate) fn prepare(
    plan: &Plan,
    world: &World,
    registry: &mut Registry,
    kept: impl Fn(&Stage) -> bool,
) -> Result<Prepared, AssembleError> {
    if plan.version > PLAN_VERSION {
        return Err(AssembleError::Version { plan: plan.version });
    }
    let environment = world.environment(&plan.pipeline);
    let exactly_once = (plan.delivery == Delivery::ExactlyOnce).then(ExactlyOnce::default);
    let mut prepared = Prepared::default();
    for (index, stage) in plan.stages.iter().enumerate() {
        let refuse = |reason: String| AssembleError::Stage { stage: stage.name.clone(), reason };
        if let Some(when) = &stage.when {
            let program = Program::compile_predicate(when.source(), &Type::Dyn).map_err(|problems| {
                refuse(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            })?;
            prepared.whens.insert(index, program);
        }
        if kept(stage) {
            continue;
        }
        let mut environment = environment.clone();
        if matches!(stage.kind, Kind::Source(_)) || !stage.from.is_empty() {
            // A sink that takes only dead letters gets them at least once.
            environment.exactly_once = exactly_once.as_ref().map(|once| once.of(&stage.name));
        }
        match &stage.kind {
            Kind::Source(SourceKind::Push(_)) => {
                prepared.doors.insert(index, registry.door(&stage.name));
            }
            Kind::Source(source) => {
                let source = match source {
                    SourceKind::Edge(stage) => edge::source(stage, plan, world),
                    SourceKind::Spill(stage) => spill::source(stage, plan, world),
                    source => connector::source(source, &environment),
                }
                .map_err(|error| refuse(error.to_string()))?;
                prepared.sources.insert(index, source);
            }
            Kind::Process(Process::Custom(custom)) => {
                let processor = registry.processors.remove(&custom.processor).ok_or_else(|| {
                    refuse(format!("no processor `{}` is registered with this program", custom.processor))
                })?;
                prepared.operators.insert(index, processor);
            }
            Kind::Process(process) => {
                let processor =
                    operator::build(process, &Type::Dyn).map_err(|error| refuse(error.to_string()))?;
                prepared.operators.insert(index, processor);
            }
            Kind::Sink(sink) => {
                let sink = match sink {
                    SinkKind::Edge(stage) => edge::sink(stage, plan, world),
                    SinkKind::Spill(stage) => spill::sink(stage, plan, world),
                    sink => connector::sink(sink, &environment),
                };
                match sink.map_err(|error| refuse(error.to_string()))? {
                    Sink::Inline(sink) => {
                        prepared.operators.insert(index, Box::new(InlineStage(sink)));
                    }
                    sink => {
                        prepared.sinks.insert(index, sink);
                    }
                }
            }
        }
    }
    Ok(prepared)
}

impl Prepared {
    /// Has the sources take what others may have: ports, files. Those wait until they run for which `waits` is true.
    pub(crate) fn open(
        mut self,
        plan: &Plan,
        waits: impl Fn(&Stage) -> bool,
    ) -> Result<Prepared, AssembleError> {
        for (index, stage) in plan.stages.iter().enumerate().filter(|(_, stage)| !waits(stage)) {
            let Some(source) = self.sources.get_mut(&index) else { continue };
            let refuse = |reason: String| AssembleError::Stage { stage: stage.name.clone(), reason };
            source.open().map_err(|failure| refuse(failure.to_string()))?;
        }
        Ok(self)
    }
}

/// A sink that a worker calls: the last operator of its run.
struct InlineStage(Box<dyn InlineSink>);

impl Processor for InlineStage {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        self.0.take(batch);
        batch.clear();
        Flow::Continue
    }
}

impl fmt::Display for AssembleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssembleError::Version { plan } => write!(
                out,
                "the plan is of version {plan}, and this program knows {PLAN_VERSION}: use a newer sidestream"
            ),
            AssembleError::Stage { stage, reason } => write!(out, "stage `{stage}`: {reason}"),
            AssembleError::Machine(error) => write!(out, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for AssembleError {}
