//! Takes a rotation of the roots forward: Distribute, Issue, and back to Stable, each step when every sidecar is ready
//! for it.
//!
//! What is not a sidecar is waited for as well: the API server's trust in the webhooks, and for a while the caches in
//! between and the other replicas, none of which say that they are ready.
//!
//! `kubectl -n sidestream-system annotate secret sidestream-ca sidestream.dev/rotate=NOW` begins one; so does a root that
//! has lived four fifths of its life. What is in the Secret says how far it is: see [`crate::trust`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::PostParams};
use sidestream_host::{Clock, Moment};
use sidestream_trust::{Anchors, Authority};
use tokio::{sync::watch, time::sleep};

use super::Backoff;
use crate::{
    control::{Account, Fleet},
    observed::Observed,
    trust::{AuthorityError, CA_SECRET, Phase, ROTATE, ROTATED, Roots, adopt},
    user_pods::UserPods,
    webhook::Vouched,
};

/// How often it is asked whether the next step may be taken. Asking costs no request.
const PERIOD: Duration = Duration::from_secs(1);
/// A root that has less than this left is replaced: a fifth of ten years.
const LEFT_MIN_SECONDS: i64 = 2 * 365 * 86_400;

/// Takes the roots from phase to phase.
pub struct Rotation {
    api: Api<Secret>,
    roots: watch::Sender<Arc<Roots>>,
    sources: Sources,
    dwell: Duration,
    dwelling: Dwelling,
    backoff: Backoff,
    clock: Clock,
}

impl Rotation {
    /// Of the roots in the Secret of `namespace`; `dwell` is how long all must have been ready for a step.
    pub fn new(
        client: Client,
        namespace: &str,
        roots: watch::Sender<Arc<Roots>>,
        sources: Sources,
        dwell: Duration,
        clock: Clock,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, roots, sources, dwell, dwelling: Dwelling::default(), backoff: Backoff::default(), clock }
    }

    /// Rotates whenever that is due, until dropped.
    pub(super) async fn run(mut self) {
        loop {
            sleep(PERIOD).await;
            match self.turn().await {
                Ok(None) => {}
                Ok(Some(phase)) => {
                    self.backoff.forget(CA_SECRET);
                    let generation = self.roots.borrow().generation;
                    tracing::info!(?phase, generation, "the roots rotate");
                }
                Err(error) => {
                    tracing::warn!(%error, "the roots do not rotate now");
                    sleep(self.backoff.failed(CA_SECRET)).await;
                }
            }
        }
    }

    /// Takes the next step where it is time for it, and says which phase that is. It is one write.
    ///
    /// # Errors
    /// Where it can't be written. What is known of the roots is then as before: a write whose answer was lost is refused
    /// the next time, until the Secret is read again.
    pub async fn turn(&mut self) -> Result<Option<Phase>, AuthorityError> {
        let now = self.clock.wall_nanos().div_euclid(1_000_000_000);
        let current = self.roots.borrow().clone();
        let is_time = is_time(&current, &self.sources.told(&current), now);
        let leaves = is_time.then(|| (current.phase(), current.generation));
        if !self.dwelling.is_over(leaves, self.dwell, self.clock.now()) {
            return Ok(None);
        }
        let next = step(&current, &self.clock)?;
        // Refused where somebody else wrote it meanwhile: the next look starts from what they wrote.
        let written = self.api.replace(CA_SECRET, &PostParams::default(), &next.to_secret()).await;
        let metadata = written.map_err(AuthorityError::Kube)?.metadata;
        let phase = next.phase();
        adopt(&self.roots, Roots { metadata, ..next });
        Ok(Some(phase))
    }
}

/// Where it is known from who is ready.
pub struct Sources {
    /// What the sidecars say.
    pub fleet: Fleet,
    /// Which pods of ours run.
    pub observed: Observed,
    /// Which pods of the user's run.
    pub user_pods: UserPods,
    /// Whom the API server trusts; none where it asks us nothing.
    pub(crate) vouched: Option<Vouched>,
}

impl Sources {
    /// Where the API server asks us nothing.
    pub fn new(fleet: Fleet, observed: Observed, user_pods: UserPods) -> Self {
        Self { fleet, observed, user_pods, vouched: None }
    }

    fn told(&self, roots: &Roots) -> Told {
        let mut pods = self.observed.pods_ready();
        for (account, count) in self.user_pods.running(&self.fleet.pods_told()) {
            *pods.entry(account).or_default() += count;
        }
        let pem = roots.anchors.to_pem();
        let is_vouched_for = self.vouched.as_ref().is_none_or(|vouched| vouched.is_for(&pem));
        Told { anchored: self.fleet.anchored(), pods, is_vouched_for }
    }
}

/// What the sidecars say.
#[derive(Debug, Default)]
struct Told {
    /// Of each connected pod of an account: the generation it trusts, and who issued its certificate.
    anchored: HashMap<Account, Vec<Option<(u64, u64)>>>,
    /// How many pods of each account run.
    pods: HashMap<Account, usize>,
    /// Whether the API server trusts all of the roots where it asks the webhooks.
    is_vouched_for: bool,
}

impl Told {
    /// Whether every sidecar that runs is connected, and says so. None stands in for one of another account.
    fn is_by_all(&self, is_so: impl Fn((u64, u64)) -> bool) -> bool {
        let connected = |account| self.anchored.get(account).map_or(0, Vec::len);
        self.pods.iter().all(|(account, pods)| connected(account) >= *pods)
            && self.anchored.values().flatten().all(|one| one.is_some_and(&is_so))
    }
}

/// Since when everybody who says so has been ready for the next step.
#[derive(Debug, Default)]
struct Dwelling(Option<((Phase, u64), Moment)>);

impl Dwelling {
    /// Whether all have been ready to leave this phase for as long as `dwell`; none: they are not now. A rotation begins at
    /// once.
    fn is_over(&mut self, leaves: Option<(Phase, u64)>, dwell: Duration, now: Moment) -> bool {
        let Some(leaves) = leaves else {
            self.0 = None;
            return false;
        };
        let since = match self.0 {
            Some((same, since)) if same == leaves => since,
            _ => self.0.insert((leaves, now)).1,
        };
        leaves.0 == Phase::Stable || now.since(since) >= dwell
    }
}

/// Whether the next step may be taken.
fn is_time(current: &Roots, told: &Told, now: i64) -> bool {
    match current.phase() {
        Phase::Stable => is_due(current, now),
        Phase::Distribute => {
            told.is_vouched_for && told.is_by_all(|(generation, _)| generation >= current.generation)
        }
        Phase::Issue => told.is_by_all(|(_, issuer)| issuer == current.issuer_number()),
    }
}

/// The roots after the next step.
fn step(current: &Roots, clock: &Clock) -> Result<Roots, AuthorityError> {
    let trust = AuthorityError::Trust;
    // Only now: to copy the roots is to read their keys.
    let mut next = current.copy(clock)?;
    match current.phase() {
        Phase::Stable => {
            let new = Authority::create(current.issuer.trust_domain(), clock).map_err(trust)?;
            let both = [current.issuer.anchor().clone(), new.anchor().clone()];
            next.anchors = Anchors::new(both).map_err(trust)?;
            (next.next, next.generation) = (Some(new), current.generation + 1);
        }
        Phase::Distribute => {
            next.issuer = next.next.take().unwrap_or(next.issuer);
        }
        Phase::Issue => {
            next.anchors = next.issuer.anchors();
            next.generation = current.generation + 1;
            if let Some(asked) = current.metadata.annotations.as_ref().and_then(|all| all.get(ROTATE)) {
                next.metadata.annotations.get_or_insert_default().insert(ROTATED.into(), asked.clone());
            }
        }
    }
    Ok(next)
}

fn is_due(roots: &Roots, now: i64) -> bool {
    let annotation = |key: &str| roots.metadata.annotations.as_ref()?.get(key);
    let is_asked = annotation(ROTATE).is_some_and(|asked| annotation(ROTATED) != Some(asked));
    is_asked || roots.issuer.not_after_seconds() - now < LEFT_MIN_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_waits_for_every_sidecar_and_the_old_root_goes_last() {
        let clock = Clock::machine();
        let now = clock.wall_nanos() / 1_000_000_000;
        let go = |roots: &Roots, anchored: Vec<Option<(u64, u64)>>, pods| {
            let told = Told {
                anchored: [(account("hub"), anchored)].into(),
                pods: [(account("hub"), pods)].into(),
                is_vouched_for: true,
            };
            is_time(roots, &told, now).then(|| step(roots, &clock).unwrap())
        };
        let mut roots = Roots::create("cluster.local", &clock).unwrap();
        let old = roots.issuer_number();
        assert!(go(&roots, vec![], 0).is_none(), "nobody asked");
        roots.metadata.annotations.get_or_insert_default().insert(ROTATE.into(), "now".into());

        let distribute = go(&roots, vec![Some((1, old))], 1).unwrap();
        assert_eq!((distribute.phase(), distribute.issuer_number()), (Phase::Distribute, old));
        assert!(go(&distribute, vec![Some((1, old))], 1).is_none(), "one trusts the old root only");
        assert!(go(&distribute, vec![None], 1).is_none(), "one has not said");
        assert!(go(&distribute, vec![Some((2, old))], 2).is_none(), "one is not connected");

        let issue = go(&distribute, vec![Some((2, old)); 2], 2).unwrap();
        let new = issue.issuer_number();
        assert!(issue.phase() == Phase::Issue && new != old && issue.anchors.certificates().len() == 2);
        assert!(go(&issue, vec![Some((2, new)), Some((2, old))], 2).is_none(), "one has an old certificate");

        let stable = go(&issue, vec![Some((2, new)); 2], 2).unwrap();
        assert_eq!((stable.phase(), stable.generation, stable.issuer_number()), (Phase::Stable, 3, new));
        assert!(go(&stable, vec![Some((3, new))], 1).is_none(), "what was asked for is done");
    }

    #[test]
    fn a_root_near_its_end_is_replaced_unasked() {
        let clock = Clock::machine();
        let roots = Roots::create("cluster.local", &clock).unwrap();
        let late = roots.issuer.not_after_seconds() - LEFT_MIN_SECONDS + 1;
        assert!(is_time(&roots, &Told::default(), late));
    }

    #[test]
    fn no_certificate_of_a_new_root_is_issued_before_the_api_server_trusts_it() {
        let clock = Clock::machine();
        let distribute = step(&Roots::create("cluster.local", &clock).unwrap(), &clock).unwrap();
        assert_eq!(distribute.phase(), Phase::Distribute);
        assert!(!is_time(&distribute, &Told::default(), 0));
        assert!(is_time(&distribute, &Told { is_vouched_for: true, ..Told::default() }, 0));
    }

    #[test]
    fn all_must_have_been_ready_for_a_while_and_a_rotation_begins_at_once() {
        let clock = Clock::machine();
        let (now, dwell) = (clock.now(), Duration::from_secs(5));
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut dwelling = Dwelling::default();
        assert!(dwelling.is_over(Some((Phase::Stable, 1)), dwell, now));
        let distribute = Some((Phase::Distribute, 2));
        assert!(!dwelling.is_over(distribute, dwell, now));
        assert!(!dwelling.is_over(None, dwell, at(4)), "one is not ready any more");
        assert!(!dwelling.is_over(distribute, dwell, at(5)) && !dwelling.is_over(distribute, dwell, at(9)));
        assert!(dwelling.is_over(distribute, dwell, at(10)));
        assert!(!dwelling.is_over(Some((Phase::Issue, 2)), dwell, at(10)), "the next phase is another");
    }

    #[test]
    fn a_sidecar_of_one_account_does_not_stand_in_for_one_of_another() {
        let told = |hub, door| Told {
            anchored: [
                (account("hub"), vec![Some((2, 1)); hub]),
                (account("door"), vec![Some((2, 1)); door]),
            ]
            .into(),
            pods: [(account("hub"), 1), (account("door"), 1)].into(),
            is_vouched_for: true,
        };
        assert!(told(1, 1).is_by_all(|_| true));
        assert!(!told(2, 0).is_by_all(|_| true));
    }

    fn account(name: &str) -> Account {
        ("shop".into(), name.into())
    }
}
