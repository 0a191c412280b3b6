//! What a sender owes the source of a batch: an answer when its events have ended, and its position when no state holds them.

use sidestream_event::{Hold, Mark, Outcome};

use crate::{
    link::{Ended, Held, Kept},
    slots::Slot,
};

/// A batch on its way.
pub(crate) type Parcel = Kept<Owed, Share>;

/// Whose the events of a frame are. Dropped, they have ended well.
#[derive(Debug)]
pub(crate) struct Owed {
    mark: Mark,
    covered: Covered,
}

/// Which events of its batch a frame carries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Covered {
    first: u64,
    last: u64,
    count: u64,
}

impl Covered {
    pub(crate) fn add(&mut self, sequence: u64) {
        if self.count == 0 {
            (self.first, self.last) = (sequence, sequence);
        }
        (self.first, self.last) = (self.first.min(sequence), self.last.max(sequence));
        self.count += 1;
    }
}

impl Owed {
    pub(crate) fn of(mark: &Mark, covered: Covered) -> Owed {
        Owed { mark: mark.clone(), covered }
    }

    /// The share of a part of them: `count` events after the first `before`.
    pub(crate) fn part(&self, before: u64, count: u64) -> Owed {
        let first = self.covered.first + before;
        Owed { mark: self.mark.clone(), covered: Covered { first, last: self.covered.last, count } }
    }

    /// They have ended, some of them not well. Which of them is not known, only how many.
    pub(crate) fn pay(self, ended: Ended) {
        let Covered { first, last, count } = self.covered;
        let Ended { expired, dropped, unfit, dead_lettered } = ended;
        let outcomes = [
            (expired, Outcome::Expired),
            (dropped, Outcome::Dropped),
            (unfit, Outcome::Unfit),
            (dead_lettered, Outcome::DeadLettered),
        ];
        let outcomes = outcomes.into_iter().flat_map(|(events, how)| (0..events).map(move |_| how));
        (first..=last)
            .take(count as usize)
            .zip(outcomes)
            .for_each(|(sequence, how)| self.mark.end(sequence, how));
    }

    /// They end as dropped; says how many they were.
    pub(crate) fn drop_all(self) -> u64 {
        let Covered { first, last, count } = self.covered;
        // Where a stage took some from between them the numbers are not theirs, but as many.
        let ended = (first..=last).take(count as usize);
        ended.for_each(|sequence| self.mark.end(sequence, Outcome::Dropped));
        count
    }
}

/// A share in the position of a source. Dropped otherwise than by [`Share::release`], it keeps the position behind its batch
/// for as long as the process lives: nobody says any more what became of the events, and only a replay brings them again.
pub(crate) struct Share {
    hold: Option<Hold>,
    /// Of each event of the batch, on an edge whose receivers own slots.
    pub(crate) slots: Vec<Slot>,
}

impl Share {
    pub(crate) fn of(mark: &Mark, slots: Vec<Slot>) -> Share {
        Share { hold: mark.hold(), slots }
    }

    /// The share of a part of the batch.
    pub(crate) fn part(&self, slots: Vec<Slot>) -> Share {
        Share { hold: self.hold.clone(), slots }
    }

    /// Parts have taken its place.
    pub(crate) fn divided(self) {
        self.release();
    }

    /// The position may pass.
    pub(crate) fn release(mut self) {
        drop(self.hold.take());
    }
}

impl Held for Share {
    fn join(&mut self, mut later: Share) {
        // What is held together is no longer sent.
        self.slots = Vec::new();
        match (&mut self.hold, later.hold.take()) {
            (Some(own), Some(later)) => own.merge(&later),
            (own, later) => *own = own.take().or(later),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        std::mem::forget(self.hold.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use sidestream_event::{Settle, Settled, Span};

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<u64>>);

    impl Settle for Heard {
        fn settled(&self, _: Settled) {}
        fn released(&self, span: Span) {
            self.0.lock().unwrap().push(span.first);
        }
    }

    fn share(first: u64, heard: &Arc<Heard>) -> Share {
        Share::of(&Mark::new(Span { first, count: 1 }, heard.clone()), Vec::new())
    }

    #[test]
    fn a_position_passes_what_is_released_and_never_what_is_forgotten() {
        let heard = Arc::new(Heard::default());
        share(0, &heard).release();
        drop(share(1, &heard));
        assert_eq!(*heard.0.lock().unwrap(), [0]);
    }

    #[test]
    fn shares_that_are_joined_hold_the_earliest_position() {
        let heard = Arc::new(Heard::default());
        let mut joined = share(0, &heard);
        joined.join(share(1, &heard));
        assert_eq!(*heard.0.lock().unwrap(), [1], "the later is behind the earlier all the same");
        joined.release();
        assert_eq!(*heard.0.lock().unwrap(), [1, 0]);
        let mut nobodys = Share::of(&Mark::none(), Vec::new());
        nobodys.join(share(2, &heard));
        nobodys.release();
        assert_eq!(*heard.0.lock().unwrap(), [1, 0, 2]);
    }
}
