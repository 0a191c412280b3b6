//! Where the batches of a partition are: derived from the segments, never synced.
//!
//! ```text
//!   partition   spans: a line for each segment that has some of it          in memory
//!   segment     strands: a line for each partition, and of each the         in memory while it is written, then in its
//!               first batch in every 64 KiB                                 footer, read when somebody asks
//! ```

use std::collections::BTreeMap;

use sidestream_event::record::{HEADER_BYTES, Header};

use crate::{PartitionId, settings::GRANULE};

/// Entries of a part: 4 MiB of the segment.
const PART: usize = 64;

/// A batch that a reader can begin at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: u32,
    /// Bytes of the partition that stand before it in the segment.
    pub(crate) before: u32,
    pub(crate) offset: u64,
    /// When it was appended.
    pub(crate) time: i64,
}

/// What a segment has of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strand {
    /// One for the first batch, and for the first in each granule after that.
    pub(crate) entries: Vec<Entry>,
    pub(crate) end: u64,
    pub(crate) bytes: u32,
    /// When the last batch was appended.
    pub(crate) time: i64,
}

impl Strand {
    /// One that leads through these places.
    pub(crate) fn through(positions: impl Iterator<Item = u32>) -> Strand {
        let entries = positions.map(|position| Entry { position, ..Entry::default() }).collect();
        Strand { entries, ..Strand::default() }
    }

    pub(crate) fn note(&mut self, header: &Header, position: u32) {
        if self.entries.last().is_none_or(|last| last.position / GRANULE != position / GRANULE) {
            let (offset, time) = (header.base_offset, header.append_time);
            self.entries.push(Entry { position, before: self.bytes, offset, time });
        }
        self.end = header.next_offset();
        self.bytes += header.length;
        self.time = header.append_time;
    }

    /// Where to begin to read for `offset`.
    pub(crate) fn locate(&self, offset: u64) -> u32 {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries.get(after.saturating_sub(1)).map_or(0, |entry| entry.position)
    }

    /// From `position` on, the next place where a batch of the partition may begin.
    pub(crate) fn seek(&self, position: u32) -> Option<u32> {
        let next = self.entries.partition_point(|entry| entry.position < position);
        let is_begun = next > 0 && self.entries[next - 1].position / GRANULE == position / GRANULE;
        if is_begun { Some(position) } else { self.entries.get(next).map(|entry| entry.position) }
    }

    /// As much of it as a read needs that begins at `offset`.
    pub(crate) fn part(&self, offset: u64) -> Strand {
        let after = self.entries.partition_point(|entry| entry.offset <= offset).saturating_sub(1);
        let entries = self.entries[after..].iter().take(PART).copied().collect();
        Strand { entries, end: self.end, bytes: self.bytes, time: self.time }
    }

    /// Whether it can be what a segment has whose batches end there: entries stand behind one another.
    pub(crate) fn is_within(&self, end: u32) -> bool {
        let is_behind =
            |pair: &[Entry]| pair[0].position < pair[1].position && pair[0].offset < pair[1].offset;
        let is_last_within = |last: &Entry| last.position < end && last.offset < self.end;
        self.entries.last().is_some_and(is_last_within) && self.entries.windows(2).all(is_behind)
    }

    pub(crate) fn span(&self, segment: u32) -> Span {
        let first = self.entries.first().copied().unwrap_or_default();
        Span {
            segment,
            position: first.position,
            first: first.offset,
            end: self.end,
            bytes: self.bytes,
            begun: first.time,
            time: self.time,
        }
    }
}

/// What a segment has of each partition.
pub(crate) type Strands = BTreeMap<PartitionId, Strand>;

/// That a segment has some of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) segment: u32,
    /// Of the first batch.
    pub(crate) position: u32,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) bytes: u32,
    /// When the first batch was appended, and the last.
    pub(crate) begun: i64,
    pub(crate) time: i64,
}

impl Span {
    /// Whether it can be what a segment has whose batches end there.
    pub(crate) fn is_within(&self, end: u32) -> bool {
        let is_batch = self.bytes >= HEADER_BYTES as u32 && self.position < end;
        is_batch && self.bytes <= end - self.position && self.first < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_begins_at_most_a_granule_before_what_it_asks_for() {
        let mut strand = Strand::default();
        let (mut position, mut offset) = (8192, 100);
        let mut places = Vec::new();
        for round in 0..1000_u32 {
            let header =
                Header { length: 300 + round % 900, count: 3, base_offset: offset, ..Header::default() };
            strand.note(&header, position);
            places.push((offset, position));
            offset += 3;
            position += header.length + 500;
        }
        assert!(strand.entries.len() <= (position / GRANULE + 1) as usize, "sparse");
        for (offset, position) in places {
            for within in offset..offset + 3 {
                let begin = strand.locate(within);
                assert!(begin <= position && position / GRANULE - begin / GRANULE <= 1, "{within}");
            }
        }
        for part in [strand.part(0), strand.part(1500)] {
            assert!(part.entries.len() <= PART);
        }
        let (in_first, in_next) = (strand.entries[3].position + 1, strand.entries[4].position);
        assert_eq!((strand.seek(in_first), strand.seek(in_next - 1)), (Some(in_first), Some(in_next)));
        assert_eq!((strand.seek(0), strand.seek(u32::MAX - 1)), (Some(8192), None));
        assert_eq!(strand.locate(0), 8192, "what is before the first is looked for from the first on");
    }
}
