//! Graphs in code: the pipelines of `sidestream`, built and run by a program of your own.
//!
//! ```no_run
//! use sidestream::{Event, Pipeline, Sidecar, SidecarConfig, stage::{Console, Filter}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let sidecar = Sidecar::start(SidecarConfig::default())?;
//! let running = Pipeline::new("orders")
//!     .push("in")
//!     .process("big", Filter { keep: "event.total > 100".into() })
//!     .sink("out", Console::default())
//!     .start(&sidecar)?;
//!
//! let order = Event::new([("total", 120)].into_iter().collect::<sidestream::Value>());
//! running.door("in")?.push(order).await?; // until the console has it
//! # Ok(())
//! # }
//! ```
//!
//! The builder makes the same resource that YAML is read into, and it passes the same compiler: a graph in code and the
//! same graph in a file have the same plan. Two kinds exist only here: a source that the program pushes into
//! ([`Pipeline::push`]) and a processor that the program brings ([`Pipeline::processor`]).
//!
//! A program that uses `https` addresses chooses rustls's provider first, as `sidestream` itself does:
//! `rustls::crypto::aws_lc_rs::default_provider().install_default()`.

mod graph;

pub use graph::{
    builder::Pipeline,
    kind::{ProcessKind, SinkKind, SourceKind},
    running::{Running, StartError, UnknownDoor},
};
pub use sidestream_crds::{Diagnostic, Severity};
pub use sidestream_event::{self as event, Batch, Event, Map, Mark, Value};
pub use sidestream_plan::{
    Delivery, Duration, Expression, Input, Latency, OnError, Overflow, Plan, Priority, Retry, SecretRef,
    Size, stage,
};
pub use sidestream_sidecar::{
    Door, Drained, Flow, Ledger, Output, Processor, PushError, ReloadError, Reloaded, RingView, Secrets,
    Sidecar, SidecarConfig, StageView, World, observe,
};
