//! Push: a batch in, its offset out when it is as durable as the dnpipe says.
//!
//! Everything that orders happens at the call: whoever calls twice has pushed in that order, however the futures are
//! waited for. An answer is a receipt: every pull that begins after it can find the records, until a reset.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use sidestream_event::{
    native::{Conditions, DnpipeName},
    record::{Flags, Header, MESSAGE_ID, RecordError, SEAL_BYTES, expand, records, split},
};
use sidestream_log::{Bounds, Hold, Journal};

use crate::{
    Broker,
    error::{PushError, Room, write_error},
    news::{News, news, offsets, offsets_again, runs},
    pipe::Pipe,
    producers::Verdict,
};

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The partition it is in.
    pub partition: u32,
    /// The offset of its first record.
    pub base_offset: u64,
    /// The epoch it is in.
    pub epoch: u32,
    /// Whether it was there already, and nothing was appended.
    pub is_repeat: bool,
    /// Records of it that were there already and were left out.
    pub skipped: u32,
    /// Where some were left out: the offsets of all its records in their order, as runs of a first one and how many follow
    /// each other. Empty where all follow each other from `base_offset` on.
    pub runs: Vec<(u64, u32)>,
}

impl Broker {
    /// Pushes `batch`, a header with its body, to a partition of a dnpipe. Refusals come at once; the future says when the
    /// records are as durable as the dnpipe promises, and dropping it takes nothing back.
    ///
    /// A batch of a producer that was taken before is not taken again: its first offset is the answer. That comes before
    /// all conditions, so a push can be repeated until it is answered.
    pub fn push(
        &self,
        name: &DnpipeName,
        partition: u32,
        batch: Bytes,
        only_if: Conditions,
    ) -> Result<impl Future<Output = Result<Pushed, PushError>> + Send + 'static + use<>, PushError> {
        let pipe = self.pipe(name).ok_or_else(|| PushError::Unknown(name.clone()))?;
        self.push_to(pipe, partition, batch, only_if, Sameness::ById)
    }

    /// The same; what of it was there already is told as `sameness` says.
    pub(crate) fn push_to(
        &self,
        pipe: Arc<Pipe>,
        partition: u32,
        batch: Bytes,
        only_if: Conditions,
        sameness: Sameness,
    ) -> Result<impl Future<Output = Result<Pushed, PushError>> + Send + 'static + use<>, PushError> {
        // Written when no lock is held any more.
        let hold = self.inner.journal.hold();
        let admitted = self.admit(&pipe, partition, &batch, only_if, sameness, &hold)?;
        drop(hold);
        let journal = self.inner.journal.clone();
        Ok(async move { settle(&journal, &pipe, admitted).await })
    }

    fn admit(
        &self,
        pipe: &Pipe,
        number: u32,
        batch: &Bytes,
        only_if: Conditions,
        sameness: Sameness,
        hold: &Hold<'_>,
    ) -> Result<Admitted, PushError> {
        let partitions = pipe.partitions.len() as u32;
        let Some(partition) = pipe.partitions.get(number as usize) else {
            return Err(PushError::UnknownPartition { partition: number, partitions });
        };
        let (header, body) = split(batch)?;
        if header.flags.has(Flags::SEALED) {
            // Servers alone make such.
            return Err(RecordError::UnknownFlags { found: header.flags.bits() }.into());
        }
        if header.flags == Flags::PLAIN {
            // Who pulls must be able to read what is there: a body that lies about its records ends here.
            records(&header, &body).try_for_each(|record| record.map(drop))?;
        }
        let spec = pipe.spec();
        // Ids of messages are in the records, which are looked at for nothing else.
        let is_by_id = sameness == Sameness::ById && !header.flags.has(Flags::ENCRYPTED);
        let window = spec.dedupe_window.filter(|_| is_by_id);
        let (shown, records_of) = match window {
            Some(_) => expand(&header, &body)?,
            None => (header, body.clone()),
        };
        if shown.flags != header.flags {
            records(&shown, &records_of).try_for_each(|record| record.map(drop))?;
        }
        let (journal, wall) = (&self.inner.journal, self.inner.clock.wall_nanos());

        let mut tail = partition.tail();
        if tail.is_removed {
            return Err(PushError::Unknown(pipe.name.clone()));
        }
        if tail.is_moving {
            return Err(PushError::Moving);
        }
        pipe.is_open()?;
        let Bounds { next, rolled_back, .. } = tail.bounds(journal, partition.id)?;
        let now = wall.max(tail.append_time);
        if let Verdict::Repeat { offset, reset_epoch, skipped } = tail.producers.check(&header, now)? {
            let forgotten = PushError::Forgotten { expected: header.next_sequence() };
            let offsets = match (skipped, window) {
                (0, _) => Vec::new(),
                (_, Some(window)) => {
                    offsets_again(&tail.ids, &shown, &records_of, offset, now, window).ok_or(forgotten)?
                }
                (_, None) => return Err(forgotten),
            };
            let pushed = Pushed {
                partition: number,
                base_offset: offsets.first().copied().unwrap_or(offset),
                epoch: reset_epoch,
                is_repeat: true,
                skipped,
                runs: runs(&offsets),
            };
            let last = offsets.iter().max().map(|last| last + 1);
            let upto = last.unwrap_or(offset + u64::from(header.count));
            return Ok(Admitted { pushed, rolled_back, outcome: Outcome::Repeat { upto } });
        }
        if only_if.epoch.is_some_and(|epoch| epoch != tail.epoch) {
            return Err(PushError::WrongEpoch { current: tail.epoch });
        }
        if only_if.next_offset.is_some_and(|offset| offset != next) {
            return Err(PushError::WrongOffset { next });
        }
        let news = match window {
            Some(window) => news(&tail.ids, &shown, &records_of, now, window)?,
            None => News::All,
        };
        let (header, body, kept) = match news {
            News::All => (header, body, Vec::new()),
            News::None { kept } => {
                let epoch = tail.epoch;
                let offsets = offsets(&kept, next);
                let offset = offsets.first().copied().unwrap_or_default();
                let upto = offsets.iter().max().map_or(0, |last| last + 1);
                let pushed = Pushed {
                    partition: number,
                    base_offset: offset,
                    epoch,
                    is_repeat: true,
                    skipped: header.count,
                    runs: runs(&offsets),
                };
                let outcome = if header.producer_id == 0 {
                    Outcome::Repeat { upto }
                } else {
                    // Its numbers are used up, and no record says so.
                    let before = tail.producers.get(header.producer_id).cloned();
                    tail.producers.skip(&header, offset, now);
                    let change = self.producer_change(&tail, partition, header.producer_id, next);
                    let appending = self.inner.state.append(&change, wall).inspect_err(|_| {
                        tail.producers.put(header.producer_id, before.unwrap_or_default());
                    })?;
                    Outcome::Noted { appending, upto }
                };
                return Ok(Admitted { pushed, rolled_back, outcome });
            }
            News::Some { header, body, kept } => (*header, body, kept),
        };
        let sealed_bytes = if spec.encryption.is_some() { SEAL_BYTES as u64 } else { 0 };
        if !pipe.use_bytes(journal, u64::from(header.length) + sealed_bytes, spec.quota_bytes) {
            return Err(PushError::Full { what: Room::Quota, limit: spec.quota_bytes.unwrap_or_default() });
        }
        let header = Header {
            leader_epoch: self.inner.leader_epoch,
            reset_epoch: tail.epoch,
            append_time: now,
            base_offset: next,
            ..header
        };
        let appending = match spec.encryption {
            Some(_) => {
                let (header, body) = pipe.seal(&mut tail, number, &header, &body)?;
                hold.append(partition.id, Some(header.base_offset), header, &body, spec.durability.into())
            }
            None => hold.append(partition.id, None, header, &body, spec.durability.into()),
        };
        let appending = appending.map_err(write_error)?;
        let header = Header { base_offset: appending.base_offset, ..header };
        tail.append_time = now;
        tail.is_dirty = true;
        self.inner.state.pushed(header.length.into());
        tail.producers.note(&header);
        if let Some(window) = window {
            let is_whole = header.flags.has(Flags::COMPRESSED);
            let (shown, records_of) = if is_whole { (&shown, &records_of) } else { (&header, &body) };
            let shown = Header { base_offset: header.base_offset, ..*shown };
            for record in records(&shown, records_of).flatten() {
                if let Some(id) = record.headers.get(MESSAGE_ID) {
                    tail.ids.note(id, record.offset, now, window);
                }
            }
        }
        let offsets = offsets(&kept, header.base_offset);
        let pushed = Pushed {
            partition: number,
            base_offset: offsets.first().copied().unwrap_or(header.base_offset),
            epoch: tail.epoch,
            is_repeat: false,
            skipped: header.skipped,
            runs: runs(&offsets),
        };
        Ok(Admitted { pushed, rolled_back, outcome: Outcome::Appending(appending) })
    }
}

/// How a record is told to be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sameness {
    /// By the numbers of its producer, and where the dnpipe asks for that by its id.
    ById,
    /// By the numbers of its producer alone: a dead letter has the id of its record, and that may die more than once.
    ByNumber,
}

/// A push that has its place.
struct Admitted {
    pushed: Pushed,
    /// As often as records were taken back when it got it.
    rolled_back: u64,
    outcome: Outcome,
}

enum Outcome {
    Appending(sidestream_log::Appending),
    /// It was there before; the first one of it may still be on its way.
    Repeat {
        upto: u64,
    },
    /// The same, and that it came again is on its way too.
    Noted {
        appending: sidestream_log::Appending,
        upto: u64,
    },
}

async fn settle(journal: &Journal, pipe: &Arc<Pipe>, admitted: Admitted) -> Result<Pushed, PushError> {
    let Admitted { pushed, rolled_back, outcome } = admitted;
    match outcome {
        Outcome::Appending(appending) => drop(appending.await.map_err(write_error)?),
        Outcome::Repeat { upto } => durable(journal, pipe, pushed.partition, upto, rolled_back).await?,
        Outcome::Noted { appending, upto } => {
            appending.await.map_err(write_error)?;
            durable(journal, pipe, pushed.partition, upto, rolled_back).await?;
        }
    }
    // A reset that was on its way when this was pushed is over before this is answered: whoever hears of it can pull it.
    let mut fence = pipe.fence.subscribe();
    let seen = fence
        .wait_for(|fence| fence.epoch >= pushed.epoch || fence.failed.is_some() || fence.is_removed)
        .await;
    match seen.ok().and_then(|fence| fence.failed.clone()) {
        Some(reason) => Err(PushError::Failed { reason }),
        None => Ok(pushed),
    }
}

/// Waits until everything below `upto` is as durable as it was to be, as long as no more records are taken back than
/// `rolled_back` says: else others may have the offsets that were waited for.
pub(crate) async fn durable(
    journal: &Journal,
    pipe: &Pipe,
    number: u32,
    upto: u64,
    rolled_back: u64,
) -> Result<(), PushError> {
    let partition = &pipe.partitions[number as usize];
    let Some(mut readable) = journal.watch(partition.id) else {
        return Err(PushError::Unknown(pipe.name.clone()));
    };
    loop {
        let is_there = *readable.borrow_and_update() >= upto;
        // Only now: what was there before anything was taken back stays.
        if journal.bounds(partition.id).is_some_and(|bounds| bounds.rolled_back != rolled_back) {
            return Err(PushError::Failed { reason: "what was pushed before did not reach the disk".into() });
        }
        if is_there {
            return Ok(());
        }
        let changed = tokio::time::timeout(LOOK_AGAIN, readable.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            let is_removed = pipe.fence.borrow().is_removed;
            return Err(if is_removed { PushError::Unknown(pipe.name.clone()) } else { PushError::Closed });
        }
    }
}

/// How long what can't wake us is waited for: that records were taken back while nothing became readable.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);
