//! The protocol of an edge, without sockets, clocks or threads: bytes in, bytes out.
//!
//! ```text
//!   Sending (one for each receiving peer)                     Receiving (one for each sending peer)
//!     push ─▶ kept, numbered ──Batch──────────────────────────▶ next? ─▶ the stages
//!               │    ▲                                             │       │       │
//!               │    └── closed: kept; open again: from `next` ◀───┘    settle  release
//!               ├─ answer ◀──Acknowledge (settled before n; ──────────────┘       │
//!               └─ let go ◀── released before m; credit) ─────────────────────────┘
//! ```
//!
//! A batch is *settled* when each of its events is delivered, filtered away or taken into a state: its source is answered.
//! It is *released* when no state holds anything of it any more: until then it is kept, and the position of its source
//! stays behind it, because a receiver that dies takes its state with it.
//!
//! Of a batch that is settled the sender hears too how many of its events did not end well, and how: its source is then
//! answered as if the stages were here.
//!
//! A connection that breaks loses nothing: the next one begins with what the receiver wants next, so a receiver that lives
//! gets every batch once and in order. A receiver that is new (another session) gets everything that is not released; what
//! the old one had taken is repeated to it.
//!
//! Credit is the cost of batches on this connection, see [`cost`]: the receiver says up to which it takes them, and a
//! sender that goes further is cut off. Neither end allocates for what the other only announces.

mod frame;
mod frontier;
mod receiving;
mod sending;

pub use frame::{Ended, Frame, FrameReader, Hello, ProtocolError, Refused, Welcome};
pub use receiving::{Receiving, Taken};
pub use sending::{Done, Held, Kept, Sending};

/// The longest frame, and with it the longest batch: an event that does not fit is refused by its sender.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// What the batches may cost that a receiver holds for each sender, beside what its rings hold.
pub const CREDIT_BYTES: u64 = 8 << 20;
/// What the batches may cost that are kept for a peer only because its state holds them: this much of what a long window
/// has taken comes again when its peer dies, without a replay from the source.
pub const HELD_BYTES_MAX: u64 = 16 << 20;
const _: () =
    assert!(CREDIT_BYTES >= FRAME_BYTES_MAX as u64, "the longest batch must fit, or it would never go");

/// What a batch with so many bytes of events costs of the credit: its bytes, and what holding one takes besides, so that
/// credit bounds the number of batches too.
pub const fn cost(events: usize) -> u64 {
    events as u64 + BATCH_BYTES
}

const BATCH_BYTES: u64 = 256;
