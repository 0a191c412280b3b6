//! What one sidecar runs: the checked, resolved form of a Pipeline.
//!
//! [`stage`] holds the one struct of every stage kind: the CustomResourceDefinition embeds it, the compiler checks it,
//! and the room that runs the kind receives it. Nothing is written twice. A [`Plan`] is data: it is serialised to reach
//! a sidecar, printed by `sidestream plan`, and compared with its predecessor on a reload.
//!
//! This crate knows no other room, no YAML and no Kubernetes.

pub mod dnpipe;
mod plan;
pub mod quantity;
pub mod stage;
mod union;

pub use dnpipe::Dnpipe;
pub use plan::{
    Delivery, Input, Latency, OnError, Overflow, PLAN_VERSION, Plan, Priority, Retry, Run, Stage,
};
pub use quantity::{Duration, Expression, SecretKey, SecretRef, Size};
pub use stage::{Kind, Process, Sink, Source};
