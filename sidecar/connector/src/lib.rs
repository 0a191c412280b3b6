//! Sources and sinks: the two faces of one outside system per file.
//!
//! ```text
//!   outside ──▶ source ──Intake──▶ ring ──▶ stages ──▶ ring ──▶ sink ──▶ outside
//!                 ▲                                              │
//!                 └───────── Origin: settled, released ◀─────────┘
//! ```
//!
//! A connector knows its outside system and nothing else: no scheduler, no other stage, no retry policy. How it wants
//! to be run it says by its variant of [`Source`] or [`Sink`]; the sidecar gives it a worker, a thread or a task.

mod alertmanager;
mod blackhole;
pub mod build;
mod console;
mod dnpipe;
mod error;
mod file;
mod generator;
mod host_metrics;
mod http;
mod intake;
mod letter;
mod lines;
mod origin;
mod prometheus;
mod secrets;
mod sink;
mod source;
mod stdin;
mod webhook;

pub use dnpipe::ExactlyOnce;
pub use error::{BuildError, Failure, Undelivered};
pub use intake::{Intake, Receipt, Refusal, Stop, Stopped, intake};
pub use origin::{Ledger, Origin};
pub use secrets::Secrets;
pub use sidestream_client::Address;
pub use sidestream_event::{ERROR_HEADER, STAGE_HEADER};
pub use sink::{AsyncSink, BlockingSink, InlineSink, Sink};
pub use source::{AsyncSource, BlockingSource, Filled, PolledSource, Source};

use std::{future::Future, pin::Pin, sync::Arc};

use sidestream_event::{Event, Value};
use sidestream_host::Clock;
use sidestream_plan::Expression;

/// A future that a trait object gives.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An expression made ready to be asked of events.
pub type Evaluate = Box<dyn Fn(&Event) -> Result<Value, String> + Send + Sync>;

/// What makes an expression ready, or says what is wrong with it.
pub type Compile = dyn Fn(&Expression) -> Result<Evaluate, String> + Send + Sync;

/// Where a server of a dnpipe is, by the namespace and the pool of that; or why nobody knows.
pub type Servers = dyn Fn(&str, &str) -> Result<Address, String> + Send + Sync;

/// What connectors are built in.
#[derive(Clone)]
pub struct Environment {
    /// `namespace/name` of the pipeline.
    pub pipeline: String,
    /// What time it is.
    pub clock: Clock,
    /// Where secrets are read.
    pub secrets: Secrets,
    /// The servers of dnpipes, where this process knows some.
    pub dnpipes: Option<Arc<Servers>>,
    /// For a stage by which each result is to be there exactly once.
    pub exactly_once: Option<ExactlyOnce>,
    /// Compiles an expression; the error is its text. Given from outside, because this room knows no expressions.
    pub compile: Arc<Compile>,
}
