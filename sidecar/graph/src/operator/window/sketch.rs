//! Quantiles to 1 % of their value: DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch
//! with relative-error guarantees", VLDB 2019).
//!
//! ```text
//!   bucket i counts the values in (gamma^(i-1), gamma^i], gamma = (1 + 0.01) / (1 - 0.01)
//!   order:   … -2.2  -1.1   0   1.1  2.2 …     one ascending list over both signs, only buckets with values
//! ```
//!
//! Beyond [`BUCKETS_MAX`] buckets the two lowest become one, as in the paper: it is the low quantiles that lose.
//! Values are finite; NaN and infinities are refused before.

/// Counts of values by bucket.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    /// Ascending.
    buckets: Vec<(i32, u64)>,
    count: u64,
    min: f64,
    max: f64,
}

impl Sketch {
    pub(super) const fn new() -> Self {
        Self { buckets: Vec::new(), count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    /// Forgets all values and keeps the storage.
    pub(super) fn reset(&mut self) {
        self.buckets.clear();
        *self = Self { buckets: std::mem::take(&mut self.buckets), ..Self::new() };
    }

    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.put(bucket_of(value), 1);
    }

    pub(super) fn merge(&mut self, other: &Sketch) {
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if self.buckets.is_empty() {
            self.buckets.extend_from_slice(&other.buckets);
        } else {
            other.buckets.iter().for_each(|(bucket, count)| self.put(*bucket, *count));
        }
    }

    /// The value below which the share `at` of the values lies; NaN where there are none.
    pub(super) fn quantile(&self, at: f64) -> f64 {
        let Some(last) = self.count.checked_sub(1) else { return f64::NAN };
        let rank = (at * last as f64) as u64;
        // The ends are known exactly.
        match rank {
            0 => return self.min,
            rank if rank == last => return self.max,
            _ => {}
        }
        let mut below = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            below += count;
            below > rank
        });
        match found {
            Some((bucket, _)) => value_of(*bucket).clamp(self.min, self.max),
            None => self.max,
        }
    }

    fn put(&mut self, bucket: i32, count: u64) {
        match self.buckets.binary_search_by_key(&bucket, |(own, _)| *own) {
            Ok(index) => self.buckets[index].1 += count,
            Err(index) => {
                self.buckets.insert(index, (bucket, count));
                if self.buckets.len() > BUCKETS_MAX {
                    self.buckets[1].1 += self.buckets[0].1;
                    self.buckets.remove(0);
                }
            }
        }
    }
}

/// The bucket a value falls in: below zero for negative values, 0 for zero.
fn bucket_of(value: f64) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let index = (value.abs().ln() / LN_GAMMA).ceil() as i32 + OFFSET;
    if value < 0.0 { -index } else { index }
}

/// The value in the middle of a bucket, as far from its ends in relative terms.
fn value_of(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let upper = (f64::from(bucket.abs() - OFFSET) * LN_GAMMA).exp().min(f64::MAX);
    let middle = upper * (2.0 / (GAMMA + 1.0));
    if bucket < 0 { -middle } else { middle }
}

const GAMMA: f64 = (1.0 + 0.01) / (1.0 - 0.01);
/// ln(gamma); `ln` is not a constant function.
const LN_GAMMA: f64 = 0.020_000_666_706_669_435;
/// More than the index of the smallest float, so that the sign of a bucket is the sign of its values.
const OFFSET: i32 = 40_000;
/// Enough for seventeen decimal orders of magnitude, in 32 KiB.
const BUCKETS_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::new();
        values.iter().for_each(|value| sketch.add(*value));
        sketch
    }

    fn exact(values: &[f64], at: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[(at * (values.len() - 1) as f64) as usize]
    }

    fn near(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() <= wanted.abs() * 0.010_000_1
    }

    #[test]
    fn gamma_and_its_logarithm_agree() {
        assert!((GAMMA.ln() - LN_GAMMA).abs() < 1e-15);
    }

    #[test]
    fn extremes_of_what_a_float_can_be_have_buckets_too() {
        let values = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, -f64::MIN_POSITIVE, 5e-324, 0.0, -0.0, 1.0];
        let sketch = sketch(&values);
        for at in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (found, wanted) = (sketch.quantile(at), exact(&values, at));
            assert!(near(found, wanted) || wanted.abs() < 1e-300, "{at}: {found} {wanted}");
        }
        assert_eq!((sketch.quantile(0.0), sketch.quantile(1.0)), (f64::MIN, f64::MAX));
        assert!(Sketch::new().quantile(0.5).is_nan());
    }

    #[test]
    fn memory_is_bounded_and_the_high_quantiles_stay() {
        let values: Vec<f64> = (0..60_000).map(|n| (f64::from(n) / 100.0 - 300.0).exp()).collect();
        let sketch = sketch(&values);
        assert_eq!(sketch.buckets.len(), BUCKETS_MAX);
        assert!(near(sketch.quantile(0.99), exact(&values, 0.99)));
        assert_eq!(sketch.count, 60_000);
    }

    proptest! {
        #[test]
        fn every_quantile_is_within_one_percent_of_its_value(
            values in prop::collection::vec(prop_oneof![-1e6..1e6f64, 0.0..1.0f64, Just(0.0)], 1..300),
            at in 0.0..=1.0f64,
        ) {
            let (found, wanted) = (sketch(&values).quantile(at), exact(&values, at));
            prop_assert!(near(found, wanted), "{found} {wanted}");
        }

        #[test]
        fn two_sketches_merge_to_that_of_all_values(
            one in prop::collection::vec(-1e3..1e3f64, 0..100),
            two in prop::collection::vec(-1e3..1e3f64, 1..100),
        ) {
            let mut merged = sketch(&one);
            merged.merge(&sketch(&two));
            let all = sketch(&[one, two].concat());
            prop_assert_eq!(&merged.buckets, &all.buckets);
            prop_assert_eq!((merged.count, merged.min, merged.max), (all.count, all.min, all.max));
            merged.reset();
            prop_assert!(merged.quantile(0.5).is_nan());
        }
    }
}
