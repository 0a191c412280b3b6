//! A ring does what a bounded `VecDeque` does, whatever one thread asks of it.
#![cfg(not(any(loom, shuttle)))]

use std::collections::VecDeque;

use proptest::prelude::*;
use sidestream_ring::spsc::ring;

#[derive(Clone, Debug)]
enum Step {
    Push,
    Claim { claim: usize, write: usize, publish: bool },
    Limit(usize),
    Pop,
    Peek(usize),
    Release(usize),
    Drain { drain: usize, take: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        2 => (0..10usize, 0..10usize, any::<bool>())
            .prop_map(|(claim, write, publish)| Step::Claim { claim, write, publish }),
        1 => (0..10usize).prop_map(Step::Limit),
        3 => Just(Step::Pop),
        1 => (0..10usize).prop_map(Step::Peek),
        1 => (0..10usize).prop_map(Step::Release),
        1 => (0..10usize, 0..10usize).prop_map(|(drain, take)| Step::Drain { drain, take }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_ring_is_a_bounded_queue(slots in 1..9usize, steps in prop::collection::vec(step(), 1..80)) {
        let (mut producer, mut consumer) = ring::<Box<u32>>(slots);
        let capacity = slots.next_power_of_two();
        let limit_handle = producer.limit();
        let mut queue = VecDeque::new();
        let (mut limit, mut number) = (capacity, 0);
        let mut fresh = || {
            number += 1;
            number
        };
        for step in steps {
            let room = limit.saturating_sub(queue.len());
            match step {
                Step::Push => {
                    let item = fresh();
                    match producer.push(Box::new(item)) {
                        Ok(()) => queue.push_back(item),
                        Err(back) => prop_assert_eq!((*back, room), (item, 0)),
                    }
                }
                Step::Claim { claim: n, write, publish } => {
                    let mut claim = producer.claim(n);
                    prop_assert!(claim.len() <= n.min(room));
                    prop_assert_eq!(claim.is_empty(), n.min(room) == 0);
                    let mut written = Vec::new();
                    while written.len() < write {
                        let item = fresh();
                        if claim.push(Box::new(item)).is_err() {
                            break;
                        }
                        written.push(item);
                    }
                    if publish {
                        prop_assert_eq!(claim.publish(), written.len());
                        queue.extend(written);
                    }
                }
                Step::Limit(n) => {
                    limit_handle.set(n);
                    limit = n.clamp(1, capacity);
                }
                Step::Pop => prop_assert_eq!(consumer.pop().map(|item| *item), queue.pop_front()),
                Step::Peek(n) => {
                    let seen: Vec<u32> = consumer.peek(n).iter().map(|item| **item).collect();
                    prop_assert_eq!(seen.is_empty(), n.min(queue.len()) == 0);
                    prop_assert!(seen.iter().eq(queue.iter().take(seen.len())));
                }
                Step::Release(n) => {
                    let released = consumer.release(n);
                    prop_assert_eq!(released, n.min(queue.len()));
                    queue.drain(..released);
                }
                Step::Drain { drain, take } => {
                    let taken: Vec<u32> = consumer.drain(drain).take(take).map(|item| *item).collect();
                    let expected: Vec<u32> = queue.drain(..drain.min(take).min(queue.len())).collect();
                    prop_assert_eq!(taken, expected);
                }
            }
            prop_assert_eq!((producer.len(), consumer.len()), (queue.len(), queue.len()));
        }
    }
}
