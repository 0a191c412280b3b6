//! Threads that step the workers, and sleep when there is nothing to do.

use std::{panic, sync::Arc, time::Duration};

use sidestream_host::{Clock, Moment};
use sidestream_ring::sync::{
    AtomicBool, Ordering, spin_loop,
    thread::{Builder, JoinHandle},
};

use crate::{Scheduler, Step, Worker, patience::Patience};

/// How a pool is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many threads. The default is one for every core the process may use: 2 in a container limited to `cpu: 2`.
    pub workers: usize,
    /// How they wait for work.
    pub waiting: Waiting,
}

/// How an idle worker waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// It looks around for at most 50 microseconds, where work has been coming that fast, and then sleeps: an idle
    /// process burns nothing.
    #[default]
    Park,
    /// It never sleeps: the lowest latency, at the price of a core.
    Busy,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { workers: cores, waiting: Waiting::Park }
    }
}

/// A scheduler with its threads. They end when it is dropped, which is not for a task to do; tasks then stay as they
/// are, and never run.
pub struct Pool {
    scheduler: Scheduler,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads, named `worker-0` and so on.
    pub fn start(config: Config, clock: Clock) -> std::io::Result<Pool> {
        let (scheduler, workers) = Scheduler::new(config.workers.max(1), clock);
        let stop = Arc::new(AtomicBool::new(false));
        let mut pool = Pool { scheduler, stop, threads: Vec::new() };
        for (index, worker) in workers.into_iter().enumerate() {
            let stop = pool.stop.clone();
            let thread = Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run(worker, config.waiting, &stop))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// What makes tasks for these threads.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SeqCst: a worker about to sleep sees it, or is seen and notified.
        self.stop.store(true, Ordering::SeqCst);
        let shared = &self.scheduler.shared;
        shared.sleepers.notify_all();
        let ends: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        // Queued tasks hold the scheduler, and it holds them: without this, none would ever be freed.
        shared.injectors.clear();
        // A task's panic stays in its task: this one is a fault of the scheduler itself, or of its panic hook.
        if let Some(Err(cause)) = ends.into_iter().find(Result::is_err)
            && !std::thread::panicking()
        {
            panic::resume_unwind(cause);
        }
    }
}

fn run(mut worker: Worker, waiting: Waiting, stop: &AtomicBool) {
    let mut patience = Patience::default();
    while !stop.load(Ordering::Relaxed) {
        let Step::Idle { until } = worker.step() else { continue };
        match waiting {
            Waiting::Busy => spin_loop(),
            Waiting::Park => rest(&mut worker, until, &mut patience, stop),
        }
    }
}

/// Looks around for as long as that pays, then sleeps until there is work or `until` has come.
fn rest(worker: &mut Worker, until: Option<Moment>, patience: &mut Patience, stop: &AtomicBool) {
    let clock = worker.shared().clock.clone();
    let begun = clock.now();
    let (mut looks, end) = (0, begun + patience.window());
    let end = until.map_or(end, |until| until.min(end));
    let found = worker.look_around(|| {
        looks += 1;
        clock.now() >= end || looks >= LOOKS_AT_MOST || stop.load(Ordering::Relaxed)
    });
    if found || until.is_some_and(|until| until.since(clock.now()) < SHORTEST_SLEEP) {
        return;
    }
    let asleep = clock.now();
    sleep(worker, until.map(|until| until.since(asleep)), stop);
    patience.slept(clock.now().since(asleep));
}

fn sleep(worker: &Worker, limit: Option<Duration>, stop: &AtomicBool) {
    let shared = worker.shared();
    let ticket = shared.sleepers.prepare();
    if worker.sees_work() || stop.load(Ordering::SeqCst) {
        return shared.sleepers.cancel(ticket);
    }
    match limit {
        None => shared.sleepers.wait(ticket),
        Some(limit) => {
            shared.sleepers.wait_timeout(ticket, limit);
        }
    }
}

/// Ends a look by a clock that stands still.
const LOOKS_AT_MOST: u32 = if cfg!(shuttle) { 2 } else { 10_000 };
/// A shorter sleep would end late: the kernel's timer slack alone is 50 us.
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);
