//! The control plane: Pipelines in, cluster state out.
//!
//! ```text
//!                        ┌──────────── operator ─────────────────────────────┐
//!  Pipeline ──watch──▶   │ controllers: compile, desired, apply, status      │ ──▶ workloads, status, events
//!                        │      │ plans ▼        ▲ acknowledgements          │
//!                        │    control::Fleet                                 │
//!  sidecars ══ mTLS ═══▶ │ control: Sync      Certify ◀── trust: the roots   │
//!                        └───────────────────────────────────────────────────┘
//! ```
//!
//! Every replica serves `Certify`; the holder of the Lease alone writes to the API server and serves `Sync`. What runs
//! on the cluster needs no operator to go on: this program may be gone at any time. It holds nothing that the API server
//! does not, and never touches what it has not made.

pub mod apply;
pub mod control;
pub mod controllers;
pub mod lease;
pub mod metrics;
pub mod observed;
pub mod settings;
pub mod status;
pub mod stirred;
pub mod trust;
pub mod user_pods;
pub mod webhook;

mod run;

pub use run::{RunError, run};
