//! Queues that go to disk: what waits for a stage whose `input` says `overflow: Spill`.
//!
//! ```text
//!   Writer ──▶ tail, in memory ───────────────────────────▶ Reader ──▶ out, until released
//!                │ too much, too long, or the end              ▲
//!                └──▶ partition of the journal, then disk ─────┘
//!                     durable: its source is answered
//! ```
//!
//! While the stage keeps up, events pass through memory and their source is answered when the stages behind have settled them,
//! as on any other way. When more wait than may, when one has waited for seconds, or when the pipeline ends, **everything that
//! is not settled** goes to the journal, in order, also what was handed out already. A batch that is durable there is
//! acknowledged: its source is answered and may forget it, because from then on this queue is its source. Whatever comes after it
//! goes to the journal too until all of that was handed out, so there is one order, that of arrival, in memory, on the disk and
//! after a crash.
//!
//! The partition is trimmed behind what no state behind it holds any more. A start finds the rest and begins with it: nothing is
//! lost, and what was delivered and not yet trimmed comes once more.
//!
//! A full quota, a full disk or a failing one makes the writer wait; nothing is ever dropped for want of room. What the disk
//! lost is counted and logged by its offsets. What waits for a stage that is no more stays, and is handed to the next stage of
//! that name.
//!
//! It never holds more in memory than its capacity in events and 16 MiB, beside what was handed out and is not settled.

mod encode;
mod owed;
mod queue;
mod spills;
mod spool;
mod stored;

pub use spills::{Limits, Spills, View};
pub use spool::{Handed, Reader, Spool, Writer};
pub use stored::Name;
