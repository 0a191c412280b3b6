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
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{ApiResource, DeserializeGuard, DynamicObject, error_boundary::InvalidObject},
    runtime::events::Recorder,
};
use serde_json::json;
use sidestream_crds::{Diagnostic, Pipeline, PipelineStatus, SidecarPlan, compile, compile_resource, names};
use sidestream_desired::{
    FIELD_MANAGER, Facts, REVISIONS_KEPT, anchors, hash, objects, plan_hash, read_revision, revision,
    revision_name, sends, with_accounts, with_senders, workload_kind,
};
use sidestream_host::{Clock, Moment};
use sidestream_plan::stage;
use tokio::sync::watch;

mod parting;
mod recall;
mod told;

use super::{
    ReconcileError,
    backoff::Backoff,
    events,
    owners::{WORKLOADS, are_there, has_taken},
};
use crate::{
    apply::{Applier, ApplyError, key_of},
    control::{Account, Addressee, Fleet},
    metrics::Metrics,
    observed::{Key, Observed},
    status::{Crew, Known, Part, Running, status},
    trust::Roots,
    user_pods::{Hosting, UserPods},
};

/// How long after this replica began to lead a sidecar may not have connected to it yet.
pub(super) const EARLY: std::time::Duration = std::time::Duration::from_secs(60);

/// The conditions whose changes people are told of.
const CONDITIONS: [&str; 4] = ["Accepted", "ResolvedRefs", "Ready", "Drained"];

/// How long sidecars in pods of the user's have to stop a pipeline that is gone along its edges: as long as a pod has to end,
/// and as long again.
const FAREWELL_MAX: std::time::Duration = std::time::Duration::from_secs(60);

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
    /// Sidecars that go on with the plan they have for the sake of their senders: until when.
    pub holds: Mutex<HashMap<(String, Addressee), Moment>>,
    /// Sidecars that a pipeline has no more, and that part: until when.
    pub partings: Mutex<HashMap<(String, Addressee), Moment>>,
    /// The pipelines that are gone and still run in pods of the user's: until when.
    pub going: Mutex<HashMap<String, Moment>>,
}

impl Context {
    /// How many pods run as an account that was made for the pipeline `name`; none where nothing makes any.
    fn pods_of(&self, name: &str, (_, account): &Account) -> Option<usize> {
        let workloads =
            WORKLOADS.into_iter().filter_map(|kind| self.observed.get(name, &(kind, account.clone())));
        workloads
            .map(|seen| usize::try_from(seen.pods.all).unwrap_or_default())
            .reduce(|sum, more| sum + more)
    }

    /// The Pipeline of this name is gone, or going. Those that run it in pods of the user's have a while to stop in order.
    pub(super) fn withdraw(&self, name: &str) {
        lock(&self.holds).retain(|(pipeline, _), _| pipeline != name);
        lock(&self.partings).retain(|(pipeline, _), _| pipeline != name);
        let now = self.clock.now();
        let (until, is_first) = {
            let mut going = lock(&self.going);
            let is_first = !going.contains_key(name);
            (*going.entry(name.to_owned()).or_insert(now + FAREWELL_MAX), is_first)
        };
        if !self.fleet.withdraw(name, |account| self.pods_of(name, account), now >= until) {
            lock(&self.going).remove(name);
        } else if is_first {
            let (fleet, name) = (self.fleet.clone(), name.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(FAREWELL_MAX).await;
                fleet.stir(&name);
            });
        }
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
    lock(&context.going).remove(&name);
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
    let team = match running {
        Some(sidecars) => Some(look.team(sidecars).await?),
        None => None,
    };
    let (conflict, parts) = match &team {
        Some(team) => look.apply(team).await?,
        None => {
            look.context.fleet.publish(&look.name, vec![]);
            (None, Vec::new())
        }
    };
    let is_settled = conflict.is_none();
    look.say(&errors, team.as_ref().map(|team| (team, parts)), conflict).await?;
    Ok(is_settled)
}

fn lock<T>(own: &Mutex<T>) -> MutexGuard<'_, T> {
    own.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// The same as they are told: with whom the user's pods run as, and those that part.
    told: Vec<SidecarPlan>,
    /// The user's pods that host some of them.
    hosting: Hosting,
    /// Those that run a part of an earlier plan that this one has no more.
    going: parting::Going,
    /// Whom those run as that have said what they run, which is in no revision.
    not_found: BTreeSet<Account>,
    /// This leader has told nobody anything of the pipeline yet.
    is_first: bool,
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
        match self.revisions().into_iter().max_by_key(|(_, number)| *number) {
            Some((key, _)) => self.kept(&key).await,
            None => Ok(None),
        }
    }

    /// The plans of a revision; none where it is gone, or this program does not understand it.
    async fn kept(&self, (_, name): &Key) -> Result<Option<Vec<SidecarPlan>>, ReconcileError> {
        let api: Api<ControllerRevision> = Api::namespaced(self.context.client.clone(), &self.namespace());
        let revision = api.get_opt(name).await.map_err(ReconcileError::read)?;
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

    async fn team(&self, sidecars: Vec<SidecarPlan>) -> Result<Team, ReconcileError> {
        let (known, hosting) = self.with_hosts(&sidecars);
        let is_first = !self.context.fleet.is_published(&self.name);
        let stay = known.iter().flat_map(|own| self.addressees(own, &hosting)).collect();
        let not_found = self.recall(&known, &hosting, &stay).await?;
        let made = known.iter().filter(|own| !hosting.contains_key(&own.name)).map(|own| self.account(own));
        let names: Vec<&str> = known.iter().map(|own| own.name.as_str()).collect();
        let going = self.going(&stay, &made.collect(), &names);
        Ok(Team {
            told: with_senders(known, &parting::senders(&going)),
            sidecars,
            hosting,
            going,
            not_found,
            is_first,
        })
    }

    /// The sidecars with whom the user's pods run as, and these pods.
    fn with_hosts(&self, sidecars: &[SidecarPlan]) -> (Vec<SidecarPlan>, Hosting) {
        let namespace = self.namespace();
        let hosting = self.context.user_pods.hosting(&namespace, sidecars);
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
        (with_accounts(sidecars, &accounts), hosting)
    }

    /// Makes the cluster run the sidecars, and tells them their plans. Gives back an object that is somebody else's, and how
    /// the sidecars are.
    async fn apply<'t>(&self, team: &'t Team) -> Result<(Option<ApplyError>, Vec<Part<'t>>), ReconcileError> {
        let Context { applier, fleet, facts, roots, .. } = self.context;
        let sidecars = &team.sidecars;
        let namespace = self.namespace();
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
        // Those that part may still send.
        let all = match team.going.is_empty() {
            true => Cow::Borrowed(&sidecars[..]),
            false => Cow::Owned([&sidecars[..], &parting::sidecars(&team.going)].concat()),
        };
        for sidecar in sidecars {
            for object in objects(self.resource, sidecar, &all, facts) {
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
        let parts: Vec<Part<'_>> = team.told.iter().map(|sidecar| self.part(sidecar, team)).collect();
        let (mut plans, mut held) = self.plans(team, &parts);
        let partings = self.partings(team, &parts);
        plans.extend(partings.plans);
        held.extend(partings.held);
        kept.extend(partings.kept);
        fleet.publish_and_hold(&self.name, plans, held);
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        kept.extend(parts.iter().filter_map(|part| self.replaced(part, team, &parts)));
        if conflict.is_none() {
            applier.sweep(&self.name, &namespace, &self.resource.uid().unwrap_or_default(), &kept).await?;
        }
        Ok((conflict, parts))
    }

    /// Whom the plan of a sidecar is for: the pods of the account that was made for it, or the user's pods that host it.
    fn addressees(&self, sidecar: &SidecarPlan, hosting: &Hosting) -> Vec<Addressee> {
        let namespace = self.namespace();
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

    /// Whether the sidecars may not have had the time to connect to this replica yet.
    fn is_early(&self) -> bool {
        self.context.clock.now().since(self.context.began) < EARLY
    }

    /// Whom the pods that are made for a sidecar run as.
    fn account(&self, sidecar: &SidecarPlan) -> Account {
        let namespace = self.namespace();
        let account = names::account(&namespace, &self.resource.name_any(), &sidecar.name);
        (account.namespace, account.name)
    }

    fn namespace(&self) -> String {
        self.resource.namespace().unwrap_or_default()
    }

    fn uid(&self) -> Option<String> {
        self.resource.uid()
    }

    fn is_suspended(&self) -> bool {
        self.resource.spec.suspend == Some(true)
    }

    /// Writes the status and tells people, where there is something new.
    async fn say(
        &self,
        errors: &[Diagnostic],
        running: Option<(&Team, Vec<Part<'_>>)>,
        conflict: Option<ApplyError>,
    ) -> Result<(), ReconcileError> {
        let clock = &self.context.clock;
        let hash = running.as_ref().map(|(team, _)| hash(&team.sidecars)).unwrap_or_default();
        let running = running.map(|(team, sidecars)| Running {
            hash: &hash,
            is_suspended: self.is_suspended(),
            parting: self.parting(team),
            sidecars,
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
        let was = before.map_or(&[][..], |before| &before.conditions);
        let whose = self.resource.object_ref(&());
        events::tell(&self.context.recorder, &whose, &CONDITIONS, was, &new.conditions).await;
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
        let namespace = self.namespace();
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
