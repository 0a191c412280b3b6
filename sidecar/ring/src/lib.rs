//! Lock-free queues; the only door to atomics.
//!
//! Everything two threads share passes through this crate. [`sync`] is the switch: the same code runs on the
//! standard library, on loom (`--cfg loom`, every interleaving) and on shuttle (`--cfg shuttle`, random ones).
//! On top of it stand the primitives, each with a loom model beside its tests:
//!
//! ```text
//!   channel     what joins two stages: a ring, the weight in it, a movable limit, two wakers
//!      └─ spsc        one producer, one consumer; batches written and read in place
//!   fan_in      many inputs, one taker, in turn          broadcast   one publisher, many readers of one copy
//!   eventcount  how a thread sleeps without missing work
//!   shelf       a fixed number of places that many look at while few change them
//! ```
//!
//! It must never block on a hot path, allocate after construction, or know what it carries.
#![allow(
    unsafe_code,
    reason = "this is the room where shared mutable memory lives; each block states its proof"
)]
#![allow(clippy::disallowed_types, reason = "`sync` is where the raw atomics are wrapped for everyone else")]

pub mod broadcast;
pub mod channel;
pub mod eventcount;
pub mod fan_in;
pub mod shelf;
mod slots;
pub mod spsc;
pub mod sync;

pub use channel::{Gauge, Receiver, Refused, Sender, Weigh, channel};
pub use crossbeam_utils::CachePadded;
pub use eventcount::EventCount;
pub use fan_in::FanIn;
