//! The two ends of an edge, as a source and a sink of this sidecar.
//!
//! A batch is delivered for its driver as soon as the edge keeps it; its mark is let go when the stages on the other side
//! have settled it. So a sink has many batches under way, and the source's ledger counts them as in flight. The position of
//! the source follows when no state on the other side holds anything of them: see [`Releases`].

use std::sync::Arc;

use sidestream_connector::{
    AsyncSink, AsyncSource, BoxFuture, BuildError, Failure, Intake, Sink, Source, Stopped, Undelivered,
};
use sidestream_edge::{
    ByPosition, EdgeName, EdgeSender, Peering, Slot, Slots, Target, Transport, Unsettled, link::Ended,
};
use sidestream_event::{Batch, Span, frame::FrameError};
use sidestream_graph::operator::KeyHash;
use sidestream_plan::{
    Plan,
    stage::{Account, EdgeSink, EdgeSlots, EdgeSource, EdgeTransport},
};
use sidestream_trust::SpiffeId;
use tokio::sync::watch;

use crate::World;

/// The receiving end.
pub(crate) fn source(stage: &EdgeSource, plan: &Plan, world: &World) -> Result<Source, BuildError> {
    let peering = peering(world)?;
    let allowed = stage.from.iter().map(|from| id_of(from, "from", peering));
    let allowed = allowed.collect::<Result<_, _>>()?;
    let name = EdgeName { pipeline: plan.pipeline.clone(), edge: stage.edge.clone() };
    Ok(Source::Async(Box::new(Receives { peering: peering.clone(), name, allowed, releases: None })))
}

/// The sending end.
pub(crate) fn sink(stage: &EdgeSink, plan: &Plan, world: &World) -> Result<Sink, BuildError> {
    let peering = peering(world)?;
    let identity = id_of(&stage.to, "to", peering)?;
    let name = EdgeName { pipeline: plan.pipeline.clone(), edge: stage.edge.clone() };
    let owned = stage.slots.as_ref().map(owned).transpose()?;
    let (keys, slots) = owned.map_or((None, None), |(keys, slots)| (Some(keys), Some(slots)));
    let transport = match stage.transport {
        EdgeTransport::Tcp => Transport::Tcp,
        EdgeTransport::Quic => Transport::Quic,
    };
    let target = Target { name, service: stage.service.clone(), identity, slots, transport };
    Ok(Sink::Async(Box::new(Sends {
        peering: peering.clone(),
        target,
        keys,
        slots: Vec::new(),
        sender: None,
    })))
}

/// How the keys of events are read, and who owns which.
fn owned(slots: &EdgeSlots) -> Result<(KeyHash, Slots), BuildError> {
    let wrong = |field, reason: String| BuildError { field, reason };
    let keys = KeyHash::new(slots.by.as_ref()).map_err(|error| wrong("slots.by", error.to_string()))?;
    let owners = Slots::new(&slots.ordinals);
    let owners = owners.ok_or_else(|| {
        wrong("slots.ordinals", format!("there are 256 slots, and these are {}", slots.ordinals.len()))
    })?;
    Ok((keys, owners))
}

fn peering(world: &World) -> Result<&Peering, BuildError> {
    world.peering().ok_or_else(|| BuildError {
        field: "edge",
        reason: "leads to another sidecar, and this process has no peers: run the whole pipeline instead"
            .into(),
    })
}

fn id_of(account: &Account, field: &'static str, peering: &Peering) -> Result<SpiffeId, BuildError> {
    let own = peering.identity().id();
    SpiffeId::of_service_account(own.trust_domain(), &account.namespace, &account.name)
        .map_err(|error| BuildError { field, reason: error.to_string() })
}

struct Receives {
    peering: Peering,
    name: EdgeName,
    allowed: Vec<SpiffeId>,
    /// Made when the source first runs.
    releases: Option<Releases>,
}

impl AsyncSource for Receives {
    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut receiver = self.peering.receive(self.name.clone(), self.allowed.clone());
            intake.relay();
            let releases = self.releases.get_or_insert_with(|| Releases::follow(intake.positions())).clone();
            loop {
                let arrived = tokio::select! {
                    arrived = receiver.next() => arrived,
                    () = intake.stopped() => return Ok(()),
                };
                let mut batch = intake.batch();
                match arrived.read_into(&mut batch) {
                    Ok(()) => {}
                    // Whoever comes next in this place may know that version: the sender keeps it.
                    Err(error @ FrameError::Version { .. }) => {
                        batch.clear();
                        return Err(Failure(format!("`{}` sent {error}", arrived.sender())));
                    }
                    // It will never be readable, and must not hold up what comes behind it.
                    Err(error) => {
                        let (edge, sender) = (self.name.to_string(), arrived.sender());
                        tracing::error!(edge, %sender, "dropped what cannot be read, and the rest of its frame: {error}");
                        intake.drop_unreadable();
                    }
                }
                if batch.is_empty() {
                    arrived.taken().release();
                    continue;
                }
                match intake.send_for_receipt(batch).await {
                    Ok(receipt) => {
                        let (unsettled, releases) = (arrived.taken(), releases.clone());
                        // On its own, because it may come long after this source has ended.
                        tokio::spawn(async move {
                            match receipt.await {
                                Ok(settled) if !settled.is_lost => {
                                    unsettled.end(Ended::from(&settled));
                                    releases.settle(unsettled, settled.span);
                                }
                                _ => unsettled.lose(),
                            }
                        });
                    }
                    // Not taken: its sender keeps it for whoever comes next.
                    Err(Stopped(mut batch)) => {
                        batch.clear();
                        receiver.give_back(arrived);
                        return Ok(());
                    }
                }
            }
        })
    }
}

/// Tells the senders of settled batches when no state here holds them any more.
#[derive(Clone)]
struct Releases {
    waiting: Arc<ByPosition>,
    positions: watch::Receiver<u64>,
}

impl Releases {
    /// Follows the position of a source for as long as anything can move it.
    fn follow(positions: watch::Receiver<u64>) -> Releases {
        let waiting = Arc::<ByPosition>::default();
        let (kept, mut news) = (waiting.clone(), positions.clone());
        tokio::spawn(async move {
            while news.changed().await.is_ok() {
                let position = *news.borrow_and_update();
                kept.passed(position);
            }
        });
        Releases { waiting, positions }
    }

    fn settle(&self, batch: Unsettled, span: Span) {
        let end = span.first + u64::from(span.count);
        let has_passed = |positions: &watch::Receiver<u64>| *positions.borrow() >= end;
        if has_passed(&self.positions) {
            return batch.release();
        }
        self.waiting.add(end, batch.settle());
        // It may have passed between the two.
        if has_passed(&self.positions) {
            self.waiting.passed(end);
        }
    }
}

struct Sends {
    peering: Peering,
    target: Target,
    /// Where the receivers own slots.
    keys: Option<KeyHash>,
    /// Those of the events of a batch; kept for its storage.
    slots: Vec<Slot>,
    /// Made when the sink runs, because that is on the runtime of the sockets.
    sender: Option<EdgeSender>,
}

impl Sends {
    fn sender(&mut self) -> &mut EdgeSender {
        self.sender.get_or_insert_with(|| self.peering.send_to(self.target.clone()))
    }
}

impl AsyncSink for Sends {
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(async move {
            let refused = match &mut self.keys {
                None => self.sender().send(batch).await,
                Some(keys) => {
                    let mut slots = std::mem::take(&mut self.slots);
                    slots.clear();
                    slots.extend(batch.events().iter().map(|event| Slot::of(keys.of(event))));
                    let refused = self.sender().send_by_slot(batch, &slots).await;
                    self.slots = slots;
                    refused
                }
            };
            match refused {
                refused if refused.is_empty() => Ok(()),
                events => Err(Undelivered::Refused { events }),
            }
        })
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(sender) = &self.sender {
                sender.settled().await;
            }
        })
    }

    fn abandon(&mut self) -> u64 {
        self.sender.as_ref().map_or(0, EdgeSender::abandon)
    }

    /// Looks for its peers before the first batch comes.
    fn tend_after(&self) -> Option<std::time::Duration> {
        self.sender.is_none().then_some(std::time::Duration::ZERO)
    }

    fn tend(&mut self) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move {
            self.sender();
            Ok(())
        })
    }
}
