//! The one switch between the standard library, loom and shuttle.
//!
//! Code that says `use sidestream_ring::sync::{AtomicU64, Ordering}` runs on real atomics in a normal build, under
//! loom's model checker with `--cfg loom`, and under shuttle's scheduler with `--cfg shuttle`. No other crate names
//! `std::sync::atomic`; the lint table says so. Below the switch: the three shapes of number that a metric reads.

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    hint::spin_loop,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{
            AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        },
    },
};

#[cfg(shuttle)]
pub use shuttle::{
    hint::spin_loop,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{
            AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        },
    },
};

#[cfg(not(any(loom, shuttle)))]
pub use std::{
    hint::spin_loop,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{
            AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        },
    },
};

#[cfg(not(loom))]
pub use cell::UnsafeCell;

/// Threads: spawn, park, yield. A model has no clock, so under loom a timed park is a plain one, which is also what
/// makes a lost wake-up visible there as a deadlock.
pub mod thread {
    #[cfg(loom)]
    pub use loom::thread::{Builder, JoinHandle, Thread, ThreadId, current, park, spawn, yield_now};
    #[cfg(shuttle)]
    pub use shuttle::thread::{
        Builder, JoinHandle, Thread, ThreadId, current, park, park_timeout, spawn, yield_now,
    };
    #[cfg(not(any(loom, shuttle)))]
    pub use std::thread::{
        Builder, JoinHandle, Thread, ThreadId, current, park, park_timeout, spawn, yield_now,
    };

    /// Parks without a time limit: a model has no clock.
    #[cfg(loom)]
    pub fn park_timeout(_limit: std::time::Duration) {
        park();
    }
}

#[cfg(not(loom))]
mod cell {
    /// `std::cell::UnsafeCell` behind loom's closure interface, so that loom can watch every access.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct UnsafeCell<T: ?Sized>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// Wraps `value`.
        pub const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// The value; owning the cell is proof that nobody else looks.
        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }

    impl<T: ?Sized> UnsafeCell<T> {
        /// Shared access: whoever dereferences the pointer must know that nobody writes meanwhile.
        #[inline(always)]
        pub fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
            look(self.0.get())
        }

        /// Exclusive access: whoever dereferences the pointer must know that nobody else looks meanwhile.
        #[inline(always)]
        pub fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
            change(self.0.get())
        }
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $atomic:ident, $value:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name($atomic);

        impl $name {
            /// Starts at zero.
            #[cfg(not(loom))]
            pub const fn new() -> Self {
                Self($atomic::new(0))
            }

            /// Starts at zero.
            #[cfg(loom)]
            pub fn new() -> Self {
                Self($atomic::new(0))
            }

            /// The value now, as this thread sees it; orders nothing around it.
            #[inline]
            pub fn get(&self) -> $value {
                self.0.load(Ordering::Relaxed)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}

number! {
    /// A total that only ever **one** thread at a time adds to and anyone reads: a plain add, no locked instruction.
    /// Two writers at once would lose counts (never memory); for those there is [`Tally`].
    Counter, AtomicU64, u64
}

impl Counter {
    /// Adds `n`; wraps at 2^64.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed: single writer, and readers only want a recent number.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
}

number! {
    /// A total that many threads add to: one locked instruction per add, so keep it off per-event paths.
    Tally, AtomicU64, u64
}

impl Tally {
    /// Adds `n`; wraps at 2^64. Returns the total before.
    #[inline]
    pub fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed)
    }
}

number! {
    /// A level that is set and read: a size, a limit, a time in nanoseconds.
    Gauge, AtomicU64, u64
}

impl Gauge {
    /// Replaces the level.
    #[inline]
    pub fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// Raises the level to `level` if it is lower: a high-water mark. Returns the level before.
    #[inline]
    pub fn raise(&self, level: u64) -> u64 {
        self.0.fetch_max(level, Ordering::Relaxed)
    }
}

number! {
    /// A level that may be negative: a lag, a temperature, a time difference. Many threads may `add`.
    Level, AtomicI64, i64
}

impl Level {
    /// Replaces the level.
    #[inline]
    pub fn set(&self, level: i64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// Moves the level by `by`. Returns the level before.
    #[inline]
    pub fn add(&self, by: i64) -> i64 {
        self.0.fetch_add(by, Ordering::Relaxed)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_counter_adds_a_gauge_keeps_the_last_and_a_level_goes_below_zero() {
        let (counter, tally, gauge, level) = (Counter::new(), Tally::new(), Gauge::new(), Level::new());
        counter.add(3);
        counter.add(4);
        tally.add(3);
        gauge.set(9);
        gauge.set(2);
        gauge.raise(1);
        level.add(-5);
        assert_eq!((counter.get(), tally.get(), gauge.get(), level.get()), (7, 3, 2, -5));
    }

    #[test]
    fn a_tally_loses_nothing_between_threads() {
        let tally = Arc::new(Tally::new());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let tally = Arc::clone(&tally);
                thread::spawn(move || (0..500).for_each(|_| _ = tally.add(1)))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(tally.get(), 1000);
    }
}
