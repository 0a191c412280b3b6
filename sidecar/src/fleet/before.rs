//! What the process before this one had: what it left on the disk for stages that no plan has now is delivered as it would have
//! been, and what nobody knows how to deliver is named.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sidestream_plan::Plan;

use super::Fleet;
use crate::{
    AssembleError, Pipeline, Registry, Wanted,
    leaving::queues::{queue_of, spills},
};

impl Fleet {
    /// Takes up what the process before ran, where it spilled.
    pub fn take_up(&mut self, before: Vec<Plan>) {
        self.before.extend(before.into_iter().map(|plan| (plan.pipeline.clone(), plan)));
    }

    /// The plans at work that spill, and those that still deliver what they spilled: what the next process is to know.
    pub fn spilling(&self) -> Vec<Plan> {
        let leaving = self.leaving.iter().map(|(_, pipeline)| pipeline);
        let at_work = self.pipelines.values().chain(leaving).map(|own| (*own.plan()).clone());
        // Of two of one name the older: the other one is asked for anew.
        let plans = at_work.chain(self.before.values().cloned()).filter(spills);
        let by_name: BTreeMap<String, Plan> = plans.map(|plan| (plan.pipeline.clone(), plan)).collect();
        by_name.into_values().collect()
    }

    /// Starts a pipeline, with what waits on the disk for stages of the plan before beside it.
    pub(super) fn start_after_before(&mut self, wanted: Wanted) -> Result<Arc<Pipeline>, AssembleError> {
        let before = self.before.get(&wanted.plan.pipeline);
        let mut started = self.start_beside(wanted.clone(), before);
        if let (Err(error), true) = (&started, before.is_some()) {
            let reason = error.to_string();
            // The plan before is kept: it may go another time.
            started = self.start_beside(wanted.clone(), None);
            if started.is_ok() {
                tracing::error!(
                    pipeline = wanted.plan.pipeline,
                    "what is spilled for stages of the plan before is not delivered: {reason}"
                );
            }
        } else if started.is_ok() {
            self.before.remove(&wanted.plan.pipeline);
        }
        started
    }

    fn start_beside(
        &self,
        Wanted { plan, halted }: Wanted,
        before: Option<&Plan>,
    ) -> Result<Arc<Pipeline>, AssembleError> {
        match halted {
            None => Pipeline::begin(plan, before, &self.world, &mut Registry::default(), |_| false),
            Some(closed) => {
                Pipeline::begin_halted(plan, before, &closed, &self.world, &mut Registry::default())
            }
        }
    }

    /// Has what waits on the disk delivered for pipelines that are no more, or do not start.
    pub fn finish_before(&mut self) {
        let gone = self.before.values().filter(|plan| !self.pipelines.contains_key(&plan.pipeline));
        for before in gone.cloned().collect::<Vec<_>>() {
            let name = before.pipeline.clone();
            let mut queues = before.stages.iter().filter_map(queue_of);
            if !queues.any(|queue| self.world.has_spilled(&name, queue)) {
                self.before.remove(&name);
                continue;
            }
            let nothing = Plan { kinds: Vec::new(), stages: Vec::new(), runs: Vec::new(), ..before };
            match self.start_wanted(nothing.into()) {
                Ok(()) => drop(self.remove(&name, Duration::ZERO)),
                Err(error) => {
                    tracing::error!(pipeline = name, "what is spilled for it is not delivered: {error}")
                }
            }
        }
    }

    /// What waits on the disk for stages that no plan at work has, as `namespace/pipeline/stage`, and how many events. Blocks.
    pub fn left_behind(&self) -> BTreeMap<String, u64> {
        let pipelines = self.pipelines.values().chain(self.leaving.iter().map(|(_, pipeline)| pipeline));
        let plans: Vec<_> = pipelines.map(|pipeline| pipeline.plan()).collect();
        let is_taken = |pipeline: &str, queue: &str| {
            let mut own = plans.iter().filter(|plan| plan.pipeline == pipeline);
            own.any(|plan| plan.stages.iter().filter_map(queue_of).any(|own| own == queue))
        };
        let views =
            self.world.spill_views().into_iter().filter(|view| view.is_left && view.stored_events > 0);
        // A stage that has just begun may not have taken its queue yet.
        let left = views.filter(|view| !is_taken(&view.name.pipeline, &view.name.stage));
        left.map(|view| (view.name.to_string(), view.stored_events)).collect()
    }

    /// Says once what waits on the disk and has nobody who could deliver it.
    pub fn name_left_behind(&mut self) {
        let left = self.left_behind();
        for (stage, events) in left.iter().filter(|(stage, _)| !self.left_behind.contains_key(*stage)) {
            tracing::warn!(
                stage,
                events,
                "spilled events wait for a stage that is not here, or does not spill, and go with the pod: put it back under \
                 this name to have them delivered"
            );
        }
        self.left_behind = left;
    }
}
