//! A task: work, what may wake it, and the one timer it waits for.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    task::{Wake, Waker},
};

use sidestream_ring::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

use crate::{Moment, Next, Priority, Shared, Turn, Work, state::State, timers::Timers, worker};

/// An actor of a [`crate::Scheduler`].
pub struct Task {
    name: String,
    priority: Priority,
    shared: Arc<Shared>,
    state: State,
    /// Locked by the worker for the length of a turn, and by [`Task::retire`]; the state keeps it uncontended.
    work: Mutex<Option<Box<dyn Work>>>,
    /// The number of the timer it waits for; 0 for none. Set by its runner, and cleared by the worker whose timer it is.
    timer: AtomicU64,
    /// The moment of that timer, in nanoseconds. Its runner's.
    timer_nanos: AtomicU64,
}

impl Task {
    pub(crate) fn new(name: String, priority: Priority, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            name,
            priority,
            shared,
            state: State::idle(),
            work: Mutex::new(None),
            timer: AtomicU64::new(NO_TIMER),
            timer_nanos: AtomicU64::new(0),
        })
    }

    /// Gives the task its work and schedules it. Does nothing good for one that is done: it stays done.
    pub fn start(self: &Arc<Self>, work: Box<dyn Work>) {
        let before = self.work().replace(work);
        // Dropped here, outside the lock: it may hold anything.
        drop(before);
        self.schedule();
    }

    /// Takes the work away, between two turns: it waits for a turn that is going on, and there is none after it, until
    /// another [`Task::start`]. `None` where the task has no work, or is done. Not to be called from the work itself.
    pub fn retire(&self) -> Option<Box<dyn Work>> {
        self.work().take()
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

    /// Whether its work has said that it is done, or has panicked.
    pub fn is_done(&self) -> bool {
        self.state.is_done()
    }

    /// Schedules the task, unless it is going to run after this anyway.
    fn schedule(self: &Arc<Self>) {
        if !self.state.wake() {
            return;
        }
        if let Err(task) = worker::keep_for_this_worker(&self.shared, self.clone()) {
            self.shared.injectors.push(task);
            self.shared.sleepers.notify_one();
        }
    }

    /// Runs one turn. True: the caller must queue the task.
    pub(crate) fn run(self: &Arc<Self>, turn: Turn, timers: &mut Timers) -> bool {
        self.state.begin();
        match self.turn(turn) {
            Next::Again => {
                self.state.again();
                true
            }
            Next::Wait => self.state.rest(),
            Next::Until(moment) => {
                // Before `rest`: after it, another worker may be the runner.
                timers.set(moment, self);
                self.state.rest()
            }
            Next::Done => {
                self.timer.store(NO_TIMER, Ordering::Relaxed);
                self.state.end();
                false
            }
        }
    }

    fn turn(&self, turn: Turn) -> Next {
        let mut slot = self.work();
        // Woken before it was started, or after it was retired.
        let Some(work) = slot.as_mut() else { return Next::Wait };
        let next = contained(|| work.work(turn));
        let last = match next {
            Ok(Next::Done) | Err(_) => slot.take(),
            Ok(_) => None,
        };
        drop(slot);
        // Also the end of a work's life is user code.
        let dropped = contained(|| drop(last));
        next.and_then(|next| dropped.map(|()| next)).unwrap_or_else(|message| {
            self.shared.panicked(self, &message);
            Next::Done
        })
    }

    fn work(&self) -> MutexGuard<'_, Option<Box<dyn Work>>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Timer `number`, for `moment`, is what the task now waits for; unless it waits for one that comes no later.
    pub(crate) fn await_timer(&self, moment: Moment, number: u64) -> bool {
        // Relaxed, here and below: runners are ordered by the state, and a number tells nobody anything else.
        let nanos = moment.as_nanos();
        let waits = self.timer.load(Ordering::Relaxed) != NO_TIMER;
        if waits && self.timer_nanos.load(Ordering::Relaxed) <= nanos {
            return false;
        }
        self.timer_nanos.store(nanos, Ordering::Relaxed);
        self.timer.store(number, Ordering::Relaxed);
        true
    }

    /// Whether timer `number` is what it waits for.
    pub(crate) fn awaits_timer(&self, number: u64) -> bool {
        self.timer.load(Ordering::Relaxed) == number
    }

    /// Timer `number` has gone off. True: the task waited for it; wake it.
    pub(crate) fn end_timer(&self, number: u64) -> bool {
        self.timer.compare_exchange(number, NO_TIMER, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// For a worker: true says that it must queue the task.
    pub(crate) fn wake_here(&self) -> bool {
        self.state.wake()
    }
}

const NO_TIMER: u64 = 0;

/// Calls `act`, and makes a panic its message.
fn contained<R>(act: impl FnOnce() -> R) -> Result<R, String> {
    // Unwind safe: after a panic nobody sees the work again.
    catch_unwind(AssertUnwindSafe(act)).map_err(|cause: Box<dyn Any + Send>| {
        let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
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
        out.debug_struct("Task")
            .field("name", &self.name)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}
