//! What can be set of a journal, and the limits that can't.

use std::time::Duration;

use sidestream_event::record::BATCH_BYTES_MAX;

/// Where a reader finds its way: an index knows the first batch of each partition in each stretch of so many bytes, and a
/// disk is read in such pieces.
pub(crate) const GRANULE: u32 = 64 << 10;
/// Segments are numbered and measured in 32 bits.
pub(crate) const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// No segment ends behind this, though one group may be larger than a segment is to be.
pub(crate) const END_MAX: u32 = 2 * SEGMENT_BYTES_MAX;
/// A segment smaller than this is mostly head.
pub(crate) const SEGMENT_BYTES_MIN: u32 = 16 << 10;
/// From this many bytes a group goes to fresh blocks: the zeros before it would cost as much as it does.
pub(crate) const LARGE_GROUP: usize = 256 << 10;

const _: () = assert!(BATCH_BYTES_MAX < SEGMENT_BYTES_MAX as usize / 4);

/// How a journal is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a segment: what is freed at once. 64 MiB: freeing is cheap, and a start reads at most one.
    pub segment_bytes: u32,
    /// From how many bytes on what gathers while a barrier runs takes no more, and pushes are refused as busy. 8 MiB: the
    /// more a barrier keeps, the less of the disk's bandwidth it costs.
    pub group_bytes_max: usize,
    /// How long a group waits for company when the disk is idle. None: the first push goes at once, and those that come
    /// while it is written are the next group.
    pub gather: Duration,
    /// How long nothing must happen before the journal notes that all of it is durable. 20 ms.
    pub settle: Duration,
    /// Within how long the device has what was pushed at [`Durability::PageCache`](crate::Durability). 1 s.
    pub flush: Duration,
    /// Bytes of segments kept in memory for readers: never more, beside what they hold themselves. 32 MiB: whoever is no
    /// further behind the end than that is served without the disk.
    pub cache_bytes: usize,
    /// Bytes ahead of the end that are zeroed while groups are small, so that writing them changes no metadata. 2 MiB.
    pub zero_ahead_bytes: u32,
    /// Bytes that pushes leave alone, so that trims, cursors and resets still work when the disk is full: set aside in a
    /// file, of which a quarter at a time is used and comes back when what was written there is trimmed. It lasts where half
    /// of it holds what [`PartitionId::STATE`](crate::PartitionId::STATE) has. As a segment by default; 0 is none.
    pub reserve_bytes: u64,
    /// Bytes that all segments and the reserve may have. None: what the disk has.
    pub capacity_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            group_bytes_max: 8 << 20,
            gather: Duration::ZERO,
            settle: Duration::from_millis(20),
            flush: Duration::from_secs(1),
            cache_bytes: 32 << 20,
            zero_ahead_bytes: 2 << 20,
            reserve_bytes: 64 << 20,
            capacity_bytes: None,
        }
    }
}

impl Settings {
    /// Within what is possible.
    pub(crate) fn checked(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        self.group_bytes_max = self.group_bytes_max.clamp(4096, SEGMENT_BYTES_MAX as usize / 4);
        self
    }

    /// Bytes of a segment with room for `needed`, when only the reserve is left: a quarter of it, so that what is written there
    /// can be written anew elsewhere in it, and the first quarter be had again. A segment where there is no reserve.
    pub(crate) fn piece(&self, needed: u32) -> u32 {
        let quarter = if self.reserve_bytes == 0 { u64::MAX } else { self.reserve_bytes / 4 };
        let piece = quarter.clamp(SEGMENT_BYTES_MIN.into(), self.segment_bytes.into()) as u32;
        piece.max(needed).next_multiple_of(4096)
    }

    /// Bytes of the reserve that only notes may have: whatever else it was used up with, a trim can give it back.
    pub(crate) fn last_piece(&self) -> u64 {
        (self.reserve_bytes / 16).max(8192).min(self.reserve_bytes)
    }
}
