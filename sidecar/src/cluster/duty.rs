//! What this pod is to run: made so, reported, kept for the next container, and tried again where it failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sidestream_control::{Applied, Counts, Drained, Halting, Leaving, Plans, Pool, Ready, Suspend};
use sidestream_plan::{Plan, SecretKey, SecretRef};

use super::{Order, Orders, PlanCache, PoolServer};
use crate::{
    Fleet, Ledger, News, Secrets, Wanted,
    observe::{Observed, State},
};

/// The pipelines of this pod, as the operator wants them.
pub struct Duty {
    /// Where orders come from and reports go.
    pub orders: Orders,
    /// The pipelines.
    pub fleet: Fleet,
    /// Who shows them.
    pub observed: Observed,
    /// Where the Secrets are that stages name.
    pub secrets: Secrets,
    /// Where the orders are kept.
    pub cache: PlanCache,
    /// How long a pipeline that is taken away may drain.
    pub grace: Duration,
    /// The last orders, where a part of them failed.
    pub unfinished: Option<Plans>,
    /// The dnpipes, where this is a server of some.
    pub server: Option<PoolServer>,
    /// What they were last told to be, where a part of that failed.
    pub unkept: Option<Pool>,
}

impl Duty {
    /// Runs what the last container of this pod ran, where there was one.
    pub fn resume(&mut self) {
        self.fleet.take_up(self.cache.load_spilling());
        if let Some(plans) = self.cache.load() {
            tracing::info!(plans = plans.plans.len(), "starting what the last container of this pod ran");
            self.run(plans);
        } else {
            // Nobody has said yet what is to run; that does not keep what was spilled from its peers.
            self.fleet.finish_before();
        }
        if self.server.is_some() {
            // Its doors are open, and it serves what it kept.
            self.observed.enter(State::Ready);
            self.tell_serving();
        }
    }

    /// Waits for orders, or until it is time to try again what failed: a Secret may have come, a port may be free.
    pub async fn next(&mut self) -> Order {
        loop {
            if let Some(order) = self.next_or_left().await {
                return order;
            }
        }
    }

    /// Does what was ordered, and reports what became of it. Blocks.
    pub fn obey(&mut self, order: Order) {
        match order {
            Order::Plans(plans) => self.run(plans),
            Order::Pool(pool) => self.keep(pool),
        }
    }

    fn keep(&mut self, pool: Pool) {
        let Some(server) = &mut self.server else { return };
        server.obey(&pool);
        self.unkept = server.is_unfinished().then_some(pool);
        self.tell_serving();
    }

    fn tell_serving(&self) {
        let serving = self.server.as_ref().map(PoolServer::serving);
        self.orders.report(|standing| standing.serving = serving);
    }

    /// None where a pipeline that was suspended has come to its end, or nearer to it, which is reported.
    async fn next_or_left(&mut self) -> Option<Order> {
        let again = async {
            let plans = self.unfinished.clone().map(Order::Plans);
            match plans.or_else(|| self.unkept.clone().map(Order::Pool)) {
                Some(order) => {
                    tokio::time::sleep(TRY_AGAIN).await;
                    order
                }
                None => std::future::pending().await,
            }
        };
        let grown = async {
            match &self.server {
                Some(server) => tokio::select! {
                    () = tokio::time::sleep(COUNT_AGAIN) => None,
                    order = server.moved() => order,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = self.orders.next() => {
                if let Order::Plans(plans) = &order
                    && let Err(error) = self.cache.keep(plans)
                {
                    tracing::warn!("the plans will not survive this container: {error}");
                }
                Some(order)
            }
            news = self.fleet.news() => {
                self.orders.report(|standing| match news {
                    News::Left(pipeline, drained) => {
                        if let Some(told) = standing.drained.get_mut(&pipeline) {
                            told.counts = Some(counts(drained.ledger_of_pod()));
                        }
                    }
                    News::Open(pipeline, open) => {
                        if let Some(told) = standing.halting.get_mut(&pipeline) {
                            told.open = open;
                        }
                    }
                    News::Leaving(pipeline, edges) => {
                        standing.leaving.insert(pipeline.clone(), Leaving { pipeline, edges });
                    }
                });
                None
            }
            order = again => Some(order),
            order = grown => {
                self.tell_serving();
                order.map(Order::Pool)
            }
        }
    }

    /// Makes what runs what was ordered, and reports of each pipeline what became of it. Blocks.
    fn run(&mut self, plans: Plans) {
        let ordered = plans.clone();
        let (suspended, wanted): (Vec<_>, Vec<_>) =
            plans.plans.into_iter().partition(|plan| plan.stance() == Suspend::Stop);
        let drained: Vec<Drained> = suspended.into_iter().map(|plan| self.suspend(plan)).collect();
        let (mut readable, mut hashes, mut applied): (Vec<Wanted>, BTreeMap<_, _>, Vec<Applied>) =
            Default::default();
        for plan in wanted {
            let halted = (plan.stance() == Suspend::StopSources).then(|| plan.closed.clone());
            match plan.unwrap() {
                Ok(read) => {
                    hashes.insert(read.pipeline.clone(), plan.hash);
                    readable.push(Wanted { plan: read, halted });
                }
                Err(error) => {
                    tracing::error!("{error}");
                    // What runs of this pipeline goes on.
                    readable.extend(self.fleet.wanted(&plan.pipeline));
                    let error = Some(error.to_string());
                    applied.push(Applied { pipeline: plan.pipeline, hash: plan.hash, error });
                }
            }
        }
        let running = readable.iter().filter(|own| own.halted.is_none()).map(|own| &own.plan);
        let mut missing: BTreeMap<String, Vec<String>> =
            running.map(|plan| (plan.pipeline.clone(), self.missing(plan))).collect();
        let halts: BTreeSet<String> =
            readable.iter().filter(|own| own.halted.is_some()).map(|own| own.plan.pipeline.clone()).collect();
        let mut halting: BTreeMap<String, Halting> = BTreeMap::new();
        for (pipeline, outcome) in self.fleet.arrange(readable, self.grace) {
            let Some(hash) = hashes.remove(&pipeline) else { continue };
            if outcome.is_ok() && halts.contains(&pipeline) {
                let open = self.fleet.open_edges(&pipeline);
                halting.insert(pipeline.clone(), Halting { pipeline, hash, open });
            } else {
                applied.push(Applied { pipeline, hash, error: outcome.err() });
            }
        }
        self.fleet.finish_before();
        self.fleet.name_left_behind();
        if let Err(error) = self.cache.keep_spilling(&self.fleet.spilling()) {
            tracing::warn!("what is spilled may find no stage in the next container: {error}");
        }
        let leaving: Vec<Leaving> = applied
            .iter()
            .map(|own| Leaving {
                pipeline: own.pipeline.clone(),
                edges: self.fleet.leaving_edges(&own.pipeline),
            })
            .collect();
        self.unfinished = applied.iter().any(|applied| applied.error.is_some()).then_some(ordered);
        // What ran before and goes on serves; what never ran does not, and its pod is not ready for it.
        let runs = |own: &Applied| own.error.is_none() || self.fleet.wanted(&own.pipeline).is_some();
        if applied.iter().all(runs) {
            self.observed.enter(State::Ready);
        }
        self.orders.report(|standing| {
            let ready = applied.iter().map(|applied| {
                let reason = applied.error.clone().unwrap_or_default();
                let missing = missing.remove(&applied.pipeline).unwrap_or_default();
                let pipeline = applied.pipeline.clone();
                (pipeline.clone(), Ready { pipeline, ready: reason.is_empty(), reason, missing })
            });
            standing.ready = ready.collect();
            standing.applied =
                applied.into_iter().map(|applied| (applied.pipeline.clone(), applied)).collect();
            standing.halting = halting;
            // Where there is nothing to say it is said only to who has heard otherwise.
            let before = std::mem::take(&mut standing.leaving);
            standing.leaving = leaving
                .into_iter()
                .filter(|own| !own.edges.is_empty() || before.contains_key(&own.pipeline))
                .map(|own| (own.pipeline.clone(), own))
                .collect();
            // What has drained stays drained; only its first report has the books.
            let before = std::mem::take(&mut standing.drained);
            standing.drained = drained
                .into_iter()
                .map(|now| match before.get(&now.pipeline) {
                    Some(told) if now.counts.is_none() => Drained { counts: told.counts, ..now },
                    _ => now,
                })
                .map(|drained| (drained.pipeline.clone(), drained))
                .collect();
        });
    }

    /// Ends everything. Says whether all that was accepted was delivered.
    pub fn drain(self) -> bool {
        self.observed.enter(State::Draining);
        tracing::info!(grace_seconds = self.grace.as_secs(), "draining");
        let is_complete = self.fleet.drain(self.grace);
        if let Some(server) = &self.server {
            server.close(self.grace);
        }
        is_complete
    }

    fn suspend(&mut self, plan: sidestream_control::Plan) -> Drained {
        let books = self.fleet.remove(&plan.pipeline, self.grace).map(|drained| drained.ledger_of_pod());
        Drained { pipeline: plan.pipeline, hash: plan.hash, counts: books.map(counts) }
    }

    /// The Secrets that a plan names and are not there.
    fn missing(&self, plan: &Plan) -> Vec<String> {
        let wanted = plan.secrets().into_iter();
        wanted
            .flat_map(|(name, keys)| keys.into_iter().map(move |key| SecretKey { name: name.clone(), key }))
            .filter(|key| self.secrets.get(&SecretRef { secret_ref: key.clone() }).is_err())
            .map(|key| format!("Secret {}, key {}", key.name, key.key))
            .collect()
    }
}

fn counts(ledger: Ledger) -> Counts {
    Counts {
        accepted: ledger.accepted,
        completed: ledger.completed,
        dead_lettered: ledger.dead_lettered,
        expired: ledger.expired,
        dropped: ledger.dropped,
        in_flight: ledger.in_flight,
    }
}

/// How old what is said of amounts may be.
const COUNT_AGAIN: Duration = Duration::from_secs(30);
/// As long as the kubelet takes, at most, to bring a Secret that has come to a pod that mounts it, divided by six.
const TRY_AGAIN: Duration = Duration::from_secs(10);
