//! The standard output.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Writes events to the standard output, one a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Console {
    /// How; Human by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ConsoleFormat>,
}

/// How events look on the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConsoleFormat {
    /// Time, source and `field=value` pairs, for people.
    #[default]
    Human,
    /// One JSON object a line: the body where it is a map, else `{"body": ...}`.
    JSON,
}
