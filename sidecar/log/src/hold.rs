//! Appending while a lock is held that a write to the disk must not lengthen: what is appended is written when the hold ends.

use std::cell::Cell;

use sidestream_event::record::Header;

use crate::{AppendError, Appending, Durability, Journal, PartitionId};

/// See [`Journal::hold`].
#[must_use = "what is appended is written when this is dropped"]
pub struct Hold<'a> {
    journal: &'a Journal,
    /// Nobody else has what gathers written.
    is_first: Cell<bool>,
    /// Something is for the device.
    is_durable: Cell<bool>,
}

impl Journal {
    /// Until this is dropped, what is appended through it waits. Then it is written: where nobody else pushes and it is not for
    /// the device, by whoever drops it, which spares two changes of thread.
    pub fn hold(&self) -> Hold<'_> {
        Hold { journal: self, is_first: Cell::default(), is_durable: Cell::default() }
    }
}

impl Hold<'_> {
    /// As [`Journal::append`], and where `there` is an offset, only if its first record gets that: for bodies that were made for
    /// that place.
    ///
    /// # Errors
    /// As [`Journal::append`], and [`AppendError::Failed`] where another offset is next, because batches were taken back.
    pub fn append(
        &self,
        partition: PartitionId,
        there: Option<u64>,
        header: Header,
        body: &[u8],
        durability: Durability,
    ) -> Result<Appending, AppendError> {
        let (appending, is_first) = self.journal.gather(partition, there, header, body, durability)?;
        self.is_first.set(self.is_first.get() || is_first);
        self.is_durable.set(self.is_durable.get() || durability == Durability::Device);
        Ok(appending)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let is_written = || !self.is_durable.get() && self.journal.write_alone();
        if self.is_first.get() && !is_written() {
            self.journal.have_written();
        }
    }
}
