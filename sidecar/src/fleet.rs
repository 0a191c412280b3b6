//! The pipelines of a process: started together, changed together, drained together.

mod before;
mod exchange;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::future::{FutureExt, select_all};
use sidestream_plan::{Delivery, Plan};

use crate::{
    AssembleError, Drained, Pipeline, Registry, ReloadError, World, observe::Observed, reload::Ports,
};

/// Pipelines at work, by name.
pub struct Fleet {
    world: World,
    observed: Observed,
    pipelines: BTreeMap<String, Arc<Pipeline>>,
    /// Taken away, and not at their end when their time was over: they still deliver.
    leaving: Vec<(String, Arc<Pipeline>)>,
    /// What the process before ran of those that have not begun here.
    before: BTreeMap<String, Plan>,
    /// What waits on the disk for nobody, as it was last said.
    left_behind: BTreeMap<String, u64>,
    /// Of those that halt, the open edges as they were last given out.
    open: BTreeMap<String, Vec<String>>,
    /// Of those that run, the edges of earlier plans that still deliver, where there were some when they were last given out.
    leaving_edges: BTreeMap<String, Vec<String>>,
}

/// A plan, and what of it is to stand still.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What is to run.
    pub plan: Plan,
    /// Where its own sources are to stand still: the edges that come in and stand still as well.
    pub halted: Option<Vec<String>>,
}

impl From<Plan> for Wanted {
    fn from(plan: Plan) -> Self {
        Wanted { plan, halted: None }
    }
}

/// What has happened to a pipeline by itself.
#[derive(Clone, Debug)]
pub enum News {
    /// One that was removed before its end has come to it.
    Left(String, Drained),
    /// One that halts has these edges open, and no others any more.
    Open(String, Vec<String>),
    /// One that runs has these edges of earlier plans left to deliver, and no others any more.
    Leaving(String, Vec<String>),
}

impl Fleet {
    /// No pipelines yet.
    pub fn new(world: &World, observed: &Observed) -> Fleet {
        Fleet {
            world: world.clone(),
            observed: observed.clone(),
            pipelines: BTreeMap::new(),
            leaving: Vec::new(),
            before: BTreeMap::new(),
            left_behind: BTreeMap::new(),
            open: BTreeMap::new(),
            leaving_edges: BTreeMap::new(),
        }
    }

    /// Starts a pipeline.
    pub fn start(&mut self, plan: Plan) -> Result<(), AssembleError> {
        self.start_wanted(plan.into())
    }

    /// Makes the pipelines those of `plans`, and says of each what was done. What cannot be changed stays as it is; the
    /// answer has, by pipeline, why.
    pub fn change_to(&mut self, plans: Vec<Plan>, grace: Duration) -> BTreeMap<String, Result<(), String>> {
        self.arrange(plans.into_iter().map(Wanted::from).collect(), grace)
    }

    /// The same, of pipelines of which some may stand still in part.
    pub fn arrange(&mut self, wanted: Vec<Wanted>, grace: Duration) -> BTreeMap<String, Result<(), String>> {
        let names: BTreeSet<&str> = wanted.iter().map(|own| own.plan.pipeline.as_str()).collect();
        let gone = self.pipelines.keys().filter(|name| !names.contains(name.as_str()));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.remove(&name, grace);
        }
        // First what only gives up.
        let (halting, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|own| own.halted.is_some());
        let halting: Vec<_> = halting
            .into_iter()
            .map(|own| (own.plan.pipeline.clone(), self.change_one(own, &Ports::new(), grace)))
            .collect();
        let mut outcomes = self.exchange(others, grace);
        outcomes.extend(halting);
        outcomes
    }

    /// Changes one, while others are about to give up the ports `given`.
    fn change_one(&mut self, wanted: Wanted, given: &Ports, grace: Duration) -> Result<(), String> {
        let name = wanted.plan.pipeline.clone();
        let running = self.pipelines.get(&name).filter(|running| !running.is_broken());
        match (running, &wanted.halted) {
            (Some(running), Some(closed)) => {
                if running.halted().as_ref() != Some(closed) {
                    tracing::info!(pipeline = name, closed = closed.join(", "), "halting");
                    running.halt(closed);
                    self.world.sockets.spawn(give_up_leaving(running.clone(), grace));
                }
                Ok(())
            }
            (Some(running), None) if *running.wanted() == wanted.plan && running.halted().is_none() => {
                tracing::info!(pipeline = name, "unchanged");
                Ok(())
            }
            (Some(running), None) if !running.has_ended() => {
                if [running.plan().delivery, wanted.plan.delivery].contains(&Delivery::ExactlyOnce) {
                    return self.begin_anew(&running.clone(), wanted, given, grace);
                }
                self.open.remove(&name);
                reload(running, wanted.plan, given)
            }
            _ => self.go_on_or_begin(wanted, given),
        }
    }

    /// Has one that was taken away and still delivers go on, so that nothing comes before what it has; else begins it.
    fn go_on_or_begin(&mut self, wanted: Wanted, given: &Ports) -> Result<(), String> {
        let name = wanted.plan.pipeline.clone();
        // Of several the newest.
        let Some(place) = self.leaving.iter().rposition(|(own, _)| *own == name) else {
            return self.begin(wanted);
        };
        let pipeline = self.leaving[place].1.clone();
        match pipeline.go_on(wanted.plan.clone(), given) {
            Ok(_) => {
                tracing::info!(pipeline = name, "goes on, with what it still had to deliver");
                wanted.halted.iter().for_each(|closed| pipeline.halt(closed));
                self.leaving.remove(place);
                self.observed.add(pipeline.clone());
                self.open.remove(&name);
                self.pipelines.insert(name, pipeline);
                Ok(())
            }
            // It has just come to its end, or delivers exactly once: nothing overtakes it.
            Err(ReloadError::Draining | ReloadError::ExactlyOnce) => self.begin(wanted),
            Err(ReloadError::Broken(error)) => {
                tracing::error!(pipeline = name, "what it still had to deliver is given up: {error}");
                self.leaving.remove(place);
                self.begin(wanted)
            }
            Err(error) => {
                tracing::error!(pipeline = name, "does not go on: {error}");
                Err(error.to_string())
            }
        }
    }

    fn begin(&mut self, wanted: Wanted) -> Result<(), String> {
        let name = wanted.plan.pipeline.clone();
        match self.start_wanted(wanted) {
            Ok(()) => {
                tracing::info!(pipeline = name, "started");
                Ok(())
            }
            Err(error) => {
                tracing::error!(pipeline = name, "not started: {error}");
                Err(error.to_string())
            }
        }
    }

    /// Ends a pipeline and starts it with another plan. What it had not delivered when its time was over comes again, and where
    /// it delivers all the same, whoever took over its producers has fenced it.
    fn begin_anew(
        &mut self,
        running: &Pipeline,
        wanted: Wanted,
        given: &Ports,
        grace: Duration,
    ) -> Result<(), String> {
        let name = wanted.plan.pipeline.clone();
        if let Err(error) = running.would_take(&wanted.plan, given) {
            tracing::error!(pipeline = name, "not started anew: {error}");
            return Err(format!("{error}; the old plan is running"));
        }
        self.remove(&name, grace);
        self.begin(wanted)
    }

    fn start_wanted(&mut self, wanted: Wanted) -> Result<(), AssembleError> {
        let name = wanted.plan.pipeline.clone();
        let pipeline = self.start_after_before(wanted)?;
        self.observed.add(pipeline.clone());
        self.open.remove(&name);
        self.pipelines.insert(name, pipeline);
        Ok(())
    }

    /// What a pipeline runs, and what of it stands still.
    pub fn wanted(&self, name: &str) -> Option<Wanted> {
        let running = self.pipelines.get(name).filter(|running| !running.is_broken())?;
        Some(Wanted { plan: (*running.wanted()).clone(), halted: running.halted() })
    }

    /// Of a pipeline that halts: the edges that go out and may still bring something.
    pub fn open_edges(&mut self, name: &str) -> Vec<String> {
        let open = self.pipelines.get(name).map(|running| running.open_edges()).unwrap_or_default();
        self.open.insert(name.to_owned(), open.clone());
        open
    }

    /// Of a pipeline that runs: the edges of earlier plans that still have something to deliver.
    pub fn leaving_edges(&mut self, name: &str) -> Vec<String> {
        let leaving = self.pipelines.get(name).map(|running| running.leaving_edges()).unwrap_or_default();
        match leaving.is_empty() {
            true => drop(self.leaving_edges.remove(name)),
            false => drop(self.leaving_edges.insert(name.to_owned(), leaving.clone())),
        }
        leaving
    }

    /// Waits until all have come to their end.
    pub async fn ended(&self) {
        if self.pipelines.is_empty() {
            return std::future::pending().await;
        }
        for pipeline in self.pipelines.values() {
            pipeline.ended().await;
        }
    }

    /// Drains all of them at once. Says whether everything was delivered or is on the disk, and what was not.
    pub fn drain(self, grace: Duration) -> bool {
        let drained: Vec<_> = thread::scope(|scope| {
            let drains: Vec<_> = self
                .pipelines
                .iter()
                .chain(self.leaving.iter().map(|(name, pipeline)| (name, pipeline)))
                .map(|(name, pipeline)| (name, scope.spawn(move || pipeline.drain(grace))))
                .collect();
            drains.into_iter().map(|(name, drain)| (name, drain.join())).collect()
        });
        // Each is told, so `all` must not stop at the first that is incomplete.
        let complete =
            drained.into_iter().map(|(name, drained)| drained.is_ok_and(|drained| tell(name, &drained)));
        complete.fold(true, |all, own| all & own)
    }

    /// Drains one of them and lets it go; none where it does not run. One that is not at its end after `grace` goes on
    /// delivering: [`Fleet::news`] says when it is, and [`Fleet::drain`] waits for it.
    pub fn remove(&mut self, name: &str, grace: Duration) -> Option<Drained> {
        let pipeline = self.pipelines.remove(name)?;
        self.open.remove(name);
        self.leaving_edges.remove(name);
        let mut drained = pipeline.drain(grace);
        // What only earlier plans had has no other time than this.
        if !drained.is_complete() && pipeline.give_up_leaving() {
            drained = pipeline.drain(AFTER_GIVING_UP);
        }
        tell(name, &drained);
        if !drained.is_complete() && !pipeline.is_broken() {
            self.leaving.push((name.to_owned(), pipeline));
        }
        self.observed.remove(name);
        Some(drained)
    }

    /// Waits until a pipeline that was removed before its end has come to it, or an edge has closed of one that halts or that
    /// has such of earlier plans; for ever where nothing of the kind is to come. Dropped before it is ready, it has said
    /// nothing.
    pub async fn news(&mut self) -> News {
        loop {
            let halting = || self.pipelines.iter().filter(|(name, _)| self.open.contains_key(*name));
            let closed = halting().find_map(|(name, pipeline)| {
                let open = pipeline.open_edges();
                (self.open.get(name) != Some(&open)).then(|| (name.clone(), open))
            });
            if let Some((name, open)) = closed {
                self.open.insert(name.clone(), open.clone());
                return News::Open(name, open);
            }
            let behind = || self.pipelines.iter().filter(|(name, _)| self.leaving_edges.contains_key(*name));
            let delivered = behind().find(|(name, pipeline)| {
                self.leaving_edges.get(*name).is_some_and(|told| *told != pipeline.leaving_edges())
            });
            if let Some(name) = delivered.map(|(name, _)| name.clone()) {
                let leaving = self.leaving_edges(&name);
                return News::Leaving(name, leaving);
            }
            let leaving = self.leaving.iter().enumerate();
            let leave =
                leaving.map(|(place, (_, pipeline))| pipeline.ended().map(move |()| Some(place)).boxed());
            let close =
                halting().chain(behind()).map(|(_, pipeline)| pipeline.edge_closed().map(|()| None).boxed());
            let news: Vec<_> = leave.chain(close).collect();
            if news.is_empty() {
                return std::future::pending().await;
            }
            let (place, ..) = select_all(news).await;
            let Some(place) = place else { continue };
            let (name, pipeline) = self.leaving.remove(place);
            let drained = pipeline.drain(Duration::ZERO);
            tell(&name, &drained);
            return News::Left(name, drained);
        }
    }
}

/// Gives a pipeline that halts the time it has for what only earlier plans had.
async fn give_up_leaving(pipeline: Arc<Pipeline>, grace: Duration) {
    if pipeline.leaving_edges().is_empty() {
        return;
    }
    tokio::time::sleep(grace).await;
    if pipeline.halted().is_some() {
        // It blocks. An error is a runtime that ends, and the pipeline with it.
        let _ = tokio::task::spawn_blocking(move || pipeline.give_up_leaving()).await;
    }
}

fn reload(running: &Pipeline, plan: Plan, given: &Ports) -> Result<(), String> {
    let name = plan.pipeline.clone();
    match running.reload_among(plan, &mut Registry::default(), given) {
        Ok(done) => {
            let list = |stages: &[String]| stages.join(", ");
            tracing::info!(
                pipeline = name,
                kept = list(&done.kept),
                replaced = list(&done.replaced),
                added = list(&done.added),
                removed = list(&done.removed),
                paused_ms = done.paused.as_micros() as f64 / 1e3,
                "reloaded"
            );
            Ok(())
        }
        Err(error) => {
            tracing::error!(pipeline = name, "not reloaded: {error}");
            Err(error.to_string())
        }
    }
}

/// Says how a drain ended, and whether nothing is lost.
fn tell(name: &str, drained: &Drained) -> bool {
    let ledger = drained.ledger;
    if drained.is_safe() {
        let (accepted, completed) = (ledger.accepted, ledger.completed);
        let (dead_lettered, dropped) = (ledger.dead_lettered, ledger.dropped + ledger.expired);
        let spilled = (drained.spilled > 0).then_some(drained.spilled);
        tracing::info!(pipeline = name, accepted, completed, dead_lettered, dropped, spilled, "stopped");
        return true;
    }
    for (stage, events) in &drained.undelivered {
        tracing::error!(
            pipeline = name,
            stage,
            events,
            "not delivered: the events were waiting for this stage"
        );
    }
    tracing::error!(
        pipeline = name,
        accepted = ledger.accepted,
        in_flight = ledger.in_flight,
        "stopped before every event came to its end: give more time with --grace"
    );
    false
}

/// How long the rest may take when edges have been given up that kept a pipeline from its end.
const AFTER_GIVING_UP: Duration = Duration::from_secs(1);
