//! One look at one Pipeline: observe, desire, apply, and say how it is.
//!
//! ```text
//! spec ── compile ──▶ plans ──▶ revision kept ──▶ objects applied ──▶ plans published ──▶ rest swept ──▶ status
//!            │ errors
//!            └──▶ the plans of the last revision go on; the errors are in the status
//! ```
//!
//! It may be cut off anywhere and begun again: what is done is found done. It decides by what the API server holds, never
//! by what it did before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{ApiResource, DeserializeGuard, DynamicObject, error_boundary::InvalidObject},
    runtime::events::Recorder,
};
use serde_json::json;
use sidestream_control::Plan;
use sidestream_crds::{Diagnostic, Pipeline, PipelineStatus, SidecarPlan, compile, compile_resource, names};
use sidestream_desired::{
    FIELD_MANAGER, Facts, REVISIONS_KEPT, anchors, hash, objects, plan_hash, read_revision, revision,
    revision_name, sends, with_accounts, workload_kind,
};
use sidestream_host::{Clock, Moment};
use sidestream_plan::stage;
use tokio::sync::watch;

use super::{
    ReconcileError,
    backoff::Backoff,
    events, order,
    owners::{WORKLOADS, are_there, awaits_owners, has_owners, has_taken},
};
use crate::{
    apply::{Applier, ApplyError, key_of},
    control::{Account, Addressee, Fleet, Told},
    metrics::Metrics,
    observed::{Key, Observed},
    status::{Crew, Known, Part, Running, has_drained, is_heard, status, was_drained},
    trust::Roots,
    user_pods::{Hosting, UserPods},
};

/// How long after this replica began to lead a sidecar may not have connected to it yet.
pub(super) const EARLY: std::time::Duration = std::time::Duration::from_secs(60);

/// What a look needs.
pub struct Context {
    /// Asks.
    pub client: Client,
    /// Writes.
    pub applier: Applier,
    /// What is there.
    pub observed: Observed,
    /// The pods of the user's.
    pub user_pods: UserPods,
    /// What the sidecars say, and are told.
    pub fleet: Fleet,
    /// Whom to trust.
    pub roots: watch::Receiver<Arc<Roots>>,
    /// What objects say about the world.
    pub facts: Facts,
    /// Tells people.
    pub recorder: Recorder,
    /// What time it is.
    pub clock: Clock,
    /// When this replica began to lead.
    pub began: Moment,
    /// Counts.
    pub metrics: Metrics,
    /// How long to leave what fails alone.
    pub backoff: Backoff,
}

impl Context {
    /// The Pipeline of this name is gone, or going.
    pub(super) fn withdraw(&self, name: &str) {
        let has_pods = |(_, account): &Account| {
            WORKLOADS.into_iter().any(|kind| self.observed.get(name, &(kind, account.clone())).is_some())
        };
        self.fleet.withdraw(name, has_pods);
    }
}

/// Looks at one Pipeline. True: it may be left alone until something changes.
///
/// # Errors
/// Where something could not be asked or written; another look goes on from there.
pub async fn reconcile(
    pipeline: &DeserializeGuard<Pipeline>,
    context: &Context,
) -> Result<bool, ReconcileError> {
    let name = full_name(pipeline);
    if pipeline.meta().deletion_timestamp.is_some() {
        context.withdraw(&name);
        return Ok(true);
    }
    let (resource, sidecars, errors) = match &pipeline.0 {
        Ok(resource) => {
            let (compiled, found) = compile_resource(resource);
            (resource.clone(), compiled.sidecars, found)
        }
        Err(invalid) => read_invalid(invalid, &context.client).await?,
    };
    let errors: Vec<Diagnostic> = errors.into_iter().filter(Diagnostic::is_error).collect();
    let look = Look { context, resource: &resource, name };

    let running = if errors.is_empty() { Some(sidecars) } else { look.last_good().await? };
    let team = running.map(|sidecars| look.team(sidecars));
    let applied = match &team {
        Some(team) => look.apply(team).await?,
        None => {
            look.context.fleet.publish(&look.name, vec![]);
            None
        }
    };
    let is_settled = applied.is_none();
    look.say(&errors, team.as_ref(), applied).await?;
    Ok(is_settled)
}

/// `namespace/name`.
pub(super) fn full_name(pipeline: &DeserializeGuard<Pipeline>) -> String {
    format!("{}/{}", pipeline.namespace().unwrap_or_default(), pipeline.name_any())
}

/// A resource that the API server takes and that is none to us: what is wrong with it is found in its text.
async fn read_invalid(
    invalid: &InvalidObject,
    client: &Client,
) -> Result<(Pipeline, Vec<SidecarPlan>, Vec<Diagnostic>), ReconcileError> {
    let mut resource =
        Pipeline { metadata: invalid.metadata.clone(), spec: Default::default(), status: None };
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &namespace, &ApiResource::erase::<Pipeline>(&()));
    let mut object = api.get(&resource.name_any()).await.map_err(ReconcileError::read)?;
    object.metadata.managed_fields = None;
    // What is suspended stays so, whatever else is wrong.
    resource.spec.suspend = object.data["spec"]["suspend"].as_bool();
    let status = object.data.as_object_mut().and_then(|fields| fields.remove("status"));
    resource.status = status.and_then(|status| serde_json::from_value(status).ok());
    let text = serde_json::to_vec(&object).unwrap_or_default();
    let mut found = compile(&text, "").diagnostics;
    for diagnostic in &mut found {
        (diagnostic.file, diagnostic.place) = (None, None);
    }
    Ok((resource, Vec::new(), found))
}

/// The sidecars, and where they run at this moment.
struct Team {
    /// As they were compiled.
    sidecars: Vec<SidecarPlan>,
    /// The same as they are told: with whom the user's pods run as.
    told: Vec<SidecarPlan>,
    /// The user's pods that host some of them.
    hosting: Hosting,
}

/// One look.
struct Look<'a> {
    context: &'a Context,
    resource: &'a Pipeline,
    /// `namespace/name`.
    name: String,
}

impl Look<'_> {
    /// The plans of the newest revision; none where there is none that this program understands.
    async fn last_good(&self) -> Result<Option<Vec<SidecarPlan>>, ReconcileError> {
        let newest = self.revisions().into_iter().max_by_key(|(_, number)| *number);
        let Some(((_, name), _)) = newest else { return Ok(None) };
        let api: Api<ControllerRevision> =
            Api::namespaced(self.context.client.clone(), &self.resource.namespace().unwrap_or_default());
        let revision = api.get_opt(&name).await.map_err(ReconcileError::read)?;
        Ok(revision.as_ref().and_then(read_revision))
    }

    /// Its revisions that have been seen, with their numbers.
    fn revisions(&self) -> Vec<(Key, i64)> {
        let uid = self.resource.uid();
        let all = self.context.observed.all(&self.name).into_iter();
        all.filter(|(key, seen)| key.0 == "ControllerRevision" && seen.owner == uid)
            .map(|(key, seen)| (key, seen.revision))
            .collect()
    }

    fn team(&self, sidecars: Vec<SidecarPlan>) -> Team {
        let namespace = self.resource.namespace().unwrap_or_default();
        let hosting = self.context.user_pods.hosting(&namespace, &sidecars);
        let accounts = sidecars.iter().filter_map(|own| {
            let pods = hosting.get(&own.name)?.iter().filter(|pod| pod.runs(&own.plan));
            // What leaves still delivers what it has; but nothing new is sent where only that is.
            let all: BTreeSet<_> = pods.map(|pod| (pod.is_leaving, &pod.account)).collect();
            let mut accounts: Vec<stage::Account> = Vec::new();
            for (_, name) in all {
                if accounts.iter().all(|known| known.name != *name) {
                    accounts.push(stage::Account { namespace: namespace.clone(), name: name.clone() });
                }
            }
            Some((own.name.clone(), accounts))
        });
        let accounts: BTreeMap<_, _> = accounts.collect();
        Team { told: with_accounts(&sidecars, &accounts), sidecars, hosting }
    }

    /// Makes the cluster run the sidecars, and tells them their plans. Gives back an object that is somebody else's.
    async fn apply(&self, team: &Team) -> Result<Option<ApplyError>, ReconcileError> {
        let Context { applier, fleet, facts, roots, .. } = self.context;
        let sidecars = &team.sidecars;
        let namespace = self.resource.namespace().unwrap_or_default();
        let trust = {
            let roots = roots.borrow();
            anchors(&namespace, &roots.anchors.to_pem(), roots.phase().name())
        };
        let (mut conflict, mut failure) = (None, None);
        let shared = async {
            applier.apply(&format!("{namespace}/"), &trust).await?;
            self.keep_revision(sidecars).await
        };
        let mut kept = match shared.await {
            Ok(kept) => kept,
            Err(error) if error.is_anothers() => {
                conflict = Some(error);
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        for sidecar in sidecars {
            for object in objects(self.resource, sidecar, sidecars, facts) {
                kept.push(key_of(&object));
                // Nothing is made that would lean on what is somebody else's.
                if conflict.is_some() {
                    continue;
                }
                match applier.apply(&self.name, &object).await {
                    Ok(_) => {}
                    Err(error) if error.is_anothers() => conflict = Some(error),
                    Err(error) => drop(failure.get_or_insert(error)),
                }
            }
        }
        // What runs goes on, whatever the API server refuses now.
        let (mut plans, mut held) = (Vec::new(), BTreeSet::new());
        for sidecar in &team.told {
            let addressees = self.addressees(sidecar, &team.hosting);
            match self.is_to_stop(sidecar, team) {
                Some(is_to_stop) => {
                    let new = Arc::new(self.plan(sidecar, is_to_stop));
                    let waits = !is_to_stop && self.waits(sidecar, team);
                    for own in addressees {
                        let old = fleet.plan(&own, &self.name).filter(|_| !is_to_stop);
                        if waits || !is_to_stop && self.awaits_owners(sidecar, old.as_deref()) {
                            plans.push((own, old.unwrap_or_else(|| new.clone())));
                        } else {
                            plans.push((own, new.clone()));
                        }
                    }
                }
                None => held.extend(addressees),
            }
        }
        fleet.publish_and_hold(&self.name, plans, held);
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        let parts: Vec<Part<'_>> = team.told.iter().map(|sidecar| self.part(sidecar, team)).collect();
        kept.extend(parts.iter().filter_map(|part| self.replaced(part, team, &parts)));
        if conflict.is_none() {
            applier.sweep(&self.name, &namespace, &self.resource.uid().unwrap_or_default(), &kept).await?;
        }
        Ok(conflict)
    }

    /// Whom the plan of a sidecar is for: the pods of the account that was made for it, or the user's pods that host it.
    fn addressees(&self, sidecar: &SidecarPlan, hosting: &Hosting) -> Vec<Addressee> {
        let namespace = self.resource.namespace().unwrap_or_default();
        match hosting.get(&sidecar.name) {
            Some(pods) => (pods.iter().filter(|pod| pod.runs(&sidecar.plan)))
                .map(|pod| Addressee {
                    account: (namespace.clone(), pod.account.clone()),
                    pod: Some(pod.name.clone()),
                })
                .collect(),
            None if self.is_ours(sidecar) => vec![Addressee { account: self.account(sidecar), pod: None }],
            None => vec![],
        }
    }

    /// Whether the account of a sidecar was made by us: a plan is for nobody else.
    fn is_ours(&self, sidecar: &SidecarPlan) -> bool {
        let key = ("ServiceAccount", self.account(sidecar).1);
        let seen = self.context.observed.get(&self.name, &key);
        seen.is_some_and(|seen| seen.owner.is_some() && seen.owner == self.resource.uid())
    }

    /// Keeps `sidecars` as the newest revision, and says which revisions stay.
    async fn keep_revision(&self, sidecars: &[SidecarPlan]) -> Result<Vec<Key>, ApplyError> {
        let name = revision_name(&self.resource.name_any(), &hash(sidecars));
        let mut revisions = self.revisions();
        let last = revisions.iter().map(|(_, number)| *number).max().unwrap_or_default();
        let own = revisions.iter().find(|((_, other), _)| *other == name).map(|(_, number)| *number);
        let number = own.filter(|number| *number == last).unwrap_or(last + 1);
        let desired = revision(self.resource, sidecars, number);
        self.context.applier.apply(&self.name, &desired).await?;
        revisions.retain(|((_, other), _)| *other != name);
        revisions.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        let before = revisions.into_iter().map(|(key, _)| key).take(REVISIONS_KEPT - 1);
        Ok(before.chain([key_of(&desired)]).collect())
    }

    fn plan(&self, sidecar: &SidecarPlan, is_to_stop: bool) -> Plan {
        Plan::wrap(&sidecar.plan, plan_hash(&sidecar.plan), &sidecar.name, is_to_stop)
    }

    /// Whether a sidecar of a suspended pipeline is to stop: what only receives goes on until those that send to it have
    /// drained, or what they have in flight would have nowhere to go. Once it has been told to, nothing starts it again
    /// before the pipeline goes on: nothing can be on its way to it, whoever is not connected at the moment.
    ///
    /// None where that is not known yet: a new leader has not heard of those that send to it, which may have drained long
    /// ago.
    fn is_to_stop(&self, sidecar: &SidecarPlan, team: &Team) -> Option<bool> {
        if !self.is_suspended() {
            return Some(false);
        }
        let generation = self.resource.metadata.generation;
        let told = self.told(sidecar, team);
        if order::has_sources(sidecar)
            || told.is_to_stop
            || was_drained(self.resource.status.as_ref(), generation, &hash(&team.sidecars))
        {
            return Some(true);
        }
        let senders = || {
            let all = team.told.iter().filter(|other| sends(other, sidecar));
            all.map(|sender| self.part(sender, team))
        };
        if senders().all(|sender| has_drained(&sender)) {
            return Some(true);
        }
        let is_known = told.is_anything || !self.is_early() || senders().all(|sender| is_heard(&sender));
        is_known.then_some(false)
    }

    /// Whether a sidecar goes on with the plan it has: one that sends to it has not taken the new one yet.
    fn waits(&self, sidecar: &SidecarPlan, team: &Team) -> bool {
        order::before(sidecar, &team.told).any(|sender| {
            let said = self.part(sender, team).said;
            said.connected > said.applied && said.refused.is_none()
        })
    }

    /// Whether a sidecar goes on with `old`, the plan it has: some who are to own what it sends are not there yet.
    fn awaits_owners(&self, sidecar: &SidecarPlan, old: Option<&Plan>) -> bool {
        let old = old.filter(|_| has_owners(&sidecar.plan)).and_then(|old| old.unwrap().ok());
        let Some(old) = old else { return false };
        awaits_owners(&sidecar.plan, &old, |receiver| {
            Some(self.context.observed.get(&self.name, &("StatefulSet", receiver.name.clone()))?.pods)
        })
    }

    /// The workload that a sidecar had before it had one of another kind: it stays until those that come after it are there,
    /// and all that send to them know it.
    fn replaced(&self, part: &Part<'_>, team: &Team, parts: &[Part<'_>]) -> Option<Key> {
        let (observed, sidecar) = (&self.context.observed, part.sidecar);
        let Crew::Made(pods) = part.crew else { return None };
        let own = workload_kind(sidecar, &team.told);
        let before = WORKLOADS.into_iter().find(|kind| *kind != own)?;
        let key = (before, self.account(sidecar).1);
        let seen = observed.get(&self.name, &key)?;
        let mut senders = parts.iter().filter(|part| sends(part.sidecar, sidecar));
        let is_replaced = pods.is_some_and(are_there) && senders.all(has_taken);
        (seen.owner == self.resource.uid() && !is_replaced).then_some(key)
    }

    /// What a sidecar has been told by this leader.
    fn told(&self, sidecar: &SidecarPlan, team: &Team) -> Told {
        let addressees = self.addressees(sidecar, &team.hosting);
        self.context.fleet.told(&addressees, &self.name, &sidecar.name, &plan_hash(&sidecar.plan))
    }

    /// Whether the sidecars may not have had the time to connect to this replica yet.
    fn is_early(&self) -> bool {
        self.context.clock.now().since(self.context.began) < EARLY
    }

    /// Whom the pods that are made for a sidecar run as.
    fn account(&self, sidecar: &SidecarPlan) -> Account {
        let namespace = self.resource.namespace().unwrap_or_default();
        let account = names::account(&namespace, &self.resource.name_any(), &sidecar.name);
        (account.namespace, account.name)
    }

    fn is_suspended(&self) -> bool {
        self.resource.spec.suspend == Some(true)
    }

    /// Writes the status and tells people, where there is something new.
    async fn say(
        &self,
        errors: &[Diagnostic],
        team: Option<&Team>,
        conflict: Option<ApplyError>,
    ) -> Result<(), ReconcileError> {
        let clock = &self.context.clock;
        let hash = team.map(|team| hash(&team.sidecars)).unwrap_or_default();
        let running = team.map(|team| Running {
            hash: &hash,
            is_suspended: self.is_suspended(),
            sidecars: team.told.iter().map(|sidecar| self.part(sidecar, team)).collect(),
        });
        let known = Known {
            generation: self.resource.metadata.generation,
            errors,
            running,
            conflict: conflict.map(|error| error.to_string()),
            is_early: self.is_early(),
        };
        let before = self.resource.status.as_ref();
        let new = status(&known, before, events::now(clock));
        if before == Some(&new) {
            return Ok(());
        }
        tracing::debug!(pipeline = self.name, ?new, ?before, "the status is new");
        // First the event: what is told twice is better than what is never told.
        events::tell(&self.context.recorder, self.resource, before, &new).await;
        self.write(&new).await
    }

    /// How a sidecar is.
    fn part<'a>(&self, sidecar: &'a SidecarPlan, team: &'a Team) -> Part<'a> {
        let Context { observed, fleet, .. } = self.context;
        let crew = match team.hosting.get(&sidecar.name) {
            Some(pods) => Crew::Users(pods),
            None => {
                let workload = (workload_kind(sidecar, &team.told), self.account(sidecar).1);
                Crew::Made(observed.get(&self.name, &workload).map(|seen| seen.pods))
            }
        };
        let addressees = match &crew {
            Crew::Users(_) => self.addressees(sidecar, &team.hosting),
            Crew::Made(_) => vec![Addressee { account: self.account(sidecar), pod: None }],
        };
        let said = fleet.acknowledged(&addressees, &self.name, &plan_hash(&sidecar.plan));
        Part { sidecar, crew, said }
    }

    async fn write(&self, status: &PipelineStatus) -> Result<(), ReconcileError> {
        let resource = ApiResource::erase::<Pipeline>(&());
        let namespace = self.resource.namespace().unwrap_or_default();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &namespace, &resource);
        // With its uid, a new Pipeline of this name is not given the old one's status.
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": self.resource.name_any(), "uid": self.resource.uid()},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&self.resource.name_any(), &params, &Patch::Apply(&patch)).await {
            Ok(_) => Ok(()),
            // It is gone, or another by now.
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
            Err(error) => Err(ReconcileError::Status(Box::new(error))),
        }
    }
}
