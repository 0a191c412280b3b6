//! Record batches: what is pushed to a dnpipe and pulled from it, the same bytes on the wire and on the disk.
//!
//! ```text
//!   batch := header (112 bytes), body          little endian; the header's numbers by their place:
//!
//!        0         4    5     6                8                     12
//!     0  │ length  │ v1 │flags│ header length  │ partition           │ leader epoch        │
//!    16  │ base offset                         │ reset epoch         │ count               │
//!    32  │ base time (ns)                      │ producer id                               │
//!    48  │ producer epoch     │ skipped        │ first sequence                            │
//!    64  │ chain              │ body crc       │ append time (ns)                          │
//!    80  │ source position                     │ place                                     │
//!    96  │ frontier           │ salt             │ spare             │ header crc          │
//!
//!   body   := record*                         as many as `count`, to its end
//!   record := length varint                   bytes of the rest of the record
//!             time zigzag                     nanoseconds after the base time
//!             key varint, bytes               length + 1; 0 is no key
//!             headers varint, (name str, value str)*
//!             value                           the rest
//!   str    := length varint, bytes            a name is UTF-8
//!   varint, zigzag: as in Protocol Buffers; sums are CRC32C (RFC 3720, B.4)
//! ```
//!
//! A pusher writes the body, its sum and the header's count, times, producer, position and flags. The server gives the
//! batch its place: partition, offset, epochs, append time, `skipped`; its journal adds chain, place and frontier. The body is
//! never copied, taken apart or written anew on its way to the disk and from there to whoever pulls it, but for a dnpipe that
//! is encrypted there: then the flag `sealed` and `salt` are the server's own, and no client sees them.
//!
//! A batch may come from anybody: reading makes nothing, neither for what a header claims nor for what a body holds.

mod compress;
mod read;
mod write;

use std::fmt;

use bytes::Bytes;

pub use compress::{compress, expand};
pub use read::{Headers, Record, Records, records};
pub use write::BatchWriter;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 112;
/// Bytes that a batch may have, header included: what a server must be ready to take in at once from one client.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Bytes that a body grows by when a server encrypts it for its disk: writers leave room for them.
pub const SEAL_BYTES: usize = 16;
/// Bytes that a record may have as it is written in a body, its own length excluded.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// The header of a record that holds its message's id: what a dnpipe with a dedupe window goes by.
pub const MESSAGE_ID: &str = "message-id";
/// The version of the format that this program writes, and the only one it reads.
pub const VERSION: u8 = 1;

/// What a batch says of itself before its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes of header and body.
    pub length: u32,
    /// How the body is wrapped.
    pub flags: Flags,
    /// The partition's number in the journal that holds it; 0 from a client.
    pub partition: u32,
    /// Which reign of the partition's server wrote it: grows with every start.
    pub leader_epoch: u32,
    /// The offset of the first record; 0 from a client.
    pub base_offset: u64,
    /// How many resets the dnpipe had seen.
    pub reset_epoch: u32,
    /// Records in the body.
    pub count: u32,
    /// What the records' times count from: nanoseconds since 1970, by the pusher's clock.
    pub base_time: i64,
    /// Who pushes, for exact deduplication; 0 is nobody.
    pub producer_id: u64,
    /// Which incarnation of the producer: a lower one than the server knows is refused.
    pub producer_epoch: u32,
    /// Records of the push that the server left out because it had them already; they had sequence numbers too.
    pub skipped: u32,
    /// The producer's number of the first record; the ones after it follow on.
    pub first_sequence: u64,
    /// The header sum of the batch before this one in the journal.
    pub chain: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// When the server took it: nanoseconds since 1970, never lower than in the batch before it in the partition.
    pub append_time: i64,
    /// For results of a pipeline: the offset after the last source record they were computed from; 0 is none.
    pub position: u64,
    /// Where the journal put it: segment << 32 | byte in it. A batch found elsewhere is a copy, or was misplaced.
    pub place: u64,
    /// Everything before this byte of the segment was durable when the journal wrote this batch.
    pub frontier: u32,
    /// What the key of a sealed body was made with; 0 where it is not sealed.
    pub salt: u32,
}

/// How a body is wrapped; only who can unwrap it can read its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// The records as they are.
    pub const PLAIN: Flags = Flags(0);
    /// Compressed by its pusher.
    pub const COMPRESSED: Flags = Flags(1);
    /// Encrypted by its pusher, after compression where there is one.
    pub const ENCRYPTED: Flags = Flags(2);
    /// Encrypted by the server that stores it, around all else: only servers ever see it.
    pub const SEALED: Flags = Flags(4);

    /// These and those.
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These and not those.
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// As they are written.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl Header {
    /// Reads the header that `bytes` begin with. Everything is checked that can be without the body: a header that is
    /// returned was written by a program of this version, whole, and claims nothing impossible.
    pub fn read(bytes: &[u8]) -> Result<Header, RecordError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(RecordError::Cut { wanted: HEADER_BYTES, found: bytes.len() });
        };
        if bytes[4] != VERSION {
            return Err(RecordError::Version { found: bytes[4] });
        }
        if usize::from(u16::from_le_bytes(at(bytes, 6))) != HEADER_BYTES {
            return Err(RecordError::HeaderLength { found: u16::from_le_bytes(at(bytes, 6)) });
        }
        if header_sum(bytes) != u32::from_le_bytes(at(bytes, HEADER_BYTES - 4)) {
            return Err(RecordError::HeaderSum);
        }
        let header = Header {
            length: u32::from_le_bytes(at(bytes, 0)),
            flags: Flags(bytes[5]),
            partition: u32::from_le_bytes(at(bytes, 8)),
            leader_epoch: u32::from_le_bytes(at(bytes, 12)),
            base_offset: u64::from_le_bytes(at(bytes, 16)),
            reset_epoch: u32::from_le_bytes(at(bytes, 24)),
            count: u32::from_le_bytes(at(bytes, 28)),
            base_time: i64::from_le_bytes(at(bytes, 32)),
            producer_id: u64::from_le_bytes(at(bytes, 40)),
            producer_epoch: u32::from_le_bytes(at(bytes, 48)),
            skipped: u32::from_le_bytes(at(bytes, 52)),
            first_sequence: u64::from_le_bytes(at(bytes, 56)),
            chain: u32::from_le_bytes(at(bytes, 64)),
            body_crc: u32::from_le_bytes(at(bytes, 68)),
            append_time: i64::from_le_bytes(at(bytes, 72)),
            position: u64::from_le_bytes(at(bytes, 80)),
            place: u64::from_le_bytes(at(bytes, 88)),
            frontier: u32::from_le_bytes(at(bytes, 96)),
            salt: u32::from_le_bytes(at(bytes, 100)),
        };
        header.is_possible()?;
        Ok(header)
    }

    /// Writes it, with its sum.
    pub fn write(&self, out: &mut [u8; HEADER_BYTES]) {
        *out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&self.length.to_le_bytes());
        out[4] = VERSION;
        out[5] = self.flags.0;
        out[6..8].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
        out[8..12].copy_from_slice(&self.partition.to_le_bytes());
        out[12..16].copy_from_slice(&self.leader_epoch.to_le_bytes());
        out[16..24].copy_from_slice(&self.base_offset.to_le_bytes());
        out[24..28].copy_from_slice(&self.reset_epoch.to_le_bytes());
        out[28..32].copy_from_slice(&self.count.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_time.to_le_bytes());
        out[40..48].copy_from_slice(&self.producer_id.to_le_bytes());
        out[48..52].copy_from_slice(&self.producer_epoch.to_le_bytes());
        out[52..56].copy_from_slice(&self.skipped.to_le_bytes());
        out[56..64].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[64..68].copy_from_slice(&self.chain.to_le_bytes());
        out[68..72].copy_from_slice(&self.body_crc.to_le_bytes());
        out[72..80].copy_from_slice(&self.append_time.to_le_bytes());
        out[80..88].copy_from_slice(&self.position.to_le_bytes());
        out[88..96].copy_from_slice(&self.place.to_le_bytes());
        out[96..100].copy_from_slice(&self.frontier.to_le_bytes());
        out[100..104].copy_from_slice(&self.salt.to_le_bytes());
        let sum = header_sum(out);
        out[HEADER_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    }

    /// Bytes of the body.
    pub const fn body_length(&self) -> usize {
        self.length as usize - HEADER_BYTES
    }

    /// The offset after the last record.
    pub const fn next_offset(&self) -> u64 {
        self.base_offset + self.count as u64
    }

    /// The producer's number after those of this push.
    pub const fn next_sequence(&self) -> u64 {
        self.first_sequence + self.count as u64 + self.skipped as u64
    }

    /// Whether `body` is the one this header was written for.
    pub fn check(&self, body: &[u8]) -> Result<(), RecordError> {
        if body.len() != self.body_length() {
            return Err(RecordError::Cut { wanted: self.body_length(), found: body.len() });
        }
        if crc32c::crc32c(body) != self.body_crc {
            return Err(RecordError::BodySum);
        }
        Ok(())
    }

    /// Refuses what no batch can say of itself: [`read`](Header::read) gives no such header.
    pub fn is_possible(&self) -> Result<(), RecordError> {
        let length = self.length as usize;
        if !(HEADER_BYTES..=BATCH_BYTES_MAX).contains(&length) {
            return Err(RecordError::Length { found: self.length });
        }
        if self.flags.0 & !Flags::COMPRESSED.and(Flags::ENCRYPTED).and(Flags::SEALED).0 != 0 {
            return Err(RecordError::UnknownFlags { found: self.flags.0 });
        }
        if self.count == 0 {
            return Err(RecordError::Empty);
        }
        let is_plain = self.flags == Flags::PLAIN;
        let most = if is_plain { self.body_length() } else { BATCH_BYTES_MAX } / LEAST_RECORD_BYTES;
        let fits = |first: u64, more: u64| first.checked_add(u64::from(self.count) + more).is_some();
        if self.count as usize > most
            || !fits(self.base_offset, 0)
            || !fits(self.first_sequence, u64::from(self.skipped))
        {
            return Err(RecordError::Count { found: self.count });
        }
        Ok(())
    }
}

/// Takes a batch apart: its header and its body, which is a slice of `batch`. Both sums are checked, and that nothing
/// follows.
pub fn split(batch: &Bytes) -> Result<(Header, Bytes), RecordError> {
    let header = Header::read(batch)?;
    let body = batch.slice(HEADER_BYTES..);
    header.check(&body)?;
    Ok((header, body))
}

/// Why bytes are no batch, or a batch can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// There are fewer bytes, or more, than there should be.
    Cut {
        /// Bytes that should be there.
        wanted: usize,
        /// Bytes that are.
        found: usize,
    },
    /// Written by another version.
    Version {
        /// The version.
        found: u8,
    },
    /// A header of another length than this version's.
    HeaderLength {
        /// Its bytes.
        found: u16,
    },
    /// The header's sum is not that of its bytes.
    HeaderSum,
    /// The body's sum is not the one its header gives.
    BodySum,
    /// Flags this version knows nothing of.
    UnknownFlags {
        /// All of them.
        found: u8,
    },
    /// Shorter than a header or longer than a batch may be.
    Length {
        /// Bytes it claims.
        found: u32,
    },
    /// No records.
    Empty,
    /// More records than the bytes, or the numbers that are left for them, can hold.
    Count {
        /// Records it claims.
        found: u32,
    },
    /// The body holds another number of records than its header says.
    Miscounted {
        /// What the header says.
        claimed: u32,
    },
    /// A length or number that makes no sense, at this byte of the body.
    Nonsense {
        /// Where.
        at: usize,
    },
    /// The name of a record's header is not UTF-8.
    NotText {
        /// Where.
        at: usize,
    },
    /// A record larger than any may be.
    RecordTooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// The record does not fit into what is left of this batch; it fits into an empty one.
    BatchFull {
        /// Bytes it needs.
        bytes: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A compressed body that is none, or stands for another number of bytes than it says, or for too many.
    Packed {
        /// Bytes it says it stands for.
        claimed: u32,
    },
    /// The records can't be seen before the body is decrypted or decompressed.
    Wrapped {
        /// How it is wrapped.
        flags: Flags,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Cut { wanted, found } => write!(out, "{found} bytes of a batch instead of {wanted}"),
            RecordError::Version { found } => {
                write!(
                    out,
                    "a batch of version {found}, and this program knows {VERSION}: use programs of one release"
                )
            }
            RecordError::HeaderLength { found } => {
                write!(out, "a batch header of {found} bytes, and version {VERSION} has {HEADER_BYTES}")
            }
            RecordError::HeaderSum => {
                out.write_str("the sum of a batch header is wrong: its bytes were changed on their way")
            }
            RecordError::BodySum => {
                out.write_str("the sum of a batch body is wrong: its bytes were changed on their way")
            }
            RecordError::UnknownFlags { found } => {
                write!(out, "a batch with flags {found:#04x}, which version {VERSION} does not know")
            }
            RecordError::Length { found } => {
                write!(
                    out,
                    "a batch of {found} bytes; one has {HEADER_BYTES} to {BATCH_BYTES_MAX}: push smaller batches"
                )
            }
            RecordError::Empty => out.write_str("a batch without records: push at least one"),
            RecordError::Count { found } => write!(out, "a batch can't hold the {found} records it claims"),
            RecordError::Miscounted { claimed } => {
                write!(out, "a batch does not hold the {claimed} records it claims")
            }
            RecordError::Nonsense { at } => write!(out, "a batch makes no sense at byte {at} of its body"),
            RecordError::NotText { at } => {
                write!(out, "the name of a record's header, at byte {at} of a batch body, is not UTF-8")
            }
            RecordError::RecordTooLarge { bytes } => {
                write!(
                    out,
                    "a record of {bytes} bytes; one has {RECORD_BYTES_MAX} at most: push it in parts, or where it is"
                )
            }
            RecordError::BatchFull { bytes, left } => {
                write!(
                    out,
                    "a record of {bytes} bytes in a batch with {left} left: send the batch, begin another"
                )
            }
            RecordError::Packed { claimed } => {
                write!(out, "a compressed batch does not hold the {claimed} bytes it claims")
            }
            RecordError::Wrapped { flags } => {
                let is_encrypted = flags.has(Flags::ENCRYPTED) || flags.has(Flags::SEALED);
                let how = if is_encrypted { "encrypted" } else { "compressed" };
                write!(out, "the records of a batch can't be seen: it is {how}")
            }
        }
    }
}

impl std::error::Error for RecordError {}

/// Length, time, key and headers are a byte each where they are small, or nothing.
pub const LEAST_RECORD_BYTES: usize = 4;

fn header_sum(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c(&header[..HEADER_BYTES - 4])
}

/// The `N` bytes at `place`, which is a constant within the header.
fn at<const N: usize>(header: &[u8; HEADER_BYTES], place: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[place..place + N]);
    bytes
}

#[cfg(test)]
mod tests;
