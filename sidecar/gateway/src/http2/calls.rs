//! What is asked on a connection and not answered whole, and how long its caller takes for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::leases::after;

/// What a caller has taken too long for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// To take an answer.
    Answer,
    /// To ask something.
    Request,
}

/// The calls of a connection.
#[derive(Default)]
pub(crate) struct Calls(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u64,
    /// Each with the time since when something of its answer is there to be taken.
    calls: HashMap<u64, Option<Instant>>,
    /// Since when there are none.
    idle: Option<Instant>,
}

/// A call, until it is dropped.
pub(crate) struct Call {
    calls: Arc<Calls>,
    number: u64,
}

impl Calls {
    /// Something is asked.
    pub(crate) fn begin(self: &Arc<Calls>) -> Call {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.calls.insert(number, None);
        Call { calls: self.clone(), number }
    }

    /// Waits until the caller has asked nothing for `idle` from now on, or taken nothing of an answer for `silence`.
    pub(crate) async fn overdue(&self, idle: Duration, silence: Duration) -> Overdue {
        let look = (idle.min(silence) / 4).max(Duration::from_millis(1));
        self.lock().idle = None;
        loop {
            sleep(look).await;
            let now = after(Duration::ZERO);
            let mut open = self.lock();
            let since = |then: Instant| now.saturating_duration_since(then);
            if open.calls.values().flatten().any(|given| since(*given) > silence) {
                return Overdue::Answer;
            }
            let none = if open.calls.is_empty() { *open.idle.get_or_insert(now) } else { now };
            if since(none) > idle {
                return Overdue::Request;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// Something of the answer is there to be taken.
    pub(crate) fn gave(&self) {
        self.note(Some(after(Duration::ZERO)));
    }

    /// It was taken: the caller waits for more.
    pub(crate) fn took(&self) {
        self.note(None);
    }

    fn note(&self, given: Option<Instant>) {
        self.calls.lock().calls.insert(self.number, given);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut open = self.calls.lock();
        open.calls.remove(&self.number);
        open.idle = None;
    }
}
