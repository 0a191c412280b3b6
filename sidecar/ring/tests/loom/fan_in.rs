use loom::thread;
use sidestream_ring::{FanIn, spsc::ring};

use crate::explore;

/// Mutant: `pop` asks whether the input is closed after finding it empty.
#[test]
fn an_input_that_closes_while_it_is_polled_loses_nothing() {
    explore(2, || {
        let (mut one, first) = ring(1);
        let (mut two, second) = ring(1);
        let mut inputs = FanIn::new([first, second]);
        let senders =
            [thread::spawn(move || one.push(1).unwrap()), thread::spawn(move || two.push(2).unwrap())];
        let mut sum = 0;
        while !inputs.is_finished() {
            match inputs.pop() {
                Some(item) => sum += item,
                None => thread::yield_now(),
            }
        }
        assert_eq!(sum, 3);
        senders.into_iter().for_each(|s| s.join().unwrap());
    });
}
