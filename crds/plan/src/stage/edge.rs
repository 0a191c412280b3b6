//! The two ends of an edge: where the compiler cuts a pipeline between two sidecars.
//!
//! ```text
//!   sidecar `app`                          sidecar `hub`
//!   … ─▶ scrape ─▶ sink `scrape->minute` ═══▶ source `scrape->minute` ─▶ minute ─▶ …
//! ```
//!
//! Both stages have the edge's name. Who may be at the other end is named by its service account, of which its SPIFFE ID
//! is made: `spiffe://<trust domain>/ns/<namespace>/sa/<name>`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Events of stages in another sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeSource {
    /// The name of the edge, unique in the pipeline.
    pub edge: String,
    /// Who may send.
    pub from: Account,
}

/// Events for stages in another sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeSink {
    /// The name of the edge, unique in the pipeline.
    pub edge: String,
    /// Who receives.
    pub to: Account,
    /// The headless service that has the receivers' addresses: `latency-watch-hub-spl.shop.svc`.
    pub service: String,
}

/// A service account of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Account {
    /// The path of its SPIFFE ID: `/ns/<namespace>/sa/<name>`.
    pub fn spiffe_path(&self) -> String {
        format!("/ns/{}/sa/{}", self.namespace, self.name)
    }
}
