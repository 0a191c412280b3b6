//! Real threads on real cores for a bounded number of items: order, sums and wake-ups hold when nothing is modelled.
//!
//! `SIDESTREAM_PROVE_N` sets how often each test runs, `SIDESTREAM_PROVE_SEED` the dice of the first run; each run after it
//! has others.
#![cfg(not(any(loom, shuttle)))]

use std::time::Duration;

use sidestream_ring::{
    EventCount, FanIn, Receiver, Refused, Weigh,
    broadcast::broadcast,
    channel, spsc,
    sync::{Arc, AtomicU64, Ordering, thread},
};

const ITEMS: u64 = if cfg!(miri) { 200 } else { 200_000 };

/// Calls a test as often as it is asked for, each time with a seed of its own.
fn prove(test: impl Fn(u64)) {
    let (runs, seed) = (setting("SIDESTREAM_PROVE_N"), setting("SIDESTREAM_PROVE_SEED"));
    for run in 0..runs {
        // Shown where the test fails.
        println!("seed {seed}, run {run}");
        test(mix(seed) ^ run);
    }
}

fn setting(name: &str) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Makes numbers that are alike unlike (the finaliser of SplitMix64, Steele and others 2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Small numbers that look random and are the same in every run of a seed (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    /// Those of one hand of a run; each hand has its own.
    fn new(seed: u64, hand: u64) -> Self {
        Dice(mix(seed ^ mix(hand)).max(1))
    }

    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn a_ring_keeps_order_while_batches_and_single_items_mix_and_the_limit_moves() {
    prove(mix_in_a_ring);
}

fn mix_in_a_ring(seed: u64) {
    let (mut producer, mut consumer) = spsc::ring::<Box<u64>>(64);
    let limit = producer.limit();
    let sending = thread::spawn(move || {
        let (mut next, mut dice) = (0, Dice::new(seed, 1));
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
    let (mut expected, mut dice) = (0, Dice::new(seed, 2));
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
    prove(broadcast_to_all);
}

fn broadcast_to_all(seed: u64) {
    let mut publisher = broadcast::<Box<u64>>(32);
    let readers = [1, 2].map(|hand| {
        let mut subscriber = publisher.subscribe();
        thread::spawn(move || {
            let (mut expected, mut dice) = (0, Dice::new(seed, hand));
            loop {
                let closed = subscriber.is_closed();
                let seen = subscriber.peek(1 + dice.throw(16) as usize);
                seen.iter().enumerate().for_each(|(i, item)| assert_eq!(**item, expected + i as u64));
                match seen.len() {
                    0 if closed => return expected,
                    0 => thread::yield_now(),
                    n => expected += subscriber.release(n) as u64,
                }
            }
        })
    });
    let (mut passing, mut dice) = (None, Dice::new(seed, 3));
    for item in 0..ITEMS {
        // Somebody who comes and goes must disturb nobody. It reads nothing, so it is gone before the ring is full.
        passing = passing.filter(|(_, until)| item < *until);
        if passing.is_none() && dice.throw(100) == 0 {
            passing = Some((publisher.subscribe(), item + dice.throw(30)));
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
    prove(fan_in);
}

fn fan_in(seed: u64) {
    let (producers, consumers): (Vec<_>, Vec<_>) = (0..3).map(|_| spsc::ring(16)).unzip();
    let senders: Vec<_> = (0..3)
        .zip(producers)
        .map(|(who, mut producer)| {
            thread::spawn(move || {
                let mut dice = Dice::new(seed, who as u64);
                for item in 0..ITEMS / 3 {
                    rest_now_and_then(&mut dice);
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

/// Lets the others go first, so that now this end is the faster one and now another.
fn rest_now_and_then(dice: &mut Dice) {
    if dice.throw(1_000) == 0 {
        (0..dice.throw(20)).for_each(|_| thread::yield_now());
    }
}

#[test]
fn sleepers_on_an_eventcount_take_all_the_work() {
    prove(sleep_and_work);
}

fn sleep_and_work(seed: u64) {
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
    let mut dice = Dice::new(seed, 1);
    for _ in 0..ITEMS / 10 {
        rest_now_and_then(&mut dice);
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

fn receive_all(mut receiver: Receiver<Load>, mut dice: Dice) -> u64 {
    receiver.set_waker(unpark());
    let mut expected = 0;
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
    prove(send_asleep);
}

fn send_asleep(seed: u64) {
    let (mut sender, receiver) = channel(16, 10);
    let gauge = sender.gauge();
    let receiving = thread::spawn(move || receive_all(receiver, Dice::new(seed, 1)));
    sender.set_waker(unpark());
    let mut dice = Dice::new(seed, 2);
    for item in 0..ITEMS {
        rest_now_and_then(&mut dice);
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
