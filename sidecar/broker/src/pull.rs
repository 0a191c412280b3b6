//! Pull: whole batches from a place on, now or when there are some. Nothing is removed by it, and nobody is remembered.
//!
//! A pull looks at the fence before it reads and again after: what it gives was all there at one moment, which is the
//! second look. So nothing older than a reset is given once anything knows that the reset is done.

use std::{ops::Range, time::Duration};

use sidestream_event::native::{DnpipeName, From};
use sidestream_log::{Journal, Read, ReadError, StoredBatch};

use crate::{
    Broker,
    error::{PullError, read_error},
    pipe::{Fence, Pipe},
};

/// How much of anything is wanted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of batches. The first comes however large it is.
    pub max_bytes: usize,
    /// Records. Batches are not cut, so a pull may give more of them; a group does not.
    pub max_records: u64,
}

impl Default for Limits {
    /// A MiB, whatever is in it.
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_records: u64::MAX }
    }
}

/// What a pull gives.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Whole batches, in order. The first may begin before `from`, and the last end behind `next`: what is outside is not
    /// meant.
    pub batches: Vec<StoredBatch>,
    /// The offset that was asked for.
    pub from: u64,
    /// Where to pull on.
    pub next: u64,
    /// The epoch that all of this is of.
    pub epoch: u32,
    /// The oldest offset there is.
    pub first: u64,
    /// The offset behind the newest record that may be seen.
    pub end: u64,
}

impl Broker {
    /// Records of a partition, from a place on. Where there is nothing yet it waits, for `wait` at most, and then gives no
    /// batches. A place that is named by its offset must be there, or be the end; the others move into what is there.
    pub async fn pull(
        &self,
        name: &DnpipeName,
        partition: u32,
        from: From,
        limits: Limits,
        wait: Option<Duration>,
    ) -> Result<Pulled, PullError> {
        let pipe = self.pipe(name).ok_or_else(|| PullError::Unknown(name.clone()))?;
        let partitions = pipe.partitions.len() as u32;
        let unknown = PullError::UnknownPartition { partition, partitions };
        let id = pipe.partitions.get(partition as usize).ok_or(unknown)?.id;
        let journal = &self.inner.journal;
        let timer = tokio::time::sleep(wait.unwrap_or_default());
        tokio::pin!(timer);
        // Whatever changes after this wakes us: it is older than the first look.
        let mut fences = pipe.fence.subscribe();
        let mut readable = journal.watch(id).ok_or_else(|| PullError::Unknown(name.clone()))?;
        let mut place = None;
        loop {
            // What is in memory is given without a wait: who pulls without end must let others have a turn all the same.
            tokio::task::coop::consume_budget().await;
            readable.mark_unchanged();
            fences.mark_unchanged();
            let (fence, range) = pipe.seen(journal, partition);
            check(&fence, name)?;
            pipe.is_open()?;
            let from = match place {
                Some(offset) => offset,
                None => self.resolve(&pipe, partition, from, &range).await?,
            };
            if !(range.start..=range.end).contains(&from) {
                return Err(PullError::OutOfRange { first: range.start, end: range.end });
            }
            if from < range.end && limits.max_records > 0 {
                let to = range.end.min(from.saturating_add(limits.max_records));
                match read_to(journal, &pipe, partition, from, to, limits.max_bytes).await {
                    Ok(read) => {
                        let (now, range) = pipe.seen(journal, partition);
                        check(&now, name)?;
                        let batches = within(read.batches, &range, from, limits.max_records);
                        if now.epoch == fence.epoch && range.contains(&from) && !batches.is_empty() {
                            let last = batches.last().map_or(from, |batch| batch.header.next_offset());
                            let next = last.min(from.saturating_add(limits.max_records));
                            let Range { start: first, end } = range;
                            return Ok(Pulled { batches, from, next, epoch: now.epoch, first, end });
                        }
                    }
                    Err(error) => {
                        if let Some(error) = read_error(error) {
                            return Err(error);
                        }
                    }
                }
                // A reset or a trim came between the looks.
                continue;
            }
            // A place is found once: who waits at the end waits for what follows, not for another end.
            place = Some(from);
            if wait.is_none_or(|wait| wait.is_zero()) {
                let Range { start: first, end } = range;
                return Ok(Pulled { batches: Vec::new(), from, next: from, epoch: fence.epoch, first, end });
            }
            tokio::select! {
                biased;
                changed = readable.changed() => if changed.is_err() {
                    check(&pipe.fence(), name)?;
                    return Err(PullError::Closed);
                },
                _ = fences.changed() => (),
                () = &mut timer => {
                    let Range { start: first, end } = range;
                    return Ok(Pulled { batches: Vec::new(), from, next: from, epoch: fence.epoch, first, end });
                }
            }
        }
    }

    /// The offset of a place.
    pub(crate) async fn resolve(
        &self,
        pipe: &Pipe,
        partition: u32,
        from: From,
        range: &Range<u64>,
    ) -> Result<u64, PullError> {
        Ok(match from {
            From::Offset(offset) => offset,
            From::First(more) => range.start.saturating_add(more).min(range.end),
            From::Last(less) => range.end.saturating_sub(less).max(range.start),
            From::Time(time) => self.at_time(pipe, partition, time, range).await?,
        })
    }

    /// The first offset whose batch the server took at `time` or later; the end where there is none.
    async fn at_time(
        &self,
        pipe: &Pipe,
        partition: u32,
        time: i64,
        range: &Range<u64>,
    ) -> Result<u64, PullError> {
        let (journal, id) = (&self.inner.journal, pipe.partitions[partition as usize].id);
        let lost = |error: ReadError| {
            read_error(error).unwrap_or(PullError::OutOfRange { first: range.start, end: range.end })
        };
        let at = journal.offset_at(id, time).await.map_err(lost)?;
        Ok(at.clamp(range.start, range.end))
    }
}

pub(crate) fn check(fence: &Fence, name: &DnpipeName) -> Result<(), PullError> {
    if fence.is_removed {
        return Err(PullError::Unknown(name.clone()));
    }
    match &fence.failed {
        Some(reason) => Err(PullError::Failed { reason: reason.clone() }),
        None => Ok(()),
    }
}

/// Batches from the one that holds `from` on, until `to` or `max_bytes`, though at least one. The journal gives what lies
/// together at a time; what can't be read after something could is for the next one who asks.
pub(crate) async fn read_to(
    journal: &Journal,
    pipe: &Pipe,
    partition: u32,
    from: u64,
    to: u64,
    max_bytes: usize,
) -> Result<Read, ReadError> {
    let mut all = pipe.read(journal, partition, from, max_bytes.max(1)).await?;
    let bytes = |read: &Read| read.batches.iter().map(|batch| batch.header.length as usize).sum::<usize>();
    let mut left = max_bytes.saturating_sub(bytes(&all));
    while all.next < to && left > 0 {
        let Ok(more) = pipe.read(journal, partition, all.next, left).await else { break };
        let found = bytes(&more);
        if found == 0 || found > left {
            break;
        }
        left -= found;
        all.batches.extend(more.batches);
        all.next = more.next;
    }
    Ok(all)
}

/// Those that hold something of `range` from `from` on, until there are enough records.
fn within(batches: Vec<StoredBatch>, range: &Range<u64>, from: u64, max_records: u64) -> Vec<StoredBatch> {
    let end = range.end.min(from.saturating_add(max_records));
    let is_wanted =
        |batch: &StoredBatch| batch.header.base_offset < end && batch.header.next_offset() <= range.end;
    batches.into_iter().take_while(is_wanted).filter(|batch| batch.header.next_offset() > from).collect()
}
