//! What happens to events: a file per operator; runs, routing, statistics.
//!
//! A [`Processor`] works on a batch in place. Linear runs of them are fused into one task that a worker calls; see
//! [`run`](mod@run). This room does no I/O.

pub mod operator;
mod processor;

pub use processor::{Flow, Output, Processor};
