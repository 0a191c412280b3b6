//! Passes a share of the events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Expression;

/// Passes one event in `every`; with `by`, all events of a sampled key or none of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sample {
    /// One in how many.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every: u32,
    /// What decides together: `event.trace_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Expression>,
}
