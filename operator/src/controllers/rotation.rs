//! Takes a rotation of the roots forward: Distribute, Issue, and back to Stable, each step when every sidecar is ready
//! for it.
//!
//! `kubectl -n sidestream-system annotate secret sidestream-ca sidestream.dev/rotate=NOW` begins one; so does a root that
//! has lived four fifths of its life. What is in the Secret says how far it is: see [`crate::trust`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::PostParams};
use sidestream_host::Clock;
use sidestream_trust::{Anchors, Authority};
use tokio::{sync::watch, time::sleep};

use super::Backoff;
use crate::{
    control::{Account, Fleet},
    observed::Observed,
    trust::{AuthorityError, CA_SECRET, Phase, ROTATE, ROTATED, Roots, adopt},
    user_pods::UserPods,
};

/// How often it is asked whether the next step may be taken. Asking costs no request.
const PERIOD: Duration = Duration::from_secs(1);
/// A root that has less than this left is replaced: a fifth of ten years.
const LEFT_MIN_SECONDS: i64 = 2 * 365 * 86_400;

/// Rotates whenever that is due, until dropped.
pub(super) async fn rotate(
    client: Client,
    namespace: String,
    roots: watch::Sender<Arc<Roots>>,
    sources: Sources,
    clock: Clock,
) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let backoff = Backoff::default();
    loop {
        sleep(PERIOD).await;
        let now = clock.wall_nanos().div_euclid(1_000_000_000);
        let told = sources.told();
        let current = roots.borrow().clone();
        let next = match step(&current, &told, now, &clock) {
            Ok(Some(next)) => next,
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(%error, "the roots do not rotate");
                sleep(backoff.failed(CA_SECRET)).await;
                continue;
            }
        };
        // Refused where somebody else wrote it meanwhile: the next look starts from what they wrote.
        match api.replace(CA_SECRET, &PostParams::default(), &next.to_secret()).await {
            Ok(written) => {
                let phase = next.phase();
                backoff.forget(CA_SECRET);
                tracing::info!(?phase, generation = next.generation, "the roots rotate");
                adopt(&roots, Roots { metadata: written.metadata, ..next });
            }
            Err(error) => {
                tracing::warn!(%error, "the roots do not rotate now");
                sleep(backoff.failed(CA_SECRET)).await;
            }
        }
    }
}

/// Where it is known from.
pub(super) struct Sources {
    /// What the sidecars say.
    pub(super) fleet: Fleet,
    /// Which pods of ours run.
    pub(super) observed: Observed,
    /// Which pods of the user's run.
    pub(super) user_pods: UserPods,
}

impl Sources {
    fn told(&self) -> Told {
        let mut pods = self.observed.pods_ready();
        for (account, count) in self.user_pods.running(&self.fleet.pods_told()) {
            *pods.entry(account).or_default() += count;
        }
        Told { anchored: self.fleet.anchored(), pods }
    }
}

/// What the sidecars say.
#[derive(Debug)]
struct Told {
    /// Of each connected pod of an account: the generation it trusts, and who issued its certificate.
    anchored: HashMap<Account, Vec<Option<(u64, u64)>>>,
    /// How many pods of each account run.
    pods: HashMap<Account, usize>,
}

impl Told {
    /// Whether every sidecar that runs is connected, and says so. None stands in for one of another account.
    fn is_by_all(&self, is_so: impl Fn((u64, u64)) -> bool) -> bool {
        let connected = |account| self.anchored.get(account).map_or(0, Vec::len);
        self.pods.iter().all(|(account, pods)| connected(account) >= *pods)
            && self.anchored.values().flatten().all(|one| one.is_some_and(&is_so))
    }
}

/// The roots after the next step; none where it is not time for one.
fn step(current: &Roots, told: &Told, now: i64, clock: &Clock) -> Result<Option<Roots>, AuthorityError> {
    let is_time = match current.phase() {
        Phase::Stable => is_due(current, now),
        Phase::Distribute => told.is_by_all(|(generation, _)| generation >= current.generation),
        Phase::Issue => told.is_by_all(|(_, issuer)| issuer == current.issuer_number()),
    };
    if !is_time {
        return Ok(None);
    }
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
            let Some(new) = next.next.take() else { return Ok(None) };
            next.issuer = new;
        }
        Phase::Issue => {
            next.anchors = next.issuer.anchors();
            next.generation = current.generation + 1;
            if let Some(asked) = current.metadata.annotations.as_ref().and_then(|all| all.get(ROTATE)) {
                next.metadata.annotations.get_or_insert_default().insert(ROTATED.into(), asked.clone());
            }
        }
    }
    Ok(Some(next))
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
            let told =
                Told { anchored: [(account("hub"), anchored)].into(), pods: [(account("hub"), pods)].into() };
            step(roots, &told, now, &clock).unwrap()
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
        let told = Told { anchored: HashMap::new(), pods: HashMap::new() };
        assert!(step(&roots, &told, late, &clock).unwrap().is_some());
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
        };
        assert!(told(1, 1).is_by_all(|_| true));
        assert!(!told(2, 0).is_by_all(|_| true));
    }

    fn account(name: &str) -> Account {
        ("shop".into(), name.into())
    }
}
