//! The two ends of an edge, as a source and a sink of this sidecar.
//!
//! A batch is delivered for its driver as soon as the edge keeps it; its mark is let go when the stages on the other side
//! have settled it. So a sink has many batches under way, and the source's ledger counts them as in flight.

use sidestream_connector::{
    AsyncSink, AsyncSource, BoxFuture, BuildError, Failure, Intake, Sink, Source, Stopped, Undelivered,
};
use sidestream_edge::{EdgeName, EdgeSender, Peering, Target};
use sidestream_event::{Batch, frame::FrameError};
use sidestream_plan::{
    Plan,
    stage::{Account, EdgeSink, EdgeSource},
};
use sidestream_trust::SpiffeId;

use crate::World;

/// The receiving end.
pub(crate) fn source(stage: &EdgeSource, plan: &Plan, world: &World) -> Result<Source, BuildError> {
    let peering = peering(world)?;
    let allowed = vec![id_of(&stage.from, "from", peering)?];
    let name = EdgeName { pipeline: plan.pipeline.clone(), edge: stage.edge.clone() };
    Ok(Source::Async(Box::new(Receives { peering: peering.clone(), name, allowed })))
}

/// The sending end.
pub(crate) fn sink(stage: &EdgeSink, plan: &Plan, world: &World) -> Result<Sink, BuildError> {
    let peering = peering(world)?;
    let identity = id_of(&stage.to, "to", peering)?;
    let name = EdgeName { pipeline: plan.pipeline.clone(), edge: stage.edge.clone() };
    let target = Target { name, service: stage.service.clone(), identity };
    Ok(Sink::Async(Box::new(Sends { peering: peering.clone(), target, sender: None })))
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
}

impl AsyncSource for Receives {
    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut receiver = self.peering.receive(self.name.clone(), self.allowed.clone());
            intake.relay();
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
                    arrived.taken().settle();
                    continue;
                }
                match intake.send_for_receipt(batch).await {
                    Ok(receipt) => {
                        let unsettled = arrived.taken();
                        // On its own, because it may come long after this source has ended.
                        tokio::spawn(async move {
                            match receipt.await {
                                Ok(settled) if !settled.is_lost => unsettled.settle(),
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

struct Sends {
    peering: Peering,
    target: Target,
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
            match self.sender().send(batch).await {
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
