//! Nowhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Takes events and does nothing with them, counted as delivered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blackhole {}
