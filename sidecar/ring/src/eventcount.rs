//! How a thread sleeps until there is work, without missing any: Dekker's handshake around a condition variable.
//!
//! ```text
//!   the one who waits                         the one who brings work
//!   ticket = prepare()   announce, fence      publish the work
//!   look at every queue again                 notify_one()   fence, look for waiters
//!     found some: cancel(ticket)                somebody announced: move the epoch, wake
//!     found none: wait(ticket)                  nobody: one fence and one load, that was all
//! ```
//!
//! Waking a thread costs the notifier microseconds of kernel. So one thread at a time may look around before it
//! announces itself (`begin_look`); while it does, `notify_one` wakes nobody. It owes two things: to look at every queue
//! again after `end_look`, and to notify the next where it leaves work behind (the rule of Go's and Tokio's searchers).
//!
//! Two fences that are both sequentially consistent leave no third outcome: the waiter sees the work or the notifier
//! sees the waiter (Vyukov's eventcount; Folly's and `event-listener`'s work alike). It must never be waited on
//! without the second look in between.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, fence};

/// A place to sleep for any number of threads. An epoch counts the notifications that found somebody.
#[derive(Debug, Default)]
pub struct EventCount {
    /// Threads between `prepare` and the end of `wait` or `cancel`. On its own line: every notifier reads it.
    waiters: CachePadded<AtomicUsize>,
    /// Whether some thread looks around.
    looking: AtomicBool,
    /// Moved under `sleep`, read without it in `prepare`.
    epoch: AtomicU64,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// Proof of having announced oneself; give it to [`EventCount::wait`] or [`EventCount::cancel`].
#[derive(Debug)]
#[must_use = "an announced waiter must wait or cancel: until then every notifier pays for it"]
pub struct Ticket {
    epoch: u64,
}

impl EventCount {
    /// Nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces that this thread is about to sleep. Look for work once more after this, then `wait` or `cancel`.
    pub fn prepare(&self) -> Ticket {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `somebody_waits`: either the caller's next look sees the work, or the notifier sees us.
        fence(Ordering::SeqCst);
        // Acquire pairs with the Release in `move_epoch`: a ticket of the new epoch sees the work that moved it.
        Ticket { epoch: self.epoch.load(Ordering::Acquire) }
    }

    /// Withdraws the announcement: there was work after all.
    pub fn cancel(&self, _ticket: Ticket) {
        // Relaxed: a notifier that still counts us moves the epoch for nothing.
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sleeps until notified after the ticket was drawn. It may also return a little too often, never too late.
    pub fn wait(&self, ticket: Ticket) {
        self.sleep_until(&ticket, None);
        self.cancel(ticket);
    }

    /// Sleeps until notified or until `limit` has passed. Returns whether it was notified. (A model has no clock:
    /// under loom the limit never passes.)
    pub fn wait_timeout(&self, ticket: Ticket, limit: Duration) -> bool {
        let notified = self.sleep_until(&ticket, Some(limit));
        self.cancel(ticket);
        notified
    }

    /// Asks to be the one that looks around. True: it is, until [`EventCount::end_look`].
    pub fn begin_look(&self) -> bool {
        // Acquire pairs with the Release in `end_look`: one looker after the other.
        self.looking.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends the look. Look at every queue once more after this: nobody was woken for what came in the meantime.
    pub fn end_look(&self) {
        self.looking.store(false, Ordering::Release);
        // Pairs with the fence in `somebody_waits`: the notifier sees that nobody looks any more, or the caller sees the work.
        fence(Ordering::SeqCst);
    }

    /// Wakes one waiter, if there is any and nobody looks around. Call it after publishing the work.
    #[inline]
    pub fn notify_one(&self) {
        if self.somebody_waits() && !self.looking.load(Ordering::Relaxed) {
            self.move_epoch(Condvar::notify_one);
        }
    }

    /// Wakes every waiter. Call it after publishing the work.
    #[inline]
    pub fn notify_all(&self) {
        if self.somebody_waits() {
            self.move_epoch(Condvar::notify_all);
        }
    }

    /// Threads that are asleep or about to be: a number to look at.
    pub fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }

    #[inline]
    fn somebody_waits(&self) -> bool {
        // Pairs with the fences in `prepare` and `end_look`.
        fence(Ordering::SeqCst);
        self.waiters.load(Ordering::Relaxed) > 0
    }

    #[cold]
    fn move_epoch(&self, wake: impl FnOnce(&Condvar)) {
        let _asleep = self.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Release pairs with the Acquire in `prepare`; sleepers read it under the lock.
        self.epoch.fetch_add(1, Ordering::Release);
        wake(&self.wake);
    }

    fn sleep_until(&self, ticket: &Ticket, limit: Option<Duration>) -> bool {
        let mut asleep = self.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The lock orders this with `move_epoch`: no notification falls between the comparison and the sleep. Any
        // wake-up ends the wait, also a spurious one: callers look again anyway, and no clock is needed here.
        if self.epoch.load(Ordering::Relaxed) == ticket.epoch {
            asleep = match limit {
                None => self.wake.wait(asleep).unwrap_or_else(|poisoned| poisoned.into_inner()),
                Some(limit) => {
                    self.wake.wait_timeout(asleep, limit).unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
        let notified = self.epoch.load(Ordering::Relaxed) != ticket.epoch;
        drop(asleep);
        notified
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    #[test]
    fn a_notification_after_the_ticket_ends_the_wait_at_once() {
        let event = EventCount::new();
        let ticket = event.prepare();
        event.notify_one();
        event.wait(ticket);
        assert_eq!(event.waiters(), 0);
    }

    #[test]
    fn a_wait_without_notification_ends_at_its_limit() {
        let event = EventCount::new();
        event.notify_all();
        let ticket = event.prepare();
        assert!(
            !event.wait_timeout(ticket, Duration::from_millis(1)),
            "an earlier notification does not count"
        );
    }

    #[test]
    fn a_cancelled_ticket_leaves_no_trace() {
        let event = EventCount::new();
        let ticket = event.prepare();
        assert_eq!(event.waiters(), 1);
        event.cancel(ticket);
        assert_eq!(event.waiters(), 0);
    }

    #[test]
    fn every_sleeper_wakes_for_all() {
        let shared = Arc::new((EventCount::new(), AtomicUsize::new(0)));
        let sleepers: Vec<_> = (0..3)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (event, go) = &*shared;
                    loop {
                        let ticket = event.prepare();
                        if go.load(Ordering::Relaxed) == 1 {
                            return event.cancel(ticket);
                        }
                        event.wait(ticket);
                    }
                })
            })
            .collect();
        while shared.0.waiters() < 3 {
            thread::yield_now();
        }
        shared.1.store(1, Ordering::Relaxed);
        shared.0.notify_all();
        sleepers.into_iter().for_each(|s| s.join().unwrap());
    }
}
