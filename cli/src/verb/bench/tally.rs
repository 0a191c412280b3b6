//! What was counted: by each producer and consumer for itself, gathered every second.
//!
//! Percentiles are of merged histograms, never of other percentiles: of a second those of all producers, of the run those of
//! all seconds.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;
use sidestream_host::Moment;

/// What one producer or consumer has counted since it was asked last.
pub(super) struct Tally {
    from: Moment,
    counted: Mutex<Counted>,
}

/// How many, how long.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Records before anything was measured.
    pub(super) warm_up: u64,
    /// From when a record was due, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// How long after it was due a record was sent, in nanoseconds.
    pub(super) late: Histogram<u64>,
    /// When the last of them was.
    pub(super) last: Moment,
}

/// Records that came to their end together.
pub(super) struct Done {
    pub(super) at: Moment,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// When they were due, and when they were sent, where that is measured.
    pub(super) due: Option<Moment>,
    pub(super) sent: Option<Moment>,
}

impl Tally {
    /// Counts as measured what is done from `from` on.
    pub(super) fn new(from: Moment) -> Arc<Tally> {
        Arc::new(Tally { from, counted: Mutex::default() })
    }

    pub(super) fn add(&self, done: &Done) {
        let mut counted = self.lock();
        if done.at < self.from {
            counted.warm_up += done.records;
            return;
        }
        counted.records += done.records;
        counted.bytes += done.bytes;
        counted.last = counted.last.max(done.at);
        if let Some(due) = done.due {
            // It grows with what is recorded: any number of nanoseconds has its place.
            let _ = counted.latency.record_n(nanos(done.at.since(due)), done.records);
        }
        if let (Some(due), Some(sent)) = (done.due, done.sent) {
            let _ = counted.late.record_n(nanos(sent.since(due)), done.records);
        }
    }

    fn take(&self) -> Counted {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Counted {
    fn default() -> Counted {
        let empty = || Histogram::new(DIGITS).expect("three digits are among those it has");
        Counted { records: 0, bytes: 0, warm_up: 0, latency: empty(), late: empty(), last: Moment::default() }
    }
}

impl Counted {
    fn merge(&mut self, other: &Counted) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.warm_up += other.warm_up;
        self.last = self.last.max(other.last);
        // Both grow as they have to.
        let _ = self.latency.add(&other.latency);
        let _ = self.late.add(&other.late);
    }
}

/// All of one side of the run: its producers, or its consumers.
pub(super) struct Gathered {
    tallies: Vec<Arc<Tally>>,
    pub(super) whole: Counted,
    pub(super) seconds: Vec<Second>,
}

/// One second of the run, or what was left of the last.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Second {
    /// Seconds from when anything was measured to its end.
    pub(super) at: f64,
    pub(super) records_per_second: f64,
    pub(super) bytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Quantiles>,
}

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) p9999: f64,
    pub(super) max: f64,
}

impl Gathered {
    pub(super) fn of(tallies: Vec<Arc<Tally>>) -> Gathered {
        Gathered { tallies, whole: Counted::default(), seconds: Vec::new() }
    }

    /// Takes what was counted since it was taken last: a point of the chart where `took` says in how many seconds that was, up
    /// to `at` seconds after anything was measured.
    pub(super) fn gather(&mut self, at: f64, took: Option<f64>) {
        let mut second = Counted::default();
        self.tallies.iter().for_each(|tally| second.merge(&tally.take()));
        self.whole.merge(&second);
        if let Some(took) = took {
            self.seconds.push(Second {
                at,
                records_per_second: second.records as f64 / took,
                bytes_per_second: second.bytes as f64 / took,
                latency: Quantiles::of(&second.latency),
            });
        }
    }
}

impl Quantiles {
    /// None where nothing was recorded.
    pub(super) fn of(histogram: &Histogram<u64>) -> Option<Quantiles> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Quantiles {
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max() as f64 / 1e3,
        })
    }

    /// By their names, in order.
    pub(super) fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("p99.99", self.p9999),
            ("max", self.max),
        ]
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Significant ones of what is recorded.
const DIGITS: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn done(at: u64, due: u64, records: u64) -> Done {
        let moment = Moment::from_nanos;
        Done { at: moment(at), records, bytes: 10 * records, due: Some(moment(due)), sent: Some(moment(due)) }
    }

    #[test]
    fn what_several_counted_is_merged_before_it_is_divided() {
        let (one, two) = (Tally::new(Moment::default()), Tally::new(Moment::default()));
        let mut gathered = Gathered::of(vec![one.clone(), two.clone()]);
        one.add(&done(1_000_000, 0, 99));
        two.add(&done(100_000_000, 0, 1));
        gathered.gather(1.0, Some(1.0));
        let second = gathered.seconds[0].clone();
        assert_eq!((second.records_per_second, second.bytes_per_second), (100.0, 1000.0));
        let latency = second.latency.unwrap();
        assert!((999.0..1002.0).contains(&latency.p99) && latency.max > 99_000.0, "{latency:?}");
        one.add(&done(2_000_000, 0, 900));
        gathered.gather(2.0, None);
        assert_eq!(gathered.seconds.len(), 1);
        assert_eq!(gathered.whole.records, 1000);
        let whole = Quantiles::of(&gathered.whole.latency).unwrap();
        assert!((1999.0..2003.0).contains(&whole.p50) && whole.max > 99_000.0, "{whole:?}");
    }

    #[test]
    fn what_is_done_before_anything_is_measured_is_counted_apart() {
        let tally = Tally::new(Moment::from_nanos(1000));
        tally.add(&done(999, 0, 5));
        tally.add(&done(1000, 0, 7));
        let mut gathered = Gathered::of(vec![tally]);
        gathered.gather(1.0, Some(1.0));
        assert_eq!((gathered.whole.records, gathered.whole.warm_up), (7, 5));
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(Quantiles::of(&Counted::default().latency), None);
    }
}
