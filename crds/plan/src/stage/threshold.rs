//! Says when a value goes beyond a bound, and when it is back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Expression};

/// Watches a value and emits one event each time its state changes: `{state, by, value, bound}`, where `state` is
/// `firing` when it has gone beyond the bound and `resolved` when it is back. One of `above` and `below` is required.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Threshold {
    /// The value: `event.max`.
    pub value: Expression,
    /// Fires when the value is greater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Resolves when the value is less, so that it does not flap; `above` itself by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_below: Option<f64>,
    /// Fires when the value is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// Resolves when the value is greater; `below` itself by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_above: Option<f64>,
    /// A state for each value of this; `event.by` where the input is a window with `by`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Expression>,
    /// How long the value must stay beyond the bound before it fires; at once by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "for")]
    pub hold: Option<Duration>,
    /// How many keys are remembered; events of further keys are dropped as `keys`. 100000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_keys: Option<u32>,
}
