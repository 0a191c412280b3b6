//! What wakes a driver, whether it is a thread or a task.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Wake, Waker},
    thread::Thread,
};

use tokio::sync::Notify;

/// Wakes a driver, whether it is a thread or a task.
#[derive(Clone, Default)]
pub(super) struct Bell(Arc<BellParts>);

#[derive(Default)]
struct BellParts {
    task: Notify,
    thread: Mutex<Option<Thread>>,
}

impl Bell {
    pub(super) fn rings_thread(&self, thread: Thread) {
        *self.0.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    pub(super) fn ring(&self) {
        self.0.wake_by_ref();
    }

    pub(super) async fn rung(&self) {
        self.0.task.notified().await;
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::from(self.0.clone())
    }
}

impl BellParts {
    fn wake_by_ref(&self) {
        match &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(thread) => thread.unpark(),
            None => self.task.notify_one(),
        }
    }
}

impl Wake for BellParts {
    fn wake(self: Arc<Self>) {
        BellParts::wake_by_ref(&self);
    }
}
