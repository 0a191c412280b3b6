//! Fields become text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Nothing;
use crate::{Expression, union::union};

union! {
    /// Turns the body into text.
    Encode {
        /// One line of JSON.
        Json(Nothing) = "json",
        /// `key=value` pairs.
        Logfmt(Nothing) = "logfmt",
        /// Values between separators.
        Csv(EncodeCsv) = "csv",
        /// Whatever an expression says.
        Text(EncodeText) = "text",
    }
}

/// Values between separators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EncodeCsv {
    /// The fields, in order; one that is not there is empty.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 256)))]
    pub columns: Vec<String>,
    /// One character; `,` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1))]
    pub separator: Option<String>,
}

/// Whatever an expression says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EncodeText {
    /// The text: `event.name + ' ' + string(event.value)`.
    pub text: Expression,
}
