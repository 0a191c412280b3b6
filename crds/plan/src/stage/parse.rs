//! Text becomes fields.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::union::union;

union! {
    /// Parses text into fields, which take the place of the body; `field` names the text where it is not the body.
    Parse {
        /// JSON.
        Json(ParseField) = "json",
        /// `key=value` pairs.
        Logfmt(ParseField) = "logfmt",
        /// Values between separators.
        Csv(ParseCsv) = "csv",
        /// The named groups of a regular expression.
        Regex(ParseRegex) = "regex",
        /// The Prometheus text format: one event a sample.
        Prometheus(ParseField) = "prometheus",
    }
}

/// Which text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParseField {
    /// The field, or dotted path, that holds the text; the body itself by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub field: Option<String>,
}

/// Values between separators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParseCsv {
    /// The field, or dotted path, that holds the text; the body itself by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub field: Option<String>,
    /// Names of the columns, in order. Numbers become numbers, everything else stays text.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 256)))]
    pub columns: Vec<String>,
    /// One character; `,` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1))]
    pub separator: Option<String>,
}

/// The named groups of a regular expression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParseRegex {
    /// The field, or dotted path, that holds the text; the body itself by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub field: Option<String>,
    /// The pattern, in RE2 syntax: `^(?<method>[A-Z]+) (?<path>\\S+)`. A text it does not match is an error event.
    #[schemars(length(min = 1, max = 4096))]
    pub pattern: String,
}
