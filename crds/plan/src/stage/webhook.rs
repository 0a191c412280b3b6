//! HTTP requests.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, SecretRef};

/// Sends each batch of events as one HTTP request: a JSON array of bodies, and of dead letters as
/// `{"stage": ..., "error": ..., "body": ...}`. Delivered when the answer is 2xx; 408, 429, 5xx and no answer are tried
/// again, everything else is an error of the events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Where to, such as `https://example.com/events`.
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^https?://[^ ]+$"))]
    pub url: String,
    /// POST by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<WebhookMethod>,
    /// Headers to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    pub headers: Option<BTreeMap<String, String>>,
    /// A bearer token to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// How many events one request carries at most; 500 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub batch_size: Option<u32>,
    /// How long one request may take; `10s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// The method of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WebhookMethod {
    /// POST.
    #[default]
    POST,
    /// PUT.
    PUT,
}
