//! Desired objects become real ones: the only door through which the cluster is changed.
//!
//! ```text
//! desired ─▶ settled before, and unchanged since? ──yes──▶ nothing to ask
//!               │ no
//!               ▼ GET
//!            not there ──▶ server-side apply, not forced: who came first keeps what is theirs
//!            another's ──▶ NameConflict: never touched
//!            ours, all as desired ──▶ settled, nothing written
//!            ours, otherwise ──▶ server-side apply, forced, of this very object
//! ```
//!
//! Every step can be repeated, and a crash between any two leaves something that the next pass completes.

use std::fmt;

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, Deployment, StatefulSet},
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};
use sidestream_desired::{FIELD_MANAGER, applied_hash, is_contained, labels};

use crate::observed::{Key, Observed, Seen, kind_of, of_dynamic};

/// The manager of what the operator used to say and does not say any more.
const HANDED_OVER: &str = "sidestream-operator-handed-over";

/// Applies.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    observed: Observed,
}

/// What was done about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is as it should be.
    Nothing,
    /// It was not there.
    Created,
    /// It was otherwise.
    Changed,
}

/// Why an object is not as desired.
#[derive(Debug)]
pub enum ApplyError {
    /// An object of that name is somebody else's.
    NameConflict {
        /// Kind and name.
        key: Key,
    },
    /// An object of a Pipeline that had this name before is still being removed.
    BeingRemoved {
        /// Kind and name.
        key: Key,
    },
    /// The API server refused.
    Kube {
        /// Kind and name.
        key: Key,
        /// What was asked: a verb.
        verb: &'static str,
        /// The refusal.
        source: Box<kube::Error>,
    },
}

impl Applier {
    /// Applies with `client` what differs from what was `observed`.
    pub fn new(client: Client, observed: Observed) -> Self {
        Self { client, observed }
    }

    /// Makes the object of that name as `desired`.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing was changed where the object is not ours.
    pub async fn apply(&self, group: &str, desired: &DynamicObject) -> Result<Done, ApplyError> {
        let key = key_of(desired);
        let hash = applied_hash(&desired.metadata).unwrap_or_default();
        if self.observed.is_settled(group, &key, hash) {
            return Ok(Done::Nothing);
        }
        let api = self.api(desired);
        let name = desired.name_any();
        let failed = |verb| {
            let key = key.clone();
            move |source: kube::Error| ApplyError::Kube { key, verb, source: Box::new(source) }
        };
        let Some(live) = api.get_opt(&name).await.map_err(failed("get"))? else {
            let applied = api.patch(&name, &params(false), &Patch::Apply(desired)).await;
            let applied = applied.map_err(|error| match error {
                // Somebody was faster with an object of that name.
                kube::Error::Api(status) if status.is_conflict() => {
                    ApplyError::NameConflict { key: key.clone() }
                }
                error => failed("create")(error),
            })?;
            tracing::info!(kind = key.0, name, group, "created");
            self.settled(group, key, &applied, hash);
            return Ok(Done::Created);
        };
        check_ours(desired, &live, &key)?;
        let is_as_desired =
            applied_hash(&live.metadata) == Some(hash) && is_contained(&to_value(desired), &to_value(&live));
        if is_as_desired {
            self.settled(group, key, &live, hash);
            return Ok(Done::Nothing);
        }
        if is_letting_go_of_replicas(desired, &live) {
            self.hand_over_replicas(&api, &live).await.map_err(failed("patch"))?;
        }
        // With its uid, this changes the object that was looked at and no other.
        let mut desired = desired.clone();
        desired.metadata.uid = live.metadata.uid;
        let applied =
            api.patch(&name, &params(true), &Patch::Apply(&desired)).await.map_err(failed("patch"))?;
        tracing::info!(kind = key.0, name, group, "changed");
        self.settled(group, key, &applied, hash);
        Ok(Done::Changed)
    }

    /// Removes what `owner` controls of the group and is not in `kept`: to be called when everything in it is applied.
    ///
    /// # Errors
    /// Where the API server refuses.
    pub async fn sweep(
        &self,
        group: &str,
        namespace: &str,
        owner: &str,
        kept: &[Key],
    ) -> Result<usize, ApplyError> {
        let mut removed = 0;
        for (key, seen) in self.observed.all(group) {
            if seen.owner.as_deref() == Some(owner) && !kept.contains(&key) {
                removed += usize::from(self.remove(group, namespace, key, &seen).await?);
            }
        }
        Ok(removed)
    }

    /// Removes an object, if it is still the one that was seen.
    async fn remove(&self, group: &str, namespace: &str, key: Key, seen: &Seen) -> Result<bool, ApplyError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource(key.0));
        let preconditions = Preconditions { uid: Some(seen.uid.clone()), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        let removed = match api.delete(&key.1, &params).await {
            Ok(_) => {
                tracing::info!(kind = key.0, name = key.1, group, "removed");
                true
            }
            // Gone, or another object by now.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => false,
            Err(source) => return Err(ApplyError::Kube { key, verb: "delete", source: Box::new(source) }),
        };
        self.observed.forget(group, &key);
        Ok(removed)
    }

    /// Keeps the number of pods as it is when the operator stops to say it: a field that loses its only manager falls back
    /// to its default, so it is given another one first.
    async fn hand_over_replicas(
        &self,
        api: &Api<DynamicObject>,
        live: &DynamicObject,
    ) -> Result<(), kube::Error> {
        let patch = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": live.name_any(), "uid": live.metadata.uid},
            "spec": {"replicas": live.data["spec"]["replicas"]},
        });
        let params = PatchParams::apply(HANDED_OVER).force();
        api.patch(&live.name_any(), &params, &Patch::Apply(&patch)).await.map(drop)
    }

    fn settled(&self, group: &str, key: Key, live: &DynamicObject, hash: &str) {
        let seen = of_dynamic(live);
        self.observed.settle(group, key.clone(), seen.fingerprint, hash);
        self.observed.remember(group, key, seen);
    }

    fn api(&self, object: &DynamicObject) -> Api<DynamicObject> {
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced_with(self.client.clone(), namespace, &resource(key_of(object).0))
    }
}

/// Kind and name of an object.
pub fn key_of(object: &DynamicObject) -> Key {
    (kind_of(object.types.as_ref().map_or("", |types| &types.kind)), object.name_any())
}

/// Ours is what the same Pipeline controls; of what has no owner, what wears our label.
fn check_ours(desired: &DynamicObject, live: &DynamicObject, key: &Key) -> Result<(), ApplyError> {
    let controller = |object: &DynamicObject| {
        let owners = object.metadata.owner_references.iter().flatten();
        owners.clone().find(|owner| owner.controller == Some(true)).cloned()
    };
    let manager = live.labels().get(labels::MANAGED_BY).map(String::as_str);
    match (controller(desired), controller(live)) {
        (Some(desired), Some(live)) if desired.uid == live.uid => Ok(()),
        (Some(desired), Some(live)) if desired.kind == live.kind && desired.name == live.name => {
            Err(ApplyError::BeingRemoved { key: key.clone() })
        }
        (None, None) if manager == Some(labels::MANAGER) => Ok(()),
        _ => Err(ApplyError::NameConflict { key: key.clone() }),
    }
}

/// Whether the operator says how many pods there are, and is about not to.
fn is_letting_go_of_replicas(desired: &DynamicObject, live: &DynamicObject) -> bool {
    let says = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && fields.is_some_and(|fields| fields.pointer("/f:spec/f:replicas").is_some())
    };
    key_of(desired).0 == "Deployment"
        && desired.data.pointer("/spec/replicas").is_none()
        && live.metadata.managed_fields.iter().flatten().any(says)
}

fn params(is_forced: bool) -> PatchParams {
    PatchParams { force: is_forced, ..PatchParams::apply(FIELD_MANAGER) }
}

fn to_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// How the API server calls a kind of ours.
fn resource(kind: &str) -> ApiResource {
    match kind {
        "Service" => ApiResource::erase::<Service>(&()),
        "ServiceAccount" => ApiResource::erase::<ServiceAccount>(&()),
        "NetworkPolicy" => ApiResource::erase::<NetworkPolicy>(&()),
        "PodDisruptionBudget" => ApiResource::erase::<PodDisruptionBudget>(&()),
        "ConfigMap" => ApiResource::erase::<ConfigMap>(&()),
        "Deployment" => ApiResource::erase::<Deployment>(&()),
        "StatefulSet" => ApiResource::erase::<StatefulSet>(&()),
        _ => ApiResource::erase::<ControllerRevision>(&()),
    }
}

impl ApplyError {
    /// Whether the object is not ours to change, be it for ever or for now.
    pub fn is_anothers(&self) -> bool {
        matches!(self, Self::NameConflict { .. } | Self::BeingRemoved { .. })
    }

    /// What it is called in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NameConflict { .. } => "name_conflict",
            Self::BeingRemoved { .. } => "being_removed",
            Self::Kube { verb, .. } => verb,
        }
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameConflict { key: (kind, name) } => write!(
                out,
                "{kind} `{name}` is somebody else's and is left alone; remove it, or give the pipeline another name"
            ),
            Self::BeingRemoved { key: (kind, name) } => {
                write!(out, "{kind} `{name}` of an earlier pipeline of this name is still being removed")
            }
            Self::Kube { key: (kind, name), verb, source } => {
                write!(out, "the API server refused to {verb} {kind} `{name}`: {source}")
            }
        }
    }
}

impl std::error::Error for ApplyError {}
