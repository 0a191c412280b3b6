//! Aggregates over time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Expression};

/// Aggregates events over spans of time, for all events together or for each key. Time is the events' own; a window
/// closes when an event `lateness` past its end has come, or, when none comes, when the clock is half a second and that
/// far past it.
/// It emits `{by, start, end}` (seconds since the epoch) and the aggregates, at the time of its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// Windows one after the other, of this length: `1m`. One of `tumbling` and `sliding` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tumbling: Option<Duration>,
    /// Windows that overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding: Option<Sliding>,
    /// A window of its own for each value of this: `event.labels.route`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Expression>,
    /// What to compute.
    pub emit: Aggregates,
    /// How much later than a later event an event may come and still be counted; `0s` by default. Later ones are
    /// dropped as `late`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness: Option<Duration>,
    /// How many keys may have an open window; events of further keys are dropped as `keys`. 100000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_keys: Option<u32>,
}

/// Windows that overlap: one of length `size` begins at every multiple of `every`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sliding {
    /// How long a window is; a multiple of `every`, at most 1000 of them.
    pub size: Duration,
    /// How often one begins.
    pub every: Duration,
}

/// What to compute; each becomes a field of the emitted event. At least one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Aggregates {
    /// How many events: of those this says yes to (`true` for all).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Expression>,
    /// The sum of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<Expression>,
    /// The smallest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Expression>,
    /// The largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Expression>,
    /// The arithmetic mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Expression>,
    /// The increase of a counter a second: resets are seen and do not count as decreases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Expression>,
    /// The value below which shares of the events lie, to 1 % of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<Quantile>,
}

/// Quantiles of a value, each emitted as `p` and the percentage: `p50`, `p99`, `p99_9`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quantile {
    /// The value.
    pub of: Expression,
    /// The shares, from 0 to 1: `[0.5, 0.99]`.
    #[schemars(length(min = 1, max = 16))]
    pub at: Vec<f64>,
}

impl Quantile {
    /// The field that the quantile `share` is emitted as: `p50` for 0.5, `p99_9` for 0.999.
    pub fn field(share: f64) -> String {
        // As many digits as a person writes: 0.999 * 100 is 99.9 and not 99.90000000000001.
        let percent = format!("{:.6}", share * 100.0);
        format!("p{}", percent.trim_end_matches('0').trim_end_matches('.').replace('.', "_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_named_by_its_percentage() {
        let names: Vec<String> =
            [0.0, 0.5, 0.99, 0.999, 0.07, 1.0].into_iter().map(Quantile::field).collect();
        assert_eq!(names, ["p0", "p50", "p99", "p99_9", "p7", "p100"]);
    }
}
