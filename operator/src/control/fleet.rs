//! The sidecars that are connected: what each is to run, and what it has said about it.
//!
//! ```text
//! controller ── publish(pipeline) ──▶ ┌───────┐ ── changed ──▶ the Sync session of each sidecar concerned
//! controller ◀── stirred(pipeline) ── │ Fleet │ ◀── report ─── the same session
//!                                     └───────┘
//! ```
//!
//! A sidecar is known by the service account in its certificate: that is what says which plans are its. In a pod that the
//! operator makes, the account belongs to one pipeline, so its sidecars are told their plans as soon as that one has been
//! looked at. A pod of the user's is told those of all pipelines that select it, if it is connected as whom it runs as;
//! it hears of them, and any sidecar that it is to run nothing, only when every pipeline of the namespace has been looked
//! at: any of those may be theirs. All of this is memory: a sidecar that connects says everything again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sidestream_control::{Counts, Halting, Leaving, Plan, Pool, Ready, Report, Serving, Suspend};
use tokio::sync::watch;

use crate::stirred::Stirred;

mod farewell;
mod pools;
mod recall;

pub use farewell::Farewell;
pub use recall::Runs;

/// Pipelines that one sidecar may speak of.
const PIPELINES_SAID_MAX: usize = 256;
/// The longest `namespace/name`, in bytes.
const NAME_BYTES_MAX: usize = 63 + 1 + 253;
/// Open edges that one sidecar may name of one pipeline: it has no more than this many stages to send from and to.
const EDGES_SAID_MAX: usize = 64 * 16;
/// The longest name of an edge, in bytes: of two stages or sidecars, and what is between them.
const EDGE_BYTES_MAX: usize = 2 * 63 + 16;
/// The longest reason of a sidecar that is kept, in bytes.
const REASON_BYTES_MAX: usize = 2048;

/// Sessions of one account: more pods than a Deployment has.
const SESSIONS_MAX: usize = 4096;

/// A service account: namespace and name.
pub type Account = (String, String);

/// Whom a plan is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addressee {
    /// Whom the pods run as.
    pub account: Account,
    /// The one pod that is meant; none: every pod of the account.
    pub pod: Option<String>,
}

/// Every sidecar that is connected to this replica. Clones are the same fleet.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    inner: Arc<Mutex<Inner>>,
    /// The pipelines that the controller should look at.
    stirred: Stirred,
    /// The accounts of the pools that it should look at, as [`pools::stirred_name`] has them.
    stirred_pools: Stirred,
}

#[derive(Debug, Default)]
struct Inner {
    /// What each is to run, by pipeline.
    plans: HashMap<Addressee, BTreeMap<String, Arc<Plan>>>,
    /// Who runs something of a pipeline.
    addressees: HashMap<String, BTreeSet<Addressee>>,
    /// The pipelines that have been looked at.
    published: HashSet<String>,
    /// Pipelines that are gone, and that some still run.
    gone: HashSet<String>,
    /// What the servers of each pool are to keep.
    pools: HashMap<Account, Arc<Pool>>,
    /// Who is told nothing yet for the sake of a pipeline.
    held: HashMap<String, BTreeSet<Addressee>>,
    sessions: HashMap<u64, Session>,
    /// The session of each connected pod.
    by_account: HashMap<Account, BTreeMap<String, u64>>,
    last_session: u64,
    /// The pipelines of each namespace that have not been looked at; none before it is known which there are.
    unsettled: Option<HashMap<String, HashSet<String>>>,
}

#[derive(Debug)]
struct Session {
    account: Account,
    pod: String,
    /// Bumped when what it is to run has changed.
    changed: watch::Sender<u64>,
    said: BTreeMap<String, Said>,
    anchored: Option<(u64, u64)>,
    /// Of a server of dnpipes: how they are.
    serving: Option<Arc<Serving>>,
}

/// What a sidecar has said about one pipeline.
#[derive(Clone, Debug, Default)]
struct Said {
    applied: Option<(String, Option<String>)>,
    ready: Option<Ready>,
    /// The plan of which it stops one part after the other, and the edges that still go out.
    halting: Option<(String, Vec<String>)>,
    drained: Option<(String, Counts)>,
    /// The edges of earlier plans by which it still sends what it had.
    leaving: Option<Vec<String>>,
}

/// What the connected sidecars of some addressees say about one plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acknowledged {
    /// How many are connected.
    pub connected: usize,
    /// How many of them have said anything about the pipeline.
    pub heard: usize,
    /// How many of them run the plan.
    pub applied: usize,
    /// How many of those do their work.
    pub ready: usize,
    /// Who refused the plan, and why.
    pub refused: Option<(String, String)>,
    /// Who runs it and does not do its work, and why.
    pub unready: Option<(String, String)>,
    /// What their stages name and is not there.
    pub missing: BTreeSet<String>,
    /// The edges of earlier plans by which some still send what they had.
    pub leaving: BTreeSet<String>,
    /// Of each that stops one part after the other: the edges that may still bring something to others.
    pub open: Vec<Vec<String>>,
    /// How many have drained, with nothing in flight.
    pub drained: usize,
    /// The ledgers of those that have drained, added up.
    pub counts: Counts,
}

/// What the sidecars of a pipeline's part have been told by this leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// One of them has been told something.
    pub is_anything: bool,
    /// One of them has been told to stop all of it.
    pub is_to_stop: bool,
}

impl Fleet {
    /// From now on each addressee runs these plans of `pipeline`, and no others of it.
    pub fn publish(&self, pipeline: &str, plans: Vec<(Addressee, Arc<Plan>)>) {
        self.publish_and_hold(pipeline, plans, BTreeSet::new());
    }

    /// The same, but those that are `held` are told nothing at all and run what they run: it is not known yet what is theirs
    /// of `pipeline`.
    pub fn publish_and_hold(
        &self,
        pipeline: &str,
        plans: Vec<(Addressee, Arc<Plan>)>,
        held: BTreeSet<Addressee>,
    ) {
        let mut inner = self.lock();
        inner.settle(pipeline);
        inner.published.insert(pipeline.to_owned());
        let released = match held.is_empty() {
            true => inner.held.remove(pipeline),
            false => inner.held.insert(pipeline.to_owned(), held),
        };
        let addressees: BTreeSet<Addressee> = plans.iter().map(|(addressee, _)| addressee.clone()).collect();
        let before = inner.addressees.insert(pipeline.to_owned(), addressees.clone()).unwrap_or_default();
        if inner.gone.remove(pipeline) {
            inner.unsay(&before, pipeline);
        }
        let mut concerned: BTreeSet<Addressee> = before.difference(&addressees).cloned().collect();
        for addressee in &concerned {
            inner.withdraw(addressee, pipeline);
        }
        for (addressee, plan) in plans {
            let own = inner.plans.entry(addressee.clone()).or_default();
            if own.get(pipeline).is_none_or(|before| *before != plan) {
                own.insert(pipeline.to_owned(), plan);
                concerned.insert(addressee);
            }
        }
        concerned.extend(released.into_iter().flatten());
        inner.wake(&concerned);
    }

    /// The plan of `pipeline` that an addressee is to run.
    pub fn plan(&self, addressee: &Addressee, pipeline: &str) -> Option<Arc<Plan>> {
        self.lock().plans.get(addressee)?.get(pipeline).cloned()
    }

    /// Whoever runs something of `pipeline`, and what.
    pub fn told_of(&self, pipeline: &str) -> Vec<(Addressee, Arc<Plan>)> {
        let inner = self.lock();
        let all = inner.addressees.get(pipeline).into_iter().flatten();
        all.filter_map(|own| Some((own.clone(), inner.plans.get(own)?.get(pipeline)?.clone()))).collect()
    }

    /// Whether `pipeline`'s part called `sidecar` has been told to stop with this plan, and whether it has been told anything.
    pub fn told(&self, addressees: &[Addressee], pipeline: &str, sidecar: &str, hash: &str) -> Told {
        let inner = self.lock();
        let plans = addressees.iter().filter_map(|addressee| inner.plans.get(addressee)?.get(pipeline));
        plans.fold(Told::default(), |told, plan| Told {
            is_anything: true,
            is_to_stop: told.is_to_stop
                || plan.stance() == Suspend::Stop && plan.sidecar == sidecar && plan.hash == hash,
        })
    }

    /// `pipeline` is gone. Those that were made for it go with it: each runs it until its pod ends, so that nothing on its way
    /// to them is lost, and their plan is forgotten when the last of them has gone and nothing is left to make another, of
    /// which `expected` says how many pods there are. Pods of the user's are told to stop it along its edges, and when
    /// `is_over`, at once. True while some are still waited for: then it is to be withdrawn once more whenever one of them
    /// says something.
    pub fn withdraw(
        &self,
        pipeline: &str,
        expected: impl Fn(&Account) -> Option<usize>,
        is_over: bool,
    ) -> bool {
        let mut inner = self.lock();
        inner.settle(pipeline);
        inner.published.remove(pipeline);
        let held = inner.held.remove(pipeline).unwrap_or_default();
        inner.wake(&held);
        let farewells = inner.farewells(pipeline, expected);
        let is_first = inner.gone.insert(pipeline.to_owned());
        let (mut staying, mut concerned) = (BTreeSet::new(), BTreeSet::new());
        for (own, farewell) in farewells {
            match farewell {
                Farewell::Stays => drop(staying.insert(own)),
                Farewell::Told(plan) if !is_over => {
                    let plans = inner.plans.entry(own.clone()).or_default();
                    if plans.get(pipeline).is_none_or(|before| **before != plan) {
                        plans.insert(pipeline.to_owned(), Arc::new(plan));
                        concerned.insert(own.clone());
                    }
                    staying.insert(own);
                }
                Farewell::Told(_) | Farewell::Gone => {
                    inner.withdraw(&own, pipeline);
                    concerned.insert(own);
                }
            }
        }
        if is_first {
            // What they have said is none of another pipeline's of this name.
            inner.unsay(&staying, pipeline);
        }
        let waits = staying.iter().any(|own| own.pod.is_some());
        match staying.is_empty() {
            true => {
                inner.addressees.remove(pipeline);
                inner.gone.remove(pipeline);
            }
            false => drop(inner.addressees.insert(pipeline.to_owned(), staying)),
        }
        inner.wake(&concerned);
        waits
    }

    /// These are all the pipelines there are: once each has been published or withdrawn, sidecars are told their plans.
    pub fn expect(&self, pipelines: impl IntoIterator<Item = String>) {
        let mut inner = self.lock();
        let mut unsettled: HashMap<String, HashSet<String>> = HashMap::new();
        for pipeline in pipelines.into_iter().filter(|pipeline| !inner.published.contains(pipeline)) {
            unsettled.entry(namespace_of(&pipeline).to_owned()).or_default().insert(pipeline);
        }
        inner.unsettled = Some(unsettled);
        inner.sessions.values().for_each(Session::wake);
    }

    /// Forgets every plan: another replica leads, and its are newer.
    pub fn clear(&self) {
        let mut inner = self.lock();
        (inner.plans, inner.addressees, inner.unsettled) = Default::default();
        (inner.held, inner.gone, inner.pools) = Default::default();
        inner.published.clear();
        self.stirred.clear();
        self.stirred_pools.clear();
    }

    /// A pod of `account` has connected. The connection ends when the guard is dropped, or the pod connects anew; where
    /// an account has too many, its oldest ends.
    pub fn connect(&self, account: Account, pod: String) -> Connected {
        let mut inner = self.lock();
        inner.make_room(&account, &pod);
        inner.last_session += 1;
        let id = inner.last_session;
        let changed = watch::Sender::new(0);
        let changes = changed.subscribe();
        inner.by_account.entry(account.clone()).or_default().insert(pod.clone(), id);
        let own = [addressee(&account, None), addressee(&account, Some(pod.clone()))];
        let session = Session { account, pod, changed, said: BTreeMap::new(), anchored: None, serving: None };
        self.stir_pool(&inner, &session.account);
        inner.sessions.insert(id, session);
        self.stirred.add(inner.pipelines_of(&own));
        Connected { fleet: self.clone(), id, own, changes, pool_told: None }
    }

    /// What the connected pods of `addressees` say about the plan of `pipeline` that has this hash.
    pub fn acknowledged(&self, addressees: &[Addressee], pipeline: &str, hash: &str) -> Acknowledged {
        let inner = self.lock();
        let mut sum = Acknowledged::default();
        for session in addressees.iter().flat_map(|addressee| inner.sessions_of(addressee)) {
            sum.connected += 1;
            let Some(said) = session.said.get(pipeline) else { continue };
            sum.heard += 1;
            if let Some((drained, counts)) = &said.drained
                && drained == hash
            {
                sum.drained += usize::from(counts.in_flight == 0);
                add(&mut sum.counts, counts);
            }
            sum.leaving.extend(said.leaving.iter().flatten().cloned());
            sum.open.extend(said.halting.iter().filter(|(of, _)| of == hash).map(|(_, open)| open.clone()));
            match &said.applied {
                Some((applied, None)) if applied == hash => sum.applied += 1,
                Some((applied, Some(error))) if applied == hash => {
                    sum.refused.get_or_insert_with(|| (session.pod.clone(), error.clone()));
                    continue;
                }
                _ => continue,
            }
            if let Some(ready) = &said.ready {
                sum.ready += usize::from(ready.ready);
                if !ready.ready && sum.unready.is_none() {
                    sum.unready = Some((session.pod.clone(), ready.reason.clone()));
                }
                sum.missing.extend(ready.missing.iter().cloned());
            }
        }
        sum
    }

    /// How many sidecars are connected.
    pub fn connected(&self) -> usize {
        self.lock().sessions.len()
    }

    /// What every connected pod that runs something says of its anchors: the generation, and who issued its certificate.
    pub fn anchored(&self) -> HashMap<Account, Vec<Option<(u64, u64)>>> {
        let inner = self.lock();
        let mut anchored: HashMap<Account, Vec<_>> = HashMap::new();
        for session in inner.sessions.values().filter(|session| inner.is_told(session)) {
            anchored.entry(session.account.clone()).or_default().push(session.anchored);
        }
        anchored
    }

    /// The single pods that are to run something, each with whom it runs as.
    pub fn pods_told(&self) -> HashSet<(Account, String)> {
        let inner = self.lock();
        let single = inner.plans.keys().filter_map(|told| Some((told.account.clone(), told.pod.clone()?)));
        single.collect()
    }

    /// Has the controller look at a pipeline.
    pub fn stir(&self, pipeline: &str) {
        self.stirred.add([pipeline.to_owned()]);
    }

    /// The pipelines of which something has been said since the last call; waits until there are some.
    pub async fn stirred(&self) -> Vec<String> {
        self.stirred.next().await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connected sidecar.
#[derive(Debug)]
pub struct Connected {
    fleet: Fleet,
    id: u64,
    /// Its account, and it alone.
    own: [Addressee; 2],
    /// Changes when [`Connected::plans`] does, or [`Connected::hand_out_pool`] has something new.
    pub changes: watch::Receiver<u64>,
    pool_told: Option<Arc<Pool>>,
}

impl Connected {
    /// Everything it is to run; none while that is not known.
    pub fn plans(&self) -> Option<Vec<Plan>> {
        let inner = self.fleet.lock();
        let unsettled = inner.unsettled.as_ref()?;
        let [of_account, _] = &self.own;
        if inner.held.values().any(|held| self.own.iter().any(|own| held.contains(own))) {
            return None;
        }
        let is_settled = !unsettled.contains_key(&of_account.account.0);
        let plans = self.own.iter().filter_map(|own| inner.plans.get(own)).flat_map(BTreeMap::values);
        (is_settled || inner.plans.contains_key(of_account))
            .then(|| plans.map(|plan| (**plan).clone()).collect())
    }

    /// The same, as it is told at this moment. What is told to run has neither halted nor drained from then on, whatever it
    /// said of an earlier time: where it is soon told to stop again, it is to say so again.
    pub fn hand_out(&self) -> Option<Vec<Plan>> {
        let plans = self.plans()?;
        if let Some(session) = self.fleet.lock().sessions.get_mut(&self.id) {
            for plan in plans.iter().filter(|plan| plan.stance() == Suspend::Run) {
                if let Some(said) = session.said.get_mut(&plan.pipeline) {
                    (said.halting, said.drained) = (None, None);
                }
            }
        }
        Some(plans)
    }

    /// It says something.
    pub fn report(&self, report: Report) {
        let mut inner = self.fleet.lock();
        let Some(session) = inner.sessions.get_mut(&self.id) else { return };
        let (pipeline, said) = match report {
            Report::Anchored(anchored) => {
                session.anchored = Some((anchored.generation, anchored.issuer));
                return;
            }
            Report::Hello(_) => return,
            Report::Serving(serving) => {
                session.serving = Some(Arc::new(pools::within_bounds(serving)));
                let account = session.account.clone();
                return self.fleet.stir_pool(&inner, &account);
            }
            Report::Applied(applied) => {
                let error = applied.error.map(shortened);
                (applied.pipeline, Said { applied: Some((applied.hash, error)), ..Said::default() })
            }
            Report::Ready(mut ready) => {
                ready.reason = shortened(ready.reason);
                ready.missing.truncate(PIPELINES_SAID_MAX);
                (ready.pipeline.clone(), Said { ready: Some(ready), ..Said::default() })
            }
            // None of it counts where it is not known whole.
            Report::Halting(Halting { open: edges, .. }) | Report::Leaving(Leaving { edges, .. })
                if edges.len() > EDGES_SAID_MAX || edges.iter().any(|edge| edge.len() > EDGE_BYTES_MAX) =>
            {
                return;
            }
            Report::Halting(Halting { pipeline, hash, open }) => {
                (pipeline, Said { halting: Some((hash, open)), ..Said::default() })
            }
            Report::Leaving(Leaving { pipeline, edges }) => {
                (pipeline, Said { leaving: Some(edges), ..Said::default() })
            }
            Report::Drained(drained) => (
                drained.pipeline.clone(),
                Said { drained: Some((drained.hash, drained.counts.unwrap_or_default())), ..Said::default() },
            ),
        };
        // It may speak before it is known here what it runs. What it says counts for its own account only, whatever that is.
        let is_room = session.said.len() < PIPELINES_SAID_MAX || session.said.contains_key(&pipeline);
        if !is_room || pipeline.len() > NAME_BYTES_MAX {
            return;
        }
        {
            let known = session.said.entry(pipeline.clone()).or_default();
            // What runs has not drained, nor begun to, and what has does not run.
            match said {
                Said { applied: Some(applied), .. } => {
                    let (ready, leaving) = (known.ready.take(), known.leaving.take());
                    *known = Said { applied: Some(applied), ready, leaving, ..Said::default() };
                }
                Said { leaving: Some(leaving), .. } => known.leaving = Some(leaving),
                Said { ready: Some(ready), .. } => known.ready = Some(ready),
                halted_or_drained => *known = halted_or_drained,
            }
        }
        drop(inner);
        self.fleet.stirred.add([pipeline]);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut inner = self.fleet.lock();
        inner.end(self.id);
        self.fleet.stirred.add(inner.pipelines_of(&self.own));
        self.fleet.stir_pool(&inner, &self.own[0].account);
    }
}

impl Session {
    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Inner {
    /// `pipeline` has been looked at.
    fn settle(&mut self, pipeline: &str) {
        let namespace = namespace_of(pipeline);
        let Some(unsettled) = &mut self.unsettled else { return };
        let Some(of_namespace) = unsettled.get_mut(namespace) else { return };
        of_namespace.remove(pipeline);
        if of_namespace.is_empty() {
            unsettled.remove(namespace);
            self.sessions.values().filter(|session| session.account.0 == namespace).for_each(Session::wake);
        }
    }

    fn withdraw(&mut self, addressee: &Addressee, pipeline: &str) {
        if let Some(plans) = self.plans.get_mut(addressee) {
            plans.remove(pipeline);
            if plans.is_empty() {
                self.plans.remove(addressee);
            }
        }
        self.unsay([addressee], pipeline);
    }

    /// Forgets what these have said of `pipeline`.
    fn unsay<'a>(&mut self, addressees: impl IntoIterator<Item = &'a Addressee>, pipeline: &str) {
        for id in addressees.into_iter().flat_map(|own| self.ids_of(own)).collect::<Vec<_>>() {
            self.sessions.get_mut(&id).map(|session| session.said.remove(pipeline));
        }
    }

    /// Ends the session of `account` that gives way to a new one of `pod`: its sender of changes is gone.
    fn make_room(&mut self, account: &Account, pod: &str) {
        let Some(pods) = self.by_account.get(account) else { return };
        let oldest = || (pods.len() >= SESSIONS_MAX).then(|| pods.values().min().copied()).flatten();
        if let Some(id) = pods.get(pod).copied().or_else(oldest) {
            self.end(id);
        }
    }

    fn end(&mut self, id: u64) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(pods) = self.by_account.get_mut(&session.account) {
            pods.remove(&session.pod);
            if pods.is_empty() {
                self.by_account.remove(&session.account);
            }
        }
    }

    fn wake(&self, addressees: &BTreeSet<Addressee>) {
        addressees.iter().flat_map(|addressee| self.sessions_of(addressee)).for_each(Session::wake);
    }

    fn sessions_of(&self, addressee: &Addressee) -> impl Iterator<Item = &Session> {
        self.ids_of(addressee).into_iter().filter_map(|id| self.sessions.get(&id))
    }

    fn ids_of(&self, addressee: &Addressee) -> Vec<u64> {
        let Some(pods) = self.by_account.get(&addressee.account) else { return Vec::new() };
        match &addressee.pod {
            Some(pod) => pods.get(pod).copied().into_iter().collect(),
            None => pods.values().copied().collect(),
        }
    }

    /// Whether a sidecar is to run something.
    fn is_told(&self, session: &Session) -> bool {
        self.plans.contains_key(&addressee(&session.account, None))
            || self.pools.contains_key(&session.account)
            || self.plans.contains_key(&addressee(&session.account, Some(session.pod.clone())))
    }

    fn pipelines_of(&self, addressees: &[Addressee]) -> Vec<String> {
        let plans = addressees.iter().filter_map(|addressee| self.plans.get(addressee));
        plans.flat_map(BTreeMap::keys).cloned().collect()
    }
}

fn addressee(account: &Account, pod: Option<String>) -> Addressee {
    Addressee { account: account.clone(), pod }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    text
}

/// Of `namespace/name`.
fn namespace_of(pipeline: &str) -> &str {
    pipeline.split_once('/').map_or("", |(namespace, _)| namespace)
}

fn add(sum: &mut Counts, counts: &Counts) {
    sum.accepted += counts.accepted;
    sum.completed += counts.completed;
    sum.dead_lettered += counts.dead_lettered;
    sum.expired += counts.expired;
    sum.dropped += counts.dropped;
    sum.in_flight += counts.in_flight;
}

#[cfg(test)]
mod tests;
