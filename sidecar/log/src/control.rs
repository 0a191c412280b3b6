//! The journal's own notes: what partitions there are, and how far all is durable. They are batches like any other, of a
//! partition that nobody can read, so there is one format and one barrier.
//!
//! ```text
//!   body := what u8, zeros 3, partition u32, offset u64
//! ```

use sidestream_event::record::{HEADER_BYTES, Header};

use crate::PartitionId;

pub(crate) const NOTE_BYTES: usize = 16;

/// What is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// A partition begins, at this offset.
    Create(PartitionId, u64),
    /// A partition and all of it is gone.
    Remove(PartitionId),
    /// What is before this offset is gone.
    Trim(PartitionId, u64),
    /// Nothing happened; its header says how far all is durable.
    Mark,
}

impl Note {
    /// Header, without what only the storage thread knows, and body.
    pub(crate) fn batch(self) -> (Header, [u8; NOTE_BYTES]) {
        let (what, partition, offset) = match self {
            Self::Create(partition, first) => (1, partition.0, first),
            Self::Remove(partition) => (2, partition.0, 0),
            Self::Trim(partition, before) => (3, partition.0, before),
            Self::Mark => (4, 0, 0),
        };
        let mut body = [0; NOTE_BYTES];
        body[0] = what;
        body[4..8].copy_from_slice(&u32::to_le_bytes(partition));
        body[8..16].copy_from_slice(&u64::to_le_bytes(offset));
        let header = Header {
            length: (HEADER_BYTES + NOTE_BYTES) as u32,
            partition: PartitionId::CONTROL.0,
            count: 1,
            body_crc: crc32c::crc32c(&body),
            ..Header::default()
        };
        (header, body)
    }

    /// Reads a body; a note of a kind that is not known says nothing.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let body: &[u8; NOTE_BYTES] = body.try_into().ok()?;
        let partition = PartitionId(u32::from_le_bytes(body[4..8].try_into().ok()?));
        let offset = u64::from_le_bytes(body[8..16].try_into().ok()?);
        match body[0] {
            1 => Some(Self::Create(partition, offset)),
            2 => Some(Self::Remove(partition)),
            3 => Some(Self::Trim(partition, offset)),
            4 => Some(Self::Mark),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_its_header_is_possible() {
        for note in [
            Note::Create(PartitionId(7), 99),
            Note::Remove(PartitionId(7)),
            Note::Trim(PartitionId(3), u64::MAX),
            Note::Mark,
        ] {
            let (header, body) = note.batch();
            let mut bytes = [0; HEADER_BYTES];
            header.write(&mut bytes);
            assert_eq!(Header::read(&bytes), Ok(header));
            assert_eq!((header.check(&body), Note::read(&body)), (Ok(()), Some(note)));
        }
    }
}
