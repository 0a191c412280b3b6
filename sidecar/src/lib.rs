//! The data plane: a plan becomes running stages.
//!
//! ```text
//!   Plan ─▶ prepare ─▶ assemble ─▶ Pipeline ── runs on the scheduler's workers
//!             │ (may fail,             ├────── sources and sinks on threads and the socket runtime
//!             │  touches nothing)      └────── reload: a new plan, kept stages keep their state
//! ```
//!
//! [`assemble`](mod@assemble) is the picture of the data path, to be read top-down. This room is the only place that
//! sees all rooms together; it knows no YAML and no Kubernetes.

#[cfg(unix)]
mod app;
mod assemble;
mod backoff;
pub mod cluster;
mod dnpipes;
mod door;
mod edge;
mod fleet;
mod halt;
mod latch;
mod leaving;
mod local;
pub mod observe;
mod pipeline;
mod prepare;
mod reload;
mod signals;
mod sink;
mod source;
mod spill;
mod world;

#[cfg(unix)]
pub use app::AppSocket;
pub use dnpipes::{Dnpipes, ServeDnpipesError};
pub use door::{Door, PushError};
pub use fleet::{Fleet, News, Wanted};
pub use local::{JoinError, Neighbours, Seat};
pub use pipeline::{Drained, Pipeline, RingView, StageView};
pub use prepare::AssembleError;
pub use reload::{ReloadError, Reloaded};
pub use sidestream_connector::{Ledger, Secrets};
pub use sidestream_graph::{Flow, Histogram, Output, Processor, StageStats};
pub use signals::{Asked, Signals};
pub use spill::{SPILL_BYTES_MAX, SpillError};
pub use world::{Registry, Sidecar, SidecarConfig, World};
