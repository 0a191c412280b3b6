//! Brings branches together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Brings the branches named in `from` together, each in its own order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Merge {}
