//! Files: lines read as they are written, and lines written as events come.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Size;

/// Lines of files that grow: one event a line, its body the text without the line break; where `paths` can mean several
/// files, header `file` is the path. Rotated and truncated files are followed; with a `checkpoint`, a restart goes on
/// where the last delivered line ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSource {
    /// Paths, or patterns with `*` in the last part: `/var/log/app/*.log`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 4096)))]
    pub paths: Vec<String>,
    /// Where a file that is there at the first start is read from; Start by default. Later ones are read whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_from: Option<ReadFrom>,
    /// The file that remembers positions; absent: positions are not remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub checkpoint: Option<String>,
    /// Whether to wait for more at the end of the files; true by default. With `false` the source ends there, and every
    /// file and folder that is named must be there at the start: where one is missing, nothing starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    /// The longest line taken whole; a longer one is an error event. `1Mi` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_line: Option<Size>,
}

/// Where reading of a file begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReadFrom {
    /// At its first line.
    #[default]
    Start,
    /// At its end: only lines that are written from now on.
    End,
}

/// Appends events to a file, one a line: text as it is, everything else as JSON; a dead letter as
/// `{"stage": ..., "error": ..., "body": ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSink {
    /// The path; its folder must exist.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// The size beyond which the file is renamed to `path.1` and a new one begun; absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_at: Option<Size>,
    /// How many rotated files are kept; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep: Option<u32>,
    /// Whether a batch counts as delivered only when the device has it (fsync); false by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<bool>,
}
