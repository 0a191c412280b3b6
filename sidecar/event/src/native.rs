//! The native protocol of dnpipes: what a client and a gateway say to each other, and how it looks on a wire.
//!
//! ```text
//!   client                                             gateway
//!     | preamble: magic, versions it speaks  ------------> |
//!     | <------------ preamble: magic, the version, verdict |
//!     | frame (request 1) -------------------------------> |
//!     | frame (request 2) -------------------------------> |   answers come in any order, each with the
//!     | <------------------------------- frame (answer 2)  |   number of its request
//!     | <------------------------------- frame (answer 1)  |
//! ```
//!
//! A frame is a small head, which postcard writes, and a tail of record batches that are the same bytes here, in the journal
//! and at the reader: nobody copies or re-encodes them. [`Frames`] takes bytes as they come and gives whole frames; it never
//! makes room for what a length only claims. `docs/reference/native-protocol.md` has the layout for other languages.
//!
//! This file does no I/O and knows no broker.

mod answer;
mod frame;
mod moving;
mod name;
mod places;
mod preamble;
mod refusal;
mod request;

use std::time::Duration;

pub use answer::{
    Answer, Claimed, DamageView, DiskView, DnpipeView, GroupView, Incarnation, MemberView, PartitionView,
    Share, Verified,
};
pub use frame::{FRAME_BYTES_MAX, Frame, FrameError, Frames, HEAD_BYTES_MAX, PREFIX_BYTES, write_frame};
pub use moving::{MoveAnswer, MoveRequest};
pub use name::{BadName, DnpipeName, NAME_BYTES_MAX, NAMESPACE_BYTES_MAX};
pub use places::{read_places, write_places};
pub use preamble::{MAGIC, PREAMBLE_BYTES, Preamble, PreambleError, Verdict, choose};
pub use refusal::Refusal;
pub use request::{Conditions, From, Member, Request};

/// The oldest version of the protocol that is spoken here.
pub const VERSION_MIN: u16 = 1;
/// The newest version of the protocol that is spoken here.
pub const VERSION_MAX: u16 = 1;
/// How long after it asked for them a reader hands out records, before it asks again whether there was a reset. A gateway
/// answers a reset when this is over for all that it gave before.
pub const HANDED_OUT_WITHIN: Duration = Duration::from_millis(100);
/// The name of the protocol in a TLS handshake (RFC 7301).
pub const ALPN: &[u8] = b"sidestream-dnpipe/1";

/// The partition of a key: [`fnv1a`](crate::fnv1a) of its bytes, modulo the partitions. Every client computes the same, for
/// ever: a key's records are in order because they meet in one partition.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (crate::fnv1a(key) % u64::from(partitions.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the algorithm's own test vectors: FNV-1a of "", "a" and "foobar".
    #[test]
    fn the_partition_of_a_key_is_the_same_for_ever() {
        assert_eq!(partition_of(b"", u32::MAX), (0xcbf2_9ce4_8422_2325_u64 % u64::from(u32::MAX)) as u32);
        assert_eq!(partition_of(b"a", 1000), (0xaf63_dc4c_8601_ec8c_u64 % 1000) as u32);
        assert_eq!(partition_of(b"foobar", 1000), (0x8594_4171_f739_67e8_u64 % 1000) as u32);
        assert_eq!((partition_of(b"any", 1), partition_of(b"any", 0)), (0, 0));
    }
}
