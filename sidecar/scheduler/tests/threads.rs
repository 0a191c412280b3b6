//! A pool on real threads, woken from others.
#![cfg(not(any(loom, shuttle)))]

use std::{
    sync::{Arc, Mutex, mpsc},
    task::Waker,
    thread,
    time::Duration,
};

use sidestream_host::{Clock, Moment, Random};
use sidestream_ring::sync::{AtomicBool, AtomicU64, Ordering};
use sidestream_scheduler::{Config, Next, Pool, Priority, Task, Turn, Waiting};

fn pool(workers: usize) -> Pool {
    Pool::start(Config { workers, waiting: Waiting::Park }, Clock::machine()).unwrap()
}

/// Longer than anything here takes, shorter than anybody waits.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_hundred_thousand_wakes_from_other_threads_are_all_followed_by_a_run() {
    const WAKES: u64 = 50_000;
    let pool = pool(2);
    let (done, all_done) = mpsc::sync_channel(4);
    let tasks: Vec<(Arc<Task>, Arc<AtomicU64>)> = (0..4)
        .map(|index| {
            let (task, news) = (pool.scheduler().task("reader", class(index)), Arc::new(AtomicU64::new(0)));
            let (told, inside, done) = (news.clone(), AtomicBool::new(false), done.clone());
            task.start(Box::new(move |_| {
                let twice = inside.swap(true, Ordering::Relaxed);
                let seen = told.load(Ordering::Relaxed);
                inside.store(false, Ordering::Relaxed);
                if !twice && seen < 2 * WAKES {
                    return Next::Wait;
                }
                done.send(twice).unwrap();
                Next::Done
            }));
            (task, news)
        })
        .collect();
    let threads: Vec<_> = (0..2)
        .map(|seed| {
            let targets: Vec<(Waker, Arc<AtomicU64>)> =
                tasks.iter().map(|(task, news)| (task.waker(), news.clone())).collect();
            thread::spawn(move || {
                let mut random = Random::seeded(seed);
                for _ in 0..WAKES {
                    for (waker, news) in &targets {
                        news.fetch_add(1, Ordering::Relaxed);
                        waker.wake_by_ref();
                    }
                    // Now and then long enough for the workers to fall asleep.
                    if random.below(5_000) == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            })
        })
        .collect();
    for _ in 0..4 {
        assert!(!all_done.recv_timeout(PATIENCE).expect("a wake was lost"), "two workers in one task");
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_token_goes_round_a_hundred_tasks_ten_thousand_times() {
    let pool = pool(2);
    let (done, all_done) = mpsc::sync_channel(1);
    let tasks: Vec<_> = (0..100).map(|index| pool.scheduler().task("passes", class(index))).collect();
    let token = Arc::new(AtomicU64::new(0));
    for (place, task) in tasks.iter().enumerate() {
        let (next, token, done) = (tasks[(place + 1) % 100].waker(), token.clone(), done.clone());
        task.start(Box::new(move |_| {
            let at = token.load(Ordering::Relaxed);
            if at == 1_000_000 {
                // Full: said already.
                let _ = done.try_send(());
            } else if at % 100 == place as u64 {
                token.store(at + 1, Ordering::Relaxed);
                next.wake_by_ref();
            }
            Next::Wait
        }));
    }
    all_done.recv_timeout(PATIENCE).expect("the token got lost");
    drop(pool);
    tasks.iter().for_each(|task| drop(task.retire()));
}

#[test]
fn a_sleeping_pool_calls_a_task_at_its_time() {
    let clock = Clock::machine();
    let pool = Pool::start(Config { workers: 2, waiting: Waiting::Park }, clock.clone()).unwrap();
    let (times, called) = mpsc::sync_channel(10);
    let mut asked: Option<Moment> = None;
    let task = pool.scheduler().task("ticks", Priority::Normal);
    task.start(Box::new(move |turn: Turn| {
        match asked {
            Some(at) if turn.now < at => {}
            _ => {
                let late = asked.map(|at| turn.now.since(at));
                if late.is_some_and(|late| times.try_send(late).is_err()) {
                    return Next::Done;
                }
                asked = Some(turn.now + Duration::from_millis(5));
            }
        }
        Next::Until(asked.unwrap())
    }));
    let late: Vec<Duration> = (0..10).map(|_| called.recv_timeout(PATIENCE).unwrap()).collect();
    let best = late.iter().min().unwrap();
    assert!(*best < Duration::from_millis(5), "even the best of ten came {best:?} late");
}

#[test]
fn a_panic_leaves_every_worker_at_work() {
    let pool = pool(2);
    let (said, heard) = mpsc::sync_channel(64);
    let said_to = Mutex::new(said);
    pool.scheduler().on_panic(move |task, message| {
        said_to.lock().unwrap().send(format!("{}: {message}", task.name())).unwrap();
    });
    for _ in 0..20 {
        let task = pool.scheduler().task("faulty", Priority::High);
        task.start(Box::new(|_: Turn| -> Next { panic!("as the test wants it") }));
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "faulty: as the test wants it");
        assert!(task.retire().is_none());
    }
    let (done, all_done) = mpsc::sync_channel(2);
    for _ in 0..2 {
        let done = done.clone();
        pool.scheduler().task("sound", Priority::Low).start(Box::new(move |_: Turn| {
            done.send(()).unwrap();
            Next::Done
        }));
    }
    (0..2).for_each(|_| all_done.recv_timeout(PATIENCE).unwrap());
}

#[test]
fn a_pool_that_goes_frees_the_tasks_nobody_else_holds() {
    let held = Arc::new(());
    {
        let pool = pool(2);
        let (ran, running) = mpsc::sync_channel(1);
        for index in 0..200 {
            let (inside, ran) = (held.clone(), ran.clone());
            pool.scheduler().task("busy", class(index)).start(Box::new(move |_: Turn| {
                let _ = &inside;
                let _ = ran.try_send(());
                Next::Again
            }));
        }
        // So that there are some in the workers' own queues, too.
        (0..50).for_each(|_| running.recv_timeout(PATIENCE).unwrap());
    }
    assert_eq!(Arc::strong_count(&held), 1);
}

fn class(number: usize) -> Priority {
    [Priority::Low, Priority::Normal, Priority::High, Priority::Critical][number % 4]
}
