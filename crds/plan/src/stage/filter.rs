//! Keeps some events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Expression;

/// Keeps the events an expression says yes to; the others are done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// Which to keep: `event.status >= 500`.
    pub keep: Expression,
}
