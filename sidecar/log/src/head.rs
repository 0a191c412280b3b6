//! How a segment begins: what it is, where the one before it ended, and what partitions there were then. It stands there
//! twice, so that no single damage takes it away.
//!
//! ```text
//!   file   := copy 1, copy 2, batches …                    each copy padded to a multiple of 4096
//!   copy   :=  0 magic "SDSTREAM"    8 format u16   10 copy u8  11 zero    12 length u32 of one copy
//!             16 number u32         20 last u32 (a cleaned one stands for number..=last)
//!             24 generation u32     28 partitions u32      32 journal u64
//!             40 segment before u32 44 its end u32         48 its chain u32        52 zeros
//!             60 sum u32 of everything else up to the length
//!             64 partition*
//!   partition := number u32, zeros u32, first u64, next u64, born u64
//!
//!   file name := number, generation: 0000002a.0000.segment
//! ```

use crate::{PartitionId, scan::place, settings::END_MAX};

/// The version of the format of segments.
pub(crate) const FORMAT: u16 = 1;
/// Copies begin at multiples of this.
const PAGE: usize = 4096;
const MAGIC: &[u8; 8] = b"SDSTREAM";
const FIXED: usize = 64;
const PARTITION: usize = 32;
const SUM: usize = 60;

/// How a segment begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) number: u32,
    pub(crate) last: u32,
    pub(crate) generation: u32,
    pub(crate) journal: u64,
    pub(crate) before: Before,
    pub(crate) partitions: Vec<Kept>,
}

/// Where the segment before ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) segment: u32,
    pub(crate) end: u32,
    pub(crate) chain: u32,
}

/// A partition when the segment began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) partition: PartitionId,
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// Where it was created: what stands before has nothing to do with it.
    pub(crate) born: u64,
}

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// Neither copy can be read.
    Damaged,
    /// Another version.
    Version(u16),
}

impl Head {
    /// Bytes of one copy.
    pub(crate) fn copy_bytes(&self) -> usize {
        (FIXED + self.partitions.len() * PARTITION).next_multiple_of(PAGE)
    }

    /// Where the batches begin.
    pub(crate) fn bytes(&self) -> u32 {
        2 * self.copy_bytes() as u32
    }

    /// Both copies, and what the first batch's chain is.
    pub(crate) fn write(&self) -> (Vec<u8>, u32) {
        let mut copy = vec![0; self.copy_bytes()];
        copy[0..8].copy_from_slice(MAGIC);
        copy[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        copy[12..16].copy_from_slice(&(self.copy_bytes() as u32).to_le_bytes());
        let numbers = [
            (16, self.number),
            (20, self.last),
            (24, self.generation),
            (28, self.partitions.len() as u32),
            (40, self.before.segment),
            (44, self.before.end),
            (48, self.before.chain),
        ];
        for (at, number) in numbers {
            copy[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        copy[32..40].copy_from_slice(&self.journal.to_le_bytes());
        for (kept, place) in self.partitions.iter().zip(copy[FIXED..].chunks_exact_mut(PARTITION)) {
            place[0..4].copy_from_slice(&kept.partition.0.to_le_bytes());
            place[8..16].copy_from_slice(&kept.first.to_le_bytes());
            place[16..24].copy_from_slice(&kept.next.to_le_bytes());
            place[24..32].copy_from_slice(&kept.born.to_le_bytes());
        }
        let mut both = Vec::with_capacity(copy.len() * 2);
        let mut chain = 0;
        for number in 1..=2 {
            copy[10] = number;
            chain = sum(&copy);
            copy[SUM..FIXED].copy_from_slice(&chain.to_le_bytes());
            both.extend_from_slice(&copy);
        }
        (both, chain)
    }

    /// Reads the head of a file that begins with `bytes`; `more` gives the file's first so many bytes. Also which copies
    /// are damaged, by their place, and the chain.
    pub(crate) fn read<E>(
        bytes: &[u8],
        mut more: impl FnMut(usize) -> Result<Vec<u8>, E>,
    ) -> Result<Result<Read, HeadError>, E> {
        let first = claimed(bytes);
        if let Some(Err(version)) = first {
            return Ok(Err(HeadError::Version(version)));
        }
        let mut enough = bytes.to_vec();
        if let Some(Ok(length)) = first {
            if enough.len() < 2 * length {
                enough = more(2 * length)?;
            }
            let copies = [copy(&enough, 0, 1), copy(&enough, length, 2)];
            let chain = || copies[1].as_ref().map_or_else(|| chain_of(&enough, length), |(_, chain)| *chain);
            let damaged = [(0, copies[0].is_some()), (length, copies[1].is_some())];
            let damaged = damaged
                .into_iter()
                .find(|(_, is_good)| !is_good)
                .map(|(at, _)| (at as u32, (at + length) as u32));
            if let Some(head) = copies[0].as_ref().or(copies[1].as_ref()).map(|(head, _)| head.clone()) {
                let chain = chain();
                return Ok(Ok(Read { head, chain, damaged }));
            }
        }
        // The first copy does not even say how long it is: the second one stands at some page.
        let mut at = PAGE;
        while at <= COPY_MAX {
            if enough.len() < at + FIXED {
                let wanted = (enough.len() * 2).max(64 * PAGE);
                let longer = more(wanted)?;
                if longer.len() <= enough.len() {
                    break;
                }
                enough = longer;
            }
            if let Some(Ok(length)) = enough.get(at..).and_then(claimed)
                && length == at
            {
                if enough.len() < 2 * length {
                    enough = more(2 * length)?;
                }
                if let Some((head, chain)) = copy(&enough, at, 2) {
                    return Ok(Ok(Read { head, chain, damaged: Some((0, at as u32)) }));
                }
            }
            at += PAGE;
        }
        Ok(Err(HeadError::Damaged))
    }
}

/// How far the second copy is looked for: a head of 130,000 partitions.
const COPY_MAX: usize = 4 << 20;
/// Partitions that it has room for.
pub(crate) const PARTITIONS_MAX: usize = (COPY_MAX - FIXED) / PARTITION;

/// A head that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) head: Head,
    pub(crate) chain: u32,
    /// The copy that is damaged, by its bytes.
    pub(crate) damaged: Option<(u32, u32)>,
}

/// How long the copy that begins here says it is, or of what other version.
fn claimed(bytes: &[u8]) -> Option<Result<usize, u16>> {
    if bytes.len() < FIXED || bytes[..8] != *MAGIC {
        return None;
    }
    let format = u16::from_le_bytes([bytes[8], bytes[9]]);
    let length = number(bytes, 12) as usize;
    if !length.is_multiple_of(PAGE) || length == 0 || length > COPY_MAX {
        return None;
    }
    // A version is believed only where the rest makes sense, or a flipped bit would be a newer program.
    if format != FORMAT {
        let is_whole = bytes.len() >= length && sum(&bytes[..length]) == number(bytes, SUM);
        return is_whole.then_some(Err(format));
    }
    Some(Ok(length))
}

fn copy(bytes: &[u8], at: usize, which: u8) -> Option<(Head, u32)> {
    let length = claimed(bytes.get(at..)?)?.ok()?;
    let bytes = bytes.get(at..at + length)?;
    let count = number(bytes, 28) as usize;
    if bytes[10] != which || sum(bytes) != number(bytes, SUM) || count > (length - FIXED) / PARTITION {
        return None;
    }
    let long =
        |bytes: &[u8], at: usize| u64::from(number(bytes, at)) | u64::from(number(bytes, at + 4)) << 32;
    let partitions = bytes[FIXED..].chunks_exact(PARTITION).take(count).map(|place| Kept {
        partition: PartitionId(number(place, 0)),
        first: long(place, 8),
        next: long(place, 16),
        born: long(place, 24),
    });
    // A sum says who wrote it, not that it makes sense.
    let (number, last) = (number(bytes, 16), number(bytes, 20));
    let before = Before {
        segment: self::number(bytes, 40),
        end: self::number(bytes, 44),
        chain: self::number(bytes, 48),
    };
    // Whatever there is was born before this segment was.
    let is_sense = |kept: Kept| kept.first <= kept.next && kept.born <= place(number, 0);
    if number > last || before.end > END_MAX || !partitions.clone().all(is_sense) {
        return None;
    }
    let head = Head {
        number,
        last,
        generation: self::number(bytes, 24),
        journal: long(bytes, 32),
        before,
        partitions: partitions.collect(),
    };
    Some((head, sum(bytes)))
}

/// The chain is the second copy's sum; where that is damaged it follows from the first.
fn chain_of(bytes: &[u8], length: usize) -> u32 {
    let mut copy = bytes[..length].to_vec();
    copy[10] = 2;
    sum(&copy)
}

fn sum(copy: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&copy[..SUM]), &copy[FIXED..])
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The name of a segment's file.
pub(crate) fn file_name(number: u32, generation: u32) -> String {
    format!("{number:08x}.{generation:04x}.segment")
}

/// Number and generation of a segment's file.
pub(crate) fn parse_file_name(name: &str) -> Option<(u32, u32)> {
    let (number, rest) = name.strip_suffix(".segment")?.split_once('.')?;
    let parsed = (u32::from_str_radix(number, 16).ok()?, u32::from_str_radix(rest, 16).ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn head(partitions: u32) -> Head {
        let kept = |n| Kept { partition: PartitionId(n), first: n.into(), next: u64::from(n) + 9, born: 5 };
        Head {
            number: 42,
            last: 42,
            generation: 0,
            journal: 7,
            before: Before { segment: 41, end: 8192, chain: 0xabcd },
            partitions: (0..partitions).map(kept).collect(),
        }
    }

    fn read(bytes: &[u8]) -> Result<Read, HeadError> {
        let more = |length: usize| Ok::<_, Infallible>(bytes[..length.min(bytes.len())].to_vec());
        let Ok(read) = Head::read(&bytes[..bytes.len().min(PAGE)], more);
        read
    }

    #[test]
    fn a_head_is_read_from_either_copy_with_the_same_chain() {
        for partitions in [0, 1, 126, 127, 1000] {
            let head = head(partitions);
            let (bytes, chain) = head.write();
            assert_eq!(bytes.len(), head.bytes() as usize);
            let whole = read(&bytes).unwrap();
            assert_eq!((&whole.head, whole.chain, whole.damaged), (&head, chain, None));
            let half = bytes.len() / 2;
            for (from, to) in [(0, half), (half, 2 * half)] {
                let mut torn = bytes.clone();
                torn[from..to].fill(0);
                let found = read(&torn).unwrap();
                assert_eq!((&found.head, found.chain), (&head, chain));
                assert_eq!(found.damaged, Some((from as u32, to as u32)));
            }
            assert_eq!(read(&vec![0; bytes.len()]).unwrap_err(), HeadError::Damaged);
        }
    }

    #[test]
    fn no_flipped_bit_of_a_head_goes_unseen() {
        let head = head(3);
        let (bytes, chain) = head.write();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = read(&flipped).unwrap();
            assert_eq!((&found.head, found.chain), (&head, chain), "bit {bit}");
            assert!(found.damaged.is_some(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_said_to_be_one() {
        let (mut bytes, _) = head(1).write();
        bytes[8] = 2;
        let changed = sum(&bytes[..PAGE]);
        bytes[SUM..FIXED].copy_from_slice(&changed.to_le_bytes());
        assert_eq!(read(&bytes).unwrap_err(), HeadError::Version(2));
    }

    #[test]
    fn only_names_of_segments_are_taken_for_them() {
        assert_eq!(parse_file_name(&file_name(0x2a, 1)), Some((0x2a, 1)));
        for other in ["lock", "0000002a.segment", "2a.1.segment", "0000002A.0001.segment", "reserve"] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
