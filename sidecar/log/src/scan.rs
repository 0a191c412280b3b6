//! Reads the batches of a segment one after the other, and says what it can't read.
//!
//! ```text
//!   good ─ good ─ padding ─ good ─ ??? ─ good ─ padding ─ ??? ─ zeros …
//!                                   │                      │
//!             before the frontier: damage, what comes      after it: a torn end, that nobody was told of;
//!             after it stays                               it and what comes after it is left alone
//! ```
//!
//! A batch says where it stands, what the sum of the batch before it was, and how far all was durable when it was written:
//! so the next good one is found behind any damage, no copy of a batch is taken for one, nothing missing goes unseen, and
//! whatever stands before the highest frontier had been acknowledged. Behind the frontier a torn write shows by a sector
//! that was never written; what has none there was whole once, and is reported too.
//!
//! What can't be read at all is filler here (see `around`), so it is damage as well, wherever something may have been
//! acknowledged.
//!
//! A header with one flipped bit is mended from its sum (a CRC32C tells all single flips of so few bytes apart) and
//! reported.

use std::{convert::Infallible, fmt};

use sidestream_event::record::{HEADER_BYTES, Header, VERSION};
use sidestream_host::disk::SECTOR;

use crate::{
    PartitionId,
    around::Around,
    control::Note,
    head::{self, Head},
    state::Segment,
};

/// A part of the journal that can't be read, or could only be read by mending it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment's number, which its file name begins with.
    pub segment: u32,
    /// The first byte of its file.
    pub from: u64,
    /// The byte after the last; 0 where it is not known where it stood.
    pub to: u64,
    /// What was lost with it, where that is known and anything was.
    pub lost: Option<Lost>,
    /// Whether nothing was lost: a second copy was read, the bytes could be mended, or were padding.
    pub is_mended: bool,
}

/// Records that were acknowledged, or may have been, and are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Of which partition.
    pub partition: PartitionId,
    /// The first offset.
    pub from: u64,
    /// The offset after the last.
    pub to: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Lost { partition, from, to }) = self.lost
            && self.to == 0
        {
            return write!(
                out,
                "no batch that can be read has offsets {from}..{to} of partition {partition}"
            );
        }
        write!(out, "segment {:08x}, bytes {}..{}: ", self.segment, self.from, self.to)?;
        match self.lost {
            Some(Lost { partition, from, to }) => {
                write!(out, "offsets {from}..{to} of partition {partition} are lost")
            }
            None if self.is_mended => out.write_str("damaged, and mended"),
            None => out.write_str("can't be read; what stood there is not known"),
        }
    }
}

/// A batch that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) position: u32,
    pub(crate) header: Header,
    pub(crate) note: Option<Note>,
}

/// Where the segment ends, where that is known from elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) position: u32,
    pub(crate) chain: u32,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) found: Vec<Found>,
    pub(crate) end: u32,
    pub(crate) chain: u32,
    pub(crate) damage: Vec<Damage>,
    /// Bytes written and never acknowledged, if there are.
    pub(crate) torn: Option<(u32, u32)>,
    /// Bytes of damage of which not even the partition is known.
    pub(crate) unknown_bytes: u64,
}

/// What stands in a segment, in its order.
enum Item {
    Good {
        found: Found,
        sum: u32,
    },
    Bad {
        from: u32,
        to: u32,
        header: Option<Header>,
    },
    /// Padding that was damaged, or a header of which one bit is not as it was.
    Mended {
        from: u32,
        to: u32,
        is_header: bool,
    },
}

/// Scans all of a segment of a journal that is open. Of those that were finished a start does not read the heads; without its
/// head, what is damaged at its begin can't be told from it.
pub(crate) fn scan_whole(read: &Around, number: u32, segment: &Segment) -> (Scanned, Option<head::Read>) {
    let first = |length: usize| Ok::<_, Infallible>(read.bytes[..length.min(read.bytes.len())].to_vec());
    let Ok(head) = Head::read(&read.bytes, first);
    let is_its = |read: &head::Read| (read.head.number, read.head.generation) == (number, segment.generation);
    let head = head.ok().filter(is_its);
    let known = head.as_ref().map(|read| (read.head.bytes(), Some(read.chain)));
    let (start, chain) = known.unwrap_or((segment.start, segment.chain));
    let end = segment.end_chain.map(|chain| End { position: segment.end, chain });
    (scan(read, number, start, chain, end), head)
}

/// Scans all of segment `number`, whose batches begin at `start` with `chain`.
pub(crate) fn scan(read: &Around, number: u32, start: u32, chain: Option<u32>, end: Option<End>) -> Scanned {
    let bytes = &read.bytes;
    let limit = end.map_or(bytes.len(), |end| bytes.len().min(end.position as usize));
    let segment = Written { bytes: &bytes[..limit], number };
    let (items, last) = segment.items(start as usize, chain, end);
    let frontier = end.map_or(last.frontier, |end| end.position);
    let mut scanned = Scanned { end: start, chain: chain.unwrap_or_default(), ..Scanned::default() };
    for item in items {
        match item {
            Item::Good { found, sum } => {
                scanned.end = found.position + found.header.length;
                scanned.chain = sum;
                scanned.found.push(found);
            }
            // A bit may be all that is missing of a sector that was never written.
            Item::Mended { from, to, is_header: true }
                if !segment.was_durable(from, to, frontier) && segment.is_unwritten(from, to) =>
            {
                scanned.torn = Some((from, to));
                break;
            }
            Item::Mended { from, to, .. } => scanned.damage.push(damage(number, from, to, None, true)),
            Item::Bad { from, to, header } => {
                // Without a head nobody knows where the first group would begin.
                let is_begin = chain.is_none() && from == start && header.is_none();
                let is_hole = segment.is_hole(from, to, header.is_some(), &read.holes)
                    || is_begin && !read.holes.is_empty();
                if !is_hole
                    && !segment.was_durable(from, to, frontier)
                    && segment.is_torn(from, to, header.is_some())
                {
                    // What was not written of its header may look like a flipped bit.
                    scanned.damage.retain(|damage| damage.from < from.into());
                    scanned.torn = Some((from, to));
                    break;
                }
                // Behind what can't be read, and may have been the end, zeros are still what was never written.
                let is_last = header.is_none() && end.is_none() && to as usize == limit;
                let to = if is_hole && is_last { segment.written_end(from, to) } else { to };
                if header.is_none() {
                    scanned.unknown_bytes += u64::from(to - from);
                }
                let lost =
                    header.filter(|header| header.partition != PartitionId::CONTROL.0).map(|header| Lost {
                        partition: PartitionId(header.partition),
                        from: header.base_offset,
                        to: header.next_offset(),
                    });
                scanned.damage.push(damage(number, from, to, lost, false));
                scanned.end = to;
            }
        }
    }
    if let Some(end) = end {
        (scanned.end, scanned.chain) = (end.position, end.chain);
    }
    scanned
}

fn damage(segment: u32, from: u32, to: u32, lost: Option<Lost>, is_mended: bool) -> Damage {
    Damage { segment, from: from.into(), to: to.into(), lost, is_mended }
}

/// The header that stands at `place` of `segment`, if it does.
pub(crate) fn header_at(bytes: &[u8], segment: u32, place: u32) -> Option<Header> {
    let header = Header::read(bytes).ok()?;
    (header.place == self::place(segment, place)).then_some(header)
}

/// The same, with a bit turned back where that makes it one. Takes some 50 us where it does not.
pub(crate) fn mend(bytes: &[u8], segment: u32, place: u32) -> Option<Header> {
    let mut copy = *bytes.first_chunk::<HEADER_BYTES>()?;
    (0..HEADER_BYTES * 8).find_map(|bit| {
        copy[bit / 8] ^= 1 << (bit % 8);
        let header = header_at(&copy, segment, place);
        copy[bit / 8] ^= 1 << (bit % 8);
        header
    })
}

/// What a batch there says of its place.
pub(crate) fn place(segment: u32, position: u32) -> u64 {
    u64::from(segment) << 32 | u64::from(position)
}

/// The sum of a header, which the next batch's chain is.
pub(crate) fn sum_of(header: &Header) -> u32 {
    let mut bytes = [0; HEADER_BYTES];
    header.write(&mut bytes);
    u32::from_le_bytes([
        bytes[HEADER_BYTES - 4],
        bytes[HEADER_BYTES - 3],
        bytes[HEADER_BYTES - 2],
        bytes[HEADER_BYTES - 1],
    ])
}

/// The first batch after `from`, by nothing but its own header.
pub(crate) fn next_header(bytes: &[u8], segment: u32, from: usize) -> Option<(usize, Header)> {
    let length = (HEADER_BYTES as u16).to_le_bytes();
    let mut at = from;
    while at + HEADER_BYTES <= bytes.len() {
        // Most of what is passed over is zeros.
        if at.is_multiple_of(SECTOR) {
            at = first_not_zero(bytes, at) / SECTOR * SECTOR;
            if at + HEADER_BYTES > bytes.len() {
                break;
            }
        }
        if bytes[at + 4] == VERSION
            && bytes[at + 6..at + 8] == length
            && let Some(header) = header_at(&bytes[at..], segment, at as u32)
        {
            return Some((at, header));
        }
        at += 1;
    }
    None
}

/// What is known at the end of a scan.
#[derive(Default)]
struct Last {
    frontier: u32,
}

struct Written<'a> {
    bytes: &'a [u8],
    number: u32,
}

/// What was damaged last was only padding: the batch behind it follows on the one before it.
fn nothing_lost(items: &mut [Item]) {
    if let Some(last) = items.last_mut()
        && let Item::Bad { from, to, header: None } = *last
    {
        *last = Item::Mended { from, to, is_header: false };
    }
}

enum At {
    Batch {
        header: Header,
        at: usize,
        is_mended: bool,
    },
    /// Zeros, to the end.
    Nothing,
    Garbage {
        from: usize,
    },
}

impl Written<'_> {
    fn items(&self, start: usize, chain: Option<u32>, end: Option<End>) -> (Vec<Item>, Last) {
        let (mut items, mut last) = (Vec::new(), Last::default());
        let mut position = start;
        let mut expected = chain;
        let mut is_after_damage = false;
        loop {
            match self.at(position) {
                At::Batch { header, at, is_mended } => {
                    let to = at + header.length as usize;
                    let range = (at as u32, to.min(self.bytes.len()) as u32);
                    if is_after_damage && expected == Some(header.chain) {
                        nothing_lost(&mut items);
                    }
                    // Something stood between the batch before and this one.
                    if expected.is_some_and(|expected| expected != header.chain) && !is_after_damage {
                        items.push(Item::Bad { from: position as u32, to: at as u32, header: None });
                    }
                    if is_mended {
                        let to = range.0 + HEADER_BYTES as u32;
                        items.push(Item::Mended { from: range.0, to, is_header: true });
                    }
                    let body = self.bytes.get(at + HEADER_BYTES..to);
                    if body.is_some_and(|body| header.check(body).is_ok()) {
                        let control = header.partition == PartitionId::CONTROL.0;
                        let note = body.filter(|_| control).and_then(Note::read);
                        items.push(Item::Good {
                            found: Found { position: range.0, header, note },
                            sum: sum_of(&header),
                        });
                    } else {
                        items.push(Item::Bad { from: range.0, to: range.1, header: Some(header) });
                    }
                    last.frontier = last.frontier.max(header.frontier);
                    expected = Some(sum_of(&header));
                    is_after_damage = false;
                    position = range.1 as usize;
                }
                At::Garbage { from } => {
                    let next = next_header(self.bytes, self.number, from + 1);
                    let to = next.map_or(self.bytes.len(), |(at, _)| at);
                    items.push(Item::Bad { from: from as u32, to: to as u32, header: None });
                    is_after_damage = true;
                    position = to;
                }
                At::Nothing => {
                    if is_after_damage && end.is_some_and(|end| expected == Some(end.chain)) {
                        nothing_lost(&mut items);
                    }
                    let is_missing = end.is_some_and(|end| expected.is_some_and(|sum| sum != end.chain));
                    if is_missing && !is_after_damage && position < self.bytes.len() {
                        let to = self.bytes.len() as u32;
                        items.push(Item::Bad { from: position as u32, to, header: None });
                    }
                    return (items, last);
                }
            }
        }
    }

    /// What stands at `position`, or after the padding there.
    fn at(&self, position: usize) -> At {
        let here = |at: usize| header_at(self.bytes.get(at..).unwrap_or_default(), self.number, at as u32);
        if let Some(header) = here(position) {
            return At::Batch { header, at: position, is_mended: false };
        }
        // Behind the last batch of a group, zeros up to where the next group begins.
        let written = first_not_zero(self.bytes, position);
        let sector = (written / SECTOR * SECTOR).max(position);
        if sector > position
            && let Some(header) = here(sector)
        {
            return At::Batch { header, at: sector, is_mended: false };
        }
        for at in [position, sector] {
            if let Some(header) = mend(self.bytes.get(at..).unwrap_or_default(), self.number, at as u32) {
                return At::Batch { header, at, is_mended: true };
            }
        }
        if written >= self.bytes.len() {
            return At::Nothing;
        }
        At::Garbage { from: position }
    }

    /// Whether something of this range that may have been acknowledged can't be read: of a batch any part, of what nobody
    /// knows the place where a group would begin.
    fn is_hole(&self, from: u32, to: u32, has_header: bool, holes: &[(u64, u64)]) -> bool {
        let begins_by = match has_header {
            true => to.into(),
            false => {
                let written = first_not_zero(self.bytes, from as usize) as u64;
                written.min(u64::from(from).next_multiple_of(BLOCK_BYTES_MAX)) + 1
            }
        };
        holes.iter().any(|(begin, end)| *begin < begins_by && *end > from.into())
    }

    /// The end of the last sector of this range in which something is.
    fn written_end(&self, from: u32, to: u32) -> u32 {
        let range = &self.bytes[from as usize..to as usize];
        let written = range.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        ((from as usize + written).next_multiple_of(SECTOR) as u32).min(to)
    }

    /// Whether what stood in this range was durable. It may begin with padding of the group before, which was.
    fn was_durable(&self, from: u32, to: u32, frontier: u32) -> bool {
        let written = first_not_zero(&self.bytes[..to as usize], from as usize) / SECTOR * SECTOR;
        if written >= to as usize { to <= frontier } else { (written as u32).max(from) < frontier }
    }

    /// Whether a sector that this range reaches into is as empty as before.
    fn is_unwritten(&self, from: u32, to: u32) -> bool {
        let sectors = self.bytes.chunks(SECTOR).take((to as usize).div_ceil(SECTOR));
        sectors.skip(from as usize / SECTOR).any(|sector| sector.iter().all(|byte| *byte == 0))
    }

    /// Whether a write of this range may never have been whole: a sector of it is as empty as before.
    fn is_torn(&self, from: u32, to: u32, has_header: bool) -> bool {
        let (from, to) = (from as usize + if has_header { HEADER_BYTES } else { 0 }, to as usize);
        if to >= self.bytes.len() || from >= to {
            return true;
        }
        (from / SECTOR..to.div_ceil(SECTOR)).any(|sector| {
            let sector_end = ((sector + 1) * SECTOR).min(to);
            let part = &self.bytes[(sector * SECTOR).max(from)..sector_end];
            part.iter().all(|byte| *byte == 0)
        })
    }
}

/// A group begins at a multiple of the disk's block, which is at most this.
const BLOCK_BYTES_MAX: u64 = 4096;

/// The first byte from `from` on that is not zero, or the end.
fn first_not_zero(bytes: &[u8], from: usize) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = from.min(bytes.len());
    for chunk in bytes[at..].chunks(ZEROS.len()) {
        if *chunk != ZEROS[..chunk.len()] {
            return at + chunk.iter().position(|byte| *byte != 0).unwrap_or(0);
        }
        at += chunk.len();
    }
    bytes.len()
}

#[cfg(test)]
mod tests;
