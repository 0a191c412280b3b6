use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use sidestream_ring::EventCount;

use crate::explore;

struct Work {
    event: EventCount,
    items: AtomicUsize,
}

impl Work {
    fn new() -> Arc<Self> {
        Arc::new(Self { event: EventCount::new(), items: AtomicUsize::new(0) })
    }

    fn bring(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    fn find(&self) -> bool {
        self.items.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |items| items.checked_sub(1)).is_ok()
    }

    /// Sleeps until it has taken one item.
    fn take(&self) {
        while !self.find() {
            let ticket = self.event.prepare();
            if self.find() {
                return self.event.cancel(ticket);
            }
            self.event.wait(ticket);
        }
    }
}

/// Mutants: no fence in `prepare`; no fence in `somebody_waits`; `wait` sleeps without comparing the epoch.
#[test]
fn work_brought_while_falling_asleep_is_not_missed() {
    explore(3, || {
        let work = Work::new();
        let sleeper = {
            let work = work.clone();
            thread::spawn(move || work.take())
        };
        work.bring();
        work.event.notify_one();
        sleeper.join().unwrap();
        assert_eq!(work.event.waiters(), 0);
    });
}

/// Mutant: `notify_one` moves the epoch but wakes nobody.
#[test]
fn two_sleepers_get_two_items_by_two_notifications() {
    explore(2, || {
        let work = Work::new();
        let sleepers = [(); 2].map(|()| {
            let work = work.clone();
            thread::spawn(move || work.take())
        });
        for _ in 0..2 {
            work.bring();
            work.event.notify_one();
        }
        sleepers.into_iter().for_each(|s| s.join().unwrap());
    });
}

#[test]
fn one_notification_for_all_wakes_two_sleepers() {
    explore(2, || {
        let work = Work::new();
        let sleepers = [(); 2].map(|()| {
            let work = work.clone();
            thread::spawn(move || work.take())
        });
        work.bring();
        work.bring();
        work.event.notify_all();
        sleepers.into_iter().for_each(|s| s.join().unwrap());
    });
}

/// Mutants: no fence in `end_look`; a looker that found nothing sleeps without looking again.
#[test]
fn work_brought_while_one_looks_around_is_not_missed() {
    explore(3, || {
        let work = Work::new();
        let looker = {
            let work = work.clone();
            thread::spawn(move || {
                if work.event.begin_look() {
                    let early = work.find();
                    work.event.end_look();
                    if early {
                        return;
                    }
                }
                work.take();
            })
        };
        work.bring();
        work.event.notify_one();
        looker.join().unwrap();
    });
}

/// Mutant: the looker that leaves work behind notifies nobody.
#[test]
fn a_looker_that_leaves_work_behind_wakes_the_next() {
    explore(2, || {
        let work = Work::new();
        let workers = [(); 2].map(|()| {
            let work = work.clone();
            thread::spawn(move || {
                let looks = work.event.begin_look();
                let found = looks && work.find();
                if looks {
                    work.event.end_look();
                }
                if !found {
                    work.take();
                }
                // Its duty also where it found work only after the look.
                if looks && work.items.load(Ordering::Relaxed) > 0 {
                    work.event.notify_one();
                }
            })
        });
        work.bring();
        work.event.notify_one();
        work.bring();
        work.event.notify_one();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}
