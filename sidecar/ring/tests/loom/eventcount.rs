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

/// Mutants: no fence in `prepare`; no fence in `notify`; `wait` sleeps without comparing the epoch.
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
