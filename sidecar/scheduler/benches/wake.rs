//! How long a task waits from its wake to its turn: on a pool that sleeps, and before tasks that never stop.
//!
//! `cargo bench -p sidestream-scheduler --bench wake` prints one JSON object per line: bench, who, value, unit.
#![cfg(not(any(loom, shuttle)))]

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use hdrhistogram::Histogram;
use sidestream_host::{Clock, Moment};
use sidestream_ring::sync::Gauge;
use sidestream_scheduler::{Config, Next, Pool, Priority, Turn, Waiting};

fn main() {
    idle(Waiting::Park, "wake of a sleeping worker");
    idle(Waiting::Busy, "wake of a busy worker");
    loaded();
}

const WAKES: usize = 5_000;
/// Longer than a worker looks around before it sleeps.
const GAP: Duration = Duration::from_micros(300);
/// A low turn's length: a batch of a thousand light events.
const LOW_TURN_LENGTH: Duration = Duration::from_micros(20);

/// Nothing else to do: what waking a thread costs.
fn idle(waiting: Waiting, bench: &str) {
    let clock = Clock::machine();
    let pool = Pool::start(Config { workers: spare_cores(), waiting }, clock.clone()).expect("threads");
    report(bench, &delays(&pool, &clock, Priority::Normal));
}

/// Every worker always has a low task to run; a high one is woken now and then.
fn loaded() {
    let clock = Clock::machine();
    let workers = spare_cores();
    let pool = Pool::start(Config { workers, waiting: Waiting::Park }, clock.clone()).expect("threads");
    for _ in 0..4 * workers {
        let clock = clock.clone();
        pool.scheduler().task("load", Priority::Low).start(Box::new(move |turn: Turn| {
            while clock.now().since(turn.now) < LOW_TURN_LENGTH {
                std::hint::spin_loop();
            }
            Next::Again
        }));
    }
    report("high wake under low load", &delays(&pool, &clock, Priority::High));
}

/// From the wake, on this thread, to the first look at the clock in the turn.
fn delays(pool: &Pool, clock: &Clock, priority: Priority) -> Histogram<u64> {
    let (times, called) = mpsc::sync_channel(1);
    let woken_at = Arc::new(Gauge::new());
    let task = pool.scheduler().task("measured", priority);
    task.start(Box::new({
        let (woken_at, clock) = (woken_at.clone(), clock.clone());
        move |_: Turn| {
            let delay = clock.now().since(Moment::from_nanos(woken_at.get()));
            // Never full: the next wake waits for this answer.
            let _ = times.try_send(delay);
            Next::Wait
        }
    }));
    // The turn that the start brings.
    called.recv().expect("the task lives");
    let waker = task.waker();
    let mut delays = Histogram::new(3).expect("three digits");
    for _ in 0..WAKES {
        thread::sleep(GAP);
        woken_at.set(clock.now().as_nanos());
        waker.wake_by_ref();
        let delay = called.recv().expect("the task lives");
        delays.record(delay.as_nanos() as u64).expect("the histogram grows");
    }
    delays
}

/// One core is for the thread that wakes, so that no worker has to give way to it.
fn spare_cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1)
}

fn report(bench: &str, delays: &Histogram<u64>) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let value = delays.value_at_quantile(quantile);
        println!(r#"{{"bench":"{bench} {name}","who":"sidestream","value":{value},"unit":"ns"}}"#);
    }
}
