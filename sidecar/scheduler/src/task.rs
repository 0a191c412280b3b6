//! A task: work, and the word that says who may touch it.
//!
//! ```text
//!             wake                 step                    Wait
//!     IDLE ─────────▶ SCHEDULED ─────────▶ RUNNING ─────────────────▶ IDLE
//!                        ▲                   │ wake while it runs
//!                        └── Again, or ── NOTIFIED                 Done ─▶ DONE
//! ```
//!
//! Every wake is a read-modify-write of the word, also where it changes nothing: that is what makes whatever the waker
//! wrote before visible to the run that follows.

use std::{
    sync::{Arc, PoisonError},
    task::{Wake, Waker},
};

use sidestream_ring::sync::{AtomicU8, AtomicU64, Mutex, Ordering};

use crate::{Moment, Next, Priority, Shared, Turn, Work, worker};

const IDLE: u8 = 0;
const SCHEDULED: u8 = 1;
const RUNNING: u8 = 2;
const NOTIFIED: u8 = 3;
const DONE: u8 = 4;

/// An actor of a [`crate::Scheduler`].
pub struct Task {
    name: String,
    priority: Priority,
    shared: Arc<Shared>,
    state: AtomicU8,
    /// Locked by the worker for the length of a turn, and by [`Task::retire`]; the state word keeps it uncontended.
    work: Mutex<Option<Box<dyn Work>>>,
    /// The earliest timer that is set for it, in nanoseconds; 0 for none. Keeps timers from piling up.
    timer_nanos: AtomicU64,
}

impl Task {
    pub(crate) fn new(name: String, priority: Priority, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            name,
            priority,
            shared,
            state: AtomicU8::new(IDLE),
            work: Mutex::new(None),
            timer_nanos: AtomicU64::new(0),
        })
    }

    /// Gives the task its work and schedules it.
    pub fn start(self: &Arc<Self>, work: Box<dyn Work>) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        self.schedule();
    }

    /// Takes the work away, between two turns: it waits for a turn that is going on, and there is none after it.
    /// `None` where the task is done. Not to be called from the work itself.
    pub fn retire(&self) -> Option<Box<dyn Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What wakes the task.
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }

    /// What it is called in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its class.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Whether its work has said that it is done.
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }

    /// Schedules the task, unless it is going to run after this anyway.
    pub(crate) fn schedule(self: &Arc<Self>) {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let after = match state {
                IDLE => SCHEDULED,
                RUNNING => NOTIFIED,
                DONE => return,
                same => same,
            };
            // AcqRel: pairs with the swap in `run`, which must see what the waker wrote.
            match self.state.compare_exchange_weak(state, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(IDLE) => return self.enqueue(),
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    fn enqueue(self: &Arc<Self>) {
        if let Err(task) = worker::keep_for_this_worker(&self.shared, self.clone()) {
            self.shared.injectors.push(task);
            self.shared.sleepers.notify_one();
        }
    }

    /// Runs one turn. Says whether the task is to be queued again, and the time it asks for.
    pub(crate) fn run(self: &Arc<Self>, turn: Turn) -> (bool, Option<Moment>) {
        // AcqRel: pairs with every `schedule` since the last run.
        self.state.swap(RUNNING, Ordering::AcqRel);
        let next = {
            let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            let next = work.as_mut().map_or(Next::Done, |work| work.work(turn));
            if next == Next::Done {
                *work = None;
            }
            next
        };
        let until = match next {
            Next::Until(moment) => Some(moment),
            _ => None,
        };
        match next {
            Next::Again => {
                self.state.store(SCHEDULED, Ordering::Release);
                (true, None)
            }
            Next::Done => {
                self.state.store(DONE, Ordering::Release);
                (false, None)
            }
            Next::Wait | Next::Until(_) => {
                // Release: the next run, perhaps on another worker, sees what this one did.
                let idle = self.state.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
                match idle {
                    Ok(_) => (false, until),
                    Err(_) => {
                        self.state.store(SCHEDULED, Ordering::Release);
                        (true, until)
                    }
                }
            }
        }
    }

    /// Whether a timer for `moment` has to be set: not where an earlier one is set already.
    pub(crate) fn arm(&self, moment: Moment) -> bool {
        let nanos = moment.as_nanos().max(1);
        let armed = self.timer_nanos.load(Ordering::Relaxed);
        if armed != 0 && armed <= nanos {
            return false;
        }
        self.timer_nanos.store(nanos, Ordering::Relaxed);
        true
    }

    /// The timer for `moment` has gone off.
    pub(crate) fn disarm(&self, moment: Moment) {
        // A failure means that an earlier timer was set meanwhile, and went off, or will.
        let _ = self.timer_nanos.compare_exchange(
            moment.as_nanos().max(1),
            0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.schedule();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.schedule();
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Task").field("name", &self.name).field("priority", &self.priority).finish_non_exhaustive()
    }
}
