//! Batches that are in a state, until the position of the source they came in by has passed them.
//!
//! ```text
//!   settled at position 40 ─▶ ┐                         ┌─▶ released: their sender lets go of them
//!   settled at position 20 ─▶ ┴ by position: 20, 40 … ──┘ the source's position is 30 now
//! ```
//!
//! A state holds no more than the earliest batch it has events of, because a position cannot pass that one; so it is the
//! position that says of a batch that nothing before it, nor itself, is held.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use crate::{peering::lock, receiver::Link};

/// A batch, or some in a row, that a state may hold. Dropped, its sender is never told that it is released.
pub struct Unreleased {
    link: Arc<Link>,
    first: u64,
    last: u64,
}

impl Unreleased {
    pub(crate) fn of(link: Arc<Link>, sequence: u64) -> Unreleased {
        Unreleased { link, first: sequence, last: sequence }
    }

    /// No state holds them: their sender is told.
    pub fn release(self) {
        self.link.change(|receiving| receiving.release(self.first..=self.last));
    }

    /// Takes `next` in, if it is the next in the row; else gives it back.
    fn join(&mut self, next: Unreleased) -> Option<Unreleased> {
        if !Arc::ptr_eq(&self.link, &next.link) || next.first != self.last + 1 {
            return Some(next);
        }
        self.last = next.last;
        None
    }
}

/// The settled batches of a source, by the position at which it may forget them.
#[derive(Default)]
pub struct ByPosition(Mutex<State>);

struct State {
    waiting: BTreeMap<u64, Unreleased>,
    /// With more than this they are thinned out.
    kept_max: usize,
}

impl ByPosition {
    /// Keeps a batch until [`ByPosition::passed`] is told of `position` or more.
    pub fn add(&self, position: u64, batch: Unreleased) {
        let mut state = lock(&self.0);
        state.waiting.insert(position, batch);
        if state.waiting.len() > state.kept_max {
            let waiting = std::mem::take(&mut state.waiting);
            state.waiting = thinned_out(waiting);
            // Where little can be joined it is not tried each time.
            state.kept_max = KEPT_MAX.max(2 * state.waiting.len());
        }
    }

    /// The source's position has come to `position`: nothing before it is held.
    pub fn passed(&self, position: u64) {
        let passed = {
            let mut state = lock(&self.0);
            let later = state.waiting.split_off(&(position + 1));
            std::mem::replace(&mut state.waiting, later)
        };
        passed.into_values().for_each(Unreleased::release);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.0).waiting.len()
    }
}

impl Default for State {
    fn default() -> Self {
        State { waiting: BTreeMap::new(), kept_max: KEPT_MAX }
    }
}

/// Has neighbours of a link wait together, for the position of the last and in even steps: what a long window holds is then
/// released in longer ones.
fn thinned_out(waiting: BTreeMap<u64, Unreleased>) -> BTreeMap<u64, Unreleased> {
    let span = |ends: (&u64, &u64)| ends.1 - ends.0;
    let ends = waiting.keys().next().zip(waiting.keys().next_back());
    let step = ends.map_or(0, span) / (KEPT_MAX as u64 / 4);
    let mut kept = BTreeMap::new();
    // Of each link the group that may still grow: where it begins and ends.
    let mut open: HashMap<*const Link, (u64, u64, Unreleased)> = HashMap::new();
    for (position, batch) in waiting {
        let link = Arc::as_ptr(&batch.link);
        let group = match open.remove(&link) {
            None => (position, position, batch),
            Some((begin, end, mut group)) if position - begin <= step => match group.join(batch) {
                None => (begin, position, group),
                Some(batch) => {
                    kept.insert(end, group);
                    (position, position, batch)
                }
            },
            Some((_, end, group)) => {
                kept.insert(end, group);
                (position, position, batch)
            }
        };
        open.insert(link, group);
    }
    kept.extend(open.into_values().map(|(_, end, group)| (end, group)));
    kept
}

const KEPT_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_released_when_the_position_has_passed_it_whatever_the_order_they_were_settled_in() {
        let (waiting, link) = (ByPosition::default(), Link::for_test(4));
        for (position, sequence) in [(20, 1), (10, 0), (30, 2)] {
            waiting.add(position, Unreleased::of(link.clone(), sequence));
        }
        waiting.passed(9);
        assert_eq!(link.look(|receiving| receiving.unreleased()), 4);
        waiting.passed(20);
        assert_eq!((link.look(|receiving| receiving.unreleased()), waiting.len()), (2, 1));
    }

    #[test]
    fn of_many_that_wait_neighbours_wait_together_and_all_are_released_in_the_end() {
        let links = [Link::for_test(10_000), Link::for_test(10_000)];
        let waiting = ByPosition::default();
        for sequence in 0..10_000 {
            for (place, link) in links.iter().enumerate() {
                waiting.add(2 * sequence + place as u64 + 1, Unreleased::of(link.clone(), sequence));
            }
        }
        assert!(waiting.len() <= 2 * KEPT_MAX, "{} wait", waiting.len());
        waiting.passed(10_000);
        let left = links[0].look(|receiving| receiving.unreleased());
        assert!((5_000..6_000).contains(&left), "{left}");
        waiting.passed(20_000);
        assert!(links.iter().all(|link| link.look(|receiving| receiving.is_released())));
    }
}
