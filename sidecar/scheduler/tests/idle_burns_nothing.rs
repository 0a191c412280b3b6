//! An idle pool costs no processor time. Alone in its process, since it is the process that is measured.
#![cfg(all(target_os = "linux", not(any(loom, shuttle))))]

use std::{sync::mpsc, thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use sidestream_host::Clock;
use sidestream_scheduler::{Config, Next, Pool, Priority, Turn, Waiting};

#[test]
fn an_idle_pool_burns_nothing() {
    let pool = Pool::start(Config { workers: 4, waiting: Waiting::Park }, Clock::machine()).unwrap();
    let (done, ran) = mpsc::sync_channel(1);
    let task = pool.scheduler().task("once", Priority::Normal);
    task.start(Box::new(move |turn: Turn| {
        let _ = done.try_send(());
        // A timer far away must not keep a worker awake.
        Next::Until(turn.now + Duration::from_secs(3600))
    }));
    ran.recv().unwrap();
    thread::sleep(Duration::from_millis(50));
    let before = process_cpu();
    thread::sleep(Duration::from_secs(1));
    let burnt = process_cpu() - before;
    assert!(burnt < Duration::from_millis(5), "{burnt:?} of processor time in a second");
}

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
