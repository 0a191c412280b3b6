//! The standard output.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Writes events to the standard output, one a line; of a dead letter also the stage that failed and why. Where whoever
/// reads it goes away (`| head -1`), `sidestream run` drains and ends.
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
    /// Time, source and `field=value` pairs, for people; of a dead letter, `-- stage: error` after them.
    #[default]
    Human,
    /// One JSON object a line: the body where it is a map, else `{"body": ...}`; of a dead letter,
    /// `{"stage": ..., "error": ..., "body": ...}`.
    JSON,
}
