//! What a source has brought in and not acknowledged yet, in order.
//!
//! ```text
//!   sent: (events before 512, partition 0, offsets 0..512) (events before 700, partition 1, offsets 40..228) ...
//!            ▲ committed                            passes them from the front; then they are acknowledged, then forgotten
//! ```
//!
//! Until they are forgotten, the same records are known when they come again: after a break of the connection the server hands
//! out anew what is still on its way here.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::Receipt;

/// See the module.
pub(super) struct InFlight {
    state: Mutex<State>,
    /// How many there are, for who waits until there are none.
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    sent: VecDeque<Sent>,
    /// By partition, the offset behind the newest record that was ever brought in: none at or behind it is on its way.
    ends: HashMap<u32, u64>,
}

/// Records that went in as one batch.
pub(super) struct Sent {
    /// The number of the event after the last of them.
    pub(super) next: u64,
    pub(super) partition: u32,
    pub(super) offsets: Range<u64>,
    /// Tells how they ended; taken by who asks it.
    pub(super) receipt: Option<Receipt>,
}

impl Default for InFlight {
    fn default() -> Self {
        InFlight { state: Mutex::default(), count: watch::channel(0).0 }
    }
}

impl InFlight {
    pub(super) fn add(&self, sent: Sent) {
        let mut state = self.lock();
        let end = state.ends.entry(sent.partition).or_default();
        *end = sent.offsets.end.max(*end);
        state.sent.push_back(sent);
        self.count.send_replace(state.sent.len());
    }

    /// Whether a record is on its way already.
    pub(super) fn has(&self, partition: u32, offset: u64) -> bool {
        let state = self.lock();
        let may_be = state.ends.get(&partition).is_some_and(|end| offset < *end);
        may_be && state.sent.iter().any(|sent| sent.partition == partition && sent.offsets.contains(&offset))
    }

    /// Those from the front whose events all come before number `committed`, with their receipts.
    pub(super) fn passed(&self, committed: u64) -> Vec<(u32, Range<u64>, Option<Receipt>)> {
        let mut state = self.lock();
        let passed = state.sent.iter_mut().take_while(|sent| sent.next <= committed);
        passed.map(|sent| (sent.partition, sent.offsets.clone(), sent.receipt.take())).collect()
    }

    /// Forgets the first `count`.
    pub(super) fn forget(&self, count: usize) {
        let mut state = self.lock();
        state.sent.drain(..count);
        self.count.send_replace(state.sent.len());
    }

    /// Waits until there are none.
    pub(super) async fn emptied(&self) {
        // It fails where the sender is gone, which is `self`.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same with neighbours in one.
pub(super) fn joined(mut ranges: Vec<(u32, Range<u64>)>) -> Vec<(u32, Range<u64>)> {
    ranges.sort_by_key(|(partition, offsets)| (*partition, offsets.start));
    let mut joined: Vec<(u32, Range<u64>)> = Vec::new();
    for (partition, offsets) in ranges {
        match joined.last_mut() {
            Some((own, last)) if *own == partition && last.end == offsets.start => last.end = offsets.end,
            _ => joined.push((partition, offsets)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(next: u64, partition: u32, offsets: Range<u64>) -> Sent {
        Sent { next, partition, offsets, receipt: None }
    }

    #[test]
    fn what_has_passed_is_known_until_it_is_forgotten() {
        let all = InFlight::default();
        all.add(sent(5, 0, 10..15));
        all.add(sent(7, 1, 0..2));
        all.add(sent(9, 0, 15..17));
        let passed: Vec<_> = all.passed(8).into_iter().map(|(partition, own, _)| (partition, own)).collect();
        assert_eq!(passed, [(0, 10..15), (1, 0..2)]);
        assert!(all.has(0, 14) && all.has(1, 0) && !all.has(1, 2) && !all.has(2, 10));
        all.forget(2);
        assert!(!all.has(0, 14) && all.has(0, 15));
        all.forget(1);
        assert_eq!(*all.count.borrow(), 0);
    }

    #[test]
    fn neighbours_are_acknowledged_in_one() {
        let ranges = vec![(1, 5..7), (0, 3..4), (1, 0..5), (0, 5..6)];
        assert_eq!(joined(ranges), [(0, 3..4), (0, 5..6), (1, 0..7)]);
    }
}
