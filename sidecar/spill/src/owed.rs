//! What a queue owes the source of a batch: an answer when its events have ended, and its position when no state holds them.

use sidestream_event::{Hold, Mark, Outcome, Settled};

/// Whose the events of a frame are. Dropped, they have ended well and their source may forget them.
#[derive(Default)]
pub(crate) struct Owed {
    mark: Mark,
    hold: Hold,
    /// The lowest and the highest number of its events, and how many they are.
    first: u64,
    last: u64,
    count: u64,
}

impl Owed {
    pub(crate) fn of(mark: &Mark) -> Owed {
        Owed { mark: mark.clone(), hold: mark.hold().unwrap_or_default(), ..Owed::default() }
    }

    /// One event more, of this number.
    pub(crate) fn add(&mut self, sequence: u64) {
        if self.count == 0 {
            (self.first, self.last) = (sequence, sequence);
        }
        (self.first, self.last) = (self.first.min(sequence), self.last.max(sequence));
        self.count += 1;
    }

    /// They have ended, some of them not well: which of them is not known, only how many. Its source is answered; the position
    /// stays.
    pub(crate) fn settle(&mut self, settled: &Settled) {
        let outcomes = [
            (settled.expired, Outcome::Expired),
            (settled.dropped - settled.unfit, Outcome::Dropped),
            (settled.unfit, Outcome::Unfit),
            (settled.dead_lettered, Outcome::DeadLettered),
        ];
        let outcomes = outcomes.into_iter().flat_map(|(events, how)| (0..events).map(move |_| how));
        let ended = (self.first..=self.last).take(self.count as usize).zip(outcomes);
        ended.for_each(|(sequence, how)| self.mark.end(sequence, how));
        self.mark = Mark::none();
    }

    /// Owes what `later` does too, of which everything has settled.
    pub(crate) fn join(&mut self, later: Owed) {
        self.hold.merge(&later.hold);
    }
}
