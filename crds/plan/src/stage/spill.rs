//! The two ends of a queue that goes to disk: what the compiler puts before a stage whose input spills.
//!
//! ```text
//!   … ─▶ sink `bill:spill` ┄┄ in memory, or in the journal ┄┄ source `bill:spilled` ─▶ bill ─▶ …
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One end of a queue that goes to disk when it is full; the other one has the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spill {
    /// The stage whose input it is: with the pipeline, the name by which a restart finds what waits for it.
    pub stage: String,
    /// How many events may wait in memory; absent means 8192.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}
