//! The ids of messages that a partition has seen of late. Pure.
//!
//! An id is what its sender calls a message, whoever pushes it and from whichever process. Only a hash of 128 bits is
//! kept, made with keys that nobody outside knows. Two different ids of a window are the same with a probability below 2^-87.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use crate::limits;

/// The ids of one partition.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    by_id: HashMap<u128, Seen>,
    /// By time; an entry whose time is not that of its id in the map was overtaken.
    in_order: VecDeque<(i64, u128)>,
    keys: (RandomState, RandomState),
}

/// Where an id was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) offset: u64,
    time: i64,
}

impl Ids {
    /// Where `id` was seen within `window` before `now`.
    pub(crate) fn find(&self, id: &[u8], now: i64, window: Duration) -> Option<u64> {
        let seen = self.by_id.get(&self.hash(id))?;
        (now.saturating_sub(seen.time) < nanos(window)).then_some(seen.offset)
    }

    /// Notes that `id` was seen at `offset`, and forgets what was seen before the window.
    pub(crate) fn note(&mut self, id: &[u8], offset: u64, now: i64, window: Duration) {
        let hash = self.hash(id);
        self.by_id.insert(hash, Seen { offset, time: now });
        self.in_order.push_back((now, hash));
        while let Some(&(time, hash)) = self.in_order.front() {
            let is_old = now.saturating_sub(time) >= nanos(window);
            if !is_old && self.in_order.len() <= limits::IDS_MAX {
                break;
            }
            self.in_order.pop_front();
            if self.by_id.get(&hash).is_some_and(|seen| seen.time == time) {
                self.by_id.remove(&hash);
            }
        }
    }

    fn hash(&self, id: &[u8]) -> u128 {
        u128::from(self.keys.0.hash_one(id)) << 64 | u128::from(self.keys.1.hash_one(id))
    }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_nanos(10);

    #[test]
    fn an_id_is_known_for_as_long_as_the_window() {
        let mut ids = Ids::default();
        ids.note(b"a", 5, 100, WINDOW);
        assert_eq!(ids.find(b"a", 109, WINDOW), Some(5));
        assert_eq!((ids.find(b"a", 110, WINDOW), ids.find(b"b", 100, WINDOW)), (None, None));
    }

    #[test]
    fn an_id_seen_again_after_its_window_is_known_anew() {
        let mut ids = Ids::default();
        ids.note(b"a", 5, 100, WINDOW);
        ids.note(b"a", 9, 110, WINDOW);
        assert_eq!(ids.find(b"a", 119, WINDOW), Some(9));
        ids.note(b"b", 10, 119, WINDOW);
        assert_eq!((ids.by_id.len(), ids.in_order.len()), (2, 2));
        ids.note(b"c", 11, 200, WINDOW);
        assert_eq!((ids.by_id.len(), ids.in_order.len()), (1, 1));
    }

    #[test]
    fn ids_take_bounded_memory_whatever_the_window() {
        let (mut ids, window) = (Ids::default(), Duration::from_secs(3600));
        for n in 0..limits::IDS_MAX as u64 + 3 {
            ids.note(&n.to_le_bytes(), n, n as i64, window);
        }
        assert_eq!((ids.by_id.len(), ids.in_order.len()), (limits::IDS_MAX, limits::IDS_MAX));
        assert_eq!(
            (ids.find(&2u64.to_le_bytes(), 9, window), ids.find(&3u64.to_le_bytes(), 9, window)),
            (None, Some(3))
        );
    }
}
