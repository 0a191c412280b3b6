//! What flows: an [`Event`] in a [`Batch`], and the [`Mark`] that remembers whose it was.
//!
//! A source fills a batch and marks it; operators change the batch in place; whoever ends an event
//! (a sink, a filter, a window that took it in) lets its mark go, and the last one to let go settles the promise
//! the source made. Payloads (`Text`, `Bytes`, `Map`, `List`) are reference-counted: cloning an event for a second
//! branch copies no payload, and changing a shared map copies that map alone.
//!
//! This room knows no stage, no ring, no clock and no I/O.

mod batch;
mod event;
pub mod frame;
mod hash;
pub mod json;
mod map;
mod mark;
pub mod native;
mod pool;
pub mod prometheus;
pub mod record;
mod spares;
mod time;
mod value;
mod varint;

pub use batch::Batch;
pub use bytes::Bytes;
pub use event::{Context, ERROR_HEADER, Event, Meta, STAGE_HEADER};
pub use hash::fnv1a;
pub use map::{Builder, Map};
pub use mark::{Hold, Mark, Outcome, Settle, Settled, Span};
pub use pool::Pool;
pub use spares::Spares;
pub use time::Timestamp;
pub use value::{List, Text, Value};
