//! One event made of many.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Makes one event of many: its body is the list of their bodies. The one event's end is the end of them all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// How many events make one.
    #[schemars(range(min = 1, max = 100_000))]
    pub size: u32,
    /// How long the first may wait for the others; `1s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<Duration>,
}
