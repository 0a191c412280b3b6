//! What the sidecars of a pipeline run that a new leader has told nothing yet, found among the revisions that are kept.
//!
//! What it says it runs by the name of its content is what it was told: from then on it is followed as if this leader had told
//! it that. What an earlier leader told for a while only, with edges beside that leave or the senders that part, is in no
//! revision and not found; nor is what goes on in one that has refused the last plan. Such a one is told nothing for a while, and
//! neither is one that has not spoken.

use std::{collections::BTreeSet, slice, sync::Arc};

use sidestream_control::Plan;
use sidestream_crds::SidecarPlan;
use sidestream_desired::{edge_sinks, hash, plan_hash};
use sidestream_plan::stage::EdgeSink;

use super::{Hosting, Look, Part, ReconcileError, Team, told::is_same};
use crate::{
    control::{Account, Addressee, Runs},
    controllers::order,
    status::{is_heard, was_ready},
};

/// The sidecars of one revision, each by the name of its content, and where they run.
struct Sidecars<'a> {
    all: Vec<(String, &'a SidecarPlan)>,
    hosting: &'a Hosting,
}

impl<'a> Sidecars<'a> {
    fn new(all: &'a [SidecarPlan], hosting: &'a Hosting) -> Self {
        Self { all: all.iter().map(|own| (plan_hash(&own.plan), own)).collect(), hosting }
    }
}

impl Look<'_> {
    /// Has the fleet know what was told to those that run something else than their part of `new`. Gives back whom those run as
    /// of whom it is not found. Where the pipeline is suspended that is asked only of those that it has no more, which are not
    /// of `stay`: of the others, who says that it has stopped is believed.
    pub(super) async fn recall(
        &self,
        new: &[SidecarPlan],
        hosting: &Hosting,
        stay: &BTreeSet<Addressee>,
    ) -> Result<BTreeSet<Account>, ReconcileError> {
        if !self.is_early() {
            return Ok(BTreeSet::new());
        }
        let fleet = &self.context.fleet;
        let mut unknown = fleet.untold(&self.name);
        if unknown.is_empty() {
            return Ok(BTreeSet::new());
        }
        let new = Sidecars::new(new, hosting);
        // Where one pod of an account has the new plan already, the others are not told that they all have another.
        let up_to_date: Vec<Addressee> =
            unknown.iter().filter_map(|runs| Some(self.told_by(runs, &new)?.0)).collect();
        unknown.retain(|runs| self.told_by(runs, &new).is_none());
        let mut revisions = self.revisions();
        revisions.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        for (revision, _) in revisions {
            if unknown.is_empty() {
                break;
            }
            let Some(sidecars) = self.kept(&revision).await? else { continue };
            let (sidecars, hosting) = self.with_hosts(&sidecars);
            let kept = Sidecars::new(&sidecars, &hosting);
            unknown.retain(|runs| {
                let is_left_alone =
                    |own: &Addressee| up_to_date.contains(own) || self.is_suspended() && stay.contains(own);
                let told = self.told_by(runs, &kept).filter(|(own, _)| !is_left_alone(own));
                told.map(|(own, plan)| fleet.recall(&self.name, own, plan)).is_none()
            });
        }
        Ok(unknown.into_iter().map(|runs| runs.account).collect())
    }

    /// Whether a sidecar that this leader has told nothing yet may run another plan than the new one, which it is not to lose
    /// yet: by its edges some may still come, until those that may send have taken the new plan and have nothing left; or it
    /// knows who owns which keys, and the new owners are not there. Only for a while, since it is not known here which it is.
    pub(super) fn may_go_on(
        &self,
        sidecar: &SidecarPlan,
        own: &Addressee,
        team: &Team,
        parts: &[Part<'_>],
    ) -> bool {
        let fleet = &self.context.fleet;
        let Some(part) = parts.iter().find(|part| part.sidecar.name == sidecar.name) else { return false };
        let (said, is_heard_of) = match &own.pod {
            None => (part.said.clone(), is_heard(part)),
            Some(_) => {
                let said = fleet.acknowledged(slice::from_ref(own), &self.name, &plan_hash(&sidecar.plan));
                let is_heard_of = said.heard > 0;
                (said, is_heard_of)
            }
        };
        let is_silent = !is_heard_of && self.was_there(own, team);
        if !self.is_early() || said.refused.is_some() || said.heard <= said.applied && !is_silent {
            return false;
        }
        if is_silent && (self.may_have_lost(sidecar, own, team) || self.awaits_owners(sidecar, None)) {
            return true;
        }
        let named = |name: &str| parts.iter().find(|part| part.sidecar.name == name);
        let mut before = order::before_it_by_any_plan(sidecar, &team.told).filter_map(|own| named(&own.name));
        let mut ahead = order::ahead(sidecar, &team.told).filter_map(|own| named(&own.name));
        let mut others = parts.iter().filter(|part| part.sidecar.name != sidecar.name);
        before.any(|part| !is_heard(part))
            || !self.is_suspended() && ahead.any(|part| self.has_not_taken(part, team))
            || others.any(|part| !part.said.leaving.is_empty())
    }

    /// Whether one that parts sends to it by an edge that the new plan does not have, or may do.
    fn may_have_lost(&self, sidecar: &SidecarPlan, own: &Addressee, team: &Team) -> bool {
        let mut going = team.going.values().flatten().filter_map(|plan| plan.unwrap().ok());
        let is_lost =
            |edge: &EdgeSink| is_same(&edge.to, &own.account) && sidecar.plan.stage(&edge.edge).is_none();
        self.unknown(team).any(|own| !self.may_go(own, team))
            || going.any(|plan| edge_sinks(&plan).any(is_lost))
    }

    /// Whether another leader may have told it something else than the new plan. Of what this one has seen begin, or what ran
    /// whole by the new plan before, there is nothing.
    fn was_there(&self, own: &Addressee, team: &Team) -> bool {
        (team.is_first || self.context.fleet.is_held(own, &self.name))
            && self.revisions().len() > 1
            && was_ready(self.resource.status.as_ref(), &hash(&team.sidecars)).is_none()
    }

    /// What one that runs something was told when these were the sidecars; none where it ran none of them.
    fn told_by(&self, runs: &Runs, sidecars: &Sidecars<'_>) -> Option<(Addressee, Arc<Plan>)> {
        let hosting = sidecars.hosting;
        let mut same = sidecars.all.iter().filter(|(hash, _)| *hash == runs.hash);
        same.find_map(|(hash, sidecar)| {
            let pod = hosting.contains_key(&sidecar.name).then(|| runs.pod.clone());
            let own = Addressee { account: runs.account.clone(), pod };
            let plan = || Plan::wrap(&sidecar.plan, hash.clone(), &sidecar.name, runs.suspend);
            self.addressees(sidecar, hosting).contains(&own).then(|| (own, Arc::new(plan())))
        })
    }
}
