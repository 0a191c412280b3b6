//! The word that says who may touch a task.
//!
//! ```text
//!          wake            begin                rest
//!   idle ────────▶ WOKEN ─────────▶ RUNNING ───────────▶ idle
//!                  ▲  ▲                │ wake             end
//!                  │  └── rest ── RUNNING│WOKEN         ───────▶ DONE, for good
//!                  └── again ──────────┘
//! ```
//!
//! Whoever makes it WOKEN from idle queues the task, once; whoever takes it from the queue is its only runner until
//! `rest`, `again` or `end`. Every step is a read-modify-write, also a wake that changes nothing: each continues the
//! release sequence of the ones before, and so the run that follows sees what every waker wrote.

use sidestream_ring::sync::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const WOKEN: u8 = 1;
const RUNNING: u8 = 2;
const DONE: u8 = 4;

pub(crate) struct State(AtomicU8);

impl State {
    pub(crate) fn idle() -> Self {
        Self(AtomicU8::new(IDLE))
    }

    /// There is something to do. True: the caller must queue the task.
    pub(crate) fn wake(&self) -> bool {
        // AcqRel: Release pairs with the Acquire of `begin`.
        self.0.fetch_or(WOKEN, Ordering::AcqRel) == IDLE
    }

    /// The caller took the task from a queue and is going to run it.
    pub(crate) fn begin(&self) {
        // AcqRel: sees what every waker until now wrote, and what the last run did, perhaps on another thread.
        let before = self.0.swap(RUNNING, Ordering::AcqRel);
        debug_assert_eq!(before, WOKEN, "only a queued task is begun, and it is queued once");
    }

    /// The run is over, and there is more to do: the caller must queue the task.
    pub(crate) fn again(&self) {
        // AcqRel, not a plain store: a store would cut off the wakers since `begin` from the next one.
        self.0.swap(WOKEN, Ordering::AcqRel);
    }

    /// The run is over. True: it was woken meanwhile, and the caller must queue the task.
    pub(crate) fn rest(&self) -> bool {
        // AcqRel: as in `again`; and the next run, perhaps on another thread, sees what this one did.
        self.0.fetch_and(!RUNNING, Ordering::AcqRel) & WOKEN != 0
    }

    /// The run is over and was the last.
    pub(crate) fn end(&self) {
        // Release pairs with the Acquire of `is_done`.
        self.0.swap(DONE, Ordering::AcqRel);
    }

    pub(crate) fn is_done(&self) -> bool {
        // Acquire pairs with `end`: who sees it done sees all it did.
        self.0.load(Ordering::Acquire) & DONE != 0
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p sidestream-scheduler --release --lib`
///
/// "Mutant" names a change to the code above that was made once, and that the model caught.
#[cfg(all(test, loom))]
mod models {
    use loom::{sync::Arc, thread};

    use super::*;
    use sidestream_ring::sync::AtomicUsize;

    /// Mutants: `again` as a store, `rest` as a store where it finds the task woken, a wake that is a load where it
    /// changes nothing.
    #[test]
    fn the_run_that_follows_a_wake_sees_what_the_waker_wrote() {
        for again_once in [false, true] {
            let mut model = loom::model::Builder::new();
            model.preemption_bound = Some(2);
            model.check(move || wake_twice_while_it_runs(again_once));
        }
    }

    fn wake_twice_while_it_runs(mut again: bool) {
        let state = Arc::new(State(AtomicU8::new(WOKEN)));
        let wakers = [(); 2].map(|()| {
            let (state, news) = (state.clone(), Arc::new(AtomicUsize::new(0)));
            let told = news.clone();
            let waker = thread::spawn(move || {
                // Relaxed: only the word under test may order anything.
                told.store(1, Ordering::Relaxed);
                state.wake()
            });
            (waker, news)
        });
        let mut seen = [0; 2];
        let mut queued = true;
        while queued {
            state.begin();
            seen = std::array::from_fn(|waker| wakers[waker].1.load(Ordering::Relaxed));
            queued = match std::mem::take(&mut again) {
                true => {
                    state.again();
                    true
                }
                false => state.rest(),
            };
        }
        let queued_it = wakers.map(|(waker, _)| waker.join().unwrap());
        if queued_it == [false, false] {
            assert_eq!(seen, [1, 1], "a waker relied on a run that did not see its news");
        }
    }

    /// Mutants: `rest` that ignores a wake, a wake that queues also a running task.
    #[test]
    fn one_worker_at_a_time_and_no_wake_is_lost() {
        loom::model(|| {
            let task = Arc::new(Task {
                state: State::idle(),
                queued: AtomicUsize::new(0),
                wakes: AtomicUsize::new(0),
                begun: AtomicUsize::new(0),
                runs: AtomicUsize::new(0),
                seen: AtomicUsize::new(0),
            });
            task.wake();
            let threads = [
                thread::spawn({
                    let task = task.clone();
                    move || task.try_run()
                }),
                thread::spawn({
                    let task = task.clone();
                    move || task.wake()
                }),
            ];
            task.try_run();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            task.try_run();
            assert_eq!(task.queued.load(Ordering::Relaxed), 0);
            assert_eq!(task.seen.load(Ordering::Relaxed), 2, "the last run saw every wake");
            let (begun, runs) = (task.begun.load(Ordering::Relaxed), task.runs.load(Ordering::Relaxed));
            assert_eq!(begun, runs, "each run saw what the one before had done");
        });
    }

    /// A task in a queue with room for one, whose work is to look how often it was woken.
    struct Task {
        state: State,
        queued: AtomicUsize,
        wakes: AtomicUsize,
        /// Runs, counted so that none is missed.
        begun: AtomicUsize,
        /// Runs, counted as work counts them: read, add, write, with nothing but the word to order one run after another.
        runs: AtomicUsize,
        /// The wakes that the last run saw.
        seen: AtomicUsize,
    }

    impl Task {
        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            if self.state.wake() {
                self.queue();
            }
        }

        fn queue(&self) {
            assert_eq!(self.queued.fetch_add(1, Ordering::Relaxed), 0, "it is in the queue already");
        }

        /// Runs it as long as it is in the queue.
        fn try_run(&self) {
            while self.queued.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.state.begin();
                self.begun.fetch_add(1, Ordering::Relaxed);
                self.runs.store(self.runs.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                self.seen.store(self.wakes.load(Ordering::Relaxed), Ordering::Relaxed);
                if self.state.rest() {
                    self.queue();
                }
            }
        }
    }
}
