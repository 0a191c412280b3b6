//! Who runs when.
//!
//! ```text
//!   waker ─▶ Task {idle → scheduled → running → …} ─▶ deque of its class ─▶ Worker::step ─▶ Work::work
//!                                                        (stolen from here by idle workers)
//! ```
//!
//! A [`Task`] is an actor: its [`Work`] is called by one worker at a time, which is what keeps single-producer rings
//! legal while the worker may change. [`Worker::step`] runs one task and returns; a thread that calls it for ever and
//! sleeps in between is [`Pool`], and a simulation calls it by hand.
//!
//! Higher classes go first, strictly; every [`LOW_TURN`]th pick goes to a lower one, so that none starves. This room
//! knows nothing of events, and never waits for anything but work.

mod patience;
mod pool;
mod queue;
mod state;
mod task;
mod timers;
mod worker;

pub use pool::{Config, Pool, Waiting};
pub use queue::{LOW_TURN, Priority};
pub use task::Task;
pub use worker::{Step, Worker};

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use sidestream_host::{Clock, Moment};
use sidestream_ring::EventCount;

use crate::queue::Injectors;

/// What a task does, one duty cycle at a time.
///
/// `Any`, so that whoever retires a task gets back what they started.
pub trait Work: Any + Send {
    /// Does a bounded piece of what there is to do and says what is next. Never blocks, and bears being called when
    /// there is nothing to do. A panic ends the task, and that task alone.
    fn work(&mut self, turn: Turn) -> Next;
}

impl<F: FnMut(Turn) -> Next + Send + 'static> Work for F {
    fn work(&mut self, turn: Turn) -> Next {
        self(turn)
    }
}

/// One duty cycle.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// When it began.
    pub now: Moment,
}

/// What a task wants after a duty cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is more to do now; others of its class go first.
    Again,
    /// Nothing until it is woken.
    Wait,
    /// Nothing until it is woken or this time has come; it may be called a little earlier.
    Until(Moment),
    /// Nothing ever again.
    Done,
}

/// What all workers share, and whoever makes tasks holds.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    injectors: Injectors,
    stealers: Vec<queue::Stealers>,
    sleepers: EventCount,
    on_panic: OnceLock<OnPanic>,
}

type OnPanic = Box<dyn Fn(&Task, &str) + Send + Sync>;

impl Scheduler {
    /// A scheduler of `workers` workers, each to be stepped by its owner.
    ///
    /// # Panics
    /// When `workers` is zero.
    pub fn new(workers: usize, clock: Clock) -> (Scheduler, Vec<Worker>) {
        assert!(workers > 0, "a scheduler needs a worker");
        let (queues, stealers): (Vec<_>, Vec<_>) = (0..workers).map(|_| queue::queues()).unzip();
        let shared = Arc::new(Shared {
            clock,
            injectors: Injectors::default(),
            stealers,
            sleepers: EventCount::new(),
            on_panic: OnceLock::new(),
        });
        let workers = queues
            .into_iter()
            .enumerate()
            .map(|(index, queues)| Worker::new(index, queues, shared.clone()))
            .collect();
        (Scheduler { shared }, workers)
    }

    /// A task without work yet: its waker can be given away before [`Task::start`].
    pub fn task(&self, name: impl Into<String>, priority: Priority) -> Arc<Task> {
        Task::new(name.into(), priority, self.shared.clone())
    }

    /// The clock tasks are run by.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Whom to tell of a task that panicked, and of what it said; by default the log. The task is done by then. Only
    /// the first call counts. `hook` runs on the worker's thread and must not panic.
    pub fn on_panic(&self, hook: impl Fn(&Task, &str) + Send + Sync + 'static) {
        // An error means that somebody listens already.
        let _ = self.shared.on_panic.set(Box::new(hook));
    }
}

impl Shared {
    fn panicked(&self, task: &Task, message: &str) {
        match self.on_panic.get() {
            Some(hook) => hook(task, message),
            None => tracing::error!(task = task.name(), message, "a task panicked and was ended"),
        }
    }
}
