//! What joins two stages: a ring, the weight inside it, a movable limit, and a waker at each end.
//!
//! ```text
//!   Sender ──▶ [ item │ item │ item ] ──▶ Receiver        slots: how many items fit at all
//!     │ sent += weight          received += weight │      depth = sent - received, in the items' own weight
//!     └──────────── limit, wakers, flags ──────────┘      limit: how much depth the sender may build up
//! ```
//!
//! There is room when a slot is free and the depth is below the limit, so a heavy item overshoots by itself at most.
//! An end that finds nothing to do announces itself, fences and looks again (the same handshake as
//! [`crate::eventcount`]); the other end fences after every item and wakes whom it finds announced. A blocked sender is
//! woken when the queue has drained to half, not at every item. Wakers are plain [`std::task::Waker`]s: each end may
//! live in a scheduler's task, in an async runtime or in a thread of its own.
//!
//! It must never block, allocate after construction, or lose a wake-up. The lock around a waker is taken only to
//! change it and by the one who actually wakes.

mod control;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use std::task::Waker;

use crate::{
    spsc::{self, Consumer, Producer},
    sync::Arc,
};
use control::Control;
pub use control::Gauge;

/// What an item counts for: the events of a batch, say. Zero is fine (a mark, an empty batch).
pub trait Weigh {
    /// The weight. It must be the same when the item is sent and when it is received.
    fn weight(&self) -> usize;
}

/// A channel of at least `slots` items (rounded up to a power of two) that accepts while less than `limit` weight is
/// queued. A limit of zero counts as one.
///
/// # Panics
/// When `slots` is zero.
pub fn channel<T: Weigh + Send>(slots: usize, limit: usize) -> (Sender<T>, Receiver<T>) {
    channel_by(slots, limit, T::weight)
}

/// A channel of items that cannot say themselves what they weigh: `weigh` does, under the rules of [`Weigh::weight`].
///
/// # Panics
/// When `slots` is zero.
pub fn channel_by<T: Send>(slots: usize, limit: usize, weigh: fn(&T) -> usize) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = spsc::ring(slots);
    let control = Arc::new(Control::new(producer.capacity(), limit));
    (
        Sender { ring: producer, control: Arc::clone(&control), weigh, sent: 0, received: 0 },
        Receiver { ring: consumer, control, weigh, received: 0 },
    )
}

/// Why an item was not sent; it is inside, unharmed.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// No room now: keep the item, `wait_for_room`, send it again.
    Full(T),
    /// The receiver is gone: nobody will ever take it.
    Closed(T),
}

impl<T> Refused<T> {
    /// The item, whatever the reason.
    pub fn into_item(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) => item,
        }
    }
}

impl<T> std::fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the channel is full: wait for room and send again",
            Self::Closed(_) => "the receiver is gone: stop sending",
        })
    }
}

impl<T: std::fmt::Debug> std::error::Error for Refused<T> {}

/// The sending end. Dropping it closes the channel; what was sent stays receivable.
pub struct Sender<T> {
    ring: Producer<T>,
    control: Arc<Control>,
    weigh: fn(&T) -> usize,
    /// All weight ever sent. Only we count it.
    sent: u64,
    /// All weight the receiver had taken when we last looked.
    received: u64,
}

impl<T> Sender<T> {
    /// Sends one item and wakes the receiver if it waits, or gives the item back.
    #[inline]
    pub fn try_send(&mut self, item: T) -> Result<(), Refused<T>> {
        if self.is_closed() {
            return Err(Refused::Closed(item));
        }
        if !self.has_room() {
            return Err(Refused::Full(item));
        }
        // Counted before it is published, so that nobody ever sees more received than sent.
        self.sent = self.sent.wrapping_add((self.weigh)(&item) as u64);
        self.control.set_sent(self.sent);
        if let Err(item) = self.ring.push(item) {
            unreachable!(
                "a slot was free a moment ago, and only we fill slots: weight {}",
                (self.weigh)(&item)
            );
        }
        self.control.wake_receiver_if_waiting();
        Ok(())
    }

    /// Whether an item would be accepted now: a slot is free and the depth is below the limit.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        let limit = self.control.limit();
        if self.sent.wrapping_sub(self.received) >= limit {
            self.received = self.control.received();
            if self.sent.wrapping_sub(self.received) >= limit {
                return false;
            }
        }
        self.ring.room(1) == 1
    }

    /// Announces that this end waits for room, and looks once more. `true`: there is room after all, or the channel is
    /// closed; try again now. `false`: the waker will be called when room appears or the receiver goes. Set the waker
    /// before.
    pub fn wait_for_room(&mut self) -> bool {
        self.control.announce_sender();
        if self.is_closed() || self.has_room() {
            self.control.withdraw_sender();
            return true;
        }
        self.control.count_block();
        false
    }

    /// Whom to wake when room appears or the receiver goes.
    pub fn set_waker(&mut self, waker: Waker) {
        self.control.set_sender_waker(waker);
    }

    /// Whether the receiver is gone.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.control.receiver_is_gone()
    }

    /// A view of this channel for metrics and control.
    pub fn gauge(&self) -> Gauge {
        Gauge::of(&self.control)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.control.close_sender();
    }
}

/// The receiving end. Dropping it closes the channel and drops what was still queued.
pub struct Receiver<T> {
    ring: Consumer<T>,
    control: Arc<Control>,
    weigh: fn(&T) -> usize,
    /// All weight ever received. Only we count it.
    received: u64,
}

impl<T> Receiver<T> {
    /// Takes the oldest item, and wakes a sender that waits once the queue has drained to half.
    #[inline]
    pub fn try_recv(&mut self) -> Option<T> {
        let item = self.ring.pop()?;
        self.received = self.received.wrapping_add((self.weigh)(&item) as u64);
        self.control.set_received(self.received);
        self.control.wake_sender_if_drained(|| self.ring.len());
        Some(item)
    }

    /// The oldest item, in place.
    #[inline]
    pub fn peek(&mut self) -> Option<&T> {
        self.ring.peek(1).first()
    }

    /// Whether nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Announces that this end waits for an item, and looks once more. `true`: there is one after all, or the channel
    /// is closed; look again now. `false`: the waker will be called when an item arrives or the sender goes. Set the
    /// waker before.
    pub fn wait_for_item(&mut self) -> bool {
        self.control.announce_receiver();
        if !self.is_empty() || self.is_closed() {
            self.control.withdraw_receiver();
            return true;
        }
        false
    }

    /// Whom to wake when an item arrives or the sender goes.
    pub fn set_waker(&mut self, waker: Waker) {
        self.control.set_receiver_waker(waker);
    }

    /// Whether the sender is gone. Items may remain: after `true`, an empty channel stays empty.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.control.sender_is_gone()
    }

    /// A view of this channel for metrics and control.
    pub fn gauge(&self) -> Gauge {
        Gauge::of(&self.control)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.control.close_receiver();
        // Queued items go now, not when the sender notices: they may hold promises. One sent at this very moment goes
        // with the sender.
        while let Some(item) = self.ring.pop() {
            self.received = self.received.wrapping_add((self.weigh)(&item) as u64);
            self.control.set_received(self.received);
        }
    }
}
