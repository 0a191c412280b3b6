//! One event for each element of a list.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Expression;

/// One event for each element of a list; an event whose list is empty is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Split {
    /// The list: `event.items`.
    pub list: Expression,
}
