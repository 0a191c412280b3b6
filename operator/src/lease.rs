//! Who leads: the holder of one Lease. It alone writes to the API server and serves `Sync`.
//!
//! ```text
//!   Nobody ── the Lease is free, or its holder has been silent for a lease's time ──▶ Own
//!   Own ──── renewed every few seconds; not for RENEW_MAX, or taken by another ──▶ Other | Nobody
//! ```
//!
//! Silence is measured by this machine's own monotonic clock from when a renewal was *seen*, so clocks that differ do not
//! matter. A leader that cannot renew stops to lead before another may start: `RENEW_MAX < LEASE`.

use std::{fmt, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use sidestream_host::{Clock, Moment};
use tokio::{sync::watch, time::sleep};

/// Its name, in the operator's namespace.
pub const LEASE: &str = "sidestream-operator";
/// An annotation on it: where the holder's control server is.
const ADDRESS: &str = "sidestream.dev/control-address";

/// How long the Lease of a silent holder lasts.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on without renewing.
const RENEW_MAX: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const PERIOD: Duration = Duration::from_secs(2);
const _: () = assert!(RENEW_MAX.as_secs() + PERIOD.as_secs() < DURATION.as_secs());

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody that is known.
    Nobody,
    /// The replica at this address.
    Other(String),
    /// This replica.
    Own,
}

/// A candidate.
pub struct Elector {
    api: Api<Lease>,
    namespace: String,
    own: String,
    address: String,
    clock: Clock,
    leadership: watch::Sender<Leadership>,
    /// The last renewal by another that was seen, and when.
    seen: Option<(LeaseSpec, Moment)>,
    renewed: Moment,
}

impl Elector {
    /// A candidate called `own`, whose control server is at `address`.
    pub fn new(client: Client, namespace: &str, own: &str, address: &str, clock: &Clock) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.into(),
            own: own.into(),
            address: address.into(),
            clock: clock.clone(),
            leadership: watch::Sender::new(Leadership::Nobody),
            seen: None,
            renewed: clock.now(),
        }
    }

    /// The news of who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Stands for election until `stop` resolves, and then gives the Lease back.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let attempt = tokio::time::timeout(self.patience(), self.attempt());
            let stood = tokio::select! {
                stood = attempt => stood,
                () = &mut stop => break,
            };
            let leader = match stood {
                Ok(Ok(leader)) => leader,
                Ok(Err(error)) => self.without_news(&error),
                Err(late) => self.without_news(&late),
            };
            self.lead(leader);
            tokio::select! {
                () = sleep(PERIOD.min(self.patience())) => {}
                () = &mut stop => break,
            }
        }
        let was_own = *self.leadership.borrow() == Leadership::Own;
        self.lead(Leadership::Nobody);
        if was_own && let Err(error) = self.release().await {
            tracing::info!(%error, "the Lease is left to run out");
        }
    }

    fn lead(&self, leader: Leadership) {
        self.leadership.send_if_modified(|current| {
            let is_news = *current != leader;
            if is_news {
                tracing::info!(?leader, "leadership");
                *current = leader;
            }
            is_news
        });
    }

    /// How long an attempt may take: who leads must know in time that it does not any more.
    fn patience(&self) -> Duration {
        match *self.leadership.borrow() {
            Leadership::Own => RENEW_MAX.saturating_sub(self.clock.now().since(self.renewed)),
            Leadership::Nobody | Leadership::Other(_) => RENEW_MAX,
        }
    }

    /// The API server does not answer: a leader leads for as long as nobody else can have become one.
    fn without_news(&self, error: &dyn fmt::Display) -> Leadership {
        tracing::warn!(%error, "the Lease cannot be read or renewed now");
        let current = self.leadership.borrow().clone();
        let is_over = current == Leadership::Own && self.clock.now().since(self.renewed) >= RENEW_MAX;
        if is_over { Leadership::Nobody } else { current }
    }

    /// Reads the Lease, and takes or renews it where that is right.
    async fn attempt(&mut self) -> Result<Leadership, kube::Error> {
        let asked = self.clock.now();
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            let fresh = self.taken(Lease::default());
            self.api.create(&PostParams::default(), &fresh).await?;
            self.renewed = asked;
            return Ok(Leadership::Own);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder != self.own && !holder.is_empty() && !self.is_silent(&spec, asked) {
            let address = lease.metadata.annotations.unwrap_or_default().remove(ADDRESS).unwrap_or_default();
            return Ok(Leadership::Other(address));
        }
        // The resource version in it makes this fail where somebody else was first.
        match self.api.replace(LEASE, &PostParams::default(), &self.taken(lease)).await {
            Ok(_) => {
                self.renewed = asked;
                Ok(Leadership::Own)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Leadership::Nobody),
            Err(error) => Err(error),
        }
    }

    /// Whether the holder has not renewed for as long as its lease lasts.
    fn is_silent(&mut self, spec: &LeaseSpec, now: Moment) -> bool {
        let since = match &self.seen {
            Some((seen, since)) if seen == spec => *since,
            _ => {
                self.seen = Some((spec.clone(), now));
                now
            }
        };
        let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        now.since(since) >= lasts.map_or(DURATION, Duration::from_secs)
    }

    /// `lease`, held by this replica from now on.
    fn taken(&self, mut lease: Lease) -> Lease {
        let now = Some(MicroTime(self.wall()));
        let before = lease.spec.take().unwrap_or_default();
        let is_renewal = before.holder_identity.as_deref() == Some(&self.own);
        let transitions = before.lease_transitions.unwrap_or_default();
        lease.metadata = ObjectMeta {
            name: Some(LEASE.into()),
            namespace: Some(self.namespace.clone()),
            resource_version: lease.metadata.resource_version,
            labels: lease.metadata.labels,
            annotations: Some([(ADDRESS.into(), self.address.clone())].into()),
            ..ObjectMeta::default()
        };
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.own.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: if is_renewal { before.acquire_time } else { now.clone() },
            lease_transitions: Some(if is_renewal { transitions } else { transitions.saturating_add(1) }),
            renew_time: now,
            ..LeaseSpec::default()
        });
        lease
    }

    /// Gives the Lease back, so that another need not wait.
    async fn release(&self) -> Result<(), kube::Error> {
        let mut lease = self.api.get(LEASE).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.own) {
            spec.holder_identity = None;
            self.api.replace(LEASE, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.clock.wall_nanos())).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn a_leader_waits_for_an_answer_no_longer_than_it_may_lead() {
        let silent = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, std::io::Error>>()
        });
        let (clock, hand) = Clock::simulated(0);
        let mut elector = Elector::new(Client::new(silent, "default"), "ns", "me", "a:1", &clock);
        assert_eq!(elector.patience(), RENEW_MAX);
        elector.lead(Leadership::Own);
        hand.advance(RENEW_MAX - Duration::from_millis(100));
        assert_eq!(elector.patience(), Duration::from_millis(100));
        let late = tokio::time::timeout(elector.patience(), elector.attempt()).await.unwrap_err();
        hand.advance(Duration::from_millis(100));
        assert_eq!(elector.without_news(&late), Leadership::Nobody);
    }
}
