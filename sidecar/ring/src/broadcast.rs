//! One publisher, many subscribers, one copy: every item is written once and read in place by all.
//!
//! ```text
//!        freed     slowest subscriber   other subscriber      tail
//!          v               v                    v               v
//!   . . .  [ read by all   |  item item item    |  item item    ] . . .
//! ```
//!
//! Each subscriber owns a gating sequence, its position; the publisher never writes past the slowest one plus the
//! capacity (LMAX Disruptor, Thompson et al. 2011). Subscribers come and go while it runs: one that goes stops gating.
//! An item is dropped by the publisher after the last subscriber has passed it.
//!
//! It must never wait, and a subscriber never writes to a slot.

use crossbeam_utils::CachePadded;

use crate::{
    slots::Slots,
    sync::{Arc, AtomicBool, AtomicUsize, Ordering},
};

/// A broadcast ring with room for at least `slots` items, rounded up to a power of two, and no subscriber yet.
///
/// # Panics
/// When `slots` is zero.
pub fn broadcast<T: Send + Sync>(slots: usize) -> Publisher<T> {
    let ring = Arc::new(Shared {
        tail: CachePadded::new(AtomicUsize::new(0)),
        freed: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        slots: Slots::new(slots),
    });
    Publisher { ring, tail: 0, freed: 0, gates: Vec::new() }
}

/// The writing end. Dropping it closes the ring; what was published stays readable.
pub struct Publisher<T> {
    ring: Arc<Shared<T>>,
    /// The next slot to write. Equal to the shared tail: only we write that.
    tail: usize,
    /// The oldest item still in its slot: everything before it is dropped.
    freed: usize,
    /// The subscribers' positions. Only we hold the list, so joining needs no handshake.
    gates: Vec<Arc<Gate>>,
}

impl<T: Send + Sync> Publisher<T> {
    /// A subscriber that sees every item published from now on.
    pub fn subscribe(&mut self) -> Subscriber<T> {
        let gate = Arc::new(Gate {
            position: CachePadded::new(AtomicUsize::new(self.tail)),
            gone: AtomicBool::new(false),
        });
        self.gates.push(Arc::clone(&gate));
        Subscriber { ring: Arc::clone(&self.ring), gate, head: self.tail, tail: self.tail }
    }

    /// Publishes one item to all subscribers, or gives it back when the slowest is a whole ring behind. Without
    /// subscribers there is always room.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.room(1) == 0 {
            return Err(item);
        }
        self.write(item);
        self.publish();
        Ok(())
    }

    /// Publishes as many of `items` as there is room for, all at once. Returns how many; the rest was not asked for.
    pub fn push_all(&mut self, items: impl IntoIterator<Item = T>) -> usize {
        let room = self.room(self.ring.slots.capacity());
        let before = self.tail;
        items.into_iter().take(room).for_each(|item| self.write(item));
        if self.tail != before {
            self.publish();
        }
        self.tail.wrapping_sub(before)
    }

    /// How many of `n` items there is room for now.
    #[inline]
    pub fn room(&mut self, n: usize) -> usize {
        let capacity = self.ring.slots.capacity();
        if capacity - self.tail.wrapping_sub(self.freed) < n {
            self.reclaim();
        }
        (capacity - self.tail.wrapping_sub(self.freed)).min(n)
    }

    /// Drops the items that every subscriber has passed. Happens by itself when the ring is full; call it when the
    /// publisher goes idle and the items hold something that should be let go.
    pub fn reclaim(&mut self) {
        let (tail, mut slowest) = (self.tail, self.tail);
        self.gates.retain(|gate| {
            // Acquire pairs with the Release in `Subscriber::drop`: its last look at a slot is over.
            if gate.gone.load(Ordering::Acquire) {
                return false;
            }
            // Acquire pairs with the Release in `Subscriber::release`: it has read the items up to here.
            let position = gate.position.load(Ordering::Acquire);
            if tail.wrapping_sub(position) > tail.wrapping_sub(slowest) {
                slowest = position;
            }
            true
        });
        let (first, n) = (self.freed, slowest.wrapping_sub(self.freed));
        // Counted as gone before an item's `drop` can panic: a leaked item is better than one dropped twice.
        self.freed = slowest;
        self.ring.freed.store(slowest, Ordering::Relaxed);
        // SAFETY: published, not yet dropped, and every subscriber is past them for good.
        unsafe { self.ring.slots.drop_items(first, n) };
    }

    /// Subscribers that were there when we last looked.
    pub fn subscribers(&self) -> usize {
        self.gates.len()
    }

    /// Slots in the ring.
    pub fn capacity(&self) -> usize {
        self.ring.slots.capacity()
    }

    /// Writes one item behind the last. The caller has seen that there is room, and publishes afterwards.
    #[inline(always)]
    fn write(&mut self, item: T) {
        debug_assert!(
            self.tail.wrapping_sub(self.freed) < self.ring.slots.capacity(),
            "writing without room"
        );
        self.ring.slots.touch(self.tail, 1);
        // SAFETY: `room` has seen every subscriber leave this slot and has dropped what was in it.
        unsafe { self.ring.slots.at(self.tail).write(item) };
        self.tail = self.tail.wrapping_add(1);
    }

    #[inline(always)]
    fn publish(&mut self) {
        // Release pairs with the Acquire in `Subscriber::ready`: the slots are written before they are seen.
        self.ring.tail.store(self.tail, Ordering::Release);
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `Subscriber::is_closed`: who sees it closed sees everything published.
        self.ring.closed.store(true, Ordering::Release);
    }
}

/// A reading end. Dropping it lets the publisher go on without it.
pub struct Subscriber<T> {
    ring: Arc<Shared<T>>,
    gate: Arc<Gate>,
    /// The next item to read. Equal to the gate's position: only we write that.
    head: usize,
    /// The publisher's position when we last looked; it may have moved on since.
    tail: usize,
}

impl<T> Subscriber<T> {
    /// The oldest items not yet released, up to `n`, in place. Fewer when there are fewer and at the wrap.
    #[inline]
    pub fn peek(&mut self, n: usize) -> &[T] {
        let ready = self.ready(n);
        let run = self.ring.slots.run(self.head, ready);
        self.ring.slots.look(self.head, run);
        // SAFETY: published and gated by our position; the borrow of `self` keeps it from moving on.
        unsafe { std::slice::from_raw_parts(self.ring.slots.at(self.head), run) }
    }

    /// Moves on past the oldest items, up to `n`. Returns how many.
    #[inline]
    pub fn release(&mut self, n: usize) -> usize {
        let n = self.ready(n);
        // To loom the last look at a slot is here, where the borrow must have ended.
        self.ring.slots.look(self.head, n);
        self.head = self.head.wrapping_add(n);
        // Release pairs with the Acquire in `Publisher::reclaim`: we are done reading before the slots are reused.
        self.gate.position.store(self.head, Ordering::Release);
        n
    }

    /// A copy of the oldest item, moving on past it.
    #[inline]
    pub fn next_cloned(&mut self) -> Option<T>
    where
        T: Clone,
    {
        let item = self.peek(1).first().cloned()?;
        self.release(1);
        Some(item)
    }

    /// How many of `n` items are ready to be read.
    #[inline]
    pub fn ready(&mut self, n: usize) -> usize {
        let ready = self.tail.wrapping_sub(self.head);
        if ready >= n {
            return n;
        }
        // Acquire pairs with the Release in `Publisher::publish`: slots below this position are written.
        self.tail = self.ring.tail.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head).min(n)
    }

    /// Whether the publisher is gone. Items may remain: after `true`, an empty ring stays empty.
    pub fn is_closed(&self) -> bool {
        self.ring.closed.load(Ordering::Acquire)
    }
}

impl<T> Drop for Subscriber<T> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `Publisher::reclaim`.
        self.gate.gone.store(true, Ordering::Release);
    }
}

/// What one subscriber tells the publisher.
struct Gate {
    position: CachePadded<AtomicUsize>,
    gone: AtomicBool,
}

struct Shared<T> {
    /// Position after the last published item. Written by the publisher.
    tail: CachePadded<AtomicUsize>,
    /// The oldest item still in its slot. Written by the publisher, read by whoever drops the ring.
    freed: AtomicUsize,
    closed: AtomicBool,
    slots: Slots<T>,
}

// SAFETY: subscribers on several threads hold `&T` at once (`Sync`), and the publisher's thread or the last
// subscriber's drops items another thread made (`Send`).
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: everybody is gone, and the reference count ordered their last accesses before us.
        let freed = self.freed.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: published and not yet dropped; nobody else is left.
        unsafe { self.slots.drop_items(freed, tail.wrapping_sub(freed)) };
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn every_subscriber_sees_every_item_in_order() {
        let mut publisher = broadcast(4);
        let mut subscribers = [publisher.subscribe(), publisher.subscribe()];
        for round in 0..5 {
            assert_eq!(publisher.push_all((0..3).map(|i| round * 10 + i)), 3);
            for subscriber in &mut subscribers {
                for i in 0..3 {
                    assert_eq!(subscriber.next_cloned(), Some(round * 10 + i));
                }
                assert_eq!(subscriber.next_cloned(), None);
            }
        }
    }

    #[test]
    fn the_slowest_subscriber_gates_the_publisher_until_it_goes() {
        let mut publisher = broadcast(2);
        let (mut fast, slow) = (publisher.subscribe(), publisher.subscribe());
        assert_eq!(publisher.push_all(0..9), 2);
        assert_eq!(fast.release(9), 2);
        assert_eq!(publisher.push(2), Err(2));
        drop(slow);
        publisher.push(2).unwrap();
        assert_eq!(publisher.subscribers(), 1);
        assert_eq!(fast.peek(9), [2]);
    }

    #[test]
    fn a_late_subscriber_sees_what_is_published_from_then_on() {
        let mut publisher = broadcast(4);
        publisher.push(1).unwrap();
        let mut late = publisher.subscribe();
        publisher.push(2).unwrap();
        drop(publisher);
        assert!(late.is_closed());
        assert_eq!((late.next_cloned(), late.next_cloned()), (Some(2), None));
    }

    #[test]
    fn without_subscribers_there_is_always_room() {
        let mut publisher = broadcast(2);
        (0..9).for_each(|i| publisher.push(i).unwrap());
    }

    #[test]
    fn an_item_is_dropped_once_and_only_after_the_last_subscriber_passed() {
        let token = std::sync::Arc::new(());
        let mut publisher = broadcast(4);
        let (mut one, mut two) = (publisher.subscribe(), publisher.subscribe());
        assert_eq!(publisher.push_all((0..3).map(|_| token.clone())), 3);
        one.release(3);
        two.release(1);
        publisher.reclaim();
        assert_eq!(std::sync::Arc::strong_count(&token), 3);
        drop(publisher);
        drop(one);
        assert_eq!(two.peek(9).len(), 2);
        drop(two);
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    }
}
