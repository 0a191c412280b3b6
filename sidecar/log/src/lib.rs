//! The durable journal of a disk: every batch of every partition in one file after another, in the order they came.
//!
//! ```text
//!   append ──▶ group ──▶ storage thread: one write, one barrier ──▶ acknowledged, readable
//!              (batches of all partitions gather while the barrier before runs)
//!
//!   segment 7            segment 8            segment 9
//!   ┌────┬─────────────┐ ┌────┬─────────────┐ ┌────┬──────┬────────┐
//!   │head│a1 b1 a2 c1 …│ │head│b9 a7 c4 b10…│ │head│c8 a9 │ zeros  │
//!   └────┴─────────────┘ └────┴─────────────┘ └────┴──────┴────────┘
//!     what partitions there were when it began       ▲ the end: the next group goes here
//! ```
//!
//! A partition is an index over it, derived and never synced. An acknowledgement is given after the barrier that makes the
//! batch durable, and never by trying a failed one again. What a start finds after the durable frontier and can't read is a
//! torn end, which nobody was told of; what it can't read before the frontier is damage, reported by its range, and what
//! comes after it stays. `docs/explanation/journal.md` draws the format.
//!
//! It sees opaque bodies: what a record is, and who may push it, is the broker's business.

mod ahead;
mod around;
mod cache;
mod commit;
mod control;
mod error;
mod files;
mod footer;
mod head;
mod hold;
mod index;
mod journal;
mod keep;
mod pass;
mod read;
mod recover;
mod reserve;
mod scan;
mod settings;
mod state;
mod verify;
mod walk;

use std::fmt;

pub use commit::{Appending, Done, Receipt};
pub use error::{AppendError, OpenError, ReadError};
pub use hold::Hold;
pub use journal::{Journal, Steps};
pub use pass::Pass;
pub use read::{Read, StoredBatch};
pub use recover::Recovered;
pub use scan::{Damage, Lost};
pub use settings::Settings;
pub use state::{Bounds, Counts, Usage};
pub use verify::Verified;

/// The number of a partition in its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// The one that is always there, for what its user must not lose: it may use the reserve.
    pub const STATE: PartitionId = PartitionId(0);
    /// From this number on partitions are spilled queues', below it dnpipes': who serves the ones keeps off the others.
    pub const SPILLS: PartitionId = PartitionId(1 << 31);
    /// The journal's own notes: see `control`.
    pub(crate) const CONTROL: PartitionId = PartitionId(u32::MAX);
}

impl fmt::Display for PartitionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The process handed it to the kernel, which may take its time: it survives the process, not the machine.
    Memory,
    /// The same, and within [`Settings::flush`] the device has it.
    PageCache,
    /// The device has it: it survives kill, kernel crash and power cut.
    #[default]
    Device,
}
