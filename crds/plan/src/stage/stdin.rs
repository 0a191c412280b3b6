//! Lines of the standard input.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Size;

/// Lines of the standard input: one event a line, its body the text without the line break. The pipeline ends when
/// the input does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stdin {
    /// The longest line taken whole; a longer one is an error event. `1Mi` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_line: Option<Size>,
}
