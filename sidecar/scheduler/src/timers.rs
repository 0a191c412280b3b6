//! The times one worker's tasks have asked for. A worker's own, so that setting one takes no lock.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use sidestream_host::Moment;

use crate::task::Task;

#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    /// Orders timers of the same moment, so that a simulation is the same every time.
    set: u64,
}

struct Timer {
    moment: Moment,
    set: u64,
    task: Arc<Task>,
}

impl Timers {
    pub(crate) fn set(&mut self, moment: Moment, task: Arc<Task>) {
        if task.arm(moment) {
            self.set += 1;
            self.heap.push(Reverse(Timer { moment, set: self.set, task }));
        }
    }

    /// The next moment a task has asked for.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.heap.peek().map(|Reverse(timer)| timer.moment)
    }

    /// Takes a task whose time has come.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<Arc<Task>> {
        if self.next()? > now {
            return None;
        }
        let Reverse(timer) = self.heap.pop()?;
        timer.task.disarm(timer.moment);
        Some(timer.task)
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.moment, self.set) == (other.moment, other.set)
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
        (self.moment, self.set).cmp(&(other.moment, other.set))
    }
}
