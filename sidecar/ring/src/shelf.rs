//! A shelf of a fixed number of places, for whoever looks far more often than anybody changes anything: a cache.
//!
//! ```text
//!   bucket      place   place   place   place  …               eight to a bucket
//!                 │
//!   state word    tag 32 │ full │ busy │ looking 30
//!
//!   look    count in ─▶ full, and the right tag? ─▶ look at the item in its place ─▶ count out
//!   change  nobody looks? ─▶ busy ─▶ put or take ─▶ full or free
//! ```
//!
//! Nobody ever waits for anybody: who looks counts itself in and out, and who would change a place that somebody looks at is
//! told so and does something else. A look sees a whole item, or nothing.

use crate::sync::{AtomicU32, AtomicU64, Ordering, UnsafeCell};

/// Places of a bucket.
pub const WAYS: usize = 8;

const FULL: u64 = 1 << 31;
const BUSY: u64 = 1 << 30;
const LOOKING: u64 = BUSY - 1;

/// Places for items, by bucket and tag.
pub struct Shelf<T> {
    places: Box<[Place<T>]>,
    /// For each bucket, the place that is used next when all are full.
    turns: Box<[AtomicU32]>,
}

/// What became of an item that was to be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// It was not there.
    Absent,
    /// Somebody looks at it at this moment; it is still there.
    Busy,
}

struct Place<T> {
    state: AtomicU64,
    item: UnsafeCell<Option<T>>,
}

// SAFETY: an item is looked at through `&` only while its place is full and the looker is counted, and is moved only by whoever
// made the place busy, which takes that nobody is counted. `T: Sync` for the first, `T: Send` for the second.
unsafe impl<T: Send + Sync> Sync for Place<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Place<T> {}

impl<T> Shelf<T> {
    /// An empty one of as many buckets, rounded up to a power of two.
    pub fn new(buckets: usize) -> Self {
        let buckets = buckets.max(1).next_power_of_two();
        Self {
            places: (0..buckets * WAYS).map(|_| Place::new()).collect(),
            turns: (0..buckets).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Shows `look` the items of a bucket with this tag until it has an answer.
    pub fn find<R>(&self, bucket: usize, tag: u32, mut look: impl FnMut(&T) -> Option<R>) -> Option<R> {
        self.bucket(bucket).iter().find_map(|place| place.look(tag, &mut look))
    }

    /// Puts an item into a bucket: into a free place, or that of the item which has been there longest. Gives back what stood
    /// there; or the item, where all places are looked at.
    pub fn put(&self, bucket: usize, tag: u32, item: T) -> Result<Option<T>, T> {
        let places = self.bucket(bucket);
        let mut item = item;
        for place in places {
            match place.put(tag, item, false) {
                Ok(before) => return Ok(before),
                Err(back) => item = back,
            }
        }
        let turn = self.turns[bucket & (self.turns.len() - 1)].fetch_add(1, Ordering::Relaxed) as usize;
        for at in 0..WAYS {
            match places[(turn + at) % WAYS].put(tag, item, true) {
                Ok(before) => return Ok(before),
                Err(back) => item = back,
            }
        }
        Err(item)
    }

    /// Takes the item with this tag away that `is_it`.
    pub fn remove(&self, bucket: usize, tag: u32, is_it: impl Fn(&T) -> bool) -> Removed {
        let found = self.bucket(bucket).iter().find_map(|place| place.remove(tag, &is_it));
        found.unwrap_or(Removed::Absent)
    }

    fn bucket(&self, bucket: usize) -> &[Place<T>] {
        let first = (bucket & (self.turns.len() - 1)) * WAYS;
        &self.places[first..first + WAYS]
    }
}

impl<T> Place<T> {
    fn new() -> Self {
        Self { state: AtomicU64::new(0), item: UnsafeCell::new(None) }
    }

    fn look<R>(&self, tag: u32, look: impl FnOnce(&T) -> Option<R>) -> Option<R> {
        let _looking = self.count_in(tag)?;
        // SAFETY: the place is full and we are counted, so nobody changes it before we are counted out.
        self.item.with(|item| unsafe { &*item }.as_ref().and_then(look))
    }

    /// Counts the caller in where there is an item of this tag.
    fn count_in(&self, tag: u32) -> Option<Looking<'_>> {
        let is_it = |state: u64| state & FULL != 0 && (state >> 32) as u32 == tag;
        // A hint, that spares others the write.
        if !is_it(self.state.load(Ordering::Relaxed)) {
            return None;
        }
        // Acquire pairs with the Release in `publish`: who sees it full sees the item.
        let before = self.state.fetch_add(1, Ordering::Acquire);
        let looking = Looking(&self.state);
        is_it(before).then_some(looking)
    }

    /// Puts it there if the place is free, or, if it `may_replace`, has an item that nobody looks at.
    fn put(&self, tag: u32, item: T, may_replace: bool) -> Result<Option<T>, T> {
        let seen = self.state.load(Ordering::Relaxed);
        let is_free = seen & (FULL | BUSY) == 0;
        let is_idle = may_replace && seen & FULL != 0 && seen & (BUSY | LOOKING) == 0;
        // Whoever counted itself in while the place was free looks at nothing, and is kept in the count.
        let busy = if is_free { seen | BUSY } else { BUSY };
        // Acquire pairs with the Release of whoever looked or changed last: their use of the place is over.
        let claim = || self.state.compare_exchange(seen, busy, Ordering::Acquire, Ordering::Relaxed);
        if !(is_free || is_idle) || claim().is_err() {
            return Err(item);
        }
        // SAFETY: busy by us, and nobody who is counted saw it full.
        let before = self.item.with_mut(|place| unsafe { &mut *place }.replace(item));
        // Busy goes, full and tag come, in one step; the count may have moved meanwhile.
        self.state.fetch_add((u64::from(tag) << 32) + FULL - BUSY, Ordering::Release);
        Ok(before)
    }

    fn remove(&self, tag: u32, is_it: impl FnOnce(&T) -> bool) -> Option<Removed> {
        let looking = self.count_in(tag)?;
        // SAFETY: as in `look`.
        if !self.item.with(|item| unsafe { &*item }.as_ref().is_some_and(is_it)) {
            return None;
        }
        let alone = u64::from(tag) << 32 | FULL | 1;
        // Acquire as in `put`: nobody but us is counted.
        if self.state.compare_exchange(alone, BUSY, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Some(Removed::Busy);
        }
        // That count went with the exchange.
        std::mem::forget(looking);
        // SAFETY: busy by us, and nobody was counted.
        let item = self.item.with_mut(|place| unsafe { &mut *place }.take());
        self.state.fetch_sub(BUSY, Ordering::Release);
        drop(item);
        Some(Removed::Gone)
    }
}

/// Somebody is counted as looking at a place.
struct Looking<'a>(&'a AtomicU64);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire of whoever makes the place busy: what we looked at is not used any more.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl<T> std::fmt::Debug for Shelf<T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Shelf({} places)", self.places.len())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    #[test]
    fn what_was_put_is_found_under_its_bucket_and_tag_and_nowhere_else() {
        let shelf = Shelf::new(3);
        for bucket in 0..4 {
            for tag in 0..WAYS as u32 {
                assert_eq!(shelf.put(bucket, tag, (bucket, tag)), Ok(None));
            }
        }
        let found = |bucket, tag| shelf.find(bucket, tag, |item| Some(*item));
        for bucket in 0..4 {
            assert_eq!(found(bucket, 5), Some((bucket, 5)));
            assert_eq!((found(bucket, 8), found(bucket + 4, 5)), (None, Some((bucket, 5))));
        }
        assert_eq!(shelf.remove(2, 5, |_| false), Removed::Absent);
        assert_eq!(shelf.remove(2, 5, |item| item.1 == 5), Removed::Gone);
        assert_eq!((shelf.remove(2, 5, |_| true), found(2, 5)), (Removed::Absent, None));
    }

    #[test]
    fn a_full_bucket_gives_up_what_has_been_there_longest() {
        let shelf = Shelf::new(1);
        for n in 0..3 * WAYS as u32 {
            let before = shelf.put(0, n, n);
            assert_eq!(before, Ok(n.checked_sub(WAYS as u32)));
            assert_eq!(shelf.find(0, n, |item| Some(*item)), Some(n));
        }
    }

    #[test]
    fn what_is_looked_at_stays_and_everybody_is_told() {
        let shelf = Shelf::new(1);
        for n in 0..WAYS as u32 {
            shelf.put(0, 7, n).unwrap();
        }
        let told = shelf.find(0, 7, |item| {
            (*item == 3).then(|| (shelf.remove(0, 7, |other| *other == 3), shelf.put(0, 7, 99)))
        });
        assert_eq!(told, Some((Removed::Busy, Ok(Some(0)))));
        assert_eq!(shelf.remove(0, 7, |other| *other == 3), Removed::Gone);
    }

    #[test]
    fn many_look_while_one_changes_and_each_sees_whole_items() {
        let rounds = if cfg!(miri) { 50 } else { 20_000 };
        let shelf = Arc::new(Shelf::new(2));
        let lookers: Vec<_> = (0..3)
            .map(|_| {
                let shelf = shelf.clone();
                thread::spawn(move || {
                    for round in 0..rounds {
                        let tag = round % 16;
                        let item = shelf.find(tag as usize, tag, |item: &Vec<u32>| Some(item.clone()));
                        if let Some(item) = item {
                            assert!(
                                item.iter().all(|own| *own == item[0])
                                    && item.len() == 64
                                    && item[0] % 16 == tag
                            );
                        }
                    }
                })
            })
            .collect();
        for round in 0..rounds {
            let tag = round % 16;
            let _ = shelf.put(tag as usize, tag, vec![round; 64]);
            let _ = shelf.remove(tag as usize, tag, |item| item[0] != round);
        }
        lookers.into_iter().for_each(|looker| looker.join().unwrap());
    }
}
