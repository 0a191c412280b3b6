//! After warm-up a turn allocates nothing, nor does waking another task from it: counted, not believed.
#![cfg(not(any(loom, shuttle)))]
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    task::Wake,
    time::Duration,
};

use sidestream_host::Clock;
use sidestream_scheduler::{Next, Priority, Scheduler, Step, Turn};

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
fn turns_that_wake_repeat_and_ask_for_times_allocate_nothing() {
    let (clock, hand) = Clock::simulated(0);
    let (scheduler, mut workers) = Scheduler::new(2, clock);
    let tasks: Vec<_> = (0..32).map(|_| scheduler.task("busy", Priority::Normal)).collect();
    for (place, task) in tasks.iter().enumerate() {
        let (left, right) = (tasks[(place + 1) % 32].clone(), tasks[(place + 31) % 32].waker());
        let mut turns = place as u64;
        task.start(Box::new(move |turn: Turn| {
            turns += 1;
            left.wake_by_ref();
            right.wake_by_ref();
            match turns % 4 {
                0 => Next::Again,
                1 => Next::Until(turn.now + Duration::from_micros(turns % 50)),
                2 => Next::Until(turn.now + Duration::from_secs(60)),
                _ => Next::Wait,
            }
        }));
    }
    // Each worker in turn for so many turns that the other has to steal.
    let mut turns = |count| {
        for turn in 0..count {
            assert_eq!(workers[turn / 100 % 2].step(), Step::Ran);
            hand.advance(Duration::from_micros(1));
        }
    };
    turns(10_000);
    assert_eq!(allocations(|| turns(100_000)), 0);
    tasks.iter().for_each(|task| drop(task.retire()));
}
