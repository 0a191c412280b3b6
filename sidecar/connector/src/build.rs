//! From what a stage says to the connector that does it: the one list of source and sink kinds.

use sidestream_plan as plan;

use crate::{
    BuildError, Environment, Sink, Source,
    alertmanager::Alerts,
    blackhole::Blackhole,
    console::Console,
    dnpipe::{Pulls, Pushes, PushesOnce},
    file::{FileSink, FileSource},
    generator::Generator,
    host_metrics,
    http::Server,
    prometheus::Scrape,
    stdin::Stdin,
    webhook::Requests,
};

/// The source of a stage.
pub fn source(kind: &plan::Source, env: &Environment) -> Result<Source, BuildError> {
    Ok(match kind {
        plan::Source::Generator(stage) => Source::Polled(Box::new(Generator::new(stage)?)),
        plan::Source::File(stage) => Source::Blocking(Box::new(FileSource::new(stage)?)),
        plan::Source::HostMetrics(stage) => host_metrics::source(stage)?,
        plan::Source::Stdin(stage) => Source::Blocking(Box::new(Stdin::new(stage))),
        plan::Source::Prometheus(stage) => Source::Async(Box::new(Scrape::new(stage, env)?)),
        plan::Source::Http(stage) => Source::Async(Box::new(Server::new(stage, env)?)),
        plan::Source::Dnpipe(stage) => Source::Async(Box::new(Pulls::new(stage, env)?)),
        plan::Source::Push(_) => {
            let reason = "is fed by the program that embeds the pipeline, not built from a plan".into();
            return Err(BuildError { field: "push", reason });
        }
        plan::Source::Edge(_) => return Err(no_peers()),
        plan::Source::Spill(_) => return Err(no_disk()),
    })
}

/// The sink of a stage.
pub fn sink(kind: &plan::Sink, env: &Environment) -> Result<Sink, BuildError> {
    Ok(match kind {
        plan::Sink::Console(stage) => Sink::Blocking(Box::new(Console::new(stage))),
        plan::Sink::File(stage) => Sink::Blocking(Box::new(FileSink::new(stage)?)),
        plan::Sink::Blackhole(_) => Sink::Inline(Box::new(Blackhole)),
        plan::Sink::Webhook(stage) => Sink::Async(Box::new(Requests::new(stage, env)?)),
        plan::Sink::Alertmanager(stage) => Sink::Async(Box::new(Alerts::new(stage, env)?)),
        plan::Sink::Dnpipe(stage) => match &env.exactly_once {
            Some(once) => Sink::Async(Box::new(PushesOnce::new(stage, once, env)?)),
            None => Sink::Async(Box::new(Pushes::new(stage, env)?)),
        },
        plan::Sink::Edge(_) => return Err(no_peers()),
        plan::Sink::Spill(_) => return Err(no_disk()),
    })
}

/// Queues that spill are made by whoever knows this process's disk, before it comes here.
fn no_disk() -> BuildError {
    BuildError { field: "input.overflow", reason: "spills, and this process has no disk for that".into() }
}

/// Edges are made by whoever knows this process's peers, before it comes here.
fn no_peers() -> BuildError {
    let reason =
        "leads to another sidecar, and this process has no peers: run the whole pipeline instead".into();
    BuildError { field: "edge", reason }
}
