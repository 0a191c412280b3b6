//! Bounds the rate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Expression;

/// Bounds the rate by a token bucket, for all events together or for each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Throttle {
    /// Events a second.
    #[schemars(range(min = 0.001, max = 1e9))]
    pub rate: f64,
    /// Events that may pass at once after a pause; one second's worth by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// A bucket for each value of this; at most 100000 keys, the least recent go first. Only with `mode: Drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Expression>,
    /// What happens to events above the rate; Drop by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ThrottleMode>,
}

/// What happens to events above the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ThrottleMode {
    /// They go, counted as dropped.
    #[default]
    Drop,
    /// They wait, and the stages before them wait.
    Block,
}
