//! What is on the cluster of what the operator makes: as little of each object as decisions need.
//!
//! One watch for each kind feeds it; what changes stirs the Pipeline it belongs to. An object that was settled, which is
//! found to be as it should, is not looked at again before it changes: an idle cluster costs no request. Nothing is
//! created or overwritten on the word of this memory alone, which may lag: [`crate::apply`] asks the API server first.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment, StatefulSet},
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use sidestream_desired::{Claim, TRUST_CONFIG_MAP, labels};
use tokio::sync::watch;

use crate::{control::Account, stirred::Stirred};

/// Objects of a list the server sends at once: what is not kept should not pile up.
pub(crate) const PAGE: u32 = 100;

/// An object: its kind and name.
pub type Key = (&'static str, String);

/// What is remembered of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Its identity.
    pub uid: String,
    /// The resource version, as a number: a larger one is newer (Kubernetes enhancement 5504). Zero where it is none.
    pub version: u64,
    /// The identity of the object that controls it; none where there is none.
    pub owner: Option<String>,
    /// Changes when what we care about may have changed.
    pub fingerprint: u64,
    /// Of a ControllerRevision: its number.
    pub revision: i64,
    /// Of a Deployment or a StatefulSet: how its pods are.
    pub pods: Pods,
    /// Of a StatefulSet whose pods have volumes: what they ask for.
    pub claim: Option<Claim>,
}

/// How the pods of a workload are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// How many there should be.
    pub wanted: i32,
    /// How many are of the newest template.
    pub updated: i32,
    /// How many of all are ready.
    pub ready: i32,
    /// How many there are.
    pub all: i32,
    /// Whether the figures are about the newest specification.
    pub is_current: bool,
}

/// The memory. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    inner: Arc<Mutex<Inner>>,
    stirred: Stirred,
    /// The groups that are pools.
    stirred_pools: Stirred,
}

#[derive(Debug, Default)]
struct Inner {
    /// By `namespace/pipeline`, those of a pool by [`group_of_pool`]; the shared objects of a namespace are under
    /// `namespace/`.
    objects: HashMap<String, BTreeMap<Key, Seen>>,
    /// The fingerprint at which an object was found to be as this hash of what is desired says.
    settled: HashMap<String, BTreeMap<Key, (u64, String)>>,
}

impl Observed {
    /// Watches every kind until dropped; `ready` becomes true when everything there is has been seen.
    pub async fn watch(self, client: Client, ready: watch::Sender<bool>) {
        let done = Arc::new(tokio::sync::Barrier::new(9));
        tokio::join!(
            self.watch_metadata::<Service>(&client, &done),
            self.watch_metadata::<ServiceAccount>(&client, &done),
            self.watch_metadata::<NetworkPolicy>(&client, &done),
            self.watch_metadata::<PodDisruptionBudget>(&client, &done),
            self.watch_metadata::<ConfigMap>(&client, &done),
            self.watch_kind(Api::<Deployment>::all(client.clone()), "Deployment", &done, of_deployment),
            self.watch_kind(Api::<StatefulSet>::all(client.clone()), "StatefulSet", &done, of_stateful_set),
            self.watch_kind(
                Api::<ControllerRevision>::all(client.clone()),
                "ControllerRevision",
                &done,
                of_revision
            ),
            async {
                done.wait().await;
                ready.send_replace(true);
            },
        );
    }

    async fn watch_metadata<K>(&self, client: &Client, done: &tokio::sync::Barrier)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::all(client.clone());
        let kind = kind_of(&K::kind(&()));
        self.watch_kind(api, kind, done, |object| of_metadata(object.meta())).await;
    }

    async fn watch_kind<K>(
        &self,
        api: Api<K>,
        kind: &'static str,
        done: &tokio::sync::Barrier,
        seen: impl Fn(&K) -> Seen,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let selector = format!("{}={}", labels::MANAGED_BY, labels::MANAGER);
        let mut config =
            watcher::Config { page_size: Some(PAGE), ..watcher::Config::default().labels(&selector) };
        // The one ConfigMap it may see: the right to list names it.
        if kind == "ConfigMap" {
            config = config.fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
        }
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        // A new list replaces what was known: what is not in it is gone.
        let mut listed: Option<Vec<(String, Key)>> = None;
        let mut is_first = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed = Some(Vec::new()),
                Ok(watcher::Event::InitApply(object)) => {
                    let (group, key) = self.note(kind, &object, &seen);
                    listed.get_or_insert_default().push((group, key));
                }
                Ok(watcher::Event::InitDone) => {
                    self.keep_only(kind, listed.take().unwrap_or_default());
                    if std::mem::take(&mut is_first) {
                        done.wait().await;
                    }
                }
                Ok(watcher::Event::Apply(object)) => drop(self.note(kind, &object, &seen)),
                Ok(watcher::Event::Delete(object)) => {
                    self.forget(&group_of(object.meta()), &(kind, object.name_any()))
                }
                Err(error) => tracing::warn!(%error, kind, "cannot be watched now"),
            }
        }
    }

    fn note<K: Resource<DynamicType = ()>>(
        &self,
        kind: &'static str,
        object: &K,
        seen: impl Fn(&K) -> Seen,
    ) -> (String, Key) {
        let (group, key) = (group_of(object.meta()), (kind, object.name_any()));
        self.remember(&group, key.clone(), seen(object));
        (group, key)
    }

    /// This is how the object is, unless something newer is known: answers and watches overtake each other.
    pub fn remember(&self, group: &str, key: Key, seen: Seen) {
        let mut inner = self.lock();
        let known = inner.objects.entry(group.to_owned()).or_default();
        let before = known.get(&key).cloned().unwrap_or_default();
        if before.uid == seen.uid && seen.version < before.version {
            return;
        }
        let is_news = before != Seen { version: before.version, ..seen.clone() };
        known.insert(key, seen);
        drop(inner);
        if is_news {
            self.stir(group);
        }
    }

    /// The object is gone.
    pub fn forget(&self, group: &str, key: &Key) {
        let mut inner = self.lock();
        let Inner { objects, settled } = &mut *inner;
        let was_known = objects.get_mut(group).is_some_and(|objects| objects.remove(key).is_some());
        settled.get_mut(group).map(|settled| settled.remove(key));
        if objects.get(group).is_some_and(BTreeMap::is_empty) {
            objects.remove(group);
        }
        if settled.get(group).is_some_and(BTreeMap::is_empty) {
            settled.remove(group);
        }
        drop(inner);
        if was_known {
            self.stir(group);
        }
    }

    fn keep_only(&self, kind: &'static str, listed: Vec<(String, Key)>) {
        let listed: std::collections::HashSet<(String, Key)> = listed.into_iter().collect();
        let gone: Vec<(String, Key)> = (self.lock().objects.iter())
            .flat_map(|(group, objects)| objects.keys().map(move |key| (group.clone(), key.clone())))
            .filter(|(group, key)| key.0 == kind && !listed.contains(&(group.clone(), key.clone())))
            .collect();
        for (group, key) in gone {
            self.forget(&group, &key);
        }
    }

    /// An object, if it has been seen.
    pub fn get(&self, group: &str, key: &Key) -> Option<Seen> {
        self.lock().objects.get(group)?.get(key).cloned()
    }

    /// Every object of a group that has been seen.
    pub fn all(&self, group: &str) -> Vec<(Key, Seen)> {
        let inner = self.lock();
        let objects = inner.objects.get(group).into_iter().flatten();
        objects.map(|(key, seen)| (key.clone(), seen.clone())).collect()
    }

    /// How many pods of each account are ready: a sidecar's workload is called as the account its pods run as, and of two
    /// one takes the other's place.
    pub fn pods_ready(&self) -> HashMap<Account, usize> {
        let inner = self.lock();
        let all =
            inner.objects.iter().filter_map(|(group, objects)| Some((group.split_once('/')?.0, objects)));
        let all = all.flat_map(|(namespace, objects)| objects.iter().map(move |object| (namespace, object)));
        let mut ready: HashMap<Account, usize> = HashMap::new();
        for (namespace, ((kind, name), seen)) in all {
            if matches!(*kind, "Deployment" | "StatefulSet") {
                *ready.entry((namespace.to_owned(), name.clone())).or_default() +=
                    usize::try_from(seen.pods.ready).unwrap_or_default();
            }
        }
        ready
    }

    /// Whether the object was found to be as `hash` says, and has not changed since.
    pub fn is_settled(&self, group: &str, key: &Key, hash: &str) -> bool {
        let inner = self.lock();
        let settled = inner.settled.get(group).and_then(|settled| settled.get(key));
        let seen = inner.objects.get(group).and_then(|objects| objects.get(key));
        settled
            .zip(seen)
            .is_some_and(|((fingerprint, of), seen)| *fingerprint == seen.fingerprint && of == hash)
    }

    /// The object was found to be as `hash` says when it had this fingerprint.
    pub fn settle(&self, group: &str, key: Key, fingerprint: u64, hash: &str) {
        self.lock().settled.entry(group.to_owned()).or_default().insert(key, (fingerprint, hash.to_owned()));
    }

    /// The groups of which something has changed since the last call, pools left out; waits until there are some.
    pub async fn stirred(&self) -> Vec<String> {
        self.stirred.next().await
    }

    /// The same of the pools, with the shared objects of namespaces.
    pub async fn stirred_pools(&self) -> Vec<String> {
        self.stirred_pools.next().await
    }

    fn stir(&self, group: &str) {
        let is_pool = pool_of_group(group).is_some();
        if is_pool || group.ends_with('/') {
            self.stirred_pools.add([group.to_owned()]);
        }
        if !is_pool {
            self.stirred.add([group.to_owned()]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `namespace/pipeline` of an object of ours, or the group of its pool; `namespace/` where it is shared.
pub fn group_of(metadata: &ObjectMeta) -> String {
    let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    match (label(labels::PIPELINE), label(labels::POOL)) {
        (None, Some(pool)) => group_of_pool(namespace, pool),
        (pipeline, _) => format!("{namespace}/{}", pipeline.map_or("", String::as_str)),
    }
}

/// `namespace/pool:name`, which no pipeline can be called.
pub fn group_of_pool(namespace: &str, pool: &str) -> String {
    format!("{namespace}{POOL}{pool}")
}

/// Namespace and name of the pool that is meant by a group; none where it is none.
pub fn pool_of_group(group: &str) -> Option<(&str, &str)> {
    group.split_once(POOL)
}

const POOL: &str = "/pool:";

/// The kind, as a name that lives for ever.
pub fn kind_of(kind: &str) -> &'static str {
    const KINDS: [&str; 8] = [
        "Service",
        "ServiceAccount",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ConfigMap",
        "Deployment",
        "StatefulSet",
        "ControllerRevision",
    ];
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("Unknown")
}

/// What is remembered of any object.
pub fn of_metadata(metadata: &ObjectMeta) -> Seen {
    let mut fingerprint = DefaultHasher::new();
    match metadata.generation {
        // The specification, without what changes in the status.
        Some(generation) if generation > 0 => generation.hash(&mut fingerprint),
        _ => metadata.resource_version.hash(&mut fingerprint),
    }
    (&metadata.uid, &metadata.labels, &metadata.annotations).hash(&mut fingerprint);
    metadata.deletion_timestamp.is_some().hash(&mut fingerprint);
    let owners = metadata.owner_references.iter().flatten();
    owners.clone().for_each(|owner| owner.uid.hash(&mut fingerprint));
    Seen {
        uid: metadata.uid.clone().unwrap_or_default(),
        version: metadata
            .resource_version
            .as_ref()
            .and_then(|version| version.parse().ok())
            .unwrap_or_default(),
        owner: owners.clone().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()),
        fingerprint: fingerprint.finish(),
        ..Seen::default()
    }
}

fn of_revision(revision: &ControllerRevision) -> Seen {
    Seen { revision: revision.revision, ..of_metadata(&revision.metadata) }
}

fn of_deployment(deployment: &Deployment) -> Seen {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let pods = Pods {
        wanted,
        updated: status.updated_replicas.unwrap_or_default(),
        ready: status.ready_replicas.unwrap_or_default(),
        all: status.replicas.unwrap_or_default(),
        is_current: status.observed_generation >= deployment.metadata.generation,
    };
    Seen { pods, ..of_metadata(&deployment.metadata) }
}

fn of_stateful_set(set: &StatefulSet) -> Seen {
    let status = set.status.clone().unwrap_or_default();
    let pods = Pods {
        wanted: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        updated: status.updated_replicas.unwrap_or_default(),
        ready: status.ready_replicas.unwrap_or_default(),
        all: status.replicas,
        is_current: status.observed_generation >= set.metadata.generation,
    };
    Seen { pods, claim: claim_of(set), ..of_metadata(&set.metadata) }
}

fn claim_of(set: &StatefulSet) -> Option<Claim> {
    let claim = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?.spec.as_ref()?;
    let size = claim.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.clone();
    Some(Claim { class: claim.storage_class_name.clone(), size })
}

/// What is remembered of an object that the API server has just answered with.
pub fn of_dynamic(object: &kube::core::DynamicObject) -> Seen {
    let seen = match object.types.as_ref().map_or("", |types| &types.kind) {
        "Deployment" => object.clone().try_parse().map(|one| of_deployment(&one)),
        "StatefulSet" => object.clone().try_parse().map(|one| of_stateful_set(&one)),
        "ControllerRevision" => object.clone().try_parse().map(|one| of_revision(&one)),
        _ => return of_metadata(&object.metadata),
    };
    seen.unwrap_or_else(|_| of_metadata(&object.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_pods_of_an_account_are_those_of_the_workloads_of_its_name() {
        let observed = Observed::default();
        observed.remember("shop/p", ("Deployment", "p-hub-spl".into()), seen(1, 2));
        observed.remember("shop/p", ("StatefulSet", "p-hub-spl".into()), seen(1, 1));
        observed.remember("shop/p", ("Service", "p-hub-spl".into()), seen(1, 0));
        assert_eq!(observed.pods_ready(), [(("shop".into(), "p-hub-spl".into()), 3)].into());
    }

    fn seen(version: u64, ready: i32) -> Seen {
        Seen { uid: "u".into(), version, pods: Pods { ready, ..Pods::default() }, ..Seen::default() }
    }

    #[tokio::test]
    async fn an_answer_that_comes_late_does_not_undo_what_a_watch_has_shown() {
        let (observed, key) = (Observed::default(), ("Deployment", "hub".to_owned()));
        observed.remember("shop/p", key.clone(), seen(9, 2));
        observed.remember("shop/p", key.clone(), seen(7, 0));
        assert_eq!(observed.get("shop/p", &key), Some(seen(9, 2)));
        let another = Seen { uid: "another".into(), ..seen(3, 1) };
        observed.remember("shop/p", key.clone(), another.clone());
        assert_eq!(observed.get("shop/p", &key), Some(another), "versions of another object do not compare");
    }

    #[tokio::test]
    async fn what_is_of_a_pool_stirs_no_pipeline() {
        let (observed, key) = (Observed::default(), ("Service", "dnpipes-default".to_owned()));
        let group = group_of_pool("shop", "default");
        assert_eq!(pool_of_group(&group), Some(("shop", "default")));
        assert_eq!(pool_of_group("shop/default"), None);
        observed.remember(&group, key, seen(1, 0));
        assert_eq!(observed.stirred_pools().await, [group]);
        observed.remember("shop/p", ("Service", "p".into()), seen(1, 0));
        assert_eq!(observed.stirred().await, ["shop/p"]);
    }

    #[tokio::test]
    async fn only_what_matters_stirs() {
        let (observed, key) = (Observed::default(), ("Deployment", "hub".to_owned()));
        observed.remember("shop/p", key.clone(), seen(1, 0));
        assert_eq!(observed.stirred().await, ["shop/p"]);
        observed.remember("shop/p", key.clone(), seen(2, 0));
        let none = tokio::time::timeout(std::time::Duration::from_millis(20), observed.stirred()).await;
        assert!(none.is_err(), "the same with another version is no news");
        observed.forget("shop/p", &key);
        assert_eq!(observed.stirred().await, ["shop/p"]);
        assert!(observed.all("shop/p").is_empty());
    }
}
