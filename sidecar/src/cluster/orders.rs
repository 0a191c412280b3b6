//! What the operator wants run, and what it hears back.

use std::{collections::BTreeMap, time::Duration};

use sidestream_control::{
    Anchored, Anchors as AnchorsOrder, Applied, Drained, Halting, Hello, Leaving, MESSAGE_BYTES_MAX,
    Orders as Down, Plans, Pool, Ready, Report, Serving, SidecarReport, Suspend, SyncClient,
};
use sidestream_plan::{Process, Sink, Source};
use sidestream_trust::Anchors;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    ClusterError, Enrolled, Settings,
    call::{ALPN, call},
};
use crate::backoff::Backoff;

/// What the operator wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Run these, and nothing else.
    Plans(Plans),
    /// Keep these dnpipes, and no others.
    Pool(Pool),
}

/// Orders as they come, and where answers go.
pub struct Orders {
    orders: mpsc::Receiver<Order>,
    standing: watch::Sender<Standing>,
}

/// How things stand in this sidecar, by pipeline: the operator hears every change, and all of it after each connect.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// What became of the last plan.
    pub applied: BTreeMap<String, Applied>,
    /// Whether its stages work.
    pub ready: BTreeMap<String, Ready>,
    /// The edges of earlier plans that still deliver.
    pub leaving: BTreeMap<String, Leaving>,
    /// Of what is suspended and still has edges that come in: the edges that still go out.
    pub halting: BTreeMap<String, Halting>,
    /// What has stopped because it was suspended.
    pub drained: BTreeMap<String, Drained>,
    /// Where it serves dnpipes: how they are.
    pub serving: Option<Serving>,
    anchored: Option<Anchored>,
}

impl Orders {
    /// Everything that is to run, or all that is to be kept, whenever that changes.
    pub async fn next(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    /// Says how things stand now.
    pub fn report(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_modify(change);
    }
}

/// Follows the operator for as long as the runtime lives, calling again whenever the line breaks.
pub fn follow(settings: Settings, enrolled: Enrolled) -> Orders {
    let (sender, orders) = mpsc::channel(1);
    let standing = watch::Sender::new(Standing::default());
    let standing_there = standing.clone();
    let mut line = Line { settings, enrolled, orders: sender, standing, elsewhere: None, is_heard: false };
    tokio::spawn(async move {
        let mut backoff = Backoff::new(None);
        loop {
            match line.follow(&mut backoff).await {
                Ok(()) => tracing::info!("the operator has hung up"),
                Err(error) => {
                    tracing::warn!("{error}; what runs goes on");
                    line.doubt(&error);
                }
            }
            tokio::time::sleep(backoff.next(None).unwrap_or(Duration::from_secs(30))).await;
        }
    });
    Orders { orders, standing: standing_there }
}

struct Line {
    settings: Settings,
    enrolled: Enrolled,
    orders: mpsc::Sender<Order>,
    standing: watch::Sender<Standing>,
    /// Where the last one who answered said that the leader is.
    elsewhere: Option<String>,
    /// Whether an order has come on the line of the moment.
    is_heard: bool,
}

impl Line {
    /// One call, from hello to hang-up.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), ClusterError> {
        self.is_heard = false;
        // Tried once: after that the operator's name leads to whoever leads then.
        let address = self.elsewhere.take().unwrap_or_else(|| self.settings.operator.clone());
        let tls = self.enrolled.identity.client_config(&self.settings.operator_id, ALPN)?;
        let channel = call(&address, tls).await?;
        let (reports, outgoing) = mpsc::channel(REPORTS_WAITING);
        let mut client = SyncClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        // Before the call: the operator answers once it knows who calls.
        let _ = reports.try_send(Report::Hello(self.hello()).into());
        let mut incoming =
            client.sync(ReceiverStream::new(outgoing)).await.map_err(ClusterError::Refused)?.into_inner();
        let mut changes = self.standing.subscribe();
        changes.mark_changed();
        let mut issuers = self.enrolled.issuer.subscribe();
        let mut told = Standing::default();
        loop {
            tokio::select! {
                order = incoming.message() => match order.map_err(ClusterError::Refused)? {
                    None => return Ok(()),
                    Some(order) => {
                        self.is_heard = true;
                        match order.orders {
                            Some(Down::Plans(plans)) => {
                                backoff.reset();
                                forget(&mut told, &plans);
                                // Its receiver lives as long as the process.
                                let _ = self.orders.send(Order::Plans(plans)).await;
                            }
                            Some(Down::Pool(pool)) => {
                                backoff.reset();
                                let _ = self.orders.send(Order::Pool(pool)).await;
                            }
                            Some(Down::Anchors(anchors)) => {
                                backoff.reset();
                                self.believe(anchors)?;
                            }
                            Some(Down::Elsewhere(other)) => {
                                tracing::debug!(leader = other.address, "this replica does not lead");
                                self.elsewhere = Some(other.address).filter(|address| !address.is_empty());
                                return Ok(());
                            }
                            // Of a newer operator.
                            None => {}
                        }
                    }
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = changes.borrow_and_update().clone();
                    for report in news(&told, &now) {
                        if reports.send(report).await.is_err() {
                            return Ok(());
                        }
                    }
                    told = now;
                }
                _ = issuers.changed() => {
                    let issuer = *issuers.borrow_and_update();
                    self.standing.send_modify(|standing| {
                        if let Some(anchored) = &mut standing.anchored {
                            anchored.issuer = issuer;
                        }
                    });
                }
            }
        }
    }

    fn believe(&self, order: AnchorsOrder) -> Result<(), ClusterError> {
        let anchors = Anchors::new(order.der.into_iter().map(Into::into))?;
        let generation = self.enrolled.believe(order.generation, anchors, order.issuer);
        let issuer = *self.enrolled.issuer.borrow();
        let anchored = Anchored { generation, issuer };
        self.standing.send_modify(|standing| standing.anchored = Some(anchored));
        Ok(())
    }

    /// The roots may have turned while this sidecar was not connected, so that one end no longer believes the other. In
    /// TLS 1.3 a caller that is not believed finds its line broken before anything has come on it.
    fn doubt(&self, error: &ClusterError) {
        let is_doubtful = match error {
            ClusterError::Unproved { .. } => true,
            ClusterError::Refused(_) => !self.is_heard,
            ClusterError::File { .. } | ClusterError::Trust(_) | ClusterError::Unreachable { .. } => false,
        };
        if is_doubtful {
            self.enrolled.renew_now();
        }
    }

    fn hello(&self) -> Hello {
        let roles = [("process", Process::KINDS), ("sink", Sink::KINDS), ("source", Source::KINDS)];
        let known =
            roles.iter().flat_map(|(role, kinds)| kinds.iter().map(move |kind| format!("{role}/{kind}")));
        Hello {
            pod: self.settings.pod.clone(),
            namespace: self.settings.namespace.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            kinds: known.chain(["sink/edge".into(), "source/edge".into()]).collect(),
        }
    }
}

/// The operator no longer knows of what it has run that it had stopped before: that is news when it stops again.
fn forget(told: &mut Standing, plans: &Plans) {
    for plan in plans.plans.iter().filter(|plan| plan.stance() == Suspend::Run) {
        told.halting.remove(&plan.pipeline);
        told.drained.remove(&plan.pipeline);
    }
}

/// What is in `now` and was not told yet.
fn news(told: &Standing, now: &Standing) -> Vec<SidecarReport> {
    fn changed<T: Clone + PartialEq>(told: &BTreeMap<String, T>, now: &BTreeMap<String, T>) -> Vec<T> {
        now.iter()
            .filter(|(name, value)| told.get(*name) != Some(value))
            .map(|(_, value)| value.clone())
            .collect()
    }
    let applied = changed(&told.applied, &now.applied).into_iter().map(Report::Applied);
    let ready = changed(&told.ready, &now.ready).into_iter().map(Report::Ready);
    // Before that the plan is applied: whoever waits for both should not think that nothing is left.
    let leaving = changed(&told.leaving, &now.leaving).into_iter().map(Report::Leaving);
    let halting = changed(&told.halting, &now.halting).into_iter().map(Report::Halting);
    let drained = changed(&told.drained, &now.drained).into_iter().map(Report::Drained);
    let anchored = now.anchored.filter(|_| told.anchored != now.anchored).map(Report::Anchored);
    let serving = now.serving.clone().filter(|_| told.serving != now.serving).map(Report::Serving);
    leaving
        .chain(applied)
        .chain(ready)
        .chain(halting)
        .chain(drained)
        .chain(anchored)
        .chain(serving)
        .map(SidecarReport::from)
        .collect()
}

/// Reports that wait for the wire; whoever reports more waits.
const REPORTS_WAITING: usize = 64;

#[cfg(test)]
mod tests {
    use sidestream_control::Plan;

    use super::*;

    #[test]
    fn what_was_to_run_in_between_and_has_drained_as_before_says_so_again() {
        let (pipeline, plan) = ("shop/a".to_owned(), |suspend: Suspend| Plans {
            plans: vec![Plan { pipeline: "shop/a".into(), suspend: suspend.into(), ..Plan::default() }],
        });
        let mut told = Standing::default();
        told.drained.insert(pipeline.clone(), Drained { pipeline, ..Drained::default() });
        let now = told.clone();
        forget(&mut told, &plan(Suspend::Stop));
        assert!(news(&told, &now).is_empty());
        forget(&mut told, &plan(Suspend::Run));
        assert_eq!(news(&told, &now).len(), 1);
    }

    #[test]
    fn the_operator_hears_what_has_changed_and_nothing_twice() {
        let told = Standing::default();
        let mut now = told.clone();
        now.applied.insert("shop/a".into(), Applied { pipeline: "shop/a".into(), ..Applied::default() });
        now.anchored = Some(Anchored { generation: 1, issuer: 1 });
        assert_eq!(news(&told, &now).len(), 2);
        assert!(news(&now, &now).is_empty());
        let mut later = now.clone();
        later.applied.get_mut("shop/a").unwrap().hash = "2".into();
        assert_eq!(news(&now, &later).len(), 1);
        assert_eq!(news(&Standing::default(), &later).len(), 2, "a new line hears all of it");
    }
}
