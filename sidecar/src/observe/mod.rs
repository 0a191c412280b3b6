//! Seeing it: what runs, in numbers and in live events, over HTTP.
//!
//! ```text
//!   Pipeline … Pipeline ──▶ Observed ──▶ metrics    Prometheus text, for machines
//!                             │     └──▶ snapshot   JSON, for `sidestream top` and whoever asks
//!                             └──▶ server ──▶ tap   live events of one stage
//! ```
//!
//! It reads what the stages count anyway. Nothing here may be on the way of an event, and no request may wait on the
//! thread that owns the sockets: a reload holds a pipeline's lock for as long as a sink is slow.

mod metrics;
mod process;
mod server;
mod snapshot;
mod tap;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sidestream_edge::Peering;
use sidestream_host::{Clock, Moment};

use crate::{Dnpipes, Pipeline, World};

pub use metrics::{metric_names, metrics_page};
pub use process::Process;
pub use server::{ServeError, Server, serve};
pub use snapshot::{
    LatencySnapshot, LedgerSnapshot, PipelineSnapshot, RingSnapshot, Snapshot, SourceLedger, StageSnapshot,
};

/// The pipelines of a process, to be looked at. Clones are the same.
#[derive(Clone)]
pub struct Observed(Arc<Parts>);

struct Parts {
    world: World,
    clock: Clock,
    began: Moment,
    shown: Mutex<Shown>,
    /// Stages somebody taps, by pipeline and name: one looker at a time.
    tapped: Mutex<HashSet<(String, String)>>,
}

struct Shown {
    state: State,
    pipelines: Vec<(String, Arc<Pipeline>)>,
    dnpipes: Option<Dnpipes>,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Not every pipeline has started yet.
    Starting,
    /// Every pipeline has started.
    Ready,
    /// It stops: sources take nothing in any more.
    Draining,
}

impl Observed {
    /// Nothing yet, in state [`State::Starting`].
    pub fn new(world: &World) -> Observed {
        let clock = world.clock().clone();
        let began = clock.now();
        let shown = Mutex::new(Shown { state: State::Starting, pipelines: Vec::new(), dnpipes: None });
        Observed(Arc::new(Parts { world: world.clone(), clock, began, shown, tapped: Mutex::default() }))
    }

    /// Shows a pipeline, in place of one of the same name.
    pub fn add(&self, pipeline: Arc<Pipeline>) {
        let name = pipeline.plan().pipeline.clone();
        let mut shown = self.shown();
        shown.pipelines.retain(|(own, _)| *own != name);
        shown.pipelines.push((name, pipeline));
        shown.pipelines.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Shows a pipeline no more.
    pub fn remove(&self, name: &str) {
        self.shown().pipelines.retain(|(own, _)| own != name);
    }

    /// Shows the dnpipes that the process serves.
    pub fn add_dnpipes(&self, dnpipes: Dnpipes) {
        self.shown().dnpipes = Some(dnpipes);
    }

    /// Says where the process is in its life.
    pub fn enter(&self, state: State) {
        self.shown().state = state;
    }

    /// Where the process is in its life.
    pub fn state(&self) -> State {
        self.shown().state
    }

    /// Why the process is not ready; empty when it is.
    pub fn not_ready(&self) -> Vec<&'static str> {
        match self.state() {
            State::Ready => Vec::new(),
            State::Starting => vec!["pipelines are being started"],
            State::Draining => vec!["draining: no new events are taken in"],
        }
    }

    /// The pipelines, by name. The lock of this list is let go before any of theirs is taken.
    pub(crate) fn pipelines(&self) -> Vec<(String, Arc<Pipeline>)> {
        self.shown().pipelines.clone()
    }

    /// What it serves, where it serves any.
    fn dnpipes(&self) -> Option<Dnpipes> {
        self.shown().dnpipes.clone()
    }

    /// The queues that go to disk. Blocks.
    fn spills(&self) -> Vec<sidestream_spill::View> {
        self.0.world.spill_views()
    }

    /// The process's part in edges, where it has one.
    fn peering(&self) -> Option<&Peering> {
        self.0.world.peering()
    }

    fn seconds(&self) -> f64 {
        self.0.clock.now().since(self.0.began).as_secs_f64()
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
