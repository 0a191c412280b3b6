//! Edges: mTLS peers that carry events from one sidecar to another.
//!
//! ```text
//!   sink ─▶ EdgeSender ─┬─ peer ═ link ═ TLS 1.3 ═══▶ listener ═ link ─┐
//!            ▲          └─ peer ═ link ═ TLS 1.3 ═══▶ …                 ├─▶ EdgeReceiver ─▶ source
//!            └─ discovery: DNS says where, SPIFFE IDs say who           │
//!                                        one listener for a process ────┘
//! ```
//!
//! [`link`] is the protocol, without sockets. [`EdgeSender`] keeps a link to every receiving peer that DNS knows and gives
//! each batch to a near one or the least loaded, or each event to the peer that owns its [`Slot`]. [`Peering`] holds what a process shares among its edges: its identity, its one
//! listener, and how it looks for peers. Both ends prove themselves by TLS; a caller names pipeline and edge, and is let
//! in only where a running plan declares that edge for it.
//!
//! This room sees events as batches to be written and read, and knows no plan, no stage and no Kubernetes.

mod dial;
mod discover;
mod encode;
pub mod link;
mod listen;
mod owed;
mod peer;
mod peering;
mod receiver;
mod roster;
mod sender;
mod slots;
mod stats;
mod unreleased;
mod wire;

pub use dial::DialError;
pub use discover::{Dns, Fixed, Place, Resolve, ResolveError};
pub use peering::{Peering, PeeringConfig};
pub use receiver::{Arrived, EdgeReceiver, Unsettled};
pub use sender::{EdgeSender, Target};
pub use slots::{Slot, Slots};
pub use stats::{EdgeView, Side};
pub use unreleased::{ByPosition, Unreleased};
pub use wire::Transport;

use std::{fmt, future::Future, pin::Pin};

/// The port that receivers listen on where nobody says otherwise.
pub const PORT: u16 = 7443;

/// Which edge: `namespace/name` of the pipeline, and the edge's name in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeName {
    /// `namespace/name`.
    pub pipeline: String,
    /// Unique in the pipeline.
    pub edge: String,
}

impl fmt::Display for EdgeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.pipeline, self.edge)
    }
}

/// A future that a trait object gives.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
