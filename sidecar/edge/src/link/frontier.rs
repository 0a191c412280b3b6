//! How far something has come in order, of which parts come out of order.

use std::collections::BTreeSet;

/// All numbers before `upto`, and some beyond it.
#[derive(Debug)]
pub(super) struct Frontier {
    upto: u64,
    /// Those after one that is missing.
    beyond: BTreeSet<u64>,
}

impl Frontier {
    /// Nothing from `upto` on.
    pub(super) fn at(upto: u64) -> Frontier {
        Frontier { upto, beyond: BTreeSet::new() }
    }

    /// The first that is missing.
    pub(super) fn upto(&self) -> u64 {
        self.upto
    }

    /// How many there are beyond the first that is missing.
    pub(super) fn beyond(&self) -> u64 {
        self.beyond.len() as u64
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        number < self.upto || self.beyond.contains(&number)
    }

    pub(super) fn add(&mut self, number: u64) {
        if number >= self.upto {
            self.beyond.insert(number);
            self.join();
        }
    }

    /// Nothing before `number` is missing any more.
    pub(super) fn skip_to(&mut self, number: u64) {
        if number > self.upto {
            self.beyond = self.beyond.split_off(&number);
            self.upto = number;
            self.join();
        }
    }

    fn join(&mut self) {
        while self.beyond.first() == Some(&self.upto) {
            self.beyond.pop_first();
            self.upto += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_when_what_was_missing_comes_and_past_what_never_will() {
        let mut frontier = Frontier::at(3);
        [5, 4, 2, 8].into_iter().for_each(|number| frontier.add(number));
        assert_eq!((frontier.upto(), frontier.beyond()), (3, 3));
        assert!(frontier.contains(2) && frontier.contains(5) && !frontier.contains(3));
        frontier.add(3);
        assert_eq!((frontier.upto(), frontier.beyond()), (6, 1));
        frontier.skip_to(8);
        frontier.skip_to(4);
        assert_eq!((frontier.upto(), frontier.beyond()), (9, 0));
    }
}
