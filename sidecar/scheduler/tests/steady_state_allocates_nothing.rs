//! After warm-up a turn allocates nothing, nor does waking another task from it: counted, not believed. Alone in its
//! process, since it is the process that is counted.
#![cfg(not(any(loom, shuttle)))]

use std::{alloc::System, task::Wake, time::Duration};

use sidestream_host::Clock;
use sidestream_scheduler::{Next, Priority, Scheduler, Step, Turn};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNTING.stats();
    work();
    let after = COUNTING.stats();
    (after.allocations + after.reallocations) - (before.allocations + before.reallocations)
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
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1, "the count counts");
    assert_eq!(allocations(|| turns(100_000)), 0);
    tasks.iter().for_each(|task| drop(task.retire()));
}
