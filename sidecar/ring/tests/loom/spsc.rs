use std::sync::Arc as Count;

use loom::thread;
use sidestream_ring::spsc::{Consumer, Producer, ring};

use crate::explore;

fn push(producer: &mut Producer<u32>, item: u32) {
    while producer.push(item).is_err() {
        thread::yield_now();
    }
}

fn pop(consumer: &mut Consumer<u32>) -> u32 {
    loop {
        match consumer.pop() {
            Some(item) => return item,
            None => thread::yield_now(),
        }
    }
}

/// Mutants: Relaxed in `publish`, `ready`, `give_back` or `room`.
#[test]
fn items_cross_in_order_and_slots_are_used_again() {
    explore(3, || {
        let (mut producer, mut consumer) = ring(2);
        let sender = thread::spawn(move || (0..4).for_each(|i| push(&mut producer, i)));
        (0..4).for_each(|i| assert_eq!(pop(&mut consumer), i));
        sender.join().unwrap();
    });
}

/// Mutants: the same four as above.
#[test]
fn a_batch_becomes_visible_only_whole() {
    explore(3, || {
        let (mut producer, mut consumer) = ring(2);
        let sender = thread::spawn(move || {
            for batch in 0..2 {
                let mut claim = producer.claim(2);
                while claim.len() < 2 {
                    drop(claim);
                    thread::yield_now();
                    claim = producer.claim(2);
                }
                claim.fill(|| batch);
                claim.publish();
            }
        });
        for batch in 0..2 {
            loop {
                match consumer.peek(2) {
                    [] => thread::yield_now(),
                    seen => {
                        assert_eq!(seen, [batch, batch]);
                        break;
                    }
                }
            }
            match batch {
                0 => assert_eq!(consumer.release(2), 2),
                _ => assert_eq!(consumer.drain(2).count(), 2),
            }
        }
        sender.join().unwrap();
    });
}

/// Mutant: Relaxed in `is_closed`, or in the producer's `drop`.
#[test]
fn who_sees_the_ring_closed_sees_every_item() {
    explore(3, || {
        let (mut producer, mut consumer) = ring(2);
        let sender = thread::spawn(move || push(&mut producer, 7));
        while !consumer.is_closed() {
            thread::yield_now();
        }
        assert_eq!(consumer.pop(), Some(7));
        sender.join().unwrap();
    });
}

/// Mutant: `release` does not give its slots back, so the ring drops the items again.
#[test]
fn ends_that_go_at_the_same_time_drop_every_item_once() {
    explore(3, || {
        let token = Count::new(());
        let (mut producer, mut consumer) = ring(2);
        let item = token.clone();
        let sender = thread::spawn(move || {
            let _ = producer.push(item.clone());
            let _ = producer.push(item);
        });
        consumer.pop();
        drop(consumer);
        sender.join().unwrap();
        assert_eq!(Count::strong_count(&token), 1);
    });
}

#[test]
fn a_limit_moved_meanwhile_never_lets_a_slot_be_written_twice() {
    explore(2, || {
        let (mut producer, mut consumer) = ring(2);
        let limit = producer.limit();
        let sender = thread::spawn(move || (0..3).for_each(|i| push(&mut producer, i)));
        let control = thread::spawn(move || {
            limit.set(1);
            limit.set(9);
        });
        (0..3).for_each(|i| assert_eq!(pop(&mut consumer), i));
        sender.join().unwrap();
        control.join().unwrap();
    });
}
