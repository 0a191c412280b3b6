//! What happens to events: a file per operator; runs, routing, statistics.
//!
//! ```text
//!   Inlet ─▶ [ operator ─▶ operator ─▶ … ] ─▶ Outlet ─▶ rings
//!              └────────── a Run ─────────┘
//! ```
//!
//! A [`Processor`] works on a batch in place. Linear runs of them are fused into one [`Run`] that a worker calls. This
//! room does no I/O, and knows stages only by the structs of the plan.

mod inlet;
pub mod operator;
mod outlet;
mod processor;
mod run;
mod stats;

pub use inlet::{Fed, Feed, Inlet, Input};
pub use outlet::{Outlet, Route};
pub use processor::{Flow, Output, Processor};
pub use run::{DeadLetter, Heir, Operator, Run, Stage, TIMED_EVERY, WakeOnDrop, addressed};
pub use stats::{HISTOGRAM_BUCKETS, Histogram, StageStats, Tap};
