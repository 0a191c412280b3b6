//! The increase of a counter a second.
//!
//! ```text
//!   value   7   9   2   5        increase = 2 + 2 + 3: a value that went down was reset, and counts from 0
//!   time    0   5  10  15        rate = 7 / 15 s
//! ```
//!
//! From the last sample before a window to the last in it, so that consecutive windows leave no increase out, and one
//! sample a window is enough. A sample that comes late between two others changes nothing: the increase over it is
//! counted already.

use sidestream_event::Timestamp;

/// A counter's value at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) time: Timestamp,
    pub(super) value: f64,
}

/// A counter over a span of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    ends: Option<(Sample, Sample)>,
    increase: f64,
}

impl Rate {
    /// That of a span in which nothing has come yet, after a last sample before it.
    pub(super) fn after(base: Option<Sample>) -> Self {
        Self { ends: base.map(|base| (base, base)), increase: 0.0 }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.merge(&Rate { ends: Some((sample, sample)), increase: 0.0 });
    }

    /// Adds what is known of another span, usually a later one.
    pub(super) fn merge(&mut self, other: &Rate) {
        let Some((other_first, other_last)) = other.ends else { return };
        let Some((first, last)) = &mut self.ends else {
            *self = other.clone();
            return;
        };
        if other_first.time >= last.time {
            self.increase += step(*last, other_first) + other.increase;
            *last = other_last;
        } else if other_last.time < first.time {
            self.increase += other.increase + step(other_last, *first);
            *first = other_first;
        }
    }

    /// The last sample.
    pub(super) fn last(&self) -> Option<Sample> {
        self.ends.map(|(_, last)| last)
    }

    /// The increase a second; `None` where there are not two samples of different times.
    pub(super) fn per_second(&self) -> Option<f64> {
        let (first, last) = self.ends?;
        let seconds = last.time.since(first.time).as_secs_f64();
        (seconds > 0.0).then(|| self.increase / seconds)
    }
}

fn step(from: Sample, to: Sample) -> f64 {
    if to.value >= from.value { to.value - from.value } else { to.value.max(0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(samples: &[(f64, f64)]) -> Rate {
        let mut rate = Rate::default();
        for (seconds, value) in samples {
            rate.add(Sample { time: Timestamp::from_seconds(*seconds), value: *value });
        }
        rate
    }

    #[test]
    fn a_reset_does_not_count_as_a_decrease() {
        assert_eq!(rate(&[(0.0, 7.0), (5.0, 9.0), (10.0, 2.0), (15.0, 5.0)]).per_second(), Some(7.0 / 15.0));
        assert_eq!(rate(&[(0.0, 7.0), (1.0, -3.0)]).per_second(), Some(0.0));
    }

    #[test]
    fn one_sample_says_nothing_and_two_of_one_time_neither() {
        assert_eq!(rate(&[]).per_second(), None);
        assert_eq!(rate(&[(3.0, 7.0)]).per_second(), None);
        assert_eq!(rate(&[(3.0, 7.0), (3.0, 8.0)]).per_second(), None);
    }

    #[test]
    fn samples_out_of_order_count_as_in_order() {
        let wanted = rate(&[(0.0, 1.0), (1.0, 3.0), (2.0, 6.0)]).per_second();
        assert_eq!(wanted, Some(2.5));
        assert_eq!(rate(&[(2.0, 6.0), (0.0, 1.0), (1.0, 3.0)]).per_second(), wanted);
        assert_eq!(rate(&[(1.0, 3.0), (2.0, 6.0), (0.0, 1.0)]).per_second(), wanted);
    }

    #[test]
    fn spans_side_by_side_leave_no_increase_out() {
        let mut all = Rate::after(Some(Sample { time: Timestamp::from_seconds(0.0), value: 10.0 }));
        all.merge(&Rate::default());
        all.merge(&rate(&[(1.0, 14.0)]));
        all.merge(&rate(&[(3.0, 15.0), (4.0, 18.0)]));
        assert_eq!(all.per_second(), Some(2.0));
        assert_eq!(all.last().unwrap().value, 18.0);
    }
}
