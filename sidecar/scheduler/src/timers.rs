//! The times one worker's tasks have asked for. A worker's own, so that setting one takes no lock.
//!
//! A task waits for one timer at a time, whose number it holds. A nearer time gets a new timer, and the one before goes
//! stale where it is: it is dropped when it comes up, or when stale ones are half of what the heap holds. A time that is
//! not nearer needs no timer at all: the task is called by the one it has, and asks again.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use sidestream_host::Moment;

use crate::task::Task;

pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    /// The last number given. Numbers differ between workers, and order timers of the same moment, so that a simulation
    /// is the same every time.
    number: u64,
    /// How many timers the heap may hold before stale ones are looked for.
    tidy_at: usize,
}

struct Timer {
    moment: Moment,
    number: u64,
    task: Arc<Task>,
}

impl Timers {
    /// The timers of worker `index`.
    pub(crate) fn of(index: usize) -> Self {
        Self { heap: BinaryHeap::new(), number: (index as u64) << WORKER_SHIFT, tidy_at: TIDY_AT_LEAST }
    }

    /// Has `task` called at `moment`, or earlier. For the task's runner only.
    pub(crate) fn set(&mut self, moment: Moment, task: &Arc<Task>) {
        if !task.await_timer(moment, self.number + 1) {
            return;
        }
        self.number += 1;
        if self.heap.len() >= self.tidy_at {
            self.heap.retain(|Reverse(timer)| timer.task.awaits_timer(timer.number));
            self.tidy_at = TIDY_AT_LEAST.max(2 * self.heap.len());
        }
        self.heap.push(Reverse(Timer { moment, number: self.number, task: task.clone() }));
    }

    /// The next moment a task waits for.
    pub(crate) fn next(&mut self) -> Option<Moment> {
        loop {
            let Reverse(timer) = self.heap.peek()?;
            if timer.task.awaits_timer(timer.number) {
                return Some(timer.moment);
            }
            self.heap.pop();
        }
    }

    /// Takes a task whose time has come.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<Arc<Task>> {
        while self.next()? <= now {
            let Reverse(timer) = self.heap.pop()?;
            if timer.task.end_timer(timer.number) {
                return Some(timer.task);
            }
        }
        None
    }
}

/// A worker's numbers: 2^48 timers, at a million a second for nine years.
const WORKER_SHIFT: u32 = 48;
const TIDY_AT_LEAST: usize = 64;

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.moment, self.number).cmp(&(other.moment, other.number))
    }
}
