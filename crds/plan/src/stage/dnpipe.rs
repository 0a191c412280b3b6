//! Dnpipes as the ends of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Expression;

/// Records of a [dnpipe](dnpipe.md), pulled as a member of a group, each of them an event: its body the text of the value, or
/// bytes where that is no UTF-8, for `parse` to read; its key, headers and time are the record's. A record is acknowledged
/// when every stage has done with it and no state needs it any more; what is not, comes again after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnpipeSource {
    /// Its name.
    #[schemars(length(min = 1, max = 59), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The namespace it lives in; that of the Pipeline by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// The pool it is of, where it is on a cluster; `default` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 44), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub pool: Option<String>,
    /// The group, whose cursors the server keeps. A new one begins at the oldest record. Members of one group, in whatever
    /// pipelines and pods, share its partitions.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!-~]+$"))]
    pub group: String,
}

/// Pushes events to a [dnpipe](dnpipe.md), each a record: text and bytes as they are, everything else as JSON; the event's
/// key, headers and time are the record's. An event is delivered when the record is as durable as the dnpipe says. A full
/// dnpipe, and one that nobody serves at the moment, holds the pipeline up; a record that is too large goes to `deadLetter`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnpipeSink {
    /// Its name.
    #[schemars(length(min = 1, max = 59), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The namespace it lives in; that of the Pipeline by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// The pool it is of, where it is on a cluster; `default` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 44), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub pool: Option<String>,
    /// The record's key, in place of the event's own: `event.customer`. Records of one key are in one partition, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Expression>,
}
