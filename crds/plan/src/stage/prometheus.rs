//! Samples of a Prometheus endpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, SecretRef};

/// Scrapes a Prometheus endpoint: one event a sample, `{name, labels, value}`. A failed scrape is one sample `up` of 0,
/// a good one ends with `up` of 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prometheus {
    /// Where the metrics are, such as `http://127.0.0.1:9100/metrics`.
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^https?://[^ ]+$"))]
    pub url: String,
    /// How often; `15s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// How long one scrape may take; `10s` by default, and never more than the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// A bearer token to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
}
