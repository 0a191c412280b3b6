//! Reading ahead: who reads a partition on and on finds what comes next in memory.
//!
//! ```text
//!   from disk ├─ answered ─┤ ahead ────────────────────┤
//!                          └ by the same thread, after it has answered; through the index, so over what is of others
//! ```
//!
//! Only who goes on where a read of the disk ended gets it: whoever jumps would push out what others want.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use crate::{PartitionId, read::read, state::Shared, walk::Miss};

/// Bytes of batches that are read ahead.
const AHEAD: usize = 1 << 20;
/// How many times as much as it was asked for a disk may give.
const BEYOND: u64 = 16;
/// Readers that are known; the one that was quiet for longest goes.
const KNOWN_MAX: usize = 64;

/// Where those who read from the disk are expected to go on.
#[derive(Default)]
pub(crate) struct Ahead(Mutex<VecDeque<Expected>>);

#[derive(Clone, Copy)]
struct Expected {
    partition: PartitionId,
    /// At this offset or behind it, up to the other one.
    from: u64,
    to: u64,
}

impl Ahead {
    /// Whether whoever reads from `from` was expected there.
    fn is_expected(&self, partition: PartitionId, from: u64) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |own: &Expected| own.partition == partition && (own.from..=own.to).contains(&from);
        known.iter().position(is_it).and_then(|at| known.remove(at)).is_some()
    }

    fn expect(&self, partition: PartitionId, from: u64, to: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back(Expected { partition, from, to });
    }
}

/// After a read of the disk from `from` to `next`: brings what comes behind it, where that is wanted.
pub(crate) fn read_ahead(shared: &Shared, partition: PartitionId, from: u64, next: u64) {
    let bytes = AHEAD.min(shared.cache.budget() / 8);
    if next <= from || bytes == 0 {
        return;
    }
    let mut to = next;
    if shared.ahead.is_expected(partition, from) {
        // What can't be read is for whoever gets there.
        if let Ok(Some(read)) = read(shared, partition, next, bytes, Miss::Read) {
            to = read.next;
        }
    }
    // What the disk gave beyond what was asked for is read from memory first.
    let reach = (next - from).saturating_mul(BEYOND);
    shared.ahead.expect(partition, next, to.saturating_add(reach));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_on_is_expected_and_who_jumps_is_not() {
        let (ahead, one, other) = (Ahead::default(), PartitionId(1), PartitionId(2));
        assert!(!ahead.is_expected(one, 0));
        ahead.expect(one, 100, 300);
        for (partition, from) in [(other, 100), (one, 99), (one, 301), (one, 0)] {
            assert!(!ahead.is_expected(partition, from), "{partition} {from}");
        }
        assert!(ahead.is_expected(one, 300));
        assert!(!ahead.is_expected(one, 300), "once");
    }

    #[test]
    fn as_many_as_are_known_stay_known() {
        let ahead = Ahead::default();
        (0..1000).for_each(|n| ahead.expect(PartitionId(n), 0, 0));
        let known = (0..1000).filter(|n| ahead.is_expected(PartitionId(*n), 0)).count();
        assert_eq!(known, KNOWN_MAX);
    }
}
