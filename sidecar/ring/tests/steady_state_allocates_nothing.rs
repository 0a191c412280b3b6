//! After construction no queue allocates: counted, not believed.
#![cfg(not(any(loom, shuttle)))]
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]
#![allow(clippy::disallowed_types, reason = "the allocator counts below everything, also below `ring::sync`")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
    task::{Wake, Waker},
};

use sidestream_ring::{EventCount, FanIn, Weigh, broadcast::broadcast, channel, spsc};

thread_local! {
    /// Allocations of this thread: the test harness has threads of its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: as promised by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as promised by our caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn a_ring_allocates_nothing() {
    let (mut producer, mut consumer) = spsc::ring(64);
    let limit = producer.limit();
    let steady = || {
        for round in 0..1_000u64 {
            producer.push(round).unwrap();
            let mut claim = producer.claim(20);
            claim.fill(|| round);
            claim.publish();
            limit.set(64 - (round % 30) as usize);
            assert!(!consumer.peek(4).is_empty());
            consumer.pop().unwrap();
            consumer.drain(7).for_each(drop);
            consumer.release(64);
        }
    };
    assert_eq!(allocations(steady), 0);
}

#[test]
fn a_broadcast_and_a_fan_in_allocate_nothing() {
    let mut publisher = broadcast(64);
    let (mut one, mut two) = (publisher.subscribe(), publisher.subscribe());
    let (mut left, first) = spsc::ring(8);
    let (mut right, second) = spsc::ring(8);
    let mut inputs = FanIn::new([first, second]);
    let steady = || {
        for round in 0..1_000u64 {
            publisher.push(round).unwrap();
            assert_eq!(publisher.push_all([round, round]), 2);
            one.release(3);
            two.release(3);
            left.push(round).unwrap();
            right.push(round).unwrap();
            assert_eq!((inputs.pop(), inputs.pop(), inputs.pop()), (Some(round), Some(round), None));
        }
    };
    assert_eq!(allocations(steady), 0);
}

struct Load;

impl Weigh for Load {
    fn weight(&self) -> usize {
        3
    }
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_channel_allocates_nothing_not_even_when_it_wakes() {
    let (mut sender, mut receiver) = channel(8, 6);
    let (sending, receiving) = (Waker::from(Arc::new(Nobody)), Waker::from(Arc::new(Nobody)));
    let event = EventCount::new();
    let steady = || {
        for _ in 0..1_000 {
            sender.set_waker(sending.clone());
            receiver.set_waker(receiving.clone());
            assert!(!receiver.wait_for_item());
            while sender.try_send(Load).is_ok() {}
            assert!(!sender.wait_for_room());
            while receiver.try_recv().is_some() {}
            let ticket = event.prepare();
            event.notify_all();
            event.wait(ticket);
        }
    };
    assert_eq!(allocations(steady), 0);
    assert_eq!(sender.gauge().blocked_count(), 1_000);
}
