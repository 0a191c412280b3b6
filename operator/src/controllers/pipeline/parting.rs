//! Sidecars that the pipeline has no more, and that still run their part of it, so that nothing on its way is lost.
//!
//! ```text
//! somebody may still send to it ──▶ its own sources stand still, the rest goes on
//! nobody can ─────────────────────▶ it stops, and says when it has drained; those it sends to still let it in
//! drained, or a minute has passed ─▶ its objects go
//! ```
//!
//! A new leader does not know what they run. They are told nothing while it hears from those that may send to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use sidestream_control::Plan;
use sidestream_crds::{Host, SidecarPlan, Workload, names};
use sidestream_desired::{edge_sources, edges_out};
use sidestream_plan::{
    Kind, Sink,
    stage::{self, EdgeSource},
};

use super::{Look, Part, Team, lock};
use crate::{
    control::{Account, Addressee, Farewell},
    controllers::owners::WORKLOADS,
    observed::Key,
    status::{has_closed, is_heard},
};

/// How long they may take: as long as a pod has to end, and as long again.
const PARTING_MAX: Duration = Duration::from_secs(60);

/// Those that part, each with what it was told last; none where this leader has told it nothing.
pub(super) type Going = BTreeMap<Addressee, Option<Arc<Plan>>>;

/// What becomes of them now.
#[derive(Default)]
pub(super) struct Partings {
    /// What they are told.
    pub(super) plans: Vec<(Addressee, Arc<Plan>)>,
    /// Those that are told nothing.
    pub(super) held: BTreeSet<Addressee>,
    /// The objects that stay for them.
    pub(super) kept: Vec<Key>,
}

impl Look<'_> {
    /// Those that run a part of the pipeline and are none of `stay`, nor `made` for its sidecars.
    pub(super) fn going(
        &self,
        stay: &BTreeSet<Addressee>,
        made: &BTreeSet<Account>,
        names: &[&str],
    ) -> Going {
        let Self { context, name, .. } = self;
        // A pod that does not host a sidecar any more which others host leaves nobody without a receiver.
        let is_gone = |(own, plan): &(Addressee, Arc<Plan>)| {
            !stay.contains(own)
                && !made.contains(&own.account)
                && (own.pod.is_none() || !names.contains(&&*plan.sidecar))
        };
        let told = context.fleet.told_of(name).into_iter().filter(is_gone);
        let mut going: Going = told.map(|(own, plan)| (own, Some(plan))).collect();
        let namespace = self.namespace();
        for ((kind, account), seen) in context.observed.all(name) {
            let account = (namespace.clone(), account);
            let is_own = seen.owner.is_some() && seen.owner == self.uid();
            if WORKLOADS.contains(&kind) && is_own && !made.contains(&account) {
                going.entry(Addressee { account, pod: None }).or_insert(None);
            }
        }
        let pods = |own: &Addressee| {
            context.pods_of(name, &own.account).filter(|_| own.pod.is_none()).unwrap_or_default()
        };
        let has_drained = |own: &Addressee, plan: &Plan| context.fleet.has_drained(own, plan, pods(own));
        going.retain(|own, plan| !plan.as_ref().is_some_and(|plan| has_drained(own, plan)));
        let (now, mut partings) = (context.clock.now(), lock(&context.partings));
        partings.retain(|(pipeline, own), _| pipeline != name || going.contains_key(own));
        going.retain(|own, _| {
            let until = *partings.entry((name.clone(), own.clone())).or_insert_with(|| {
                self.look_again(PARTING_MAX);
                now + PARTING_MAX
            });
            now < until
        });
        going
    }

    /// What becomes of those that part.
    pub(super) fn partings(&self, team: &Team, parts: &[Part<'_>]) -> Partings {
        let Self { context, name, .. } = self;
        let mut partings = Partings::default();
        if team.going.is_empty() {
            return partings;
        }
        let mut may_come = BTreeSet::new();
        for (own, plan) in &team.going {
            let Some(plan) = plan.as_ref().and_then(|plan| plan.unwrap().ok()) else { continue };
            let may =
                |edge: &EdgeSource| parts.iter().any(|part| self.may_still_bring(part, edge, own, team));
            may_come.extend(edge_sources(&plan).filter(|edge| may(edge)).map(|edge| edge.edge.clone()));
        }
        let expected = |account: &Account| context.pods_of(name, account);
        let known =
            team.going.iter().filter(|(_, plan)| plan.is_some()).map(|(own, _)| own.clone()).collect();
        let farewells = context.fleet.partings(name, &known, &may_come, expected);
        for (own, farewell) in farewells {
            match farewell {
                Farewell::Told(plan) => {
                    partings.kept.extend(self.objects_of(&own, Some(&plan.sidecar)));
                    partings.plans.push((own, Arc::new(plan)));
                }
                Farewell::Stays | Farewell::Gone => {}
            }
        }
        let is_known = |part: &Part<'_>| {
            is_heard(part) && !self.has_not_taken(part, team) && part.said.leaving.is_empty()
        };
        let is_clear = parts.iter().all(is_known);
        for own in self.unknown(team).filter(|own| self.is_early() && (!is_clear || !self.may_go(own, team)))
        {
            partings.kept.extend(self.objects_of(own, None));
            partings.held.insert(own.clone());
        }
        partings
    }

    /// Those that part of whom this leader does not know what they run.
    pub(super) fn unknown<'t>(&self, team: &'t Team) -> impl Iterator<Item = &'t Addressee> {
        team.going.iter().filter(|(_, plan)| plan.is_none()).map(|(own, _)| own)
    }

    /// The names of those that part; of one that is not known, whom it runs as.
    pub(super) fn parting(&self, team: &Team) -> Vec<String> {
        let unknown = self.unknown(team).filter(|own| self.may_speak(own)).map(|own| own.account.1.clone());
        team.going.values().flatten().map(|plan| plan.sidecar.clone()).chain(unknown).collect()
    }

    /// Whether nothing more is to be heard of one that is not known: it has no pods, or has said all it can.
    pub(super) fn may_go(&self, own: &Addressee, team: &Team) -> bool {
        team.not_found.contains(&own.account) || !self.may_speak(own)
    }

    /// Whether one that is not known has pods.
    pub(super) fn may_speak(&self, own: &Addressee) -> bool {
        self.context.pods_of(&self.name, &own.account).is_some_and(|pods| pods > 0)
    }

    /// Whether something may still come from a sidecar by an edge into one that parts.
    fn may_still_bring(&self, part: &Part<'_>, edge: &EdgeSource, own: &Addressee, team: &Team) -> bool {
        let has_not_taken = || match self.is_suspended() {
            true => !has_closed(part, &edge.edge),
            false => part.said.refused.is_some() || self.has_not_taken(part, team),
        };
        let may = || !is_heard(part) || has_not_taken();
        part.said.leaving.contains(&edge.edge)
            || self.sends_by(part, &edge.edge, &own.account, team)
            || self.is_sender(part, edge, team) && may()
    }

    /// The objects that were made for one that parts.
    fn objects_of(&self, own: &Addressee, sidecar: Option<&str>) -> Vec<Key> {
        let name = match (&own.pod, sidecar) {
            (None, _) => own.account.1.clone(),
            // Of one in the user's pods, whom others find it by.
            (Some(_), Some(sidecar)) => {
                names::account(&self.namespace(), &self.resource.name_any(), sidecar).name
            }
            (Some(_), None) => return Vec::new(),
        };
        let all = self.context.observed.all(&self.name).into_iter();
        all.filter(|((_, other), _)| *other == name).map(|(key, _)| key).collect()
    }
}

/// Those of them that were made by the operator, as their receivers' objects know them: not whose keys they own.
pub(super) fn sidecars(going: &Going) -> Vec<SidecarPlan> {
    let made = going.iter().filter(|(own, _)| own.pod.is_none());
    let made = made.filter_map(|(_, plan)| {
        let (name, mut plan) = (plan.as_ref()?.sidecar.clone(), plan.as_ref()?.unwrap().ok()?);
        for stage in &mut plan.stages {
            if let Kind::Sink(Sink::Edge(edge)) = &mut stage.kind {
                edge.slots = None;
            }
        }
        Some(SidecarPlan { name, host: Host::Workload(Workload::default()), plan })
    });
    made.collect()
}

/// By which edges those that part still send, and whom they run as.
pub(super) fn senders(going: &Going) -> BTreeMap<String, Vec<stage::Account>> {
    let mut senders: BTreeMap<String, Vec<stage::Account>> = BTreeMap::new();
    for (own, plan) in going {
        let Some(plan) = plan.as_ref().and_then(|plan| plan.unwrap().ok()) else { continue };
        let (namespace, name) = own.account.clone();
        let account = stage::Account { namespace, name };
        for edge in edges_out(&plan) {
            let known = senders.entry(edge.to_owned()).or_default();
            if !known.contains(&account) {
                known.push(account.clone());
            }
        }
    }
    senders
}
