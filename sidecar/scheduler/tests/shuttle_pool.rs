//! A pool under random and adversarial schedules.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p sidestream-scheduler --release --test shuttle_pool`
//!
//! `SIDESTREAM_PROVE_N` says how many schedules of each kind (300 by default), `SIDESTREAM_PROVE_SEED` where they start.
//! A lost wake-up shows as a deadlock: shuttle's timed waits never time out. The deques are crossbeam's and black boxes
//! here: each of their operations happens at once. What a task finds wrong it writes down, since its panic would be
//! contained.
#![cfg(shuttle)]

use std::{sync::Arc, task::Wake};

use shuttle::{
    Config as ShuttleConfig, Runner,
    scheduler::{PctScheduler, RandomScheduler},
};
use sidestream_host::Clock;
use sidestream_ring::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, thread};
use sidestream_scheduler::{Config, Next, Pool, Priority, Task, Waiting};

/// Runs `world` under random schedules, and under ones with few, badly placed switches.
fn explore(world: impl Fn() + Send + Sync + Copy + 'static) {
    let number = |name, otherwise| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise);
    let (seed, schedules) = (number("SIDESTREAM_PROVE_SEED", 1), number("SIDESTREAM_PROVE_N", 300) as usize);
    let config = ShuttleConfig::new;
    Runner::new(RandomScheduler::new_from_seed(seed, schedules), config()).run(world);
    Runner::new(PctScheduler::new_from_seed(seed, 3, schedules), config()).run(world);
}

fn pool(workers: usize) -> Pool {
    let (clock, _) = Clock::simulated(0);
    Pool::start(Config { workers, waiting: Waiting::Park }, clock).unwrap()
}

/// What the main thread waits for.
#[derive(Default)]
struct Goal {
    reached: Mutex<bool>,
    changed: Condvar,
    wrong: Mutex<Vec<&'static str>>,
}

impl Goal {
    fn reach(&self) {
        *self.reached.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut reached = self.reached.lock().unwrap();
        while !*reached {
            reached = self.changed.wait(reached).unwrap();
        }
    }

    /// Notes `what` if it is so.
    fn wrong_if(&self, so: bool, what: &'static str) {
        if so {
            self.wrong.lock().unwrap().push(what);
        }
    }

    fn nothing_wrong(&self) {
        assert_eq!(*self.wrong.lock().unwrap(), [""; 0]);
    }
}

/// Two threads bring news to one task; it ends when it has seen all of it, which it can only if every wake is followed
/// by a run.
fn every_wake_is_followed_by_a_run() {
    const NEWS: usize = 4;
    let pool = pool(2);
    let (goal, news, inside) =
        (Arc::new(Goal::default()), Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
    let task = pool.scheduler().task("reader", Priority::Normal);
    task.start(Box::new({
        let (goal, news) = (goal.clone(), news.clone());
        move |_| {
            goal.wrong_if(inside.swap(true, Ordering::Relaxed), "two workers in one task");
            let seen = news.load(Ordering::Relaxed);
            inside.store(false, Ordering::Relaxed);
            if seen < NEWS {
                return Next::Wait;
            }
            goal.reach();
            Next::Done
        }
    }));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (news, waker) = (news.clone(), task.waker());
            thread::spawn(move || {
                for _ in 0..NEWS / 2 {
                    news.fetch_add(1, Ordering::Relaxed);
                    waker.wake_by_ref();
                }
            })
        })
        .collect();
    goal.wait();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    goal.nothing_wrong();
}

#[test]
fn no_wake_up_is_lost_and_no_task_runs_twice_at_once() {
    explore(every_wake_is_followed_by_a_run);
}

/// Three tasks hand a token round, each waking the next: on workers, where a woken task is kept.
fn a_token_goes_round() {
    const ROUNDS: usize = 3;
    let pool = pool(2);
    let goal = Arc::new(Goal::default());
    let token = Arc::new(AtomicUsize::new(0));
    let classes = [Priority::Low, Priority::High, Priority::Normal];
    let tasks: [Arc<Task>; 3] = classes.map(|class| pool.scheduler().task("passes", class));
    for (place, task) in tasks.iter().enumerate() {
        let (goal, token, next) = (goal.clone(), token.clone(), tasks[(place + 1) % 3].clone());
        task.start(Box::new(move |_| {
            let at = token.load(Ordering::Relaxed);
            if at == 3 * ROUNDS {
                goal.reach();
                next.wake_by_ref();
                return Next::Done;
            }
            if at % 3 == place {
                token.store(at + 1, Ordering::Relaxed);
                next.wake_by_ref();
            }
            Next::Wait
        }));
    }
    goal.wait();
    drop(pool);
    tasks.iter().for_each(|task| drop(task.retire()));
}

#[test]
fn tasks_that_wake_one_another_all_run() {
    explore(a_token_goes_round);
}

/// The pool ends while a task repeats itself, another sleeps and a third is being woken.
fn a_pool_ends_at_a_bad_time() {
    let pool = pool(2);
    let scheduler = pool.scheduler();
    let tasks = [Next::Again, Next::Wait, Next::Wait].map(|next| {
        let task = scheduler.task("busy", Priority::Normal);
        task.start(Box::new(move |_| {
            thread::yield_now();
            next
        }));
        task
    });
    let waker = tasks[2].waker();
    let waking = thread::spawn(move || (0..3).for_each(|_| waker.wake_by_ref()));
    drop(pool);
    waking.join().unwrap();
}

#[test]
fn a_pool_that_is_dropped_joins_its_threads() {
    explore(a_pool_ends_at_a_bad_time);
}

/// A task is retired while it runs and is woken; its work then runs on as another task, on whatever worker.
fn work_moves_between_turns() {
    let pool = pool(2);
    let goal = Arc::new(Goal::default());
    let (owned, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let first = pool.scheduler().task("first", Priority::Normal);
    first.start(Box::new({
        let (goal, owned, turns) = (goal.clone(), owned.clone(), turns.clone());
        move |_| {
            goal.wrong_if(owned.load(Ordering::Relaxed), "a turn after the work was taken");
            if turns.fetch_add(1, Ordering::Relaxed) == 4 {
                goal.reach();
                return Next::Done;
            }
            Next::Again
        }
    }));
    let waker = first.waker();
    let waking = thread::spawn(move || (0..2).for_each(|_| waker.wake_by_ref()));
    if let Some(work) = first.retire() {
        owned.store(true, Ordering::Relaxed);
        thread::yield_now();
        owned.store(false, Ordering::Relaxed);
        pool.scheduler().task("second", Priority::High).start(work);
    }
    goal.wait();
    waking.join().unwrap();
    goal.nothing_wrong();
}

#[test]
fn retired_work_has_no_turns_until_it_is_started_again() {
    explore(work_moves_between_turns);
}
