//! Batches that have ended, kept for the next that begin.

use crossbeam_queue::ArrayQueue;

use crate::{Batch, spares::Shelf};

/// The spare batches of one pipeline: whoever ends a batch gives it back, whoever begins one takes it. After warm-up a
/// steady flow allocates no batch, no event and no map.
#[derive(Debug)]
pub struct Pool {
    spares: ArrayQueue<Batch>,
    shelf: Shelf,
}

impl Pool {
    /// A pool that keeps at most `batches` spares.
    pub fn new(batches: usize) -> Self {
        Self { spares: ArrayQueue::new(batches.max(1)), shelf: Shelf::default() }
    }

    /// An empty batch: a spare where there is one.
    pub fn take(&self) -> Batch {
        self.spares.pop().unwrap_or_default()
    }

    /// Ends a batch well and keeps it for later, unless there are enough or it has grown out of proportion.
    pub fn give(&self, mut batch: Batch) {
        batch.finish();
        batch.shelve(&self.shelf);
        if batch.capacity() <= KEPT_EVENTS {
            // A full pool hands the batch back, and it ends here.
            let _ = self.spares.push(batch);
        }
    }
}

/// A batch with room for more events than this is not kept: 2048 events are 240 KiB.
const KEPT_EVENTS: usize = 2048;
