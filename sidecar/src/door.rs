//! The door of a `push` source: where the program that embeds a pipeline pushes its events in.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sidestream_connector::{Intake, Receipt, Refusal};
use sidestream_event::{Event, Settled};

/// Where events are pushed in. Clones are the same door; it opens when the pipeline starts and closes when it drains.
#[derive(Clone, Default)]
pub struct Door(Arc<Mutex<Option<Intake>>>);

/// Why a pushed event was not delivered.
#[derive(Debug)]
pub enum PushError {
    /// The pipeline has not started, or is draining; the event is given back.
    Closed(Event),
    /// The stages are full, and `try_push` does not wait; the event is given back.
    Full(Event),
    /// An overflow or error policy dropped it; the stage's metrics and log say why.
    Dropped,
}

impl Door {
    /// Pushes an event and waits until it is delivered, filtered away, or taken into a state. Waits while the stages
    /// are full.
    pub async fn push(&self, mut event: Event) -> Result<(), PushError> {
        loop {
            match self.try_push(event) {
                Ok(receipt) => return delivered(receipt.await.ok()),
                Err(PushError::Full(back)) => event = back,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(ROOM_WAIT).await;
        }
    }

    /// Pushes an event if there is room now; the receipt resolves as [`Door::push`] would.
    pub fn try_push(&self, event: Event) -> Result<Receipt, PushError> {
        let mut intake = self.lock();
        let Some(intake) = intake.as_mut() else {
            return Err(PushError::Closed(event));
        };
        let mut batch = intake.batch();
        batch.push(event);
        let (mut batch, refused): (_, fn(Event) -> PushError) = match intake.try_send_for_receipt(batch) {
            Ok(receipt) => return Ok(receipt),
            Err(Refusal::Full(batch)) => (batch, PushError::Full),
            Err(Refusal::Stopped(batch)) => (batch, PushError::Closed),
        };
        let event = batch.drain().next().unwrap_or_default();
        Err(refused(event))
    }

    pub(crate) fn open(&self, intake: Intake) {
        *self.lock() = Some(intake);
    }

    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Intake>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delivered(settled: Option<Settled>) -> Result<(), PushError> {
    match settled {
        Some(settled) if settled.dropped + settled.expired == 0 => Ok(()),
        _ => Err(PushError::Dropped),
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            PushError::Closed(_) => "the pipeline takes no events: it has not started, or is draining",
            PushError::Full(_) => "the stages are full: push again later",
            PushError::Dropped => "the event was dropped by a policy of the pipeline",
        })
    }
}

impl std::error::Error for PushError {}

/// How long a push waits before it looks for room again.
const ROOM_WAIT: Duration = Duration::from_micros(200);
