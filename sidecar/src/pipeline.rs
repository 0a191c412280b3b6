//! A pipeline at work: started, watched, drained.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sidestream_connector::{Ledger, Origin};
use sidestream_event::Pool;
use sidestream_graph::StageStats;
use sidestream_plan::{Plan, Stage};
use sidestream_ring::{Gauge, sync::Ordering};
use tokio::sync::watch;

use crate::{
    AssembleError, Registry, World,
    assemble::{Assembly, Parts, RunTask, assemble, is_within},
    latch::Latch,
    leaving::{
        Leaving,
        queues::{self, Beside},
    },
    prepare::prepare,
    sink::{HungSink, RunningSink},
    source::RunningSource,
};

/// A plan at work in a [`World`]. Dropping it leaves it running: [`Pipeline::drain`] ends it.
pub struct Pipeline {
    pub(crate) world: World,
    pub(crate) pool: Arc<Pool>,
    pub(crate) running: Mutex<Running>,
    /// Set when all runs and sinks have ended by themselves, or by draining.
    pub(crate) ended: Latch,
    /// The newest [`Running::generation`], for whoever waits for the next.
    pub(crate) turned: watch::Sender<u64>,
}

pub(crate) struct Running {
    /// What runs: what is wanted, and beside it what earlier plans have left in queues.
    pub(crate) plan: Arc<Plan>,
    /// What was asked for.
    pub(crate) wanted: Arc<Plan>,
    /// The stages that only earlier plans had.
    pub(crate) beside: BTreeSet<String>,
    pub(crate) assembly: Assembly,
    /// Counts the plans: whoever waits for the runs of an old one looks again.
    pub(crate) generation: u64,
    /// Whether it was asked to end.
    pub(crate) draining: bool,
    /// Where its sources have been told to stop and edges go on: those of the edges that come in and have stopped as well.
    pub(crate) halted: Option<Vec<String>>,
    /// A reload could neither make its plan work nor let the old one go on: nothing runs.
    pub(crate) is_broken: bool,
    /// The books of sources that reloads have removed: their events may still be on their way.
    pub(crate) past: Vec<Origin>,
    /// Edges that reloads have taken away, and that still deliver what they have.
    pub(crate) leaving: Vec<Leaving>,
    /// Sinks that reloads could not stop: they have events that are neither delivered nor lost yet.
    pub(crate) hung: Vec<HungSink>,
}

/// One stage, to look at.
#[derive(Clone)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// `source`, `process` or `sink`.
    pub role: &'static str,
    /// The key of its kind.
    pub kind: &'static str,
    /// What it counts.
    pub stats: Arc<StageStats>,
    /// The books of a source.
    pub ledger: Option<Ledger>,
}

/// One ring, to look at.
#[derive(Clone)]
pub struct RingView {
    /// The stage it leads from.
    pub from: String,
    /// The stage it leads to.
    pub to: String,
    /// Its depth, limit and blocked time.
    pub gauge: Gauge,
}

/// How a drain ended.
#[derive(Clone, Debug)]
pub struct Drained {
    /// The books at the end.
    pub ledger: Ledger,
    /// Events that were still waiting, by the stage they waited for, be it one that a reload has removed; empty when
    /// everything was delivered.
    pub undelivered: Vec<(String, u64)>,
    /// Events that wait on the disk, for the next start where this process ends.
    pub spilled: u64,
}

impl Drained {
    /// Whether every event has ended.
    pub fn is_complete(&self) -> bool {
        self.is_safe() && self.spilled == 0
    }

    /// The books as a pod has them: what waits on its disk goes with it, so it has not come to its end, though its sources may
    /// forget it.
    pub(crate) fn ledger_of_pod(&self) -> Ledger {
        let taken = self.spilled.min(self.ledger.completed);
        Ledger {
            // Those that a container before this one took in.
            accepted: self.ledger.accepted + self.spilled - taken,
            completed: self.ledger.completed - taken,
            in_flight: self.ledger.in_flight + self.spilled,
            ..self.ledger
        }
    }

    /// Whether nothing is lost with this process: every event has ended, or is on the disk.
    pub fn is_safe(&self) -> bool {
        self.undelivered.is_empty() && self.ledger.in_flight == 0
    }
}

impl Pipeline {
    /// Puts a plan to work.
    pub fn start(plan: Plan, world: &World, registry: &mut Registry) -> Result<Arc<Pipeline>, AssembleError> {
        Pipeline::begin(plan, None, world, registry, |_| false)
    }

    /// Puts a plan to work without the sources that stand still, and beside it what waits on the disk for stages of the plan
    /// `before`.
    pub(crate) fn begin(
        wanted: Plan,
        before: Option<&Plan>,
        world: &World,
        registry: &mut Registry,
        stands_still: impl Fn(&Stage) -> bool,
    ) -> Result<Arc<Pipeline>, AssembleError> {
        let Beside { plan, names } = match before {
            Some(before) => {
                queues::with_queues(&wanted, before, |queue| !world.has_spilled(&wanted.pipeline, queue))
            }
            None => Beside { plan: wanted.clone(), names: BTreeSet::new() },
        };
        let pool = Arc::new(Pool::new(SPARE_BATCHES));
        let prepared = prepare(&plan, world, registry, stands_still)?.open(&plan, |_| false)?;
        let parts = Parts { beside: names.clone(), ..Parts::default() };
        let assembly = assemble(&plan, prepared, parts, &pool, world).map_err(AssembleError::Machine)?;
        let running = Running {
            plan: Arc::new(plan),
            wanted: Arc::new(wanted),
            beside: names,
            assembly,
            generation: 0,
            draining: false,
            halted: None,
            is_broken: false,
            past: Vec::new(),
            leaving: Vec::new(),
            hung: Vec::new(),
        };
        running.finish_beside();
        let running = Mutex::new(running);
        let pipeline = Arc::new(Pipeline {
            world: world.clone(),
            pool,
            running,
            ended: Latch::default(),
            turned: watch::Sender::new(0),
        });
        world.sockets.spawn(see_to_its_end(pipeline.clone()));
        world.sockets.spawn(queues::see_off_queues(pipeline.clone()));
        Ok(pipeline)
    }

    /// The plan that was asked for last. What runs may have more: queues of earlier plans that are not empty.
    pub fn wanted(&self) -> Arc<Plan> {
        self.running().wanted.clone()
    }

    /// The plan that is running.
    pub fn plan(&self) -> Arc<Plan> {
        self.running().plan.clone()
    }

    /// Every stage, in the order of the plan.
    pub fn stages(&self) -> Vec<StageView> {
        let running = self.running();
        let view = |stage: &sidestream_plan::Stage| StageView {
            name: stage.name.clone(),
            role: stage.kind.role(),
            kind: stage.kind.name(),
            // None where a reload has broken it.
            stats: running.assembly.stats.get(&stage.name).cloned().unwrap_or_default(),
            ledger: running.assembly.sources.get(&stage.name).map(|source| source.origin.ledger()),
        };
        running.plan.stages.iter().map(view).collect()
    }

    /// Every ring.
    pub fn rings(&self) -> Vec<RingView> {
        let view = |(from, to, gauge): &(String, String, Gauge)| RingView {
            from: from.clone(),
            to: to.clone(),
            gauge: gauge.clone(),
        };
        self.running().assembly.rings.iter().map(view).collect()
    }

    /// The books of all sources together.
    pub fn ledger(&self) -> Ledger {
        self.running().ledger()
    }

    /// Waits until every source has come to its end and everything is delivered; for ever where a source has no end.
    pub async fn ended(&self) {
        self.ended.wait().await;
    }

    /// Whether a reload has left nothing of it running: it is to be started anew.
    pub fn is_broken(&self) -> bool {
        self.running().is_broken
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_set()
    }

    /// Stops the sources and lets everything that was accepted come to its end, for at most `grace`. Blocks.
    pub fn drain(&self, grace: Duration) -> Drained {
        let until = self.world.clock.now() + grace;
        let plan = {
            let mut running = self.running();
            running.draining = true;
            running.plan.clone()
        };
        let is_within = |name: &str| plan.stage(name).is_some_and(|(_, stage)| is_within(stage));
        self.stop_sources(SOURCE_STOPS_WITHIN.min(grace), |name| !is_within(name));
        self.ended.wait_blocking(until.since(self.world.clock.now()), &self.world.clock);
        let running = self.running();
        let undelivered = running.undelivered();
        Drained { ledger: running.ledger(), undelivered, spilled: self.spilled(&running) }
    }

    /// Asks the sources for which `stops` says so to end, and waits until they have; for `limit` at most. What a source that
    /// hangs in a read has sent is taken, and nothing more.
    pub(crate) fn stop_sources(&self, limit: Duration, stops: impl Fn(&str) -> bool) {
        let hung: Vec<_> = {
            let running = self.running();
            let sources = running.assembly.sources.iter();
            sources.filter(|(name, _)| stops(name)).for_each(|(_, source)| source.stop());
            running.assembly.tasks.iter().for_each(|run| run.task.waker().wake());
            let heads = running.assembly.tasks.iter().filter(|run| run.head.as_deref().is_some_and(&stops));
            heads.filter_map(RunTask::abandon).collect()
        };
        let until = self.world.clock.now() + limit;
        let have_ended = || {
            let running = self.running();
            let mut sources = running.assembly.sources.iter();
            sources.all(|(name, source)| !stops(name) || source.has_ended())
        };
        while self.world.clock.now() < until && !have_ended() {
            std::thread::sleep(LOOK_AGAIN);
        }
        hung.into_iter().for_each(|abandon| abandon());
    }

    /// Events on the disk that have not ended. The books of the sources that hand them out end a moment before the queues hear
    /// of it.
    fn spilled(&self, running: &Running) -> u64 {
        self.world.open_spills().map_or(0, |spills| spills.unsettled(&running.plan.pipeline))
    }

    /// Another plan runs.
    pub(crate) fn turn(&self, running: &mut Running) {
        running.generation += 1;
        self.turned.send_replace(running.generation);
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn ledger(&self) -> Ledger {
        let sources = self.assembly.sources.values().filter(|source| !source.is_within);
        let origins = sources.map(|source| &source.origin).chain(&self.past);
        origins.fold(Ledger::default(), |sum, origin| sum.plus(origin.ledger()))
    }

    /// Events that wait for a stage in a ring, and those that its sink has in its hand. What came of a disk is there still.
    fn undelivered(&self) -> Vec<(String, u64)> {
        let kept = kept_stages(&self.plan);
        let rings = self.assembly.rings.iter().filter(|(from, ..)| !kept.contains(from.as_str()));
        let queued = rings.map(|(_, to, gauge)| (to.as_str(), gauge.depth() as u64));
        let sinks = self.assembly.sinks.iter().filter(|(name, _)| !kept.contains(name.as_str()));
        let tried = sinks.map(|(name, sink)| (name.as_str(), sink.in_hand()));
        let leaving = self.leaving.iter().map(|sink| (sink.name(), sink.has()));
        let hung = self.hung.iter().map(|sink| (sink.name.as_str(), sink.has()));
        let mut undelivered: Vec<(String, u64)> = Vec::new();
        for (to, events) in queued.chain(tried).chain(leaving).chain(hung).filter(|(_, events)| *events > 0) {
            match undelivered.iter_mut().find(|(name, _)| name == to) {
                Some((_, sum)) => *sum += events,
                None => undelivered.push((to.to_owned(), events)),
            }
        }
        undelivered
    }
}

/// The stages all of whose events came of a disk, which has them until they are delivered.
fn kept_stages(plan: &Plan) -> BTreeSet<&str> {
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for stage in &plan.stages {
        let mut from = stage.from.iter().map(|index| plan.stages[*index].name.as_str());
        let all_are = !stage.from.is_empty() && from.all(|name| kept.contains(name));
        if is_within(stage) || all_are {
            kept.insert(&stage.name);
        }
    }
    kept
}

impl RunTask {
    /// What ends a run although the thread of its source hangs.
    fn abandon(&self) -> Option<impl FnOnce() + use<>> {
        let (abandoned, waker) = (self.abandoned.clone()?, self.task.waker());
        Some(move || {
            abandoned.store(true, Ordering::Release);
            waker.wake();
        })
    }
}

/// Waits for the runs to end, then lets the sinks finish.
async fn see_to_its_end(pipeline: Arc<Pipeline>) {
    let mut turned = pipeline.turned.subscribe();
    loop {
        let (generation, sources) =
            pipeline.look(|running| (running.generation, running.heads_ended())).await;
        all(sources).await;
        // Nothing new will come, and each sink ends when the rings before it have: also those that another sink fills
        // with its dead letters, or that a run fills which takes them.
        let Some(sinks) = pipeline.look(move |running| running.finish_sinks(generation)).await else {
            continue;
        };
        let runs = pipeline.look(|running| running.runs_ended()).await;
        let stages_end = async {
            all(runs).await;
            all(sinks).await;
        };
        tokio::select! {
            () = stages_end => {}
            // A reload may have given the sinks something to wait for.
            _ = turned.wait_for(|newest| *newest != generation) => continue,
        }
        // Every event has ended: the sources note it, where they remember positions. Those of another plan are told so in their
        // turn: some end only when what feeds them has been told to.
        let closed = pipeline
            .look(move |running| (running.generation == generation).then(|| running.finish_sources()))
            .await;
        let Some(closed) = closed else { continue };
        all(closed).await;
        // Under the lock: what has ended does not go on.
        let own = pipeline.clone();
        let is_last = pipeline.look(move |running| {
            let is_last = running.generation == generation;
            if is_last {
                own.ended.set();
            }
            is_last
        });
        if is_last.await {
            return;
        }
    }
}

async fn all(latches: Vec<Latch>) {
    for latch in latches {
        latch.wait().await;
    }
}

impl Pipeline {
    /// Looks under the lock, on a thread that may block: a reload holds it for as long as a sink is slow, and the sink
    /// may need the thread of the sockets meanwhile.
    pub(crate) async fn look<R: Send + 'static>(
        self: &Arc<Self>,
        at: impl FnOnce(&Running) -> R + Send + 'static,
    ) -> R {
        let pipeline = self.clone();
        match tokio::task::spawn_blocking(move || at(&pipeline.running()))
            .await
            .map_err(|error| error.try_into_panic())
        {
            Ok(looked) => looked,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime is going, and this task with it.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

impl Running {
    /// Set for each run when it has ended.
    pub(crate) fn runs_ended(&self) -> Vec<Latch> {
        self.assembly.tasks.iter().map(|run| run.ended.clone()).collect()
    }

    /// Set for each run that a source heads when it has ended; those come last that end when what feeds them has.
    fn heads_ended(&self) -> Vec<Latch> {
        let sources = &self.assembly.sources;
        let brings = |name: &String| sources.get(name).is_none_or(|source| !source.is_within);
        let tasks = self.assembly.tasks.iter();
        tasks.filter(|run| run.head.as_ref().is_some_and(brings)).map(|run| run.ended.clone()).collect()
    }

    /// No more will come for the sinks, if this is still the plan of `generation`.
    fn finish_sinks(&self, generation: u64) -> Option<Vec<Latch>> {
        let sinks = || self.assembly.sinks.values();
        (self.generation == generation).then(|| {
            sinks().for_each(|sink| sink.finish());
            let leaving = self.leaving.iter().map(Leaving::ended);
            sinks().map(RunningSink::ended).chain(leaving).cloned().collect()
        })
    }

    /// Set for each source when it has noted how far it has come.
    fn finish_sources(&self) -> Vec<Latch> {
        let sources = || self.assembly.sources.values();
        sources().for_each(RunningSource::finish);
        sources().map(|source| source.closed().clone()).collect()
    }
}

/// Batches kept for their storage: as many as may be on their way at once, when full ones fill every ring of a long
/// pipeline. There are never more than there have been.
const SPARE_BATCHES: usize = 256;
/// A source that does not end within this, when asked, hangs in a read.
pub(crate) const SOURCE_STOPS_WITHIN: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_on_the_disk_of_a_pod_is_in_flight_and_the_books_balance_all_the_same() {
        let ledger = Ledger { accepted: 10, completed: 8, dropped: 1, in_flight: 1, ..Ledger::default() };
        for (spilled, accepted, completed) in [(0, 10, 8), (5, 10, 3), (20, 22, 0)] {
            let books = Drained { ledger, undelivered: Vec::new(), spilled }.ledger_of_pod();
            assert!(books.is_balanced(), "{books:?}");
            assert_eq!(
                (books.accepted, books.completed, books.in_flight),
                (accepted, completed, 1 + spilled)
            );
        }
    }
}
