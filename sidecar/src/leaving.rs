//! Edges of earlier plans that still have something to deliver.
//!
//! A reload that takes an edge away, or gives it other receivers, leaves its sink at work: nothing more comes to it, and it ends
//! when its receivers have settled what they were sent. Nothing of it is dropped before the pipeline is suspended or taken
//! away and its time is over, and then it is counted.

pub(crate) mod queues;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sidestream_event::Batch;
use sidestream_graph::{Input, StageStats};
use sidestream_host::Clock;
use sidestream_plan::{Kind, Sink, Stage, stage::EdgeSink};
use sidestream_ring::{Gauge, channel::channel_by};

use crate::{
    Pipeline,
    latch::Latch,
    pipeline::Running,
    sink::{Fate, RunningSink},
};

/// The sink of an edge that no plan has any more.
pub(crate) struct Leaving {
    name: String,
    sink: RunningSink,
    /// The rings before it.
    rings: Vec<Gauge>,
    stats: Arc<StageStats>,
}

impl Leaving {
    /// Lets a sink go on with what it has, and with what `waits` for room in its rings, by the stage it came from.
    pub(crate) fn new(
        name: String,
        sink: RunningSink,
        mut rings: Vec<Gauge>,
        waits: Vec<(String, Vec<Batch>)>,
        stats: Arc<StageStats>,
    ) -> Leaving {
        let mut inputs = Vec::new();
        for (from, batches) in waits.into_iter().filter(|(_, batches)| !batches.is_empty()) {
            let events = batches.iter().map(Batch::len).sum();
            let (mut sender, receiver) = channel_by(batches.len(), events, Batch::len);
            batches
                .into_iter()
                .for_each(|batch| sender.try_send(batch).expect("it has room for all of them"));
            rings.push(sender.gauge());
            inputs.push(Input::new(from, receiver));
        }
        if !inputs.is_empty() {
            sink.join(inputs, None, None);
        }
        sink.finish();
        tracing::info!(edge = name, "left to deliver what it has: the new plan does not have it");
        Leaving { name, sink, rings, stats }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Set when it has delivered everything.
    pub(crate) fn ended(&self) -> &Latch {
        self.sink.ended()
    }

    /// Events that it has not given to its receivers yet.
    pub(crate) fn has(&self) -> u64 {
        let queued: usize = self.rings.iter().map(Gauge::depth).sum();
        self.sink.in_hand() + queued as u64
    }

    /// Ends it, with what it has as dropped.
    pub(crate) fn give_up(self, clock: &Clock) {
        let remains = self.sink.stop(Fate::Removed, LAST_TRY, clock);
        let dropped = remains.map_or(0, |remains| remains.drop(Fate::Removed));
        self.stats.count_dropped(Fate::Removed.reason(), dropped);
        tracing::warn!(
            edge = self.name,
            dropped,
            "given up: its receivers did not take, or did not settle, what it had"
        );
    }
}

impl Pipeline {
    /// The edges of earlier plans that still have something to deliver, by name.
    pub fn leaving_edges(&self) -> Vec<String> {
        let running = self.running();
        let leaving = running.leaving_edges().map(Leaving::name).chain(running.queued_edges());
        leaving.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Ends the edges of earlier plans: what they have not delivered is dropped, and counted. Says whether there were some.
    /// Blocks, for a second at most for each.
    pub fn give_up_leaving(&self) -> bool {
        let mut running = self.running();
        let leaving: Vec<Leaving> = running.leaving.drain(..).filter(|own| !own.ended().is_set()).collect();
        drop(running);
        let are_some = !leaving.is_empty();
        leaving.into_iter().for_each(|own| own.give_up(&self.world.clock));
        are_some
    }
}

impl Running {
    pub(crate) fn leaving_edges(&self) -> impl Iterator<Item = &Leaving> {
        self.leaving.iter().filter(|own| !own.ended().is_set())
    }

    /// One more. Gives the oldest where there are too many.
    pub(crate) fn add_leaving(&mut self, new: Leaving) -> Option<Leaving> {
        self.leaving.retain(|own| !own.ended().is_set());
        self.leaving.push(new);
        (self.leaving.len() > LEAVING_MAX).then(|| self.leaving.remove(0))
    }
}

/// Whether an edge that leads out of `before` is gone, or leads elsewhere, in `after`.
pub(crate) fn leaves(before: &Stage, after: Option<&Stage>) -> bool {
    let Some(before) = edge(before) else { return false };
    after.and_then(edge).is_none_or(|after| after.to != before.to || after.service != before.service)
}

/// Whether it leads out of the sidecar.
pub(crate) fn is_edge(stage: &Stage) -> bool {
    edge(stage).is_some()
}

fn edge(stage: &Stage) -> Option<&EdgeSink> {
    match &stage.kind {
        Kind::Sink(Sink::Edge(edge)) => Some(edge),
        _ => None,
    }
}

/// Each keeps what its receivers have not settled: 16 MiB for each of them at most, and its rings.
const LEAVING_MAX: usize = 16;
/// How long the new sink of an edge that leads elsewhere waits for the one before, so that what it sends comes after.
pub(crate) const FOLLOWS_AFTER: Duration = Duration::from_secs(10);
/// How long one that is given up may take for the try that is going on.
const LAST_TRY: Duration = Duration::from_secs(1);
