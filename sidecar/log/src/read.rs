//! Reading a partition: from an offset on, batch after batch, through the index and the pieces in memory.
//!
//! ```text
//!   offset ─▶ span: which segment ─▶ strand: where to begin ─▶ walk: header, header, … ─▶ batches
//!                                                                └─ a piece in memory, or 256 KiB of the disk
//! ```
//!
//! Only what is acknowledged is read. Every batch is checked against both its sums: what does not fit is damage, which is
//! said by its offsets, and what comes after it can be read.

use std::io;

use bytes::Bytes;
use sidestream_event::record::Header;

use crate::{
    PartitionId, ReadError,
    index::{Entry, Strand},
    state::Shared,
    walk::{Miss, Seen, Step, strand, walk},
};

/// A batch as it stands in the journal.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// Its header.
    pub header: Header,
    /// Its body: a slice of what is in memory.
    pub body: Bytes,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// In the order of their offsets. The first one may begin before what was asked for.
    pub batches: Vec<StoredBatch>,
    /// The offset to go on at.
    pub next: u64,
}

/// Reads; none where that needs the disk and it is not to be asked.
pub(crate) fn read(
    shared: &Shared,
    partition: PartitionId,
    from: u64,
    max_bytes: usize,
    miss: Miss,
) -> Result<Option<Read>, ReadError> {
    let mut out = Read { batches: Vec::new(), next: from };
    let mut bytes = 0;
    // A batch keeps the whole of what was read around it in memory, most of which may be of others.
    let held_max = max_bytes.saturating_mul(HELD_FOR_EACH_BYTE).max(HELD_MIN);
    let (mut held, mut known) = (0, 0);
    let seen = walk(shared, partition, from, miss, |reader, header, position| {
        let length = header.length as usize;
        // In another segment it counts from 0 again.
        held += reader.looked_at().checked_sub(known).unwrap_or_else(|| reader.looked_at());
        known = reader.looked_at();
        if (bytes + length > max_bytes || held > held_max) && !out.batches.is_empty() {
            return Ok(Step::Stop);
        }
        let found = match reader.body(header, position) {
            Ok(Some(body)) if header.check(&body).is_err() => reader.body_anew(header, position),
            found => found,
        };
        let body = match found {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(Step::WouldWait),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::Moved),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Step::Damaged),
            Err(error) => return Err(error.into()),
        };
        bytes += length;
        out.next = header.next_offset();
        out.batches.push(StoredBatch { header: *header, body });
        Ok(Step::Go)
    });
    finish(seen, out, |out| out.batches.is_empty())
}

/// As many bytes may be held in memory for each that was asked for, and so many at least.
const HELD_FOR_EACH_BYTE: usize = 4;
const HELD_MIN: usize = 1 << 20;

/// The same without bodies, up to `max_bytes` of batches.
pub(crate) fn headers(
    shared: &Shared,
    partition: PartitionId,
    from: u64,
    max_bytes: usize,
) -> Result<(Vec<Header>, u64), ReadError> {
    let mut out = (Vec::new(), from);
    let mut bytes = 0;
    let seen = walk(shared, partition, from, Miss::Read, |_, header, _| {
        if bytes > max_bytes {
            return Ok(Step::Stop);
        }
        bytes += header.length as usize;
        out.1 = header.next_offset();
        out.0.push(*header);
        Ok(Step::Go)
    });
    Ok(finish(seen, out, |out| out.0.is_empty())?.unwrap_or_default())
}

/// The first batch appended at or after `time`; the end where there is none.
pub(crate) fn offset_at(shared: &Shared, partition: PartitionId, time: i64) -> Result<u64, ReadError> {
    let (span, first) = {
        let state = shared.state();
        let known = state.partitions.get(&partition).ok_or(ReadError::Unknown { partition })?;
        let after = known.spans.partition_point(|span| span.time < time);
        let Some(span) = known.spans.get(after) else { return Ok(known.bounds().readable) };
        (*span, known.first)
    };
    let from = match strand_now(shared, span.segment, partition)? {
        Some(strand) => {
            let after = strand.entries.partition_point(|entry| entry.time < time);
            strand.entries.get(after.saturating_sub(1)).map_or(span.first, |entry| entry.offset)
        }
        None => span.first,
    };
    let (mut from, mut found) = (from.max(first), None);
    loop {
        let seen = walk(shared, partition, from, Miss::Read, |_, header, _| {
            if header.append_time >= time {
                found.get_or_insert(header.base_offset);
                return Ok(Step::Stop);
            }
            found = None;
            Ok(Step::Go)
        });
        match seen {
            Ok(_) => return Ok(found.unwrap_or(span.end).max(first)),
            // It may be of that time, unless something older comes behind it. The reader will be told of it, at the place.
            Err(ReadError::Damaged { from: lost, to }) => {
                found.get_or_insert(lost);
                from = to;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The lowest offset such that the batches from it on have at most `bytes`.
pub(crate) fn offset_keeping(shared: &Shared, partition: PartitionId, bytes: u64) -> Result<u64, ReadError> {
    let (span, mut after, first) = {
        let state = shared.state();
        let known = state.partitions.get(&partition).ok_or(ReadError::Unknown { partition })?;
        let mut after = 0;
        let too_much = known.spans.iter().rev().find(|span| {
            after += u64::from(span.bytes);
            after > bytes
        });
        let Some(span) = too_much else { return Ok(known.first) };
        (*span, after - u64::from(span.bytes), known.first)
    };
    // Between the last entry from which on it is too much and the next one.
    let (mut from, mut to) = (span.first, span.end);
    if let Some(strand) = strand_now(shared, span.segment, partition)? {
        let behind = |entry: &Entry| after + u64::from(strand.bytes.saturating_sub(entry.before));
        let fits = strand.entries.partition_point(|entry| behind(entry) > bytes);
        from = fits.checked_sub(1).map_or(from, |last| strand.entries[last].offset);
        if let Some(entry) = strand.entries.get(fits) {
            (to, after) = (entry.offset, behind(entry));
        }
    }
    let mut batches = Vec::new();
    let seen = walk(shared, partition, from.max(first), Miss::Read, |_, header, _| {
        if header.base_offset >= to {
            return Ok(Step::Stop);
        }
        batches.push((header.base_offset, u64::from(header.length)));
        Ok(Step::Go)
    });
    let mut found = to.max(first);
    for (offset, length) in batches.into_iter().rev() {
        after += length;
        if after > bytes {
            break;
        }
        found = offset.max(first);
    }
    match seen {
        Ok(_) | Err(ReadError::Damaged { .. }) => Ok(found),
        Err(error) => Err(error),
    }
}

/// What a segment has of a partition; none where it was cleaned or freed meanwhile, and what it had is elsewhere.
fn strand_now(shared: &Shared, number: u32, partition: PartitionId) -> io::Result<Option<Strand>> {
    let generation = shared.state().segments.get(&number).map(|segment| segment.generation);
    let Some(generation) = generation else { return Ok(None) };
    match strand(shared, (number, generation), partition, Miss::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found,
    }
}

fn finish<T>(
    seen: Result<Seen, ReadError>,
    out: T,
    is_empty: impl Fn(&T) -> bool,
) -> Result<Option<T>, ReadError> {
    match seen {
        Ok(Seen::All) => Ok(Some(out)),
        Ok(Seen::WouldWait) => Ok((!is_empty(&out)).then_some(out)),
        // What came before the damage is given first.
        Err(ReadError::Damaged { .. }) if !is_empty(&out) => Ok(Some(out)),
        Err(error) => Err(error),
    }
}
