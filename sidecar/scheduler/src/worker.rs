//! A worker: picks a task, runs it once.

use std::{cell::RefCell, sync::Arc};

use sidestream_host::Moment;
use sidestream_ring::sync::spin_loop;

use crate::{
    Shared, Turn,
    queue::{Queues, Runnable},
    timers::Timers,
};

/// One of a scheduler's workers. Whoever owns it steps it: a thread of a [`crate::Pool`], or a simulation.
pub struct Worker {
    index: usize,
    queues: Queues,
    timers: Timers,
    shared: Arc<Shared>,
    picks: u32,
    /// Whether it has just looked around, while nobody else was woken.
    looked: bool,
    /// Tasks woken during a turn; kept for its storage.
    woken: Vec<Runnable>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It ran a task.
    Ran,
    /// There was nothing to run; nothing will be before this time, unless somebody wakes a task.
    Idle {
        /// The earliest time a task of this worker asked for.
        until: Option<Moment>,
    },
}

impl Worker {
    pub(crate) fn new(index: usize, queues: Queues, shared: Arc<Shared>) -> Self {
        Self { index, queues, timers: Timers::of(index), shared, picks: 0, looked: false, woken: Vec::new() }
    }

    /// Runs one task, if there is one to run.
    pub fn step(&mut self) -> Step {
        let now = self.shared.clock.now();
        while let Some(task) = self.timers.take_due(now) {
            if task.wake_here() {
                self.queues.push(task);
            }
        }
        self.picks = self.picks.wrapping_add(1);
        let Some(task) =
            self.queues.pick(self.picks, self.index, &self.shared.injectors, &self.shared.stealers)
        else {
            return Step::Idle { until: self.timers.next() };
        };
        // What is left behind it is somebody else's chance; after a look that is its duty to say, wherever it lies.
        let looked = std::mem::take(&mut self.looked);
        if self.queues.len() > 0 || looked && self.sees_work() {
            self.shared.sleepers.notify_one();
        }
        if self.run(&task, Turn { now }) {
            self.queues.push(task);
        }
        Step::Ran
    }

    /// Runs `task` once, then queues what it woke here. True: it is to be queued itself.
    fn run(&mut self, task: &Runnable, turn: Turn) -> bool {
        let own =
            Current { scheduler: Arc::as_ptr(&self.shared).addr(), woken: std::mem::take(&mut self.woken) };
        let before = CURRENT.with(|current| current.replace(Some(own)));
        let again = task.run(turn, &mut self.timers);
        let own = CURRENT.with(|current| current.replace(before));
        self.woken = own.map(|own| own.woken).unwrap_or_default();
        for woken in self.woken.drain(..) {
            self.queues.push(woken);
        }
        again
    }

    /// Looks around until there is work, which is true, or `enough` says so; unless another worker does already.
    pub(crate) fn look_around(&mut self, mut enough: impl FnMut() -> bool) -> bool {
        if !self.shared.sleepers.begin_look() {
            return self.sees_work();
        }
        while !self.sees_work() && !enough() {
            spin_loop();
        }
        self.shared.sleepers.end_look();
        self.looked = true;
        self.sees_work()
    }

    /// Whether any worker, or nobody yet, has a task to run.
    pub(crate) fn sees_work(&self) -> bool {
        self.queues.len() > 0
            || !self.shared.injectors.is_empty()
            || self.shared.stealers.iter().any(|stealers| !stealers.is_empty())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Queued tasks hold the scheduler, and it holds the queues: without this, none would ever be freed.
        self.queues.clear();
    }
}

/// Keeps a task that was woken on a worker's thread for that worker, which will queue it when the turn is over: its
/// data is in this core's cache. Gives it back where this thread is no worker of `shared`.
pub(crate) fn keep_for_this_worker(shared: &Arc<Shared>, task: Runnable) -> Result<(), Runnable> {
    CURRENT.with(|current| match current.borrow_mut().as_mut() {
        Some(current) if current.scheduler == Arc::as_ptr(shared).addr() => {
            current.woken.push(task);
            Ok(())
        }
        _ => Err(task),
    })
}

struct Current {
    /// The address of the scheduler's shared state, which tells schedulers apart.
    scheduler: usize,
    woken: Vec<Runnable>,
}

#[cfg(not(shuttle))]
thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}
#[cfg(shuttle)]
shuttle::thread_local! {
    static CURRENT: RefCell<Option<Current>> = RefCell::new(None);
}
