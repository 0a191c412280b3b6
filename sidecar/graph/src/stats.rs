//! What a stage counts. One writer at a time, whoever runs the stage; anyone reads.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use sidestream_event::{Batch, Event};
use sidestream_ring::sync::{AtomicBool, Counter, Ordering, Tally};

/// The figures of one stage, all since it began.
#[derive(Debug, Default)]
pub struct StageStats {
    /// Events that came in; for a source, that it took in.
    pub events_in: Counter,
    /// Events that went out; for a sink, that were delivered.
    pub events_out: Counter,
    /// Events it could not handle. Counted also by the stage before it, which asks its `when`.
    pub errors: Tally,
    /// Tries that were made again, for a sink.
    pub retries: Counter,
    /// Nanoseconds of work, measured on one batch in [`crate::TIMED_EVERY`] and multiplied.
    pub busy_nanos: Counter,
    /// Nanoseconds from the source to the end of this stage, of the events of the measured batches.
    pub latency: Histogram,
    /// Live events for whoever looks.
    pub tap: Tap,
    /// Why the last event was in error, for whoever asks.
    last_error: Mutex<Option<String>>,
    dropped: Mutex<Vec<(&'static str, u64)>>,
}

impl StageStats {
    /// Counts `events` dropped for `reason`; rare, so it takes a lock.
    pub fn count_dropped(&self, reason: &'static str, events: u64) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        match dropped.iter_mut().find(|(own, _)| *own == reason) {
            Some((_, count)) => *count += events,
            None => dropped.push((reason, events)),
        }
    }

    /// Remembers why events of stage `name` were dropped in error, and logs it: the first, and then the 2^n-th.
    pub fn say_error(&self, name: &str, failed: &[(Event, String)]) {
        let Some((_, reason)) = failed.first() else { return };
        let errors = self.errors.get();
        if errors.is_power_of_two() || errors == failed.len() as u64 {
            tracing::warn!(stage = name, errors, "event dropped: {reason}");
        }
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
    }

    /// Why the last event was in error.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Events dropped so far, by reason.
    pub fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts of durations in buckets that double: 1 us, 2 us, 4 us, ... 67 s, and beyond.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; HISTOGRAM_BUCKETS],
    sum_nanos: Counter,
}

/// How many buckets a [`Histogram`] has, the unbounded last one included.
pub const HISTOGRAM_BUCKETS: usize = 28;

impl Histogram {
    /// Counts `count` durations of `nanos`.
    pub fn record(&self, nanos: u64, count: u64) {
        // The bucket of bound 2^i us holds what is above 2^(i-1) us and not above 2^i us.
        let micros = nanos.div_ceil(1_000).max(1);
        let index = (u64::BITS - (micros - 1).leading_zeros()) as usize;
        self.buckets[index.min(HISTOGRAM_BUCKETS - 1)].add(count);
        self.sum_nanos.add(nanos.saturating_mul(count));
    }

    /// The upper bound of each bucket in seconds (the last is infinite) and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(index, count)| {
            let bound =
                if index == HISTOGRAM_BUCKETS - 1 { f64::INFINITY } else { (1u64 << index) as f64 * 1e-6 };
            (bound, count.get())
        })
    }

    /// The sum of all durations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanos.get() as f64 * 1e-9
    }

    /// The bound of the bucket below which the share `q` of the durations lies, in seconds; 0 where there is none.
    pub fn quantile_seconds(&self, q: f64) -> f64 {
        let total: u64 = self.buckets.iter().map(Counter::get).sum();
        let mut left = (total as f64 * q).ceil() as u64;
        for (bound, count) in self.buckets() {
            if count >= left {
                return if left == 0 { 0.0 } else { bound };
            }
            left -= count;
        }
        0.0
    }
}

/// A look at the events that leave a stage: nothing but one load a batch while nobody looks.
#[derive(Debug, Default)]
pub struct Tap {
    wanted: AtomicBool,
    events: Mutex<VecDeque<Event>>,
}

impl Tap {
    /// Shows the first event of a batch to whoever looks.
    #[inline]
    pub fn show(&self, batch: &Batch) {
        if self.wanted.load(Ordering::Relaxed)
            && let Some(event) = batch.events().first()
        {
            self.keep(event.clone());
        }
    }

    /// The events since the last look; asking is what keeps them coming, [`Tap::close`] ends it.
    pub fn look(&self) -> Vec<Event> {
        self.wanted.store(true, Ordering::Relaxed);
        self.events.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Nobody looks any more.
    pub fn close(&self) {
        self.wanted.store(false, Ordering::Relaxed);
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    #[cold]
    fn keep(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == TAP_EVENTS {
            events.pop_front();
        }
        events.push_back(event);
    }
}

/// A tap shows a sample, not the stream: so many events between two looks.
const TAP_EVENTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_bucket_it_just_fits_in() {
        let histogram = Histogram::default();
        for nanos in [0, 1_000, 1_001, 2_000, 1_000_000_000, u64::MAX] {
            histogram.record(nanos, 1);
        }
        let full: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(full, [(1e-6, 2), (2e-6, 2), (1.048576, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.quantile_seconds(0.5), 2e-6);
        assert_eq!(Histogram::default().quantile_seconds(0.5), 0.0);
    }

    #[test]
    fn a_tap_shows_only_to_whoever_looks_and_only_the_newest() {
        let tap = Tap::default();
        let batch = |n: i64| Batch::of(vec![Event::new(n)], sidestream_event::Mark::none());
        tap.show(&batch(0));
        assert!(tap.look().is_empty());
        (0..100).for_each(|n| tap.show(&batch(n)));
        let seen = tap.look();
        assert_eq!((seen.len(), seen[0].body.as_f64()), (64, Some(36.0)));
        tap.close();
        tap.show(&batch(1));
        assert!(tap.look().is_empty());
    }
}
