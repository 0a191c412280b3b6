//! Passes the first of equal events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Expression};

/// Passes the first event of each identity within a span of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dedupe {
    /// What makes events equal: `event.id`.
    pub by: Expression,
    /// How long an identity is remembered after it was last passed.
    pub window: Duration,
    /// How many identities are remembered at most; the oldest go first. 100000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub capacity: Option<u32>,
}
