//! Identity: who a process is, how it proves it, and whom it believes.
//!
//! ```text
//!   Request ──CSR──▶ Authority ──chain──▶ Credentials ──▶ Identity ──▶ rustls configurations
//!   (key stays here)  (names computed     (key, chain,     (hot swap)    TLS 1.3 only, both ends
//!                      by the issuer)      anchors)                       proved by SPIFFE ID
//! ```
//!
//! A name is a [`SpiffeId`]; where a peer stands in the network proves nothing. A leaf is believed when its chain ends
//! at an anchor, it is valid now, it is made for this side of a handshake, and it carries exactly one SPIFFE ID, which
//! is the expected one. Private keys leave a process only as [`Credentials::to_pem`], for a file in memory.
//!
//! This room knows no Kubernetes, no socket and no edge; what time it is, it asks the host's clock.

mod anchors;
mod authority;
mod error;
mod identity;
mod leaf;
mod pem;
mod request;
mod spiffe;
mod tls;

pub use anchors::Anchors;
pub use authority::Authority;
pub use error::{Refusal, TrustError};
pub use identity::{Credentials, Identity};
pub use request::Request;
pub use rustls;
pub use spiffe::{SpiffeError, SpiffeId};
pub use tls::{Callers, Peer, anonymous_client_config, peer, peer_id, reason, server_name};
