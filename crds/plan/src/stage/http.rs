//! Requests to an HTTP server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{SecretRef, Size};

/// An HTTP server: the body of a POST is one event, or one a line for `application/x-ndjson`. JSON bodies become
/// values, other text stays text, forms are refused (415): `curl -d` sends one unless it is told
/// `-H 'content-type: application/json'`. The answer comes when the events are delivered, with the dead-letter stage or in a
/// state: 202. 422 means that a stage could not handle them and would not the next time either; 429 that the stages are
/// full, and 503 that a queue dropped them or the pipeline is stopping: try again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http {
    /// Address and port to listen on, such as `127.0.0.1:8080`.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^ ]+:[0-9]{1,5}$"))]
    pub listen: String,
    /// The path that takes events; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/"))]
    pub path: Option<String>,
    /// The largest body taken; `1Mi` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Size>,
    /// A bearer token that requests must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
}
