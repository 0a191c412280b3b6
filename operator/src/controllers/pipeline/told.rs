//! What each sidecar of a pipeline is told: its new plan, or for a while another.
//!
//! ```text
//! suspended ─────────────────────────────▶ what of it stands still, edge by edge along the flow
//! senders have not taken the new plan ───▶ the plan it has
//! some still comes by an edge it loses ──▶ the plan it has; after a while the new one with that edge beside
//! else ──────────────────────────────────▶ the new plan
//! ```

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sidestream_control::{Plan, Suspend};
use sidestream_crds::{SidecarPlan, with_leaving};
use sidestream_desired::{edge_sinks, edge_sources, edges_in, edges_out, hash, plan_hash};
use sidestream_plan::stage::{self, EdgeSink, EdgeSource};

use super::{Look, Team, lock};
use crate::{
    control::{Account, Acknowledged, Addressee, Told},
    controllers::{
        order,
        owners::{awaits_owners, has_owners},
    },
    status::{Part, has_closed, is_heard, was_drained},
};

/// How long a sidecar that loses an edge goes on with the plan it has, so that what is on its way by it arrives.
const SENDERS_MAX: Duration = Duration::from_secs(15);

/// What of a sidecar's part is to stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stance {
    /// Nothing.
    Runs,
    /// Its own sources, and these of the edges that come in.
    Halts(Vec<String>),
    /// Everything.
    Stops,
}

impl Stance {
    /// The plan of `sidecar`, as it is told.
    fn wrap(self, sidecar: &SidecarPlan) -> Plan {
        let (suspend, closed) = match self {
            Stance::Runs => (Suspend::Run, Vec::new()),
            Stance::Halts(closed) => (Suspend::StopSources, closed),
            Stance::Stops => (Suspend::Stop, Vec::new()),
        };
        Plan { closed, ..Plan::wrap(&sidecar.plan, plan_hash(&sidecar.plan), &sidecar.name, suspend) }
    }
}

/// What was told to stand still, as it runs.
fn running(told: Arc<Plan>) -> Arc<Plan> {
    match told.stance() {
        Suspend::Run => told,
        _ => Arc::new(Plan { suspend: Suspend::Run.into(), closed: Vec::new(), ..(*told).clone() }),
    }
}

/// Whether a plan is the new one of `sidecar`, with edges beside that leave.
fn is_beside(told: &Plan, sidecar: &SidecarPlan) -> bool {
    told.unwrap().is_ok_and(|told| {
        let edges = edges_in(&told).map(str::to_owned).collect();
        with_leaving(&sidecar.plan, &told, &edges) == told
    })
}

/// Whether a plan, as it is told, sends to `receiver` by `edge`.
fn sends(plan: &Plan, edge: &str, receiver: &Account) -> bool {
    let is_it = |sink: &EdgeSink| sink.edge == edge && is_same(&sink.to, receiver);
    plan.unwrap().is_ok_and(|plan| edge_sinks(&plan).any(is_it))
}

/// Whether an account of a plan is this one.
pub(super) fn is_same(own: &stage::Account, account: &Account) -> bool {
    (&own.namespace, &own.name) == (&account.0, &account.1)
}

/// Whether `edge` lets this account in.
fn is_from(edge: &EdgeSource, account: &Account) -> bool {
    edge.from.iter().any(|from| is_same(from, account))
}

/// Those that send by `edge`.
fn senders<'p>(edge: &'p str, parts: &'p [Part<'p>]) -> impl Iterator<Item = &'p Part<'p>> {
    parts.iter().filter(move |part| edges_out(&part.sidecar.plan).any(|own| own == edge))
}

impl Look<'_> {
    /// Who is told which plan; and who is told nothing, because it is not known yet what.
    pub(super) fn plans(
        &self,
        team: &Team,
        parts: &[Part<'_>],
    ) -> (Vec<(Addressee, Arc<Plan>)>, BTreeSet<Addressee>) {
        let fleet = &self.context.fleet;
        let (mut plans, mut held) = (Vec::new(), BTreeSet::new());
        for sidecar in &team.told {
            let addressees = self.addressees(sidecar, &team.hosting);
            match self.stance(sidecar, team, parts) {
                Some(stance) => {
                    let waits = stance == Stance::Runs && self.waits(sidecar, team, parts);
                    let is_running = stance == Stance::Runs;
                    let new = Arc::new(stance.wrap(sidecar));
                    for own in addressees {
                        let old = fleet.plan(&own, &self.name).filter(|_| is_running).map(running);
                        if is_running && old.is_none() && self.may_go_on(sidecar, &own, team, parts) {
                            held.insert(own);
                            continue;
                        }
                        let awaits_owners = |old: &Arc<Plan>| {
                            old.unwrap().is_ok_and(|old| self.awaits_owners(sidecar, Some(&old)))
                        };
                        let waits = waits || is_running && old.as_ref().is_some_and(awaits_owners);
                        let told = match waits {
                            true => old,
                            false => self.for_senders(sidecar, &own, old, team, parts),
                        };
                        plans.push((own, told.unwrap_or_else(|| new.clone())));
                    }
                }
                None => held.extend(addressees),
            }
        }
        (plans, held)
    }

    /// What of a suspended pipeline is to stop in a sidecar. Its own sources first. An edge that comes in goes on until
    /// nothing more can come by it, or what is in flight would have nowhere to go; with the last of them all of it stops.
    /// Once it has been told to, nothing starts it again before the pipeline goes on: nothing can be on its way to it,
    /// whoever is not connected at the moment.
    ///
    /// None where that is not known yet: a new leader has not heard of those that send to it, which may have drained long
    /// ago.
    fn stance(&self, sidecar: &SidecarPlan, team: &Team, parts: &[Part<'_>]) -> Option<Stance> {
        if !self.is_suspended() {
            return Some(Stance::Runs);
        }
        let generation = self.resource.metadata.generation;
        let told = self.told(sidecar, team);
        if told.is_to_stop || was_drained(self.resource.status.as_ref(), generation, &hash(&team.sidecars)) {
            return Some(Stance::Stops);
        }
        let parting = team.going.values().flatten().filter_map(|plan| plan.unwrap().ok());
        let parting: Vec<_> = parting.collect();
        let is_unknown = self.unknown(team).any(|own| self.may_speak(own));
        let may_part =
            |edge: &str| is_unknown || parting.iter().any(|plan| edges_out(plan).any(|own| own == edge));
        let (closed, open): (Vec<&str>, Vec<&str>) = edges_in(&sidecar.plan)
            .partition(|edge| !may_part(edge) && senders(edge, parts).all(|sender| has_closed(sender, edge)));
        if open.is_empty() {
            return Some(Stance::Stops);
        }
        let is_heard = || open.iter().flat_map(|edge| senders(edge, parts)).all(is_heard);
        if !told.is_anything && self.is_early() && !is_heard() {
            return None;
        }
        let is_to_halt = order::has_sources(sidecar) || !closed.is_empty();
        Some(match is_to_halt {
            true => Stance::Halts(closed.into_iter().map(str::to_owned).collect()),
            false => Stance::Runs,
        })
    }

    /// Whether a sidecar goes on with the plan it has: one that sends to it has not taken the new one yet.
    fn waits(&self, sidecar: &SidecarPlan, team: &Team, parts: &[Part<'_>]) -> bool {
        let mut senders = order::before(sidecar, &team.told)
            .filter_map(|sender| parts.iter().find(|part| part.sidecar.name == sender.name));
        senders.any(|sender| self.has_not_taken(sender, team))
    }

    /// Whether somebody who is there has not said what became of the new plan. With edges beside it is the same: towards those
    /// behind nothing differs.
    pub(super) fn has_not_taken(&self, part: &Part<'_>, team: &Team) -> bool {
        let (fleet, new) = (&self.context.fleet, plan_hash(&part.sidecar.plan));
        let has_not = |said: &Acknowledged, applied| said.connected > applied && said.refused.is_none();
        let beside = self.addressees(part.sidecar, &team.hosting).into_iter().filter_map(|own| {
            let told = fleet.plan(&own, &self.name)?;
            let is_beside = told.hash != new && is_beside(&told, part.sidecar);
            is_beside.then(|| fleet.acknowledged(&[own], &self.name, &told.hash))
        });
        if !has_not(&part.said, part.said.applied) {
            return false;
        }
        let (mut applied, mut is_refused) = (part.said.applied, false);
        for said in beside {
            applied += said.applied;
            is_refused |= said.refused.is_some();
        }
        !is_refused && has_not(&part.said, applied)
    }

    /// Whether something may still come from a sidecar by an edge of `receiver`'s that its new plan does not have. What is not
    /// connected at the moment may have something; only who is says that it has not.
    fn may_send(&self, part: &Part<'_>, edge: &EdgeSource, receiver: &SidecarPlan, team: &Team) -> bool {
        let mut before = order::before_it_by_any_plan(receiver, &team.told);
        part.said.leaving.contains(&edge.edge)
            || self.is_sender(part, edge, team)
                && (!is_heard(part)
                    || before.any(|own| own.name == part.sidecar.name) && self.has_not_taken(part, team))
    }

    /// Whether a sidecar runs as one of those that may send by `edge`.
    pub(super) fn is_sender(&self, part: &Part<'_>, edge: &EdgeSource, team: &Team) -> bool {
        match team.hosting.get(&part.sidecar.name) {
            Some(_) => {
                self.addressees(part.sidecar, &team.hosting).iter().any(|own| is_from(edge, &own.account))
            }
            None => is_from(edge, &self.account(part.sidecar)),
        }
    }

    /// Whether a sidecar is told a plan that sends to `receiver` by `edge`.
    pub(super) fn sends_by(&self, part: &Part<'_>, edge: &str, receiver: &Account, team: &Team) -> bool {
        let mut told = self.addressees(part.sidecar, &team.hosting).into_iter();
        told.any(|own| {
            self.context.fleet.plan(&own, &self.name).is_some_and(|plan| sends(&plan, edge, receiver))
        })
    }

    /// What a sidecar is told instead of its new plan while somebody still sends to it by edges that the new one does not have.
    /// For a while that is `old`, the plan it has: what is on its way arrives before anything that comes by the new edges. Not
    /// for ever, since it may be the new plan that has it take events again: then the new one, with these edges beside.
    fn for_senders(
        &self,
        sidecar: &SidecarPlan,
        own: &Addressee,
        old: Option<Arc<Plan>>,
        team: &Team,
        parts: &[Part<'_>],
    ) -> Option<Arc<Plan>> {
        let key = (self.name.clone(), own.clone());
        let old = old.filter(|old| old.hash != plan_hash(&sidecar.plan));
        let read = old.as_ref().and_then(|old| old.unwrap().ok());
        let others = || parts.iter().filter(|part| part.sidecar.name != sidecar.name);
        let gone: Vec<&EdgeSource> = (read.iter().flat_map(edge_sources))
            .filter(|edge| sidecar.plan.stage(&edge.edge).is_none())
            .collect();
        let of = |is_in: &dyn Fn(&EdgeSource) -> bool| -> BTreeSet<String> {
            gone.iter().filter(|edge| is_in(edge)).map(|edge| edge.edge.clone()).collect()
        };
        let mut leaving = of(&|edge| others().any(|part| self.may_send(part, edge, sidecar, team)));
        // Of those behind it in a circle, and of those that part, nobody waits to have taken anything.
        let sending = of(&|edge| {
            let is_from = |own: &Addressee| is_from(edge, &own.account);
            let mut going = team.going.values().flatten();
            self.unknown(team).any(is_from)
                || going.any(|plan| sends(plan, &edge.edge, &own.account))
                || others().any(|part| self.sends_by(part, &edge.edge, &own.account, team))
        });
        let mut holds = lock(&self.context.holds);
        if leaving.is_empty() {
            holds.remove(&key);
        } else {
            let now = self.context.clock.now();
            let until = *holds.entry(key).or_insert_with(|| {
                self.look_again(SENDERS_MAX);
                now + SENDERS_MAX
            });
            if now < until {
                return old;
            }
        }
        leaving.extend(sending);
        let both = with_leaving(&sidecar.plan, &read?, &leaving);
        let both = SidecarPlan { plan: both, ..sidecar.clone() };
        (both.plan != sidecar.plan).then(|| Arc::new(Stance::Runs.wrap(&both)))
    }

    /// Has this pipeline looked at again after a while.
    pub(super) fn look_again(&self, after: std::time::Duration) {
        let (fleet, name) = (self.context.fleet.clone(), self.name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            fleet.stir(&name);
        });
    }

    /// Whether some who are to own what a sidecar sends, and by `old`, the plan it has, did not, are not there yet.
    pub(super) fn awaits_owners(&self, sidecar: &SidecarPlan, old: Option<&sidestream_plan::Plan>) -> bool {
        has_owners(&sidecar.plan)
            && awaits_owners(&sidecar.plan, old, |receiver| {
                Some(self.context.observed.get(&self.name, &("StatefulSet", receiver.name.clone()))?.pods)
            })
    }

    /// What a sidecar has been told by this leader.
    fn told(&self, sidecar: &SidecarPlan, team: &Team) -> Told {
        let addressees = self.addressees(sidecar, &team.hosting);
        self.context.fleet.told(&addressees, &self.name, &sidecar.name, &plan_hash(&sidecar.plan))
    }
}
