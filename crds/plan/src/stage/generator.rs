//! Makes events by itself: for trying things out, for tests and for measurements.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Size;

/// Makes events by itself. A body is `{sequence, key, value}`: the event's number, one of `keys` names in turn (`k0`,
/// `k1`, ...), and a number from 0 to 100 that looks random and is the same for the same `seed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generator {
    /// Events a second; absent means as many as the stages take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 1e9))]
    pub rate: Option<f64>,
    /// Stops after so many events; absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How many different keys the events have; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub keys: Option<u32>,
    /// Bytes of a `payload` text in every body; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Size>,
    /// Where the pseudo-random numbers start; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}
