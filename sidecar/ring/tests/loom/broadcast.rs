use std::sync::Arc as Count;

use loom::thread;
use sidestream_ring::broadcast::{Subscriber, broadcast};

use crate::explore;

/// Looks once, and moves past what it sees.
fn look(subscriber: &mut Subscriber<u32>, next: &mut u32) {
    let seen = subscriber.peek(1).first().copied();
    if let Some(item) = seen {
        assert_eq!(item, *next, "out of order");
        *next += 1;
        subscriber.release(1);
    }
}

/// Mutants: Relaxed in `publish`, `ready`, `release` or on the position in `reclaim`; `<` for `>` there.
#[test]
fn no_slot_is_written_before_the_slowest_has_left_it() {
    explore(3, || {
        let mut publisher = broadcast(1);
        let (mut here, mut there) = (publisher.subscribe(), publisher.subscribe());
        publisher.push(0).unwrap();
        let reader = thread::spawn(move || {
            let mut next = 0;
            (0..2).for_each(|_| look(&mut there, &mut next));
        });
        let writer = thread::spawn(move || {
            let mut item = 1;
            for _ in 0..2 {
                if publisher.push(item).is_ok() {
                    item += 1;
                }
            }
        });
        let mut next = 0;
        (0..2).for_each(|_| look(&mut here, &mut next));
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

/// Mutant: Relaxed on `gone`.
#[test]
fn a_subscriber_that_goes_lets_the_publisher_go_on() {
    explore(3, || {
        let mut publisher = broadcast(1);
        let mut subscriber = publisher.subscribe();
        publisher.push(0).unwrap();
        let reader = thread::spawn(move || {
            subscriber.peek(1);
        });
        while publisher.push(1).is_err() {
            thread::yield_now();
        }
        assert_eq!(publisher.subscribers(), 0);
        reader.join().unwrap();
    });
}

#[test]
fn ends_that_go_at_the_same_time_drop_every_item_once() {
    explore(3, || {
        let token = Count::new(());
        let mut publisher = broadcast(2);
        let mut subscriber = publisher.subscribe();
        let item = token.clone();
        let writer = thread::spawn(move || {
            let _ = publisher.push(item.clone());
            publisher.reclaim();
            let _ = publisher.push(item);
        });
        subscriber.release(1);
        drop(subscriber);
        writer.join().unwrap();
        assert_eq!(Count::strong_count(&token), 1);
    });
}
