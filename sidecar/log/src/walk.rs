//! From one batch of a partition to the next, through the index, over what belongs to others.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::disk::SECTOR;

use crate::{
    PartitionId, ReadError, around,
    control::Note,
    files::{FileKey, Index},
    footer::Footer,
    index::{Strand, Strands},
    scan::{Found, header_at, mend, next_header, place, scan_whole},
    settings::GRANULE,
    state::{Phase, Shared},
};

/// Bytes that the disk is asked for at once: what comes next is wanted next.
const READ_AHEAD: u32 = 4 * GRANULE;
/// How long is believed what was read around what can't be: to try takes a device seconds.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// How often a segment is looked for again that was cleaned away under the reader.
pub(crate) const TRIES: usize = 4;

/// What is done where something is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Who asks must not wait for the disk.
    Stop,
    /// The disk is asked, and what it gives stays for who comes next.
    Read,
    /// The disk is asked for what nobody else will want.
    ReadOnce,
}

/// What whoever is shown a batch says.
pub(crate) enum Step {
    Go,
    Stop,
    /// The batch can't be read.
    Damaged,
    /// Not without the disk.
    WouldWait,
    /// The segment was cleaned away under the reader.
    Moved,
}

/// How a walk ended.
pub(crate) enum Seen {
    All,
    WouldWait,
}

/// A segment, from where a walk begins to where it ends as of now.
pub(crate) struct Reader<'a> {
    shared: &'a Shared,
    key: FileKey,
    /// Nothing is read from here on.
    end: u32,
    miss: Miss,
    window: (u32, Bytes),
    /// Bytes of all windows there were: whoever keeps a piece of each keeps all of them in memory.
    looked_at: usize,
}

/// Shows `each` the batches of `partition` from the one that holds `from` on.
pub(crate) fn walk(
    shared: &Shared,
    partition: PartitionId,
    from: u64,
    miss: Miss,
    mut each: impl FnMut(&mut Reader<'_>, &Header, u32) -> Result<Step, ReadError>,
) -> Result<Seen, ReadError> {
    let mut next = from;
    let mut tries = 0;
    loop {
        // Where it is now; the lock is not held while anything is read.
        let (mut reader, born, last, part, span_end) = {
            let state = shared.state();
            if state.phase == Phase::Closed {
                return Err(ReadError::Closed);
            }
            let known = state.partitions.get(&partition).ok_or(ReadError::Unknown { partition })?;
            let bounds = known.bounds();
            if next == bounds.readable {
                return Ok(Seen::All);
            }
            if next < bounds.first || next > bounds.readable {
                return Err(ReadError::OutOfRange { first: bounds.first, readable: bounds.readable });
            }
            let after = known.spans.partition_point(|span| span.first <= next);
            let span = after.checked_sub(1).map(|at| known.spans[at]).filter(|span| next < span.end);
            let Some(span) = span else {
                let to = known.spans.get(after).map_or(bounds.readable, |span| span.first);
                return Err(ReadError::Damaged { from: next, to });
            };
            let Some(segment) = state.segments.get(&span.segment) else {
                return Err(ReadError::Damaged { from: next, to: span.end });
            };
            let is_last = state.segments.last_key_value().is_some_and(|(number, _)| *number == span.segment);
            let part =
                is_last.then(|| state.strands.get(&partition).map(|strand| strand.part(next))).flatten();
            let reader = Reader::new(shared, (span.segment, segment.generation), segment.end, miss);
            (reader, known.born, segment.last, part, span.end)
        };
        let walked = match part {
            Some(part) => Ok(Some(Arc::new(part))),
            None => strand(shared, reader.key, partition, miss).map(|strand| strand.map(Arc::new)),
        };
        let outcome = match walked {
            Ok(Some(strand)) => {
                reader.segment(partition, (born, last), &strand, &mut next, span_end, &mut each)
            }
            Ok(None) => return Ok(Seen::WouldWait),
            Err(error) => Err(Failed::Io(error)),
        };
        match outcome {
            Ok(Some(seen)) => return Ok(seen),
            Ok(None) => tries = 0,
            // Cleaned or freed under the reader: it is elsewhere now.
            Err(Failed::Io(error)) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                tries += 1;
                shared.files.forget(reader.key);
            }
            Err(Failed::Io(error)) => return Err(error.into()),
            Err(Failed::Told(error)) => return Err(error),
        }
    }
}

enum Failed {
    Io(io::Error),
    Told(ReadError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(shared: &'a Shared, key: FileKey, end: u32, miss: Miss) -> Self {
        Self { shared, key, end, miss, window: (0, Bytes::new()), looked_at: 0 }
    }
}

impl Reader<'_> {
    /// Walks one segment; none where the walk goes on behind it.
    fn segment(
        &mut self,
        partition: PartitionId,
        (born, last): (u64, u32),
        strand: &Strand,
        next: &mut u64,
        span_end: u64,
        each: &mut impl FnMut(&mut Reader<'_>, &Header, u32) -> Result<Step, ReadError>,
    ) -> Result<Option<Seen>, Failed> {
        let begun = *next;
        let mut position = strand.locate(*next);
        // Behind the last entry of a part there may be more: the caller looks again.
        while let Some(sought) =
            strand.seek(position).filter(|sought| sought + (HEADER_BYTES as u32) <= self.end)
        {
            position = sought;
            let Some((at, header)) = self.header(position)? else {
                return Ok(Some(Seen::WouldWait));
            };
            position = at;
            let Some(header) = header else { break };
            let is_of = header.partition == partition.0 && is_of(born, self.key, last, position);
            // What reaches out of what is known to be here nobody wrote here.
            if is_of && (*next + 1..=span_end).contains(&header.next_offset()) {
                if header.base_offset > *next {
                    return Err(Failed::Told(ReadError::Damaged { from: *next, to: header.base_offset }));
                }
                match each(self, &header, position).map_err(Failed::Told)? {
                    Step::Go => *next = header.next_offset(),
                    Step::Stop => return Ok(Some(Seen::All)),
                    Step::WouldWait => return Ok(Some(Seen::WouldWait)),
                    Step::Moved => return Err(Failed::Io(io::ErrorKind::NotFound.into())),
                    Step::Damaged => {
                        let damaged = ReadError::Damaged { from: *next, to: header.next_offset() };
                        return Err(Failed::Told(damaged));
                    }
                }
            }
            position += header.length;
        }
        // The index says that it is here, and it is not.
        if *next == begun && *next < span_end {
            return Err(Failed::Told(ReadError::Damaged { from: *next, to: span_end }));
        }
        Ok(None)
    }

    /// The batch at `position` or the next one after it, and where that is; no header at the end of the segment.
    pub(crate) fn header(&mut self, position: u32) -> io::Result<Option<(u32, Option<Header>)>> {
        let mut at = position;
        while at + HEADER_BYTES as u32 <= self.end {
            let Some(bytes) = self.bytes(at, HEADER_BYTES)? else { return Ok(None) };
            if let Some(header) = header_at(&bytes, self.key.0, at) {
                return Ok(Some((at, Some(header))));
            }
            // Padding: the next group begins at a sector.
            let sector = (at + 1).next_multiple_of(SECTOR as u32);
            let padding = ((sector - at) as usize).min(bytes.len());
            if bytes[..padding].iter().all(|byte| *byte == 0) {
                at = sector;
                continue;
            }
            if let Some(header) = mend(&bytes, self.key.0, at) {
                return Ok(Some((at, Some(header))));
            }
            if self.miss == Miss::Stop {
                return Ok(None);
            }
            let file = self.shared.files.open(&*self.shared.disk, self.key)?;
            let rest = around::read(&*file, 0, self.end as usize)?.bytes;
            return Ok(Some(match next_header(&rest, self.key.0, at as usize + 1) {
                Some((found, header)) => (found as u32, Some(header)),
                None => (self.end, None),
            }));
        }
        Ok(Some((self.end, None)))
    }

    pub(crate) fn body(&mut self, header: &Header, position: u32) -> io::Result<Option<Bytes>> {
        let length = header.body_length();
        if position as usize + header.length as usize > self.end as usize {
            return Ok(Some(Bytes::new()));
        }
        let bytes = self.bytes(position + HEADER_BYTES as u32, length)?;
        Ok(bytes.map(|bytes| bytes.slice(..length)))
    }

    /// The same from the disk, where what is in memory is not what was written: the disk may have given it wrong that time.
    /// An error of [`InvalidData`](io::ErrorKind::InvalidData) where it does so again.
    pub(crate) fn body_anew(&mut self, header: &Header, position: u32) -> io::Result<Option<Bytes>> {
        if self.miss == Miss::Stop {
            return Ok(None);
        }
        let (from, length) = (position + HEADER_BYTES as u32, header.body_length());
        if from as usize + length > self.end as usize {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.window = (0, Bytes::new());
        self.shared.cache.forget(self.key, from);
        let file = self.shared.files.open(&*self.shared.disk, self.key)?;
        let body = Bytes::from_owner(around::read_whole(&*file, from.into(), length)?.bytes);
        self.shared.read_bytes.add(body.len() as u64);
        header.check(&body).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Some(body))
    }

    /// At least `length` bytes from `position`: from memory, or from the disk where that is allowed.
    fn bytes(&mut self, position: u32, length: usize) -> io::Result<Option<Bytes>> {
        let (start, window) = &self.window;
        if let Some(skip) = position.checked_sub(*start)
            && skip as usize + length <= window.len()
        {
            return Ok(Some(window.slice(skip as usize..)));
        }
        // Where a piece ends with padding, the rest of it says nothing: the next one is asked for what comes after it.
        if let Some(found) = self.shared.cache.get(self.key, position, length) {
            return Ok(Some(self.look_at(position, found)));
        }
        if let Some(found) = self.behind_padding(position, length) {
            return Ok(Some(found));
        }
        if self.miss == Miss::Stop {
            return Ok(None);
        }
        let from = position / GRANULE * GRANULE;
        let to = (position + length as u32).max(from + READ_AHEAD).min(self.end);
        let file = self.shared.files.open(&*self.shared.disk, self.key)?;
        let around::Around { bytes: read, holes } =
            around::read_whole(&*file, from.into(), (to - from) as usize)?;
        self.shared.read_bytes.add(read.len() as u64);
        let cost = read.capacity();
        let bytes = Bytes::from_owner(read);
        // What can't be read now may be another time.
        if holes.is_empty() && self.miss == Miss::Read {
            self.shared.cache.put(self.key, from, bytes.clone(), cost);
        }
        Ok(Some(self.look_at(position, bytes.slice((position - from) as usize..))))
    }

    fn look_at(&mut self, position: u32, window: Bytes) -> Bytes {
        self.looked_at += window.len();
        self.window = (position, window.clone());
        window
    }

    /// Bytes of all windows there were in this segment.
    pub(crate) fn looked_at(&self) -> usize {
        self.looked_at
    }

    /// A header's worth of zeros, where a piece in memory ends within one and another one begins with the next sector:
    /// so that the padding between two groups is not read from the disk.
    fn behind_padding(&self, position: u32, length: usize) -> Option<Bytes> {
        let sector = position.next_multiple_of(SECTOR as u32);
        if length != HEADER_BYTES || sector == position || (sector - position) as usize >= HEADER_BYTES {
            return None;
        }
        let next = self.shared.cache.get(self.key, sector, HEADER_BYTES)?;
        header_at(&next, self.key.0, sector)?;
        Some(Bytes::from_static(&[0; HEADER_BYTES]))
    }
}

/// Whether a batch there belongs to a partition that was born then, not to one that had its number before.
pub(crate) fn is_of(born: u64, (number, generation): FileKey, last: u32, position: u32) -> bool {
    // What a cleaned segment holds belonged to whoever was there when it was cleaned.
    let place = if generation > 0 { place(last, u32::MAX) } else { place(number, position) };
    place >= born
}

/// What a segment has of a partition; none where it would have to be read.
pub(crate) fn strand(
    shared: &Shared,
    key: FileKey,
    partition: PartitionId,
    miss: Miss,
) -> io::Result<Option<Strand>> {
    look_up(shared, key, miss, |strands| strands.get(&partition).cloned().unwrap_or_default())
}

/// What `look` finds in the index of a segment; none where that would have to be read. A segment that was cleaned meanwhile
/// is not found: its index is of another file now.
pub(crate) fn look_up<T>(
    shared: &Shared,
    key: FileKey,
    miss: Miss,
    look: impl FnOnce(&Strands) -> T,
) -> io::Result<Option<T>> {
    {
        let (number, generation) = key;
        let state = shared.state();
        if state.segments.get(&number).is_none_or(|segment| segment.generation != generation) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.segments.last_key_value().is_some_and(|(last, _)| *last == number) {
            return Ok(Some(look(&state.strands)));
        }
        // Its footer is not written yet.
        if let Some((.., strands)) = state.finished.iter().find(|(finished, ..)| *finished == number) {
            return Ok(Some(look(strands)));
        }
    }
    if let Some(index) = shared.files.known_index(key, || shared.clock.now()) {
        return Ok(Some(look(&index)));
    }
    if miss == Miss::Stop {
        return Ok(None);
    }
    let Loaded { strands, is_whole } = load(shared, key)?;
    let strands = Arc::new(strands);
    let until = (!is_whole).then(|| shared.clock.now() + READ_AGAIN);
    shared.files.remember_index(key, Index { strands: strands.clone(), until });
    Ok(Some(look(&strands)))
}

/// The index of a finished segment, and whether nothing may be missing in it that could be read another time.
pub(crate) struct Loaded {
    pub(crate) strands: Strands,
    pub(crate) is_whole: bool,
}

/// The index of a finished segment: from its footer, or where that is damaged from its batches.
pub(crate) fn load(shared: &Shared, key: FileKey) -> io::Result<Loaded> {
    let file = shared.files.open(&*shared.disk, key)?;
    if let Some(footer) = Footer::find(&*file)?
        && let Some(strands) = footer.strands(&*file)?
    {
        return Ok(Loaded { strands, is_whole: true });
    }
    let segment = shared.state().segments.get(&key.0).copied();
    let segment = segment.filter(|segment| segment.generation == key.1).ok_or(io::ErrorKind::NotFound)?;
    let read = around::read(&*file, 0, segment.end as usize)?;
    let strands = strands_of(&scan_whole(&read, key.0, &segment).0.found);
    Ok(Loaded { strands, is_whole: read.holes.is_empty() })
}

/// The index of what a scan found.
pub(crate) fn strands_of(found: &[Found]) -> Strands {
    let mut strands = Strands::new();
    for found in found {
        match found.note {
            Some(Note::Remove(partition)) => {
                strands.remove(&partition);
            }
            Some(_) => {}
            None if found.header.partition == PartitionId::CONTROL.0 => {}
            None => {
                let strand = strands.entry(PartitionId(found.header.partition)).or_default();
                // What does not follow on what is before it nobody wrote there.
                if found.header.base_offset >= strand.end {
                    strand.note(&found.header, found.position);
                }
            }
        }
    }
    strands
}

#[cfg(test)]
mod tests {
    use sidestream_host::{
        Clock,
        disk::{Aligned, Barrier, Disk, SimDisk},
    };

    use super::*;
    use crate::{Journal, Settings};

    /// The places that it names are those of another file: what stands there would be taken for damage.
    #[test]
    fn a_segment_that_was_cleaned_meanwhile_gives_no_index() {
        let disk = SimDisk::new();
        let copy = include_bytes!("../tests/fixtures/v1/00000001.0001.segment");
        let file = disk.create("00000001.0001.segment").unwrap();
        file.write_durable(0, &Aligned::of(copy), Barrier::Copy).unwrap();
        let newest = include_bytes!("../tests/fixtures/v1/0000000a.0000.segment");
        let file = disk.create("0000000a.0000.segment").unwrap();
        file.write_durable(0, &Aligned::of(newest), Barrier::Batches).unwrap();
        let opened = Journal::open_stepped(Arc::new(disk), Settings::default(), Clock::simulated(0).0);
        let (_journal, steps, _) = opened.unwrap();
        let begun = |key| strand(&steps.keeper.shared, key, PartitionId(1), Miss::Read).map(Option::unwrap);
        assert!(!begun((1, 1)).unwrap().entries.is_empty());
        for gone in [(1, 0), (1, 2), (2, 0)] {
            assert_eq!(begun(gone).unwrap_err().kind(), io::ErrorKind::NotFound, "{gone:?}");
        }
    }
}
