//! One look at one pool of dnpipes: observe its members, desire, apply, tell its servers, and say how each member is.
//!
//! ```text
//! watch Dnpipes ─────────────┐
//! watch what was made ───────┼──▶ pools to look at ──▶ members of the pool ── compile ──▶ objects applied
//! servers speak, roots turn ─┘        ▲                                                        │
//!                                     └── after a while, where it failed       members published ──▶ status of each
//! ```
//!
//! The pool is the unit: its members share what is made for them. Servers are told a full set and nothing less, because what is
//! not in it was deleted; so nothing is told before every Dnpipe there is has been seen. Volumes are not this program's to
//! remove, and it asks for no right to.

mod servers;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, stream};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        events::Recorder,
        reflector::{Store, store::Writer},
        watcher,
    },
};
use serde_json::json;
use sidestream_control::{Dnpipe as Told, Pool as Order, Served, Serving};
use sidestream_crds::{Diagnostic, Dnpipe, DnpipeStatus, Reclaim, compile, compile_dnpipe, names};
use sidestream_desired::{Claim, FIELD_MANAGER, Facts, Pool, anchors, dnpipe_hash, pool_objects};
use sidestream_host::{Clock, Moment};
use sidestream_plan::Dnpipe as Kept;
use tokio::{sync::watch, time::sleep};

use servers::{Servers, pod};

use super::{DEBOUNCE, ReconcileError, backoff::Backoff, events, pipeline::EARLY};
use crate::{
    apply::Applier,
    control::{Account, Fleet},
    observed::{Observed, Seen, group_of_pool, pool_of_group},
    status::dnpipe::{Known, Server, status},
    stirred::Stirred,
    trust::Roots,
};

/// What a look needs.
pub struct Pools {
    /// Asks.
    pub client: Client,
    /// Writes.
    pub applier: Applier,
    /// What is there.
    pub observed: Observed,
    /// What the servers say, and are told.
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
    /// How long to leave what fails alone.
    pub backoff: Backoff,
    /// Looks at once.
    pub concurrency: u16,
}

/// One member of a pool, as far as it can be read.
struct Member {
    resource: Dnpipe,
    kept: Option<Kept>,
    errors: Vec<Diagnostic>,
    contradicts: Option<String>,
}

impl Pools {
    /// Looks after every pool until dropped.
    pub(super) async fn control(self) {
        let resource = ApiResource::erase::<Dnpipe>(&());
        let writer = Writer::new(resource.clone());
        let dnpipes = writer.as_reader();
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let stirred = Stirred::default();
        // Also those that are empty by now.
        let seen: Mutex<HashSet<String>> = Mutex::default();
        let all = || {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.iter().cloned().collect::<Vec<_>>()
        };
        let watching = watcher(api, watcher::Config::default())
            .default_backoff()
            .modify(|dnpipe| dnpipe.metadata.managed_fields = None)
            .reflect(writer)
            .for_each(|event| {
                match event {
                    Ok(
                        watcher::Event::Apply(dnpipe)
                        | watcher::Event::InitApply(dnpipe)
                        | watcher::Event::Delete(dnpipe),
                    ) => {
                        let group = group(&dnpipe);
                        seen.lock().unwrap_or_else(PoisonError::into_inner).insert(group.clone());
                        stirred.add([group]);
                    }
                    // What was deleted while nobody watched is in no event of its own.
                    Ok(watcher::Event::InitDone) => stirred.add(all()),
                    Ok(watcher::Event::Init) => {}
                    Err(error) => tracing::warn!(%error, "Dnpipes cannot be watched now"),
                }
                std::future::ready(())
            });
        let of_namespace = |namespace: &str| {
            let begin = format!("{namespace}/");
            all().into_iter().filter(|group| group.starts_with(&begin)).collect::<Vec<_>>()
        };
        let touched = async {
            loop {
                for group in self.observed.stirred_pools().await {
                    match group.strip_suffix('/') {
                        Some(namespace) => stirred.add(of_namespace(namespace)),
                        None => stirred.add([group]),
                    }
                }
            }
        };
        let spoken = async {
            loop {
                let accounts = self.fleet.stirred_pools().await;
                stirred.add(accounts.iter().filter_map(|(namespace, account)| {
                    Some(group_of_pool(namespace, account.strip_prefix(names::pool("").as_str())?))
                }));
            }
        };
        let turned = async {
            let mut roots = self.roots.clone();
            while roots.changed().await.is_ok() {
                stirred.add(all());
            }
        };
        let late = async {
            sleep(EARLY).await;
            stirred.add(all());
        };
        let working = async {
            // Before everything has been seen, what was not would look deleted.
            if dnpipes.wait_until_ready().await.is_ok() {
                self.work(&dnpipes, &stirred).await;
            }
        };
        tokio::join!(watching, touched, spoken, turned, late, working);
    }

    /// Looks at what is stirred: at each pool once at a time, at several together.
    async fn work(&self, dnpipes: &Store<DynamicObject>, stirred: &Stirred) {
        loop {
            let groups = stirred.next().await;
            sleep(DEBOUNCE).await;
            let mut members: BTreeMap<String, Vec<Arc<DynamicObject>>> =
                groups.into_iter().map(|group| (group, Vec::new())).collect();
            for dnpipe in dnpipes.state() {
                if let Some(own) = members.get_mut(&group(&dnpipe)) {
                    own.push(dnpipe);
                }
            }
            let looks =
                stream::iter(members).for_each_concurrent(usize::from(self.concurrency), |own| async move {
                    let (group, members) = own;
                    let Some((namespace, pool)) = pool_of_group(&group) else { return };
                    let wait = match reconcile_pool(self, namespace, pool, &members).await {
                        Ok(true) => return self.backoff.forget(&group),
                        Ok(false) => self.backoff.failed(&group),
                        Err(error) => {
                            tracing::warn!(namespace, pool, %error, "is looked at again later");
                            self.backoff.failed(&group)
                        }
                    };
                    let stirred = stirred.clone();
                    tokio::spawn(async move {
                        sleep(wait).await;
                        stirred.add([group]);
                    });
                });
            looks.await;
        }
    }

    fn is_early(&self) -> bool {
        self.clock.now().since(self.began) < EARLY
    }
}

/// Looks at one pool, of which these are all the members. True: it may be left alone until something changes.
///
/// # Errors
/// Where something could not be asked or written; another look goes on from there.
pub async fn reconcile_pool(
    context: &Pools,
    namespace: &str,
    pool: &str,
    members: &[Arc<DynamicObject>],
) -> Result<bool, ReconcileError> {
    let account: Account = (namespace.to_owned(), names::pool(pool));
    let group = group_of_pool(namespace, pool);
    let mut members: Vec<Member> = members.iter().map(|own| Member::read(own)).collect();
    // The oldest says what the pool is like.
    let age = |own: &Member| own.resource.metadata.creation_timestamp.clone().map(|time| time.0);
    members.sort_by_key(|own| (age(own), own.resource.name_any()));
    let set = context.observed.get(&group, &("StatefulSet", account.1.clone()));
    let is_any = members.iter().any(|own| own.kept.is_some()) || set.is_some();
    if members.is_empty() || !is_any {
        return context.without_pool(&account, &members).await.map(|()| true);
    }

    let claim = claim(set.as_ref(), &mut members);
    let running = set.as_ref().and_then(|set| u32::try_from(set.pods.wanted).ok()).unwrap_or_default();
    let servers = Servers::of(&account, &members, running, &context.fleet.serving(&account));
    let (conflict, failure) = context.apply(namespace, pool, &members, &claim, servers.replicas).await;
    // The account is whom the dnpipes are told to: one that is not ours hears nothing.
    let is_ours = context.observed.get(&group, &("ServiceAccount", account.1.clone())).is_some();
    match is_ours {
        true => {
            context.fleet.publish_pool(&account, order(&members, &servers, servers.addresses(&account, pool)))
        }
        false => context.fleet.withdraw_pool(&account),
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let pods = context.observed.get(&group, &("StatefulSet", account.1.clone())).map(|seen| seen.pods);
    context.say_all(&members, &account, conflict.as_deref(), pods, &servers).await?;
    Ok(conflict.is_none())
}

impl Pools {
    /// There is nothing to serve: the objects went with the last of their owners. Servers that are still there are told so, since
    /// some records are to go with their dnpipes.
    async fn without_pool(&self, account: &Account, members: &[Member]) -> Result<(), ReconcileError> {
        match members.is_empty() && !self.fleet.serving(account).is_empty() {
            true => self.fleet.publish_pool(account, Order::default()),
            false => self.fleet.withdraw_pool(account),
        }
        self.say_all(members, account, None, None, &Servers::default()).await
    }

    /// Makes the cluster serve the pool. Gives an object that is somebody else's, and what else kept it from being made.
    async fn apply(
        &self,
        namespace: &str,
        pool: &str,
        members: &[Member],
        claim: &Claim,
        servers: u32,
    ) -> (Option<String>, Option<ReconcileError>) {
        let owners: Vec<&Dnpipe> = members.iter().map(|own| &own.resource).collect();
        let kept: Vec<&Kept> = members
            .iter()
            .filter(|own| own.contradicts.is_none())
            .filter_map(|own| own.kept.as_ref())
            .collect();
        let desired = Pool { namespace, name: pool, owners: &owners, members: &kept, claim, servers };
        let trust = {
            let roots = self.roots.borrow();
            anchors(namespace, &roots.anchors.to_pem(), roots.phase().name())
        };
        let (shared, group) = (format!("{namespace}/"), group_of_pool(namespace, pool));
        let objects = [(&shared, trust)].into_iter();
        let own = pool_objects(&desired, &self.facts).into_iter().map(|object| (&group, object));
        for (group, object) in objects.chain(own) {
            match self.applier.apply(group, &object).await {
                Ok(_) => {}
                // Nothing is made that would lean on what is somebody else's.
                Err(error) if error.is_anothers() => return (Some(error.to_string()), None),
                Err(error) => return (None, Some(error.into())),
            }
        }
        (None, None)
    }

    async fn say_all(
        &self,
        members: &[Member],
        account: &Account,
        conflict: Option<&str>,
        pods: Option<crate::observed::Pods>,
        place: &Servers,
    ) -> Result<(), ReconcileError> {
        let serving = self.fleet.serving(account);
        let of_servers: Vec<(&str, Option<&Serving>, BTreeMap<&str, &Served>)> = serving
            .iter()
            .map(|(pod, says)| {
                let dnpipes = says.iter().flat_map(|says| &says.dnpipes);
                (pod.as_str(), says.as_deref(), dnpipes.map(|own| (own.dnpipe.as_str(), own)).collect())
            })
            .collect();
        for member in members {
            let name = member.resource.full_name();
            let hash = member.kept.as_ref().map(dnpipe_hash).unwrap_or_default();
            let servers: Vec<_> = of_servers
                .iter()
                .map(|(pod, says, dnpipes)| Server {
                    pod,
                    says: *says,
                    served: dnpipes.get(name.as_str()).copied(),
                })
                .collect();
            let is_kept = member.contradicts.is_none();
            let known = Known {
                generation: member.resource.metadata.generation,
                errors: &member.errors,
                contradicts: member.contradicts.clone(),
                kept: member.kept.as_ref().filter(|_| is_kept).map(|kept| (kept, hash.as_str())),
                conflict,
                pods,
                servers: &servers,
                owner: place.owners.get(&name).map(|owner| pod(account, owner.server)),
                home: place.homes.get(&name).map(|home| pod(account, *home)),
                is_early: self.is_early(),
            };
            let before = member.resource.status.as_ref();
            let new = status(&known, &name, before, events::now(&self.clock));
            if before != Some(&new) {
                let was = before.map_or(&[][..], |before| &before.conditions);
                let whose = member.resource.object_ref(&());
                events::tell(&self.recorder, &whose, &CONDITIONS, was, &new.conditions).await;
                self.write(&member.resource, &new).await?;
            }
        }
        Ok(())
    }

    async fn write(&self, dnpipe: &Dnpipe, status: &DnpipeStatus) -> Result<(), ReconcileError> {
        let resource = ApiResource::erase::<Dnpipe>(&());
        let namespace = dnpipe.namespace().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource);
        // With its uid, a new Dnpipe of this name is not given the old one's status.
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": dnpipe.name_any(), "uid": dnpipe.uid()},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&dnpipe.name_any(), &params, &Patch::Apply(&patch)).await {
            Ok(_) => Ok(()),
            // It is gone, or another by now.
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
            Err(error) => Err(ReconcileError::Status(Box::new(error))),
        }
    }
}

impl Member {
    /// What can be read of it. What cannot is still there, with all that its servers keep of it.
    fn read(dnpipe: &DynamicObject) -> Member {
        let text = serde_json::to_value(dnpipe).unwrap_or_default();
        let (resource, kept, errors) = match serde_json::from_value::<Dnpipe>(text.clone()) {
            Ok(resource) => {
                let (compiled, found) = compile_dnpipe(&resource);
                (resource, compiled.plan, found)
            }
            Err(_) => {
                let metadata = dnpipe.metadata.clone();
                let status = serde_json::from_value(text["status"].clone()).ok();
                let mut found = compile(text.to_string().as_bytes(), "").diagnostics;
                for diagnostic in &mut found {
                    // A place in what the API server has is none in what the user wrote.
                    (diagnostic.file, diagnostic.place) = (None, None);
                }
                (Dnpipe { metadata, spec: Default::default(), status }, None, found)
            }
        };
        let errors = errors.into_iter().filter(Diagnostic::is_error).collect();
        Member { resource, kept, errors, contradicts: None }
    }

    fn class(&self) -> Option<&str> {
        self.resource.spec.storage.as_ref()?.storage_class_name.as_deref()
    }
}

/// The conditions whose changes people are told of; where it is placed `kubectl get` shows.
const CONDITIONS: [&str; 4] = ["Accepted", "Ready", "Durable", "Room"];

/// The volumes that the pool has, or is to have; members that ask for others are told so.
fn claim(set: Option<&Seen>, members: &mut [Member]) -> Claim {
    let has = set.and_then(|set| set.claim.clone());
    let first = members.iter().find(|own| own.class().is_some()).map(|own| own.resource.name_any());
    let claim = has.clone().unwrap_or_else(|| {
        let sound = members.iter().filter(|own| own.kept.is_some()).map(|own| &own.resource);
        Claim::for_members(sound)
    });
    for own in members.iter_mut() {
        let Some(asked) = own.class().map(str::to_owned) else { continue };
        if claim.class.as_ref() == Some(&asked) {
            continue;
        }
        let are = match (&claim.class, &first) {
            (None, _) => "are of the cluster's default class".to_owned(),
            (Some(class), Some(first)) if has.is_none() => {
                format!("are of class `{class}`, as `{first}` says")
            }
            (Some(class), _) => format!("are of class `{class}`"),
        };
        let pool = own.resource.pool();
        own.contradicts = Some(format!(
            "`storage.storageClassName` is `{asked}`, and the volumes of pool `{pool}` {are}; take it out, or name another pool"
        ));
    }
    claim
}

/// What the servers are told.
fn order(members: &[Member], servers: &Servers, addresses: Vec<String>) -> Order {
    let told = members.iter().map(|own| {
        let uid = own.resource.uid().unwrap_or_default();
        let reclaim = own.resource.spec.storage.as_ref().and_then(|storage| storage.reclaim);
        let is_removed_when_deleted = reclaim == Some(Reclaim::Delete);
        let kept = own.kept.as_ref().filter(|_| own.contradicts.is_none());
        let name = own.resource.full_name();
        let owner = servers.owners.get(&name).copied();
        // What stays as it is stays where it is, if that server does.
        let stays = owner.unwrap_or_default().server.min(servers.wanted.saturating_sub(1));
        let home = servers.homes.get(&name).copied().unwrap_or(stays);
        let told = match kept {
            Some(kept) => Told::wrap(kept, uid, dnpipe_hash(kept)),
            None => Told { name, uid, ..Told::default() },
        };
        Told { is_removed_when_deleted, home, owner, ..told }
    });
    Order { dnpipes: told.collect(), servers: addresses, wanted: servers.wanted }
}

/// The group of the pool that a Dnpipe is of, whatever else cannot be read of it.
fn group(dnpipe: &DynamicObject) -> String {
    let namespace = dnpipe.namespace().unwrap_or_default();
    let pool = dnpipe.data["spec"]["pool"].as_str().unwrap_or("default");
    group_of_pool(&namespace, pool)
}
