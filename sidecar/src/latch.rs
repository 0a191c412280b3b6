//! Something that happens once, and can be waited for by threads and tasks alike.

use std::{
    sync::Arc,
    task::{Wake, Waker},
    time::Duration,
};

use tokio::sync::watch;

/// Set once; clones are the same latch.
#[derive(Clone)]
pub(crate) struct Latch(Arc<watch::Sender<bool>>);

impl Default for Latch {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Latch {
    /// It has happened.
    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has happened.
    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it has happened.
    pub(crate) async fn wait(&self) {
        // The sender lives in `self`, so the wait can only end by the value.
        let _ = self.0.subscribe().wait_for(|set| *set).await;
    }

    /// Waits until it has happened, or for `limit`; says whether it has. Blocks the thread.
    pub(crate) fn wait_blocking(&self, limit: Duration, clock: &sidestream_host::Clock) -> bool {
        let until = clock.now() + limit;
        while !self.is_set() && clock.now() < until {
            std::thread::sleep(SHORT_SLEEP);
        }
        self.is_set()
    }

    /// A waker that sets it.
    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::new(SetLatch(self.clone())))
    }
}

struct SetLatch(Latch);

impl Wake for SetLatch {
    fn wake(self: Arc<Self>) {
        self.0.set();
    }
}

const SHORT_SLEEP: Duration = Duration::from_micros(200);
