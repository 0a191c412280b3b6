//! A pipeline built in code. It makes the resource that YAML is read into, and nothing else.

use std::fmt;

use sidestream_crds::{Diagnostic, Pipeline as Resource, PipelineSpec, StageSpec, compile_pipeline};
use sidestream_plan::{
    Delivery, Expression, Input, Kind, Latency, OnError, Plan, Priority, Process, Source,
    stage::{Custom, Push},
};
use sidestream_sidecar::{Pipeline as Started, Processor, Registry, Sidecar};

use crate::{ProcessKind, Running, SinkKind, SourceKind, StartError};

/// A pipeline that is being built: stages in the order data flows, each taking from the stage above it unless
/// [`Pipeline::from`] says otherwise.
///
/// `from`, `when`, `otherwise`, `priority`, `input` and `on_error` are about the stage added last.
#[must_use = "a pipeline does nothing until it is started"]
pub struct Pipeline {
    resource: Resource,
    processors: Vec<(String, Box<dyn Processor>)>,
}

impl Pipeline {
    /// A pipeline without stages, in namespace `default`.
    pub fn new(name: &str) -> Pipeline {
        Pipeline { resource: Resource::new(name, PipelineSpec::default()), processors: Vec::new() }
    }

    /// Puts it in a namespace.
    pub fn namespace(mut self, namespace: &str) -> Pipeline {
        self.resource.metadata.namespace = Some(namespace.to_owned());
        self
    }

    /// How the workers wait. It is the [`Sidecar`] that has workers: this is for plans that are run elsewhere.
    pub fn latency(mut self, latency: Latency) -> Pipeline {
        self.resource.spec.latency = Some(latency);
        self
    }

    /// How often the result of an event may be there, whatever crashes.
    pub fn delivery(mut self, delivery: Delivery) -> Pipeline {
        self.resource.spec.delivery = Some(delivery);
        self
    }

    /// What happens to events that stages cannot handle, where a stage does not say otherwise.
    pub fn on_errors(mut self, policy: OnError) -> Pipeline {
        self.resource.spec.on_error = Some(policy);
        self
    }

    /// A stage that brings events in.
    pub fn source(self, name: &str, source: impl SourceKind) -> Pipeline {
        self.stage(name, Kind::Source(source.into_source()))
    }

    /// A stage whose events the program pushes in, by [`Running::door`].
    pub fn push(self, name: &str) -> Pipeline {
        self.stage(name, Kind::Source(Source::Push(Push {})))
    }

    /// A stage that changes events.
    pub fn process(self, name: &str, process: impl ProcessKind) -> Pipeline {
        self.stage(name, Kind::Process(process.into_process()))
    }

    /// A stage that is a processor of the program.
    pub fn processor(mut self, name: &str, processor: impl Processor + 'static) -> Pipeline {
        self.processors.push((name.to_owned(), Box::new(processor)));
        self.stage(name, Kind::Process(Process::Custom(Custom { processor: name.to_owned() })))
    }

    /// A stage that takes events out.
    pub fn sink(self, name: &str, sink: impl SinkKind) -> Pipeline {
        self.stage(name, Kind::Sink(sink.into_sink()))
    }

    /// The stages above whose events the last stage takes; empty for a sink that takes dead letters alone.
    #[allow(clippy::should_implement_trait, reason = "the word the language has for it")]
    pub fn from<'a>(self, stages: impl IntoIterator<Item = &'a str>) -> Pipeline {
        let from = stages.into_iter().map(str::to_owned).collect();
        self.last(|stage| stage.from = Some(from))
    }

    /// The last stage takes only the events this says yes to.
    pub fn when(self, condition: impl Into<Expression>) -> Pipeline {
        let condition = condition.into();
        self.last(|stage| stage.when = Some(condition))
    }

    /// The last stage takes only the events that no `when` of another stage with the same input took.
    pub fn otherwise(self) -> Pipeline {
        self.last(|stage| stage.otherwise = Some(true))
    }

    /// How soon the last stage gets a worker when there is not time for all.
    pub fn priority(self, priority: Priority) -> Pipeline {
        self.last(|stage| stage.priority = Some(priority))
    }

    /// The queue in front of the last stage.
    pub fn input(self, input: Input) -> Pipeline {
        self.last(|stage| stage.input = Some(input))
    }

    /// What happens to events the last stage cannot handle.
    pub fn on_error(self, policy: OnError) -> Pipeline {
        self.last(|stage| stage.on_error = Some(policy))
    }

    /// The resource, as YAML would be read into it.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// What would run.
    ///
    /// # Errors
    /// All that is wrong with it, in the words of `sidestream check`.
    pub fn plan(&self) -> Result<Plan, Vec<Diagnostic>> {
        let (plan, diagnostics) = compile_pipeline(&self.resource);
        plan.ok_or(diagnostics)
    }

    /// Puts it to work.
    ///
    /// # Errors
    /// Where it does not compile, or a stage cannot be made: an address that is in use, a secret that is not there.
    pub fn start(self, sidecar: &Sidecar) -> Result<Running, StartError> {
        let plan = self.plan().map_err(StartError::Wrong)?;
        let mut registry = Registry::default();
        let doors = self.register(&mut registry);
        let pipeline = Started::start(plan, sidecar.world(), &mut registry).map_err(StartError::Assemble)?;
        Ok(Running::new(pipeline, doors))
    }

    /// Gives its processors to `registry`, and takes the doors of its `push` sources.
    pub(crate) fn register(self, registry: &mut Registry) -> Vec<(String, sidestream_sidecar::Door)> {
        for (name, processor) in self.processors {
            registry.processor(name, processor);
        }
        let stages = self.resource.spec.stages.into_iter();
        let pushed =
            stages.filter(|stage| matches!(stage.source, Some(Source::Push(_)))).map(|stage| stage.name);
        pushed.map(|name| (name.clone(), registry.door(name))).collect()
    }

    fn stage(mut self, name: &str, kind: Kind) -> Pipeline {
        self.resource.spec.stages.push(StageSpec::new(name, kind));
        self
    }

    fn last(mut self, change: impl FnOnce(&mut StageSpec)) -> Pipeline {
        let last = self.resource.spec.stages.last_mut();
        change(last.expect("this is said of the stage added last, and none was added yet"));
        self
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pipeline").field("resource", &self.resource).finish_non_exhaustive()
    }
}
