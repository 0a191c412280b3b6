//! Stages that only a program can make: the two ends of a graph built in code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A processor the embedding program registered under `processor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Custom {
    /// The name it was registered under.
    pub processor: String,
}

/// Events pushed by the embedding program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Push {}
