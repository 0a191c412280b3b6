//! The memory of a ring: `capacity` slots in one block, addressed by an ever-growing position.
//!
//! ```text
//!   position:  ... 6   7 | 8   9  10  11 | 12 ...        capacity 4, slot = position & 3
//!   slot:          2   3 | 0   1   2   3 |  0            a run never crosses a `|`
//! ```
//!
//! The block is aligned to 128 bytes (two cache lines: adjacent-line prefetch) and is not touched before it is used.
//! This file decides nothing about who may access what: rings do, and under loom they say so with [`Slots::touch`].

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    marker::PhantomData,
    ptr::NonNull,
};

#[cfg(loom)]
use crate::sync::UnsafeCell;

pub(crate) struct Slots<T> {
    first: NonNull<T>,
    mask: usize,
    owns: PhantomData<T>,
    /// One watched cell per slot: loom checks that exclusive accesses are ordered.
    #[cfg(loom)]
    watch: Box<[UnsafeCell<()>]>,
}

// SAFETY: `Slots` is raw memory; the rings that own it hand each slot to one side at a time.
unsafe impl<T: Send> Send for Slots<T> {}
// SAFETY: as above; sharing `&Slots` gives pointers only, which take `unsafe` to follow.
unsafe impl<T: Send> Sync for Slots<T> {}

impl<T> Slots<T> {
    /// Room for at least `slots` items, rounded up to a power of two.
    ///
    /// # Panics
    /// When `slots` is zero or the block would exceed the address space.
    pub(crate) fn new(slots: usize) -> Self {
        assert!(slots > 0, "a ring needs at least one slot");
        let capacity = slots.checked_next_power_of_two().expect("a ring that fits the address space");
        let layout = Self::layout(capacity);
        let first = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: the layout has a size above zero.
            NonNull::new(unsafe { alloc(layout) }.cast()).unwrap_or_else(|| handle_alloc_error(layout))
        };
        Self {
            first,
            mask: capacity - 1,
            owns: PhantomData,
            #[cfg(loom)]
            watch: (0..capacity).map(|_| UnsafeCell::new(())).collect(),
        }
    }

    #[inline(always)]
    pub(crate) fn capacity(&self) -> usize {
        self.mask + 1
    }

    /// Where the item of `position` lives. Always in bounds; whether it holds an item is the ring's knowledge.
    #[inline(always)]
    pub(crate) fn at(&self, position: usize) -> *mut T {
        // SAFETY: `position & mask` is below the capacity the block was allocated for.
        unsafe { self.first.as_ptr().add(position & self.mask) }
    }

    /// How many of `n` slots from `position` on lie side by side in memory.
    #[inline(always)]
    pub(crate) fn run(&self, position: usize, n: usize) -> usize {
        n.min(self.capacity() - (position & self.mask))
    }

    /// Asks the processor to fetch the slot of `position`, where it can be asked. Nothing is accessed.
    #[inline(always)]
    pub(crate) fn prefetch(&self, _position: usize) {
        #[cfg(all(target_arch = "x86_64", not(any(miri, loom, shuttle))))]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint without effect on memory, and the address is inside the block.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.at(_position).cast()) };
        }
    }

    /// Drops the `n` items from `position` on, wherever they wrap.
    ///
    /// # Safety
    /// All of them are initialised, and nobody else accesses them now or as items later.
    pub(crate) unsafe fn drop_items(&self, position: usize, n: usize) {
        self.touch(position, n);
        if !std::mem::needs_drop::<T>() {
            return;
        }
        let run = self.run(position, n);
        // SAFETY: both parts are initialised and exclusively ours, by the contract above.
        unsafe {
            std::ptr::slice_from_raw_parts_mut(self.at(position), run).drop_in_place();
            std::ptr::slice_from_raw_parts_mut(self.at(position.wrapping_add(run)), n - run).drop_in_place();
        }
    }

    /// Tells loom "exclusive access, here and now". Free in a normal build.
    #[inline(always)]
    pub(crate) fn touch(&self, _position: usize, _n: usize) {
        #[cfg(loom)]
        for i in 0.._n {
            self.watch[_position.wrapping_add(i) & self.mask].with_mut(|_| ());
        }
    }

    /// Tells loom "shared access, here and now". Free in a normal build.
    #[inline(always)]
    pub(crate) fn look(&self, _position: usize, _n: usize) {
        #[cfg(loom)]
        for i in 0.._n {
            self.watch[_position.wrapping_add(i) & self.mask].with(|_| ());
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::array::<T>(capacity)
            .and_then(|layout| layout.align_to(128))
            .expect("a ring that fits the address space")
            .pad_to_align()
    }
}

impl<T> Drop for Slots<T> {
    /// Frees the block; items still inside are the ring's to drop first.
    fn drop(&mut self) {
        let layout = Self::layout(self.capacity());
        if layout.size() != 0 {
            // SAFETY: allocated in `new` with this very layout.
            unsafe { dealloc(self.first.as_ptr().cast(), layout) }
        }
    }
}
