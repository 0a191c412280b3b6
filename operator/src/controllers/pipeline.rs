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

use std::sync::Arc;

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
    revision_name,
};
use sidestream_host::{Clock, Moment};
use tokio::sync::watch;

use super::{ReconcileError, backoff::Backoff, events};
use crate::{
    apply::{Applier, ApplyError, key_of},
    control::{Account, Fleet},
    metrics::Metrics,
    observed::{Key, Observed},
    status::{Known, Running, status},
    trust::Roots,
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
        context.fleet.withdraw(&name);
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
    let applied = match &running {
        Some(sidecars) => look.apply(sidecars).await?,
        None => {
            look.context.fleet.publish(&look.name, vec![]);
            None
        }
    };
    let is_settled = applied.is_none();
    look.say(&errors, running.as_deref(), applied).await?;
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

    /// Makes the cluster run `sidecars`, and tells them their plans. Gives back an object that is somebody else's.
    async fn apply(&self, sidecars: &[SidecarPlan]) -> Result<Option<ApplyError>, ReconcileError> {
        let Context { applier, fleet, facts, roots, .. } = self.context;
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
        let plans = sidecars.iter().filter(|sidecar| self.is_ours(sidecar)).map(|sidecar| self.plan(sidecar));
        fleet.publish(&self.name, plans.collect());
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        if conflict.is_none() {
            applier.sweep(&self.name, &namespace, &self.resource.uid().unwrap_or_default(), &kept).await?;
        }
        Ok(conflict)
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

    fn plan(&self, sidecar: &SidecarPlan) -> (Account, Plan) {
        (
            self.account(sidecar),
            Plan::wrap(&sidecar.plan, plan_hash(&sidecar.plan), &sidecar.name, self.is_suspended()),
        )
    }

    /// Whom the pods of a sidecar run as.
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
        running: Option<&[SidecarPlan]>,
        conflict: Option<ApplyError>,
    ) -> Result<(), ReconcileError> {
        let Context { observed, fleet, clock, .. } = self.context;
        let known_of = |sidecar: &SidecarPlan| {
            let account = self.account(sidecar);
            let pods = observed.get(&self.name, &("Deployment", account.1.clone())).map(|seen| seen.pods);
            (pods, fleet.acknowledged(&account, &self.name, &plan_hash(&sidecar.plan)))
        };
        let hash = running.map(hash).unwrap_or_default();
        let running = running.map(|sidecars| Running {
            hash: &hash,
            is_suspended: self.is_suspended(),
            sidecars: sidecars
                .iter()
                .map(|sidecar| {
                    let (pods, told) = known_of(sidecar);
                    (sidecar, pods, told)
                })
                .collect(),
        });
        let known = Known {
            generation: self.resource.metadata.generation,
            errors,
            running,
            conflict: conflict.map(|error| error.to_string()),
            is_early: clock.now().since(self.context.began) < EARLY,
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
