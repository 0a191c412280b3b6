//! What the two ends of a channel share besides the ring: counts, limit, flags, wakers. Knows nothing of the items.

use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicBool, AtomicU64, Counter, Mutex, Ordering, fence};

/// Each group of fields on its own cache lines, by who writes it.
pub(super) struct Control {
    sender: CachePadded<End>,
    receiver: CachePadded<End>,
    /// Depth from which on the sender is refused. At least 1. Written by whoever holds a [`Gauge`].
    limit: CachePadded<AtomicU64>,
    capacity: usize,
    /// Times and nanoseconds the sender was refused and had to wait. Written by the sender's owner.
    blocked: CachePadded<(Counter, Counter)>,
}

/// One end's half: all of it written by that end, except `waiting`, which its waker takes back.
#[derive(Default)]
struct End {
    /// Weight sent, or received, since the beginning.
    total: AtomicU64,
    /// "I found nothing to do: wake me."
    waiting: AtomicBool,
    gone: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl End {
    fn announce(&self) {
        // A swap, not a store: it has its place behind every wake-up that took an earlier announcement back, so none of
        // those can hide this one. (By the standard a store has too; loom is not sure, and here a swap costs nothing.)
        self.waiting.swap(true, Ordering::Relaxed);
        // Pairs with the fence the other end passes between its change and its look at `waiting`: either our next look
        // sees the change, or it sees us waiting.
        fence(Ordering::SeqCst);
    }

    fn withdraw(&self) {
        // Relaxed: if the other end was faster, its wake-up is one too many, which is allowed.
        self.waiting.store(false, Ordering::Relaxed);
    }

    /// The other end's half of the handshake is done (a change, then a SeqCst fence, then a look at `waiting`).
    #[cold]
    fn wake(&self) {
        // Of several who saw the flag, one wakes. Relaxed: what the woken must see is ordered by the waker itself.
        if self.waiting.swap(false, Ordering::Relaxed) {
            // Woken outside the lock: a waker may run code that comes back here.
            let waker = self.waker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn set_waker(&self, waker: Waker) {
        let mut current = self.waker.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !current.as_ref().is_some_and(|current| current.will_wake(&waker)) {
            let old = current.replace(waker);
            drop(current);
            drop(old);
        }
    }

    fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Control {
    pub(super) fn new(capacity: usize, limit: usize) -> Self {
        Self {
            sender: CachePadded::default(),
            receiver: CachePadded::default(),
            limit: CachePadded::new(AtomicU64::new(limit.max(1) as u64)),
            capacity,
            blocked: CachePadded::default(),
        }
    }

    #[inline]
    pub(super) fn limit(&self) -> u64 {
        // Relaxed: the ring's own capacity guards the memory; the limit only steers.
        self.limit.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_sent(&self, total: u64) {
        // Relaxed: it becomes visible with the item at the latest.
        self.sender.total.store(total, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn received(&self) -> u64 {
        // Relaxed: a number; slots are handed back by the ring.
        self.receiver.total.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_received(&self, total: u64) {
        // Release pairs with the Acquire in `Gauge::depth`: who sees this total also sees as much sent.
        self.receiver.total.store(total, Ordering::Release);
    }

    /// After an item was published.
    #[inline]
    pub(super) fn wake_receiver_if_waiting(&self) {
        // Pairs with the fence in `End::announce` of the receiver.
        fence(Ordering::SeqCst);
        if self.receiver.is_waiting() {
            self.receiver.wake();
        }
    }

    /// After an item was taken; `queued` counts the items left in the ring.
    #[inline]
    pub(super) fn wake_sender_if_drained(&self, queued: impl FnOnce() -> usize) {
        // Pairs with the fence in `End::announce` of the sender.
        fence(Ordering::SeqCst);
        // Half, of weight and of slots, so that a woken sender has something to do. An empty queue always satisfies
        // both, so a waiting sender is woken at the latest by the take that empties it.
        if self.sender.is_waiting() && self.depth() <= self.limit() / 2 && queued() <= self.capacity / 2 {
            self.sender.wake();
        }
    }

    pub(super) fn announce_sender(&self) {
        self.sender.announce();
    }

    pub(super) fn withdraw_sender(&self) {
        self.sender.withdraw();
    }

    pub(super) fn announce_receiver(&self) {
        self.receiver.announce();
    }

    pub(super) fn withdraw_receiver(&self) {
        self.receiver.withdraw();
    }

    pub(super) fn count_block(&self) {
        self.blocked.0.add(1);
    }

    pub(super) fn set_sender_waker(&self, waker: Waker) {
        self.sender.set_waker(waker);
    }

    pub(super) fn set_receiver_waker(&self, waker: Waker) {
        self.receiver.set_waker(waker);
    }

    #[inline]
    pub(super) fn sender_is_gone(&self) -> bool {
        // Acquire pairs with the Release in `close`: who sees the sender gone sees all it sent.
        self.sender.gone.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn receiver_is_gone(&self) -> bool {
        self.receiver.gone.load(Ordering::Acquire)
    }

    pub(super) fn close_sender(&self) {
        Self::close(&self.sender, &self.receiver);
    }

    pub(super) fn close_receiver(&self) {
        Self::close(&self.receiver, &self.sender);
    }

    fn close(own: &End, other: &End) {
        own.gone.store(true, Ordering::Release);
        // Pairs with the fence in `End::announce` of the other end.
        fence(Ordering::SeqCst);
        other.wake();
    }

    fn depth(&self) -> u64 {
        // Received first: what is sent meanwhile may be counted, what is received meanwhile can't make it negative.
        // Acquire pairs with the Release in `set_received`.
        let received = self.receiver.total.load(Ordering::Acquire);
        self.sender.total.load(Ordering::Relaxed).saturating_sub(received)
    }
}

/// A view of a channel for those who watch or steer it, whatever it carries. It keeps neither end open.
#[derive(Clone)]
pub struct Gauge(Arc<Control>);

impl Gauge {
    pub(super) fn of(control: &Arc<Control>) -> Self {
        Self(Arc::clone(control))
    }

    /// Weight queued now.
    pub fn depth(&self) -> usize {
        self.0.depth() as usize
    }

    /// Weight from which on the sender is refused.
    pub fn limit(&self) -> usize {
        self.0.limit() as usize
    }

    /// Moves the limit; zero counts as one. A sender that waits and now has room is woken.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit.max(1) as u64, Ordering::Relaxed);
        // Pairs with the fence in `End::announce` of the sender.
        fence(Ordering::SeqCst);
        if self.0.sender.is_waiting() && self.0.depth() < self.0.limit() {
            self.0.sender.wake();
        }
    }

    /// Slots: the most items that can be queued, whatever they weigh.
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Weight sent since the beginning.
    pub fn sent(&self) -> u64 {
        self.0.sender.total.load(Ordering::Relaxed)
    }

    /// Weight received since the beginning (or dropped with the receiver).
    pub fn received(&self) -> u64 {
        self.0.received()
    }

    /// How often the sender found no room and had to wait.
    pub fn blocked_count(&self) -> u64 {
        self.0.blocked.0.get()
    }

    /// Nanoseconds the sender spent waiting, as reported by its owner.
    pub fn blocked_nanos(&self) -> u64 {
        self.0.blocked.1.get()
    }

    /// Adds to [`blocked_nanos`](Self::blocked_nanos). For the owner of the sender alone: single writer.
    pub fn add_blocked_nanos(&self, nanos: u64) {
        self.0.blocked.1.add(nanos);
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge")
            .field("depth", &self.depth())
            .field("limit", &self.limit())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
