//! The sidecars that are connected: what each is to run, and what it has said about it.
//!
//! ```text
//! controller ── publish(pipeline) ──▶ ┌───────┐ ── changed ──▶ the Sync session of each sidecar concerned
//! controller ◀── stirred(pipeline) ── │ Fleet │ ◀── report ─── the same session
//!                                     └───────┘
//! ```
//!
//! A sidecar is known by the service account in its certificate: that is what says which plans are its. All of this is
//! memory: a sidecar that connects says everything again. An account belongs to one pipeline, so its sidecars are told
//! their plans as soon as that one has been looked at; that they are to run nothing they are told only when every
//! pipeline of the namespace has been: any of those may be theirs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sidestream_control::{Counts, Plan, Ready, Report};
use tokio::sync::{Notify, watch};

/// Pipelines that one sidecar may speak of.
const PIPELINES_SAID_MAX: usize = 256;
/// The longest `namespace/name`, in bytes.
const NAME_BYTES_MAX: usize = 63 + 1 + 253;
/// The longest reason of a sidecar that is kept, in bytes.
const REASON_BYTES_MAX: usize = 2048;

/// Sessions of one account: more pods than a Deployment has.
const SESSIONS_MAX: usize = 4096;

/// A service account: namespace and name.
pub type Account = (String, String);

/// Every sidecar that is connected to this replica. Clones are the same fleet.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    inner: Arc<Mutex<Inner>>,
    /// There are pipelines that the controller should look at.
    stir: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What the pods of each account are to run, by pipeline.
    plans: HashMap<Account, BTreeMap<String, Arc<Plan>>>,
    /// The accounts that run something of a pipeline.
    accounts: HashMap<String, BTreeSet<Account>>,
    sessions: HashMap<u64, Session>,
    /// The session of each connected pod.
    by_account: HashMap<Account, BTreeMap<String, u64>>,
    last_session: u64,
    stirred: HashSet<String>,
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
}

/// What a sidecar has said about one pipeline.
#[derive(Clone, Debug, Default)]
struct Said {
    applied: Option<(String, Option<String>)>,
    ready: Option<Ready>,
    drained: Option<(String, Counts)>,
}

/// What the connected sidecars of one account say about one plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acknowledged {
    /// How many are connected.
    pub connected: usize,
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
    /// How many have drained, with nothing in flight.
    pub drained: usize,
    /// The ledgers of those that have drained, added up.
    pub counts: Counts,
}

impl Fleet {
    /// From now on the pods of each account run these plans of `pipeline`, and no others of it.
    pub fn publish(&self, pipeline: &str, plans: Vec<(Account, Plan)>) {
        let mut inner = self.lock();
        inner.settle(pipeline);
        let accounts: BTreeSet<Account> = plans.iter().map(|(account, _)| account.clone()).collect();
        let before = inner.accounts.insert(pipeline.to_owned(), accounts.clone()).unwrap_or_default();
        let mut concerned: BTreeSet<Account> = before.difference(&accounts).cloned().collect();
        for account in &concerned {
            inner.withdraw(account, pipeline);
        }
        for (account, plan) in plans {
            let of_account = inner.plans.entry(account.clone()).or_default();
            if of_account.get(pipeline).is_none_or(|before| **before != plan) {
                of_account.insert(pipeline.to_owned(), Arc::new(plan));
                concerned.insert(account);
            }
        }
        inner.wake(&concerned);
    }

    /// `pipeline` is gone: nobody runs it any more.
    pub fn withdraw(&self, pipeline: &str) {
        let mut inner = self.lock();
        inner.settle(pipeline);
        let accounts = inner.accounts.remove(pipeline).unwrap_or_default();
        for account in &accounts {
            inner.withdraw(account, pipeline);
        }
        inner.wake(&accounts);
    }

    /// These are all the pipelines there are: once each has been published or withdrawn, sidecars are told their plans.
    pub fn expect(&self, pipelines: impl IntoIterator<Item = String>) {
        let mut inner = self.lock();
        let mut unsettled: HashMap<String, HashSet<String>> = HashMap::new();
        for pipeline in pipelines.into_iter().filter(|pipeline| !inner.accounts.contains_key(pipeline)) {
            unsettled.entry(namespace_of(&pipeline).to_owned()).or_default().insert(pipeline);
        }
        inner.unsettled = Some(unsettled);
        inner.sessions.values().for_each(Session::wake);
    }

    /// Forgets every plan: another replica leads, and its are newer.
    pub fn clear(&self) {
        let mut inner = self.lock();
        (inner.plans, inner.accounts, inner.stirred, inner.unsettled) = Default::default();
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
        let session =
            Session { account: account.clone(), pod, changed, said: BTreeMap::new(), anchored: None };
        inner.sessions.insert(id, session);
        inner.stir_all_of(&account);
        self.stir.notify_one();
        Connected { fleet: self.clone(), id, account, changes }
    }

    /// What the connected pods of `account` say about the plan of `pipeline` that has this hash.
    pub fn acknowledged(&self, account: &Account, pipeline: &str, hash: &str) -> Acknowledged {
        let inner = self.lock();
        let mut sum = Acknowledged::default();
        for session in
            inner.by_account.get(account).into_iter().flatten().filter_map(|(_, id)| inner.sessions.get(id))
        {
            sum.connected += 1;
            let Some(said) = session.said.get(pipeline) else { continue };
            if let Some((drained, counts)) = &said.drained
                && drained == hash
            {
                sum.drained += usize::from(counts.in_flight == 0);
                add(&mut sum.counts, counts);
            }
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
        for session in inner.sessions.values().filter(|session| inner.plans.contains_key(&session.account)) {
            anchored.entry(session.account.clone()).or_default().push(session.anchored);
        }
        anchored
    }

    /// The pipelines of which something has been said since the last call; waits until there are some.
    pub async fn stirred(&self) -> Vec<String> {
        loop {
            let stirred: Vec<String> = self.lock().stirred.drain().collect();
            if !stirred.is_empty() {
                return stirred;
            }
            self.stir.notified().await;
        }
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
    account: Account,
    /// Changes when [`Connected::plans`] does.
    pub changes: watch::Receiver<u64>,
}

impl Connected {
    /// Everything it is to run; none while that is not known.
    pub fn plans(&self) -> Option<Vec<Plan>> {
        let inner = self.fleet.lock();
        let unsettled = inner.unsettled.as_ref()?;
        match inner.plans.get(&self.account) {
            Some(plans) => Some(plans.values().map(|plan| (**plan).clone()).collect()),
            None => (!unsettled.contains_key(&self.account.0)).then(Vec::new),
        }
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
            Report::Applied(applied) => {
                let error = applied.error.map(shortened);
                (applied.pipeline, Said { applied: Some((applied.hash, error)), ..Said::default() })
            }
            Report::Ready(mut ready) => {
                ready.reason = shortened(ready.reason);
                ready.missing.truncate(PIPELINES_SAID_MAX);
                (ready.pipeline.clone(), Said { ready: Some(ready), ..Said::default() })
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
            // What runs has not drained, and what has drained does not run.
            match said {
                Said { applied: Some(applied), .. } => (known.applied, known.drained) = (Some(applied), None),
                Said { drained: Some(drained), .. } => {
                    *known = Said { drained: Some(drained), ..Said::default() }
                }
                Said { ready, .. } => known.ready = ready,
            }
        }
        inner.stirred.insert(pipeline);
        drop(inner);
        self.fleet.stir.notify_one();
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut inner = self.fleet.lock();
        inner.end(self.id);
        inner.stir_all_of(&self.account);
        drop(inner);
        self.fleet.stir.notify_one();
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

    fn withdraw(&mut self, account: &Account, pipeline: &str) {
        if let Some(plans) = self.plans.get_mut(account) {
            plans.remove(pipeline);
            if plans.is_empty() {
                self.plans.remove(account);
            }
        }
        for id in self.by_account.get(account).into_iter().flat_map(BTreeMap::values) {
            self.sessions.get_mut(id).map(|session| session.said.remove(pipeline));
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

    fn wake(&self, accounts: &BTreeSet<Account>) {
        let ids =
            accounts.iter().filter_map(|account| self.by_account.get(account)).flat_map(BTreeMap::values);
        ids.filter_map(|id| self.sessions.get(id)).for_each(Session::wake);
    }

    fn stir_all_of(&mut self, account: &Account) {
        let pipelines = self.plans.get(account).into_iter().flatten().map(|(pipeline, _)| pipeline.clone());
        self.stirred.extend(pipelines);
    }
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
mod tests {
    use sidestream_control::{Anchored, Applied, Drained};

    use super::*;

    fn account(name: &str) -> Account {
        ("shop".into(), name.into())
    }

    fn plan(hash: &str) -> Plan {
        Plan { pipeline: "shop/p".into(), hash: hash.into(), ..Plan::default() }
    }

    fn applied(hash: &str, error: Option<&str>) -> Report {
        let error = error.map(str::to_owned);
        Report::Applied(Applied { pipeline: "shop/p".into(), hash: hash.into(), error })
    }

    #[test]
    fn nobody_is_told_anything_before_it_is_known_which_pipelines_there_are() {
        let fleet = Fleet::default();
        let mut hub = fleet.connect(account("hub"), "hub-1".into());
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        assert_eq!(hub.plans(), None);
        hub.changes.mark_unchanged();
        fleet.expect(["shop/p".into(), "shop/q".into(), "other/r".into()]);
        assert!(hub.changes.has_changed().unwrap());
        assert_eq!(hub.plans().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_new_plan_wakes_only_the_sidecars_that_run_it() {
        let fleet = Fleet::default();
        fleet.expect([]);
        let (mut hub, mut door) =
            (fleet.connect(account("hub"), "hub-1".into()), fleet.connect(account("door"), "door-1".into()));
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        assert!(hub.changes.has_changed().unwrap() && !door.changes.has_changed().unwrap());
        assert_eq!((hub.plans().unwrap().len(), door.plans().unwrap().len()), (1, 0));

        hub.changes.mark_unchanged();
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        assert!(!hub.changes.has_changed().unwrap(), "the same plan again is no news");

        fleet.publish("shop/p", vec![(account("door"), plan("2"))]);
        assert!(hub.changes.has_changed().unwrap() && door.changes.has_changed().unwrap());
        assert_eq!((hub.plans().unwrap().len(), door.plans().unwrap().len()), (0, 1));
        door.changes.mark_unchanged();
    }

    #[tokio::test]
    async fn an_acknowledgement_counts_for_the_plan_it_names_while_its_sidecar_is_connected() {
        let fleet = Fleet::default();
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        let (one, two) =
            (fleet.connect(account("hub"), "hub-1".into()), fleet.connect(account("hub"), "hub-2".into()));
        one.report(applied("1", None));
        one.report(Report::Ready(Ready { pipeline: "shop/p".into(), ready: true, ..Ready::default() }));
        two.report(applied("1", Some("no such kind")));
        assert_eq!(fleet.stirred().await, ["shop/p"]);
        let told = fleet.acknowledged(&account("hub"), "shop/p", "1");
        assert_eq!((told.connected, told.applied, told.ready), (2, 1, 1));
        assert_eq!(told.refused, Some(("hub-2".into(), "no such kind".into())));
        assert_eq!(fleet.acknowledged(&account("hub"), "shop/p", "2").applied, 0);
        drop(one);
        assert_eq!(fleet.acknowledged(&account("hub"), "shop/p", "1").connected, 1);
    }

    #[test]
    fn what_has_drained_does_not_run_and_what_runs_has_not_drained() {
        let fleet = Fleet::default();
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        let hub = fleet.connect(account("hub"), "hub-1".into());
        let told = |report| {
            hub.report(report);
            let told = fleet.acknowledged(&account("hub"), "shop/p", "1");
            (told.applied, told.drained, told.counts.completed)
        };
        let counts = Counts { accepted: 5, completed: 5, ..Counts::default() };
        let drained =
            |counts| Report::Drained(Drained { pipeline: "shop/p".into(), hash: "1".into(), counts });
        assert_eq!(told(applied("1", None)), (1, 0, 0));
        assert_eq!(told(drained(Some(Counts { in_flight: 1, ..counts }))), (0, 0, 5));
        assert_eq!(told(drained(Some(counts))), (0, 1, 5));
        assert_eq!(told(applied("1", None)), (1, 0, 0));
    }

    #[test]
    fn what_a_sidecar_says_counts_for_its_own_account_even_before_its_plans_are_known() {
        let fleet = Fleet::default();
        let (hub, stranger) =
            (fleet.connect(account("hub"), "hub-1".into()), fleet.connect(account("door"), "door-1".into()));
        hub.report(applied("1", None));
        stranger.report(applied("1", None));
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        assert_eq!(fleet.acknowledged(&account("hub"), "shop/p", "1").applied, 1);
    }

    #[test]
    fn a_pod_that_connects_anew_is_one_pod_and_an_account_has_no_end_of_them() {
        let fleet = Fleet::default();
        let anchored = |generation| Report::Anchored(Anchored { generation, issuer: 1 });
        let before = fleet.connect(account("hub"), "hub-1".into());
        before.report(anchored(1));
        let mut now = fleet.connect(account("hub"), "hub-1".into());
        now.report(anchored(2));
        before.report(anchored(3));
        assert!(fleet.anchored().is_empty(), "it is not known to run anything");
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        assert_eq!(fleet.anchored()[&account("hub")], [Some((2, 1))]);
        drop(before);
        assert!(fleet.connected() == 1 && now.changes.has_changed().is_ok());

        let others: Vec<_> =
            (2..=SESSIONS_MAX + 1).map(|n| fleet.connect(account("hub"), format!("hub-{n}"))).collect();
        assert_eq!(fleet.connected(), SESSIONS_MAX);
        now.changes.mark_unchanged();
        assert!(now.changes.has_changed().is_err(), "the oldest has ended");
        drop(others);
        assert_eq!(fleet.connected(), 0);
    }

    #[test]
    fn a_pipeline_that_cannot_be_looked_at_withholds_its_own_plans_only() {
        let fleet = Fleet::default();
        fleet.expect(["shop/p".into(), "shop/broken".into()]);
        let (hub, other) = (
            fleet.connect(account("hub"), "hub-1".into()),
            fleet.connect(account("other"), "other-1".into()),
        );
        assert_eq!(hub.plans(), None);
        fleet.publish("shop/p", vec![(account("hub"), plan("1"))]);
        assert!(hub.changes.has_changed().unwrap());
        assert_eq!(hub.plans().unwrap().len(), 1);
        assert_eq!(other.plans(), None, "it may be of the pipeline that was not looked at");
        fleet.withdraw("shop/broken");
        assert_eq!(other.plans().unwrap().len(), 0);
    }

    #[test]
    fn a_sidecar_that_talks_too_much_is_not_listened_to() {
        let fleet = Fleet::default();
        let hub = fleet.connect(account("hub"), "hub-1".into());
        for index in 0..10 * PIPELINES_SAID_MAX {
            let pipeline = format!("shop/{index}");
            hub.report(Report::Ready(Ready { pipeline, reason: "x".repeat(1 << 20), ..Ready::default() }));
        }
        let inner = fleet.lock();
        let said = &inner.sessions.values().next().unwrap().said;
        assert_eq!(said.len(), PIPELINES_SAID_MAX);
        assert!(said.values().all(|said| said.ready.as_ref().unwrap().reason.len() <= REASON_BYTES_MAX));
    }
}
