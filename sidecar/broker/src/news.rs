//! What of a batch was not seen before, by the ids of its messages, and where each of its records is. Pure.
//!
//! ```text
//!   records of a batch   a     b     c     b     d          b and d are new, a and c were seen within the window
//!   kept                 @7    new   @9    as 1  new
//!   offsets, base 20     7     20    9     20    21    ──▶  runs (7, 1) (20, 1) (9, 1) (20, 2)
//! ```

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use bytes::Bytes;
use sidestream_event::record::{BatchWriter, Header, MESSAGE_ID, records, split};

use crate::{error::PushError, ids::Ids};

/// What of a batch was not seen before.
pub(crate) enum News {
    All,
    None { kept: Vec<Kept> },
    Some { header: Box<Header>, body: Bytes, kept: Vec<Kept> },
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kept {
    /// It is there already.
    At(u64),
    /// It is appended.
    New,
    /// It is the same message as an earlier one of the batch.
    As(usize),
}

pub(crate) fn news(
    ids: &Ids,
    header: &Header,
    body: &Bytes,
    now: i64,
    window: Duration,
) -> Result<News, PushError> {
    let (mut new, mut kept) = (Vec::new(), Vec::new());
    let mut firsts: HashMap<&[u8], usize> = HashMap::new();
    for (index, record) in records(header, body).enumerate() {
        let record = record?;
        let found = match record.headers.get(MESSAGE_ID) {
            None => Kept::New,
            Some(id) => match (ids.find(id, now, window), firsts.entry(id)) {
                (Some(offset), _) => Kept::At(offset),
                (None, Entry::Occupied(first)) => Kept::As(*first.get()),
                (None, Entry::Vacant(place)) => {
                    place.insert(index);
                    Kept::New
                }
            },
        };
        kept.push(found);
        if matches!(found, Kept::New) {
            new.push(record.raw);
        }
    }
    if new.len() == kept.len() {
        return Ok(News::All);
    }
    if new.is_empty() {
        return Ok(News::None { kept });
    }
    let mut writer = BatchWriter::new();
    for raw in &new {
        writer.push_raw(header.base_time, raw)?;
    }
    let skipped = header.skipped + (kept.len() - new.len()) as u32;
    let (header, body) = split(&writer.finish(Header { skipped, ..*header })?)?;
    Ok(News::Some { header: Box::new(header), body, kept })
}

/// Where each record is, when those that are new are at `base` and behind it.
pub(crate) fn offsets(kept: &[Kept], base: u64) -> Vec<u64> {
    let (mut offsets, mut next) = (Vec::with_capacity(kept.len()), base);
    for kept in kept {
        offsets.push(match *kept {
            Kept::At(offset) => offset,
            Kept::As(first) => offsets[first],
            Kept::New => {
                next += 1;
                next - 1
            }
        });
    }
    offsets
}

/// The same of a batch that comes again, of which a part was left out when it came first, and the others put at `base`:
/// none where that can't be told any more.
pub(crate) fn offsets_again(
    ids: &Ids,
    header: &Header,
    body: &Bytes,
    base: u64,
    now: i64,
    window: Duration,
) -> Option<Vec<u64>> {
    let (mut offsets, mut next) = (Vec::new(), base);
    for record in records(header, body) {
        let offset = match record.ok()?.headers.get(MESSAGE_ID) {
            Some(id) => ids.find(id, now, window)?,
            // Those without an id were all taken.
            None => next,
        };
        next += u64::from(offset == next);
        offsets.push(offset);
    }
    Some(offsets)
}

/// Offsets, as runs of a first one and how many follow each other.
pub(crate) fn runs(offsets: &[u64]) -> Vec<(u64, u32)> {
    let mut runs: Vec<(u64, u32)> = Vec::new();
    for offset in offsets {
        match runs.last_mut().filter(|(first, count)| first + u64::from(*count) == *offset) {
            Some((_, count)) => *count += 1,
            None => runs.push((*offset, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_of_a_batch_is_somewhere() {
        let kept = [Kept::At(7), Kept::New, Kept::At(9), Kept::As(1), Kept::New];
        let offsets = offsets(&kept, 20);
        assert_eq!(offsets, [7, 20, 9, 20, 21]);
        assert_eq!(runs(&offsets), [(7, 1), (20, 1), (9, 1), (20, 2)]);
        assert_eq!(runs(&[5, 6, 7]), [(5, 3)]);
    }
}
