//! How the operator and the sidecars talk: a small protobuf envelope around a serialised plan.
//!
//! ```text
//! sidecar                                                        operator
//!    |-- Certify: key to sign, token of the pod ------------------->|   TLS: the anchors verify the operator
//!    |<------------------ certificate, anchors, when it ends -------|
//!    |                                                              |
//!    |== Sync =====================================================>|   mTLS: the certificate says who asks
//!    |-- Hello: pod, version, stage kinds ------------------------->|
//!    |<------------------ Plans: all that this sidecar runs --------|   again whenever they change
//!    |<------------------ Anchors: the roots to trust --------------|   again whenever they change
//!    |<------------------ Pool: the dnpipes that it is to keep -----|   where it is a server of a pool
//!    |-- Applied, Leaving, Ready, Anchored, Halting, Drained ------>|
//!    |-- Serving: how its dnpipes are ----------------------------->|
//! ```
//!
//! The messages are `proto/control.proto`, where each field says what it means. What a plan says is the business of
//! `sidestream-plan`; who may ask for what is the operator's. This crate opens no socket and knows no TLS.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated; the fields are described in control.proto"
)]
mod v1 {
    tonic::include_proto!("sidestream.control.v1");
}

use std::fmt;

pub use v1::{
    Anchored, Anchors, Applied, CertifyRequest, CertifyResponse, Counts, Dnpipe, Drained, Elsewhere, Halting,
    Hello, Leaving, Owner, Plan, Plans, Pool, Ready, Served, Serving, SidecarOrders, SidecarReport, Suspend,
    certify_client::CertifyClient,
    certify_server::{Certify, CertifyServer},
    sidecar_orders::Orders,
    sidecar_report::Report,
    sync_client::SyncClient,
    sync_server::{Sync, SyncServer},
};

/// The audience of the token that `Certify` takes; a token for any other is refused.
pub const TOKEN_AUDIENCE: &str = "sidestream.dev";
/// The port of the operator's control server.
pub const CONTROL_PORT: u16 = 9443;
/// The largest message either side takes, in bytes: the plans of a sidecar travel in one.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

impl Plan {
    /// The envelope around `plan`. `hash` names its content: equal plans, equal hashes.
    pub fn wrap(
        plan: &sidestream_plan::Plan,
        hash: impl Into<String>,
        sidecar: impl Into<String>,
        suspend: Suspend,
    ) -> Self {
        Self {
            pipeline: plan.pipeline.clone(),
            hash: hash.into(),
            body: serde_json::to_vec(plan).unwrap_or_default(),
            sidecar: sidecar.into(),
            suspend: suspend.into(),
            closed: Vec::new(),
        }
    }

    /// What of it stands still. What only a newer program knows is taken for everything.
    pub fn stance(&self) -> Suspend {
        Suspend::try_from(self.suspend).unwrap_or(Suspend::Stop)
    }

    /// The plan inside, if this program is new enough to understand it.
    ///
    /// # Errors
    /// [`Unreadable`] where the version is a later one, or the body is no plan this program knows, such as one with a
    /// stage kind that it lacks.
    pub fn unwrap(&self) -> Result<sidestream_plan::Plan, Unreadable> {
        /// What every version of a plan has, whatever else it says.
        #[derive(serde::Deserialize)]
        struct Envelope {
            version: u32,
            #[serde(default)]
            kinds: Vec<String>,
        }
        let refuse = |reason: String| Unreadable { pipeline: self.pipeline.clone(), reason };
        let outline: Envelope =
            serde_json::from_slice(&self.body).map_err(|error| refuse(error.to_string()))?;
        if outline.version > sidestream_plan::PLAN_VERSION {
            let ours = sidestream_plan::PLAN_VERSION;
            return Err(refuse(format!(
                "it is of version {}, and this sidecar knows up to {ours}",
                outline.version
            )));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| refuse(format!("{error}; it needs the kinds {}", outline.kinds.join(", "))))
    }
}

impl Dnpipe {
    /// The envelope around `dnpipe`, the one of this `uid`. `hash` names its content.
    pub fn wrap(dnpipe: &sidestream_plan::Dnpipe, uid: impl Into<String>, hash: impl Into<String>) -> Self {
        Self {
            name: dnpipe.full_name(),
            uid: uid.into(),
            hash: hash.into(),
            body: serde_json::to_vec(dnpipe).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// What it is to be; none where it stays as it is.
    ///
    /// # Errors
    /// Where this program does not understand it.
    pub fn unwrap(&self) -> Result<Option<sidestream_plan::Dnpipe>, serde_json::Error> {
        if self.body.is_empty() { Ok(None) } else { serde_json::from_slice(&self.body).map(Some) }
    }
}

/// A plan that this program does not understand: it is older than the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// `namespace/name` of the Pipeline.
    pub pipeline: String,
    /// What stands in the way.
    pub reason: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the plan of {} cannot be read: {}; upgrade the sidecar", self.pipeline, self.reason)
    }
}

impl std::error::Error for Unreadable {}

impl From<Report> for SidecarReport {
    fn from(report: Report) -> Self {
        Self { report: Some(report) }
    }
}

impl From<Orders> for SidecarOrders {
    fn from(orders: Orders) -> Self {
        Self { orders: Some(orders) }
    }
}
