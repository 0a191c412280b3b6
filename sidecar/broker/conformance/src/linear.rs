//! Could this have happened? A search for an order in which a history of overlapping pushes, pulls and resets makes sense.
//!
//! After Wing and Gong, "Testing and Verifying Concurrent Objects" (JPDC 1993), with Lowe's memory of what was tried ("Testing
//! for linearizability", CCPE 2017): an operation may come next if none that is left ended before it began; what it answered
//! must be what the model answers. The model is the sentence of the design: a push appends at the next offset, a pull sees
//! everything since the last reset, a reset hides it all and begins the next epoch.

use std::collections::{BTreeMap, HashSet};

/// What was done, and what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A record was pushed.
    Push {
        /// It.
        value: String,
        /// Its offset.
        offset: u64,
        /// The epoch it is in.
        epoch: u32,
    },
    /// Everything was pulled.
    Pull {
        /// The epoch.
        epoch: u32,
        /// Offsets and values.
        records: Vec<(u64, String)>,
    },
    /// The dnpipe was reset.
    Reset {
        /// The new epoch.
        epoch: u32,
    },
}

/// An operation with the moments between which it took place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it began.
    pub began: u64,
    /// When it was answered.
    pub ended: u64,
    /// What it was.
    pub operation: Operation,
}

/// What a dnpipe of one partition is, in the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    epoch: u32,
    /// The offset of the next record.
    next: u64,
    /// By offset, those since the last reset.
    records: BTreeMap<u64, String>,
}

/// Notes when operations begin and end.
#[derive(Debug, Default)]
pub struct Recorder {
    now: u64,
    events: Vec<Event>,
}

impl Recorder {
    /// An operation begins.
    pub fn begin(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// The operation that began then is answered.
    pub fn end(&mut self, began: u64, operation: Operation) {
        self.now += 1;
        self.events.push(Event { began, ended: self.now, operation });
    }

    /// All that were answered.
    pub fn history(self) -> Vec<Event> {
        self.events
    }
}

/// The state after `history` from `start` on, in an order in which all of it makes sense; none where there is no such order.
/// At most 64 operations.
pub fn check(start: &State, history: &[Event]) -> Option<State> {
    assert!(history.len() <= 64, "more operations than a search can take");
    let mut tried = HashSet::new();
    search(start, history, 0, &mut tried)
}

/// `done` has a bit for each operation that came already.
fn search(state: &State, history: &[Event], done: u64, tried: &mut HashSet<(u64, State)>) -> Option<State> {
    let left = |at: &usize| done & (1 << at) == 0;
    let Some(first_end) = (0..history.len()).filter(left).map(|at| history[at].ended).min() else {
        return Some(state.clone());
    };
    if !tried.insert((done, state.clone())) {
        return None;
    }
    // Whatever began after another one ended comes after it.
    let may_be_next = |at: &usize| left(at) && history[*at].began < first_end;
    (0..history.len()).filter(may_be_next).find_map(|at| {
        let next = apply(state, &history[at].operation)?;
        search(&next, history, done | 1 << at, tried)
    })
}

/// The state after an operation, if its answer is right.
fn apply(state: &State, operation: &Operation) -> Option<State> {
    let mut state = state.clone();
    let is_right = match operation {
        Operation::Push { value, offset, epoch } => {
            let is_right = (*offset, *epoch) == (state.next, state.epoch);
            state.records.insert(*offset, value.clone());
            state.next += 1;
            is_right
        }
        Operation::Pull { epoch, records } => {
            *epoch == state.epoch && records.iter().map(|(offset, value)| (offset, value)).eq(&state.records)
        }
        Operation::Reset { epoch } => {
            state.epoch += 1;
            state.records.clear();
            *epoch == state.epoch
        }
    };
    is_right.then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(began: u64, ended: u64, offset: u64, epoch: u32) -> Event {
        Event { began, ended, operation: Operation::Push { value: offset.to_string(), offset, epoch } }
    }

    fn pull(began: u64, ended: u64, epoch: u32, offsets: &[u64]) -> Event {
        let records = offsets.iter().map(|offset| (*offset, offset.to_string())).collect();
        Event { began, ended, operation: Operation::Pull { epoch, records } }
    }

    fn reset(began: u64, ended: u64, epoch: u32) -> Event {
        Event { began, ended, operation: Operation::Reset { epoch } }
    }

    fn can_be(history: &[Event]) -> bool {
        check(&State::default(), history).is_some()
    }

    #[test]
    fn what_follows_one_after_the_other_can_be() {
        assert!(can_be(&[
            push(1, 2, 0, 0),
            pull(3, 4, 0, &[0]),
            reset(5, 6, 1),
            pull(7, 8, 1, &[]),
            push(9, 10, 1, 1)
        ]));
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        assert!(can_be(&[push(1, 9, 0, 0), pull(2, 3, 0, &[]), pull(4, 5, 0, &[0])]));
        assert!(can_be(&[push(1, 2, 0, 0), reset(3, 9, 1), pull(4, 5, 0, &[0]), pull(6, 7, 1, &[])]));
        assert!(can_be(&[reset(1, 9, 1), push(2, 3, 0, 0), push(4, 5, 1, 1), pull(6, 7, 1, &[1])]));
    }

    #[test]
    fn a_lost_a_late_and_an_old_record_can_not_be() {
        assert!(!can_be(&[push(1, 2, 0, 0), pull(3, 4, 0, &[])]), "lost");
        assert!(!can_be(&[pull(1, 2, 0, &[0]), push(3, 4, 0, 0)]), "seen before it was pushed");
        assert!(!can_be(&[push(1, 2, 0, 0), reset(3, 4, 1), pull(5, 6, 1, &[0])]), "old");
        assert!(!can_be(&[push(1, 2, 0, 0), reset(3, 4, 1), pull(5, 6, 0, &[0])]), "an old epoch");
        assert!(!can_be(&[push(1, 2, 0, 0), push(3, 4, 0, 0)]), "an offset twice");
        assert!(!can_be(&[push(1, 2, 1, 0)]), "an offset left out");
    }

    /// The subtle ones: each answer by itself is right, and together they are not.
    #[test]
    fn a_reader_that_goes_back_can_not_be() {
        let back = [push(1, 2, 0, 0), reset(3, 20, 1), pull(4, 5, 1, &[]), pull(6, 7, 0, &[0])];
        assert!(!can_be(&back), "the reset was seen and then was not");
        let carried = [
            push(1, 2, 0, 0),
            push(3, 4, 1, 0),
            pull(5, 6, 0, &[0, 1]),
            reset(7, 8, 1),
            pull(9, 10, 1, &[1]),
        ];
        assert!(!can_be(&carried), "a record that was seen beside an old one outlived the reset");
        let early = [push(1, 2, 0, 0), reset(3, 20, 1), push(4, 5, 1, 1), pull(6, 7, 0, &[0, 1])];
        assert!(!can_be(&early), "a record of the new epoch beside one of the old");
    }

    #[test]
    fn a_history_goes_on_from_where_another_ended() {
        let end = check(&State::default(), &[push(1, 2, 0, 0), reset(3, 4, 1), push(5, 6, 1, 1)]).unwrap();
        assert!(check(&end, &[pull(1, 2, 1, &[1]), push(3, 4, 2, 1)]).is_some());
        assert!(check(&end, &[pull(1, 2, 1, &[0, 1])]).is_none());
    }
}
