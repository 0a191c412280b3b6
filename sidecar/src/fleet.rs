//! The pipelines of a process: started together, changed together, drained together.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use futures_util::future::select_all;
use sidestream_plan::Plan;

use crate::{AssembleError, Drained, Pipeline, Registry, World, observe::Observed};

/// Pipelines at work, by name.
pub struct Fleet {
    world: World,
    observed: Observed,
    pipelines: BTreeMap<String, Arc<Pipeline>>,
    /// Taken away, and not at their end when their time was over: they still deliver.
    leaving: Vec<(String, Arc<Pipeline>)>,
}

impl Fleet {
    /// No pipelines yet.
    pub fn new(world: &World, observed: &Observed) -> Fleet {
        Fleet {
            world: world.clone(),
            observed: observed.clone(),
            pipelines: BTreeMap::new(),
            leaving: Vec::new(),
        }
    }

    /// Starts a pipeline.
    pub fn start(&mut self, plan: Plan) -> Result<(), AssembleError> {
        let name = plan.pipeline.clone();
        let pipeline = Pipeline::start(plan, &self.world, &mut Registry::default())?;
        self.observed.add(pipeline.clone());
        self.pipelines.insert(name, pipeline);
        Ok(())
    }

    /// Makes the pipelines those of `plans`, and says of each what was done. What cannot be changed stays as it is; the
    /// answer has, by pipeline, why.
    pub fn change_to(&mut self, plans: Vec<Plan>, grace: Duration) -> BTreeMap<String, Result<(), String>> {
        let gone: Vec<String> = self
            .pipelines
            .keys()
            .filter(|name| !plans.iter().any(|plan| plan.pipeline == **name))
            .cloned()
            .collect();
        for name in gone {
            self.remove(&name, grace);
        }
        let changed = plans.into_iter().map(|plan| (plan.pipeline.clone(), self.change_one(plan)));
        changed.collect()
    }

    fn change_one(&mut self, plan: Plan) -> Result<(), String> {
        let name = plan.pipeline.clone();
        match self.pipelines.get(&name) {
            Some(running) if *running.plan() == plan && !running.is_broken() => {
                tracing::info!(pipeline = name, "unchanged");
                Ok(())
            }
            Some(running) if !running.has_ended() => reload(running, plan),
            _ => match self.start(plan) {
                Ok(()) => {
                    tracing::info!(pipeline = name, "started");
                    Ok(())
                }
                Err(error) => {
                    tracing::error!(pipeline = name, "not started: {error}");
                    Err(error.to_string())
                }
            },
        }
    }

    /// What a pipeline runs.
    pub fn plan(&self, name: &str) -> Option<Plan> {
        self.pipelines
            .get(name)
            .filter(|running| !running.is_broken())
            .map(|running| (*running.plan()).clone())
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

    /// Drains all of them at once. Says whether everything was delivered, and what was not.
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
    /// delivering: [`Fleet::left`] says when it is, and [`Fleet::drain`] waits for it.
    pub fn remove(&mut self, name: &str, grace: Duration) -> Option<Drained> {
        let pipeline = self.pipelines.remove(name)?;
        let drained = pipeline.drain(grace);
        if !tell(name, &drained) && !pipeline.is_broken() {
            self.leaving.push((name.to_owned(), pipeline));
        }
        self.observed.remove(name);
        Some(drained)
    }

    /// Waits until a pipeline that was removed before its end has come to it; for ever where there is none.
    pub async fn left(&mut self) -> (String, Drained) {
        if self.leaving.is_empty() {
            return std::future::pending().await;
        }
        let ((), place, _) =
            select_all(self.leaving.iter().map(|(_, pipeline)| Box::pin(pipeline.ended()))).await;
        let (name, pipeline) = self.leaving.remove(place);
        let drained = pipeline.drain(Duration::ZERO);
        tell(&name, &drained);
        (name, drained)
    }
}

fn reload(running: &Pipeline, plan: Plan) -> Result<(), String> {
    let name = plan.pipeline.clone();
    match running.reload(plan, &mut Registry::default()) {
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

/// Says how a drain ended, and whether everything was delivered.
fn tell(name: &str, drained: &Drained) -> bool {
    let ledger = drained.ledger;
    if drained.is_complete() {
        let (accepted, completed) = (ledger.accepted, ledger.completed);
        let (dead_lettered, dropped) = (ledger.dead_lettered, ledger.dropped + ledger.expired);
        tracing::info!(pipeline = name, accepted, completed, dead_lettered, dropped, "stopped");
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
