//! What a driver leaves when it ends, and what becomes of it.

use sidestream_event::{Batch, Outcome};
use sidestream_graph::Input;

/// Why a sink is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It leaves the pipeline, and what waits for it has nowhere to go.
    Removed,
    /// Another takes its place.
    Replaced,
}

/// What a driver leaves when it ends.
#[derive(Default)]
pub(crate) struct Remains {
    /// Rings that are not empty or not closed.
    pub(crate) inputs: Vec<Input>,
    /// The batch that was being tried.
    pub(crate) in_hand: Option<Batch>,
    /// Errors that its dead-letter stage had no room for.
    pub(crate) letters: Vec<Batch>,
}

impl Remains {
    /// Ends it all as dropped; says how many events that were. Where nothing will ever take them, their source need not
    /// keep its position before them.
    pub(crate) fn drop(self, fate: Fate) -> u64 {
        let queued = self
            .inputs
            .into_iter()
            .flat_map(|Input { mut receiver, .. }| std::iter::from_fn(move || receiver.try_recv()));
        let mut dropped = 0;
        for mut batch in self.in_hand.into_iter().chain(self.letters).chain(queued) {
            dropped += batch.len() as u64;
            batch.events().iter().for_each(|event| batch.mark().end(event.meta.sequence, Outcome::Dropped));
            if fate == Fate::Removed {
                batch.finish();
            }
        }
        dropped
    }
}

/// Ends errors that have no stage to go to; says how many events that were. They have been counted as errors, and their
/// source need not keep its position before them.
pub(crate) fn drop_letters(letters: Vec<Batch>) -> u64 {
    let dropped = letters.iter().map(|batch| batch.len() as u64).sum();
    letters.into_iter().for_each(|mut batch| batch.finish());
    dropped
}

impl Fate {
    /// Why events were dropped, as metrics say it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Fate::Removed => "removed",
            Fate::Replaced => "hung",
        }
    }
}
