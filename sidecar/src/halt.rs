//! A pipeline that comes to its end in parts, where it is joined with other sidecars both ways.
//!
//! ```text
//!   own sources stop ─▶ edges out of which nothing more can come close ─▶ their receivers stop, elsewhere
//!                              ▲                                                   │ whoever says that these have closed
//!                              └──────────── edges in that are closed stop ◀───────┘
//! ```
//!
//! What comes in by other edges flows as before, so that everything on its way has somewhere to go. An edge out has *closed*
//! when all that feeds it has ended and its receivers have settled what they were sent. A pipeline that halts is no other:
//! [`Pipeline::reload`] makes the sources that stopped anew, and [`Pipeline::drain`] ends the rest.

use std::sync::Arc;

use futures_util::future::select_all;
use sidestream_plan::{Kind, Plan, Sink, Source, Stage};

use crate::{
    AssembleError, Pipeline, Registry, World,
    latch::Latch,
    pipeline::{Running, SOURCE_STOPS_WITHIN},
};

impl Pipeline {
    /// Puts a plan to work whose own sources, and the edges in `closed`, stand still from the start.
    pub fn start_halted(
        plan: Plan,
        closed: &[String],
        world: &World,
        registry: &mut Registry,
    ) -> Result<Arc<Pipeline>, AssembleError> {
        Pipeline::begin_halted(plan, None, closed, world, registry)
    }

    /// The same, and beside it what waits on the disk for stages of the plan `before`.
    pub(crate) fn begin_halted(
        plan: Plan,
        before: Option<&Plan>,
        closed: &[String],
        world: &World,
        registry: &mut Registry,
    ) -> Result<Arc<Pipeline>, AssembleError> {
        let pipeline = Pipeline::begin(plan, before, world, registry, |stage| stops(stage, closed))?;
        pipeline.halt(closed);
        Ok(pipeline)
    }

    /// Stops the sources that are no edges, and the edges in `closed`; the others go on receiving. Blocks for 250 ms at most.
    pub fn halt(&self, closed: &[String]) {
        let plan = {
            let mut running = self.running();
            running.halted = Some(closed.to_vec());
            // Each ends when all that feeds it has.
            running.assembly.sinks.values().for_each(|sink| sink.finish());
            running.plan.clone()
        };
        self.stop_sources(SOURCE_STOPS_WITHIN, |name| {
            plan.stage(name).is_some_and(|(_, stage)| stops(stage, closed))
        });
    }

    /// Where it halts, the edges that come in and stand still as well.
    pub fn halted(&self) -> Option<Vec<String>> {
        self.running().halted.clone()
    }

    /// The edges that go out and may still bring something, by name; those among them that only earlier plans had.
    pub fn open_edges(&self) -> Vec<String> {
        self.running().open_edges().map(|(name, _)| name.to_owned()).collect()
    }

    /// Waits until one of these has closed; for ever where there is none.
    pub(crate) async fn edge_closed(&self) {
        let open: Vec<Latch> = self.running().open_edges().map(|(_, ended)| ended.clone()).collect();
        if open.is_empty() {
            return std::future::pending().await;
        }
        select_all(open.iter().map(|ended| Box::pin(ended.wait()))).await;
    }
}

impl Running {
    fn open_edges(&self) -> impl Iterator<Item = (&str, &Latch)> {
        let sinks = self.assembly.sinks.iter().map(|(name, sink)| (name.as_str(), sink.ended()));
        let is_edge = |name: &str| self.plan.stage(name).is_some_and(|(_, stage)| is_edge_out(stage));
        let leaving = self.leaving_edges().map(|own| (own.name(), own.ended()));
        sinks.filter(move |(name, ended)| is_edge(name) && !ended.is_set()).chain(leaving)
    }
}

fn stops(stage: &Stage, closed: &[String]) -> bool {
    match &stage.kind {
        Kind::Source(Source::Edge(_)) => closed.contains(&stage.name),
        // It ends by itself, when all that feeds it has and everything is handed out.
        Kind::Source(Source::Spill(_)) => false,
        Kind::Source(_) => true,
        _ => false,
    }
}

fn is_edge_out(stage: &Stage) -> bool {
    matches!(stage.kind, Kind::Sink(Sink::Edge(_)))
}
