//! Many inputs, one taker, in turn: N single-producer queues instead of one contended one.
//!
//! ```text
//!   input 0 ──▶ [ ][ ][ ] ─┐
//!   input 1 ──▶ [ ]       ─┼─▶ pop: the next input that has something, starting behind the last one served
//!   input 2 ──▶ [ ][ ]    ─┘
//! ```
//!
//! An input that always has something gets one item per round, so it can't starve the others; an input that is closed
//! and empty leaves. It must never look at an item.

use crate::{channel, spsc};

/// Something that items can be taken from, one at a time, by one taker.
pub trait Input {
    /// What comes out.
    type Item;
    /// Takes the oldest item.
    fn take(&mut self) -> Option<Self::Item>;
    /// Whether the other end is gone. Items may remain: after `true`, an empty input stays empty.
    fn is_closed(&self) -> bool;
}

impl<T> Input for spsc::Consumer<T> {
    type Item = T;

    fn take(&mut self) -> Option<T> {
        self.pop()
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }
}

impl<T: channel::Weigh> Input for channel::Receiver<T> {
    type Item = T;

    fn take(&mut self) -> Option<T> {
        self.try_recv()
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }
}

/// The taker of several inputs.
pub struct FanIn<I> {
    inputs: Vec<I>,
    /// Whose turn it is.
    next: usize,
}

impl<I: Input> FanIn<I> {
    /// Takes from `inputs`, beginning with the first.
    pub fn new(inputs: impl IntoIterator<Item = I>) -> Self {
        Self { inputs: inputs.into_iter().collect(), next: 0 }
    }

    /// Adds an input; its turn comes last in this round.
    pub fn add(&mut self, input: I) {
        self.inputs.insert(self.next, input);
        self.next = (self.next + 1) % self.inputs.len();
    }

    /// Takes one item from the next input that has one.
    pub fn pop(&mut self) -> Option<I::Item> {
        let mut left = self.inputs.len();
        while left > 0 {
            left -= 1;
            let input = &mut self.inputs[self.next];
            // Asked first: an input that was closed before it was found empty stays empty.
            let closed = input.is_closed();
            match input.take() {
                Some(item) => {
                    self.next = (self.next + 1) % self.inputs.len();
                    return Some(item);
                }
                None if closed => {
                    self.inputs.remove(self.next);
                    self.next = if self.next == self.inputs.len() { 0 } else { self.next };
                }
                None => self.next = (self.next + 1) % self.inputs.len(),
            }
        }
        None
    }

    /// The inputs that may still bring something, in the order of their turns from an arbitrary start.
    pub fn inputs_mut(&mut self) -> &mut [I] {
        &mut self.inputs
    }

    /// Whether every input was found closed and empty: nothing will ever come again.
    pub fn is_finished(&self) -> bool {
        self.inputs.is_empty()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::spsc::{Producer, ring};

    fn three() -> (Vec<Producer<u32>>, FanIn<spsc::Consumer<u32>>) {
        let (producers, consumers): (Vec<_>, Vec<_>) = (0..3).map(|_| ring(8)).unzip();
        (producers, FanIn::new(consumers))
    }

    #[test]
    fn a_busy_input_gets_one_item_per_round() {
        let (mut producers, mut inputs) = three();
        [0, 1, 2, 3].into_iter().for_each(|i| producers[0].push(i).unwrap());
        producers[1].push(10).unwrap();
        [20, 21].into_iter().for_each(|i| producers[2].push(i).unwrap());
        let order: Vec<_> = std::iter::from_fn(|| inputs.pop()).collect();
        assert_eq!(order, [0, 10, 20, 1, 21, 2, 3]);
    }

    #[test]
    fn a_closed_input_is_emptied_before_it_leaves() {
        let (mut producers, mut inputs) = three();
        producers[2].push(20).unwrap();
        producers[1].push(10).unwrap();
        producers.truncate(1);
        assert_eq!((inputs.pop(), inputs.pop(), inputs.pop()), (Some(10), Some(20), None));
        assert_eq!(inputs.inputs_mut().len(), 1);
        producers[0].push(0).unwrap();
        drop(producers);
        assert_eq!((inputs.pop(), inputs.pop()), (Some(0), None));
        assert!(inputs.is_finished());
        assert_eq!(inputs.pop(), None);
    }

    #[test]
    fn an_added_input_waits_for_its_turn() {
        let (mut producers, mut inputs) = three();
        producers.iter_mut().for_each(|p| (0..2).for_each(|i| p.push(i).unwrap()));
        inputs.pop();
        let (mut late, consumer) = ring(8);
        late.push(9).unwrap();
        inputs.add(consumer);
        let order: Vec<_> = std::iter::from_fn(|| inputs.pop()).collect();
        assert_eq!(order, [0, 0, 1, 9, 1, 1]);
    }
}
