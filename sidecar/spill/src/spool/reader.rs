//! The way out of a spilled queue: what is in memory is given as it is, what is on the disk is read first.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use sidestream_log::{ReadError, StoredBatch};

use super::Spool;
use crate::{
    queue::Hand,
    stored::{Malformed, unwrap},
};

/// The way out. One of a queue is at work at a time: it is handed nothing any more once another has begun.
pub struct Reader {
    spool: Arc<Spool>,
    number: u64,
    /// The writer whose end is the end for this one.
    writer: u64,
    /// Read and not handed out yet.
    ahead: VecDeque<StoredBatch>,
}

/// A batch that was handed out. It is the next again unless [`Reader::sent`] says that it was sent on.
#[derive(Debug)]
pub struct Handed {
    id: u64,
    /// Its events, as `sidestream_event::frame` reads them.
    pub frame: Bytes,
}

impl Reader {
    pub(super) fn new(spool: Arc<Spool>, number: u64, writer: u64) -> Reader {
        Reader { spool, number, writer, ahead: VecDeque::new() }
    }

    /// Who this is, for [`Spool::passed`].
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next batch; none when no more will come.
    ///
    /// # Errors
    /// A disk that cannot be read now: ask again later.
    pub async fn next(&mut self) -> Result<Option<Handed>, ReadError> {
        loop {
            let hand = {
                let mut state = self.spool.lock();
                let has_finished = state.finished >= self.writer;
                if state.queue.is_replaced(self.number) || has_finished && state.queue.is_handed_out() {
                    return Ok(None);
                }
                state.queue.hand()
            };
            match hand {
                Hand::Frame { id, frame } => {
                    self.spool.moved.notify_waiters();
                    return Ok(Some(Handed { id, frame }));
                }
                Hand::Stored(offset) => {
                    if let Some(handed) = self.read(offset).await? {
                        return Ok(Some(handed));
                    }
                }
                Hand::Nothing => self.spool.to_hand.notified().await,
            }
        }
    }

    /// A batch was sent on; `end` is the position behind it. Gives what to call it by in [`Spool::settled`].
    pub fn sent(&mut self, handed: Handed, end: u64) -> u64 {
        self.spool.lock().queue.sent(self.number, handed.id, end);
        handed.id
    }

    /// A batch was not sent on: it is the next again.
    pub fn give_back(&mut self, handed: Handed) {
        self.spool.lock().queue.give_back(self.number, handed.id);
    }

    /// A batch cannot be read: it is gone, counted as lost.
    pub fn lose(&mut self, handed: Handed, reason: &str) {
        let mut state = self.spool.lock();
        let forgotten = state.queue.forget(self.number, handed.id);
        let events = forgotten.as_ref().map_or(0, |(count, _)| u64::from(*count));
        state.lost += events;
        drop(state);
        drop(forgotten);
        tracing::error!(stage = %self.spool.name, events, "spilled events are lost: {reason}");
    }

    /// What is stored at `offset`; none where something else is to be asked for.
    async fn read(&mut self, offset: u64) -> Result<Option<Handed>, ReadError> {
        let holds =
            |batch: &StoredBatch| (batch.header.base_offset..batch.header.next_offset()).contains(&offset);
        while self.ahead.front().is_some_and(|batch| !holds(batch)) {
            self.ahead.pop_front();
        }
        if self.ahead.is_empty() {
            let partition = self.spool.lock().partition;
            let (Some(shared), Some(partition)) = (self.spool.shared.upgrade(), partition) else {
                return Err(ReadError::Closed);
            };
            match shared.journal.read(partition, offset, AHEAD_BYTES).await {
                Ok(read) => self.ahead = read.batches.into(),
                Err(ReadError::Damaged { from, to }) => {
                    self.spool.lose(from, to, "they are damaged on the disk");
                    return Ok(None);
                }
                Err(ReadError::OutOfRange { first, .. }) if first > offset => {
                    self.spool.lose(offset, first, "they are not on the disk any more");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(batch) = self.ahead.pop_front() else {
            return Err(ReadError::Failed { reason: "nothing is where spilled events were".into() });
        };
        let (from, to) = (batch.header.base_offset, batch.header.next_offset());
        let frame = match unwrap(&batch.body) {
            Ok((_, frame)) => frame,
            // A program that knows it may come back.
            Err(error @ Malformed::Version(_)) => {
                return Err(ReadError::Failed { reason: error.to_string().into() });
            }
            Err(error @ Malformed::Nonsense) => {
                self.spool.lose(from, to, &error.to_string());
                return Ok(None);
            }
        };
        let now = self.spool.now();
        let id = self.spool.lock().queue.hand_stored(self.number, from..to, now);
        Ok(id.map(|id| Handed { id, frame }))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.spool.lock().queue.leave(self.number);
    }
}

/// What is read at once.
const AHEAD_BYTES: usize = 256 << 10;
