//! Real threads on real cores for a bounded number of items: order, sums and wake-ups hold when nothing is modelled.
#![cfg(not(any(loom, shuttle)))]

use std::time::Duration;

use sidestream_ring::{
    EventCount, FanIn, Receiver, Refused, Weigh,
    broadcast::broadcast,
    channel, spsc,
    sync::{Arc, AtomicU64, Ordering, thread},
};

const ITEMS: u64 = if cfg!(miri) { 200 } else { 200_000 };

/// Small numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn a_ring_keeps_order_while_batches_and_single_items_mix_and_the_limit_moves() {
    let (mut producer, mut consumer) = spsc::ring::<Box<u64>>(64);
    let limit = producer.limit();
    let sending = thread::spawn(move || {
        let (mut next, mut dice) = (0, Dice(7));
        while next < ITEMS {
            match dice.throw(3) {
                0 => match producer.push(Box::new(next)) {
                    Ok(()) => next += 1,
                    Err(_) => thread::yield_now(),
                },
                _ => {
                    let mut claim = producer.claim((dice.throw(40)).min(ITEMS - next) as usize);
                    if claim.is_empty() {
                        thread::yield_now();
                    }
                    claim.fill(|| {
                        next += 1;
                        Box::new(next - 1)
                    });
                    claim.publish();
                }
            }
        }
    });
    let (mut expected, mut dice) = (0, Dice(11));
    while expected < ITEMS {
        let before = expected;
        match dice.throw(4) {
            0 => limit.set(dice.throw(64) as usize),
            1 => {
                if let Some(item) = consumer.pop() {
                    assert_eq!(*item, expected);
                    expected += 1;
                }
            }
            2 => {
                let seen = consumer.peek(dice.throw(40) as usize);
                seen.iter().enumerate().for_each(|(i, item)| assert_eq!(**item, expected + i as u64));
                let n = seen.len();
                assert_eq!(consumer.release(n), n);
                expected += n as u64;
            }
            _ => consumer.drain(dice.throw(40) as usize).for_each(|item| {
                assert_eq!(*item, expected);
                expected += 1;
            }),
        }
        if expected == before {
            thread::yield_now();
        }
    }
    assert!(consumer.is_empty());
    sending.join().unwrap();
}

#[test]
fn every_subscriber_of_a_broadcast_sees_every_item_in_order() {
    let mut publisher = broadcast::<Box<u64>>(32);
    let readers = [(); 2].map(|()| {
        let mut subscriber = publisher.subscribe();
        thread::spawn(move || {
            let mut expected = 0;
            loop {
                let closed = subscriber.is_closed();
                let seen = subscriber.peek(8);
                seen.iter().enumerate().for_each(|(i, item)| assert_eq!(**item, expected + i as u64));
                match seen.len() {
                    0 if closed => return expected,
                    0 => thread::yield_now(),
                    n => expected += subscriber.release(n) as u64,
                }
            }
        })
    });
    let mut passing = None;
    for item in 0..ITEMS {
        // Somebody who comes and goes must disturb nobody.
        match item % 100 {
            0 => passing = Some(publisher.subscribe()),
            20 => passing = None,
            _ => {}
        }
        let mut item = Box::new(item);
        while let Err(back) = publisher.push(item) {
            item = back;
            thread::yield_now();
        }
    }
    drop((publisher, passing));
    for reader in readers {
        assert_eq!(reader.join().unwrap(), ITEMS);
    }
}

#[test]
fn a_fan_in_takes_everything_from_everybody_in_each_ones_order() {
    let (producers, consumers): (Vec<_>, Vec<_>) = (0..3).map(|_| spsc::ring(16)).unzip();
    let senders: Vec<_> = (0..3)
        .zip(producers)
        .map(|(who, mut producer)| {
            thread::spawn(move || {
                for item in 0..ITEMS / 3 {
                    while producer.push((who, item)).is_err() {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut inputs = FanIn::new(consumers);
    let mut next = [0; 3];
    while !inputs.is_finished() {
        match inputs.pop() {
            Some((who, item)) => {
                assert_eq!(item, next[who]);
                next[who] += 1;
            }
            None => thread::yield_now(),
        }
    }
    assert_eq!(next, [ITEMS / 3; 3]);
    senders.into_iter().for_each(|s| s.join().unwrap());
}

#[test]
fn sleepers_on_an_eventcount_take_all_the_work() {
    let shared = Arc::new((EventCount::new(), AtomicU64::new(0)));
    let take = |work: &AtomicU64| {
        work.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    };
    let sleepers = [(); 2].map(|()| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (event, work) = &*shared;
            for _ in 0..ITEMS / 20 {
                while !take(work) {
                    let ticket = event.prepare();
                    if take(work) {
                        event.cancel(ticket);
                        break;
                    }
                    // A lost wake-up would show as this limit passing with work still there.
                    assert!(
                        event.wait_timeout(ticket, Duration::from_secs(60))
                            || work.load(Ordering::SeqCst) == 0
                    );
                }
            }
        })
    });
    for _ in 0..ITEMS / 10 {
        shared.1.fetch_add(1, Ordering::Relaxed);
        shared.0.notify_one();
    }
    sleepers.into_iter().for_each(|s| s.join().unwrap());
    assert_eq!((shared.1.load(Ordering::Relaxed), shared.0.waiters()), (0, 0));
}

struct Load(u64);

impl Weigh for Load {
    fn weight(&self) -> usize {
        (self.0 % 5) as usize
    }
}

/// A waker that unparks the thread which made it.
fn unpark() -> std::task::Waker {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    std::sync::Arc::new(Unpark(thread::current())).into()
}

fn receive_all(mut receiver: Receiver<Load>) -> u64 {
    receiver.set_waker(unpark());
    let (mut expected, mut dice) = (0, Dice(3));
    loop {
        let closed = receiver.is_closed();
        match receiver.try_recv() {
            Some(item) => {
                assert_eq!(item.0, expected);
                expected += 1;
                if dice.throw(50) == 0 {
                    receiver.gauge().set_limit(dice.throw(20) as usize);
                }
            }
            None if closed => return expected,
            None if !receiver.wait_for_item() => thread::park(),
            None => {}
        }
    }
}

#[test]
fn a_channel_between_sleeping_threads_delivers_everything_in_order() {
    let (mut sender, receiver) = channel(16, 10);
    let gauge = sender.gauge();
    let receiving = thread::spawn(move || receive_all(receiver));
    sender.set_waker(unpark());
    for item in 0..ITEMS {
        let mut item = Load(item);
        while let Err(refused) = sender.try_send(item) {
            assert!(matches!(refused, Refused::Full(_)));
            item = refused.into_item();
            if !sender.wait_for_room() {
                thread::park();
            }
        }
    }
    drop(sender);
    assert_eq!(receiving.join().unwrap(), ITEMS);
    assert_eq!((gauge.depth(), gauge.sent()), (0, (0..ITEMS).map(|i| i % 5).sum()));
}
