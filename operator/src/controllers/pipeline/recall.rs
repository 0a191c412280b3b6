//! What the sidecars of a pipeline run that a new leader has told nothing yet, found among the revisions that are kept.
//!
//! What it says it runs by the name of its content is what it was told: from then on it is followed as if this leader had told
//! it that. What an earlier leader told for a while only, with edges beside that leave, is in no revision and not found.

use std::sync::Arc;

use sidestream_control::{Plan, Suspend};
use sidestream_crds::SidecarPlan;
use sidestream_desired::plan_hash;

use super::{Hosting, Look, ReconcileError};
use crate::control::{Addressee, Runs};

impl Look<'_> {
    /// Has the fleet know what was told to those that run something else than their part of `new`, hosted by these pods. What
    /// is suspended is left alone: it would be told to run.
    pub(super) async fn recall(&self, new: &[SidecarPlan], hosting: &Hosting) -> Result<(), ReconcileError> {
        if !self.is_early() || self.is_suspended() {
            return Ok(());
        }
        let fleet = &self.context.fleet;
        let mut unknown = fleet.untold(&self.name);
        unknown.retain(|runs| self.told_by(runs, new, hosting).is_none());
        let mut revisions = self.revisions();
        revisions.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        for (revision, _) in revisions {
            if unknown.is_empty() {
                break;
            }
            let Some(sidecars) = self.kept(&revision).await? else { continue };
            let (sidecars, hosting) = self.with_hosts(&sidecars);
            unknown.retain(|runs| {
                let told = self.told_by(runs, &sidecars, &hosting);
                told.map(|(own, plan)| fleet.recall(&self.name, own, plan)).is_none()
            });
        }
        Ok(())
    }

    /// What one that runs something was told when these were the sidecars, in these pods; none where it ran none of them.
    fn told_by(
        &self,
        runs: &Runs,
        sidecars: &[SidecarPlan],
        hosting: &Hosting,
    ) -> Option<(Addressee, Arc<Plan>)> {
        let account = runs.account.clone();
        let mut sidecars = sidecars.iter().filter(|own| plan_hash(&own.plan) == runs.hash);
        sidecars.find_map(|sidecar| {
            let pod = hosting.contains_key(&sidecar.name).then(|| runs.pod.clone());
            let own = Addressee { account: account.clone(), pod };
            let plan = || Plan::wrap(&sidecar.plan, runs.hash.clone(), &sidecar.name, Suspend::Run);
            self.addressees(sidecar, hosting).contains(&own).then(|| (own, Arc::new(plan())))
        })
    }
}
