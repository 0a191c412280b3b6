//! New bodies, and fields set, removed and renamed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Expression;

/// Makes a new body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Map {
    /// What the body becomes: `{'route': event.path, 'seconds': event.millis / 1000.0}`.
    pub body: Expression,
}

/// Sets fields, each from an expression over the event as it came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Set {
    /// Field, or dotted path, and its new value: `slow: event.seconds > 0.5`.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 64))]
    pub fields: BTreeMap<String, Expression>,
}

/// Removes fields; a field that is not there is no error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unset {
    /// Fields or dotted paths.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256)))]
    pub fields: Vec<String>,
}

/// Renames fields; a field that is not there is no error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rename {
    /// Old name and new name of fields of the body.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 64))]
    pub fields: BTreeMap<String, String>,
}
