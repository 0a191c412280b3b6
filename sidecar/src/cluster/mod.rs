//! In a cluster: who this process is and what it runs, it hears from the operator.
//!
//! ```text
//!   anchors, token ──▶ enrol ──certificate──▶ Identity ──▶ edges, and the line to the operator
//!                        ▲ again at 60 % of its life             │
//!                        └──── a new issuer ──── orders ◀────────┘
//!                                                  │ plans        ▲ applied, ready, drained
//!                                                  ▼              │
//!                                                Duty ──▶ Fleet ──┤
//!                                                  ╰──▶ PoolServer, where it serves dnpipes
//! ```
//!
//! What was heard is kept: the identity in memory-backed files, the plans in a cache. So a container that starts again
//! needs nobody, and while the operator is away everything goes on.

mod cache;
mod call;
mod duty;
mod enrol;
mod moves;
mod orders;
mod pool;
mod pools;
mod whole;

use std::{fmt, path::PathBuf};

use sidestream_trust::SpiffeId;

pub use cache::PlanCache;
pub use duty::Duty;
pub use enrol::{Enrolled, enrol};
pub use orders::{Order, Orders, Standing, follow};
pub use pool::PoolServer;
pub use pools::pools;
pub(crate) use whole::write_whole;

/// Where the operator is, and where this pod keeps what it hears.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of the operator's control server.
    pub operator: String,
    /// Who the operator is.
    pub operator_id: SpiffeId,
    /// This pod's name.
    pub pod: String,
    /// This pod's namespace.
    pub namespace: String,
    /// The file of the pod's token; the kubelet renews it.
    pub token: PathBuf,
    /// The file of the first anchors; the kubelet renews it.
    pub anchors: PathBuf,
    /// A folder in memory for key and certificate.
    pub identity: PathBuf,
    /// A folder for plans.
    pub cache: PathBuf,
}

/// Why the operator could not be asked.
#[derive(Debug)]
pub enum ClusterError {
    /// A file that the pod was given cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// What the machine said.
        error: std::io::Error,
    },
    /// Certificates do not fit.
    Trust(sidestream_trust::TrustError),
    /// The operator is reached, and does not prove to be who it should be.
    Unproved {
        /// Where it was looked for.
        operator: String,
        /// What is wrong with its proof.
        reason: String,
    },
    /// The operator is not reached.
    Unreachable {
        /// Where it was looked for.
        operator: String,
        /// What happened.
        error: String,
    },
    /// The operator said no.
    Refused(tonic::Status),
}

impl fmt::Display for ClusterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterError::File { path, error } => write!(out, "cannot read {}: {error}", path.display()),
            ClusterError::Trust(error) => error.fmt(out),
            ClusterError::Unproved { operator, reason } => {
                write!(out, "who answers at {operator} does not prove to be the operator: {reason}")
            }
            ClusterError::Unreachable { operator, error } => {
                write!(out, "cannot reach the operator at {operator}: {error}")
            }
            ClusterError::Refused(status) => {
                write!(out, "the operator refused: {} ({:?})", status.message(), status.code())
            }
        }
    }
}

impl std::error::Error for ClusterError {}

impl From<sidestream_trust::TrustError> for ClusterError {
    fn from(error: sidestream_trust::TrustError) -> Self {
        ClusterError::Trust(error)
    }
}
