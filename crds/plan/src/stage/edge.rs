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

use crate::Expression;

/// Events of stages in another sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeSource {
    /// The name of the edge, unique in the pipeline.
    pub edge: String,
    /// Who may send. Empty: nobody yet.
    #[serde(with = "one_or_many")]
    #[schemars(with = "Vec<Account>")]
    pub from: Vec<Account>,
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
    /// Who of the receivers owns which events, where stages behind the edge bring those of a key together. Absent: each
    /// may take any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<EdgeSlots>,
    /// What carries the edge. Receivers listen for either.
    #[serde(default, skip_serializing_if = "EdgeTransport::is_tcp")]
    pub transport: EdgeTransport,
}

/// What carries an edge; TLS 1.3 with both ends proved in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EdgeTransport {
    /// TCP, port 7443.
    #[default]
    Tcp,
    /// UDP, port 7443.
    Quic,
}

impl EdgeTransport {
    fn is_tcp(&self) -> bool {
        *self == EdgeTransport::Tcp
    }
}

/// How many parts all keys are in; each is owned as a whole.
pub const SLOTS: u32 = 256;

/// A share of the keys for each receiver. Receivers are numbered as pods of a StatefulSet are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeSlots {
    /// The key of an event, as the stages behind the edge have it. Absent: all events have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Expression>,
    /// Of each of the 256 slots of keys, the number of the receiver that owns it.
    pub ordinals: Vec<u32>,
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

/// One account is written as such, which every version of a sidecar reads; any other number as a list.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Account;

    pub(super) fn serialize<S: Serializer>(accounts: &[Account], out: S) -> Result<S::Ok, S::Error> {
        match accounts {
            [one] => one.serialize(out),
            many => many.serialize(out),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Account>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Accounts {
            One(Account),
            Many(Vec<Account>),
        }
        Ok(match Accounts::deserialize(from)? {
            Accounts::One(one) => vec![one],
            Accounts::Many(many) => many,
        })
    }
}

impl Account {
    /// The path of its SPIFFE ID: `/ns/<namespace>/sa/<name>`.
    pub fn spiffe_path(&self) -> String {
        format!("/ns/{}/sa/{}", self.namespace, self.name)
    }
}
