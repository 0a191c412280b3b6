//! One producer, one consumer, a bounded ring.
//!
//! ```text
//!              head (written by the consumer)      tail (written by the producer)
//!                v                                   v
//!   slots: . . . [ item item item item item item item ] . . . . .
//!                 `-- peek, pop, drain read here       `-- claim, push write here
//! ```
//!
//! Both positions only grow; each lives on its own pair of cache lines, and each side keeps a private copy of the
//! other's, refreshed only when the ring seems full or empty (Rigtorp's cached indices). Items are written into their
//! slot and read from it: a batch costs one published position whatever its size.
//!
//! Looking at the other side's position is what costs: the cache line travels there and back, and so does the line of
//! slots both work in. So who has just passed many items one by one, and now seems to be out of them, pauses for a
//! moment before it looks: the next look then brings many, and both ends work in different lines. An item that comes
//! alone never waits; an empty poll fetches the next slot ahead, so that item and position travel at the same time.
//! (`benches/throughput.rs` and `benches/hop.rs` measure both. A layout with a sequence in each slot, which would move
//! one line per hop instead of two, is neither built nor measured: it would cost the slices.)
//!
//! It must never wait for the other end: a full ring gives the item back, an empty one says so. Waiting is the business
//! of [`mod@crate::channel`].

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use crossbeam_utils::CachePadded;

use crate::{
    slots::Slots,
    sync::{Arc, AtomicBool, AtomicUsize, Ordering, spin_loop},
};

/// Items passed since the last look from which on it counts as a stream.
const RUN: usize = 8;
/// Spin hints a streaming producer waits at most before it looks at a full ring.
const PAUSES_MAX: usize = 8;

/// A ring with room for at least `slots` items, rounded up to a power of two.
///
/// # Panics
/// When `slots` is zero.
pub fn ring<T: Send>(slots: usize) -> (Producer<T>, Consumer<T>) {
    let slots = Slots::new(slots);
    let limit = Limit {
        soft: Arc::new(CachePadded::new(AtomicUsize::new(slots.capacity()))),
        hard: slots.capacity(),
    };
    let ring = Arc::new(Shared {
        tail: CachePadded::new(AtomicUsize::new(0)),
        head: CachePadded::new(AtomicUsize::new(0)),
        closed: AtomicBool::new(false),
        slots,
    });
    (
        Producer { ring: Arc::clone(&ring), limit, tail: 0, head: 0, looked: 0 },
        Consumer { ring, head: 0, tail: 0, looked: 0 },
    )
}

/// The writing end. Dropping it closes the ring; what was published stays readable.
pub struct Producer<T> {
    ring: Arc<Shared<T>>,
    limit: Limit,
    /// The next slot to write. Equal to the shared tail: only we write that.
    tail: usize,
    /// The consumer's position when we last looked; it may have moved on since.
    head: usize,
    /// Our own position when `push` last looked.
    looked: usize,
}

impl<T> Producer<T> {
    /// Publishes one item, or gives it back when the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head) >= self.limit.get() && !self.look_again() {
            return Err(item);
        }
        self.ring.slots.touch(self.tail, 1);
        // SAFETY: there is room, so the consumer is past this slot and we have seen it leave (in `room`).
        unsafe { self.ring.slots.at(self.tail).write(item) };
        self.publish(1);
        Ok(())
    }

    /// Claims up to `n` slots that lie side by side, to be filled in place. It claims fewer when there is less room
    /// and at the wrap, none when the ring is full.
    #[inline]
    pub fn claim(&mut self, n: usize) -> Claim<'_, T> {
        let room = self.room(n);
        let claimed = self.ring.slots.run(self.tail, room);
        Claim { producer: self, claimed, written: 0 }
    }

    /// How many of `n` items there is room for now, under the soft limit.
    #[inline]
    pub fn room(&mut self, n: usize) -> usize {
        let limit = self.limit.get();
        let room = limit.saturating_sub(self.tail.wrapping_sub(self.head));
        if room >= n {
            return n;
        }
        // Acquire pairs with the Release in `Consumer::advance`: items up to here have been read out of their slots.
        self.head = self.ring.head.load(Ordering::Acquire);
        limit.saturating_sub(self.tail.wrapping_sub(self.head)).min(n)
    }

    /// Whether there is room for one after all. Out of line: the way without it must stay short.
    #[cold]
    #[inline(never)]
    fn look_again(&mut self) -> bool {
        let run = self.tail.wrapping_sub(self.looked);
        self.looked = self.tail;
        if run > RUN {
            // At most some hundred nanoseconds, and less the smaller the ring: what a look costs is spread over it.
            (0..PAUSES_MAX.min(self.limit.get() / 128)).for_each(|_| spin_loop());
        }
        self.room(1) == 1
    }

    /// Items published and not yet released by the consumer.
    pub fn len(&self) -> usize {
        // Relaxed: a number to look at, no slot is touched on its word.
        self.tail.wrapping_sub(self.ring.head.load(Ordering::Relaxed))
    }

    /// Whether the consumer has released everything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots in the ring.
    pub fn capacity(&self) -> usize {
        self.ring.slots.capacity()
    }

    /// The soft limit of this ring, to be moved by whoever controls its depth.
    pub fn limit(&self) -> Limit {
        self.limit.clone()
    }

    /// Whether the consumer is gone: nobody will read what is pushed.
    pub fn is_closed(&self) -> bool {
        self.ring.closed.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn publish(&mut self, n: usize) {
        self.tail = self.tail.wrapping_add(n);
        // Release pairs with the Acquire in `Consumer::ready`: the slots are written before they are seen.
        self.ring.tail.store(self.tail, Ordering::Release);
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `Consumer::is_closed`: who sees it closed sees everything published.
        self.ring.closed.store(true, Ordering::Release);
    }
}

/// Slots claimed and not yet published. Write them front to back, then [`publish`](Self::publish); dropping the claim
/// instead drops what was written and publishes nothing.
#[must_use = "a claim publishes nothing until `publish` is called"]
pub struct Claim<'a, T> {
    producer: &'a mut Producer<T>,
    claimed: usize,
    written: usize,
}

impl<T> Claim<'_, T> {
    /// Slots claimed, written or not.
    #[inline]
    pub fn len(&self) -> usize {
        self.claimed
    }

    /// Whether the ring had no room at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.claimed == 0
    }

    /// Writes the next slot, or gives the item back when all claimed slots are written.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.written == self.claimed {
            return Err(item);
        }
        self.ring_slots().touch(self.position(), 1);
        // SAFETY: claimed and not yet written, so this slot is ours alone.
        unsafe { self.ring_slots().at(self.position()).write(item) };
        self.written += 1;
        Ok(())
    }

    /// Writes every slot still unwritten from `make`.
    #[inline]
    pub fn fill(&mut self, mut make: impl FnMut() -> T) {
        let first = self.ring_slots().at(self.producer.tail);
        while self.written < self.claimed {
            let item = make();
            self.ring_slots().touch(self.position(), 1);
            // SAFETY: claimed slots lie side by side, and this one is claimed and not yet written.
            unsafe { first.add(self.written).write(item) };
            self.written += 1;
        }
    }

    /// Copies the front of `items` into the slots still unwritten. Returns how many.
    #[inline]
    pub fn copy_from(&mut self, items: &[T]) -> usize
    where
        T: Copy,
    {
        let n = items.len().min(self.claimed - self.written);
        self.ring_slots().touch(self.position(), n);
        // SAFETY: `n` claimed, unwritten slots lie side by side from here on, and `items` can't overlap them.
        unsafe { self.ring_slots().at(self.position()).copy_from_nonoverlapping(items.as_ptr(), n) };
        self.written += n;
        n
    }

    /// Hands what was written to the consumer, all at once. Returns how many items.
    #[inline]
    pub fn publish(mut self) -> usize {
        let written = std::mem::take(&mut self.written);
        if written > 0 {
            self.producer.publish(written);
        }
        written
    }

    #[inline(always)]
    fn position(&self) -> usize {
        self.producer.tail.wrapping_add(self.written)
    }

    #[inline(always)]
    fn ring_slots(&self) -> &Slots<T> {
        &self.producer.ring.slots
    }
}

impl<T> Drop for Claim<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.written > 0 {
            // SAFETY: written by this claim and never published, so nobody else knows them.
            unsafe { self.ring_slots().drop_items(self.producer.tail, self.written) };
        }
    }
}

/// The reading end. Dropping it closes the ring and drops what it still held.
pub struct Consumer<T> {
    ring: Arc<Shared<T>>,
    /// The next slot to read. Equal to the shared head: only we write that.
    head: usize,
    /// The producer's position when we last looked; it may have moved on since.
    tail: usize,
    /// Our own position when `pop` last looked.
    looked: usize,
}

impl<T> Consumer<T> {
    /// Takes the oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail && !self.look_again() {
            return None;
        }
        let item = self.take();
        self.give_back();
        Some(item)
    }

    /// The oldest items, up to `n`, in place. Fewer when there are fewer and at the wrap, none when the ring is empty.
    /// They stay until [`release`](Self::release), [`pop`](Self::pop) or [`drain`](Self::drain) takes them.
    #[inline]
    pub fn peek(&mut self, n: usize) -> &mut [T] {
        let ready = self.ready(n);
        let run = self.ring.slots.run(self.head, ready);
        self.ring.slots.touch(self.head, run);
        // SAFETY: published, not yet released, side by side; the borrow of `self` keeps them from being released.
        unsafe { std::slice::from_raw_parts_mut(self.ring.slots.at(self.head), run) }
    }

    /// Drops the oldest items, up to `n`, in their slots and gives the slots back. Returns how many.
    #[inline]
    pub fn release(&mut self, n: usize) -> usize {
        let n = self.ready(n);
        let first = self.head;
        // Counted as gone before an item's `drop` can panic: a leaked item is better than one dropped twice.
        self.head = first.wrapping_add(n);
        let taken = Taken(self);
        // SAFETY: published, not yet taken, and below our position from here on.
        unsafe { taken.0.ring.slots.drop_items(first, n) };
        n
    }

    /// Takes up to `n` items one by one; their slots go back together when the iterator is dropped. Items not asked
    /// for stay in the ring.
    #[inline]
    pub fn drain(&mut self, n: usize) -> Drain<'_, T> {
        let ready = self.ready(n);
        Drain { taken: Taken(self), ready }
    }

    /// How many of `n` items are ready to be read.
    #[inline]
    pub fn ready(&mut self, n: usize) -> usize {
        let ready = self.tail.wrapping_sub(self.head);
        if ready >= n {
            return n;
        }
        // Acquire pairs with the Release in `Producer::publish`: slots below this position are written.
        self.tail = self.ring.tail.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head).min(n)
    }

    /// Whether an item is ready after all. Out of line: the way without it must stay short.
    #[cold]
    #[inline(never)]
    fn look_again(&mut self) -> bool {
        let run = self.head.wrapping_sub(self.looked);
        self.looked = self.head;
        if run > RUN {
            spin_loop();
        }
        let ready = self.ready(1) == 1;
        if !ready {
            self.ring.slots.prefetch(self.head);
        }
        ready
    }

    /// Items ready to be read.
    pub fn len(&self) -> usize {
        // Relaxed: a number to look at, no slot is touched on its word.
        self.ring.tail.load(Ordering::Relaxed).wrapping_sub(self.head)
    }

    /// Whether nothing is ready.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots in the ring.
    pub fn capacity(&self) -> usize {
        self.ring.slots.capacity()
    }

    /// Whether the producer is gone. Items may remain: after `true`, an empty ring stays empty.
    pub fn is_closed(&self) -> bool {
        self.ring.closed.load(Ordering::Acquire)
    }

    /// Moves the oldest item out. The caller has seen that it is ready, and gives its slot back afterwards.
    #[inline(always)]
    fn take(&mut self) -> T {
        let position = self.head;
        debug_assert_ne!(position, self.tail, "taking an item that is not there");
        self.head = position.wrapping_add(1);
        self.ring.slots.touch(position, 1);
        // SAFETY: published and, since our position moves on with it, read out exactly once.
        unsafe { self.ring.slots.at(position).read() }
    }

    /// Gives every slot below our position back to the producer.
    #[inline(always)]
    fn give_back(&mut self) {
        // Release pairs with the Acquire in `Producer::room`: the items are out before their slots are written again.
        self.ring.head.store(self.head, Ordering::Release);
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `Producer::is_closed`. An item pushed while we drain is dropped with the
        // ring, when the producer goes too.
        self.ring.closed.store(true, Ordering::Release);
        self.release(usize::MAX);
    }
}

/// Items being taken out; see [`Consumer::drain`].
pub struct Drain<'a, T> {
    taken: Taken<'a, T>,
    ready: usize,
}

impl<T> Iterator for Drain<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.ready = self.ready.checked_sub(1)?;
        Some(self.taken.0.take())
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.ready, Some(self.ready))
    }
}

impl<T> ExactSizeIterator for Drain<'_, T> {}

/// Gives the slots of taken items back when it is dropped, also while a panic passes by. Were it forgotten, they
/// would go back with the next one.
struct Taken<'a, T>(&'a mut Consumer<T>);

impl<T> Drop for Taken<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// The soft limit of a ring: how many items it accepts, from 1 to its capacity. Anyone may move it while the ring
/// runs; a lower one refuses new items and lets the old ones drain.
#[derive(Clone)]
pub struct Limit {
    soft: Arc<CachePadded<AtomicUsize>>,
    hard: usize,
}

impl Limit {
    /// Items accepted now.
    #[inline]
    pub fn get(&self) -> usize {
        // Relaxed: the limit guards no memory (it never exceeds the capacity), so a slightly old one is as good.
        self.soft.load(Ordering::Relaxed)
    }

    /// Moves the limit; `items` is brought into 1 ..= capacity.
    pub fn set(&self, items: usize) {
        self.soft.store(items.clamp(1, self.hard), Ordering::Relaxed);
    }
}

struct Shared<T> {
    /// Position after the last published item. Written by the producer.
    tail: CachePadded<AtomicUsize>,
    /// Position of the oldest item not yet released. Written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// Set once, by whichever end goes first.
    closed: AtomicBool,
    slots: Slots<T>,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: both ends are gone, and the reference count ordered their last writes before us.
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: published and never released; nobody else is left.
        unsafe { self.slots.drop_items(head, tail.wrapping_sub(head)) };
    }
}
