//! Alerts of a Prometheus Alertmanager.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Expression, SecretRef};

/// Keeps alerts standing in an Alertmanager (API v2). It takes what `threshold` emits: `state: firing` raises the alert,
/// which is sent again every `resend` so that it stands, `state: resolved` ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alertmanager {
    /// Its address, such as `http://alertmanager.monitoring:9093`.
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^https?://[^ ]+$"))]
    pub url: String,
    /// The alert's name; the pipeline's name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
    /// Labels, each from an expression: they and the name make the alert's identity. By default `by`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: Option<BTreeMap<String, Expression>>,
    /// Annotations, each from an expression; by default `value` and `bound`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: Option<BTreeMap<String, Expression>>,
    /// A bearer token to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// How often standing alerts are sent again; `1m` by default. Alertmanager ends an alert that has not come for four
    /// times as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend: Option<Duration>,
    /// How long one request may take; `10s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}
