//! One pass over what several partitions have behind a place of each: their headers, in the order of the journal.
//!
//! ```text
//!   a from 7 ─┐   segment 8           segment 9
//!   b from 3 ─┼─▶ ░░░ a b ░░░ a ░░░   b a ░░░ b      each granule that any of them has something in, once
//!   c from 9 ─┘
//! ```
//!
//! Who reads one partition after the other reads most of it once for each of them.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    sync::Arc,
};

use sidestream_event::record::{HEADER_BYTES, Header};

use crate::{
    Journal, PartitionId, ReadError,
    files::FileKey,
    index::Strand,
    settings::GRANULE,
    state::{Phase, Shared},
    walk::{Miss, Reader, TRIES, is_of, look_up},
};

/// See [`Journal::pass`].
pub struct Pass {
    journal: Journal,
    wanted: Arc<Wanted>,
}

/// Which offsets of each partition are wanted still. By these and not by segments it goes on, for the keeper may make one of
/// several meanwhile.
type Wanted = BTreeMap<PartitionId, Range<u64>>;

impl Pass {
    /// Up to where the partitions end now.
    pub(crate) fn new(journal: Journal, from: BTreeMap<PartitionId, u64>) -> Pass {
        let wanted = |(id, from)| Some((id, from..journal.bounds(id)?.readable));
        let wanted: Wanted = from.into_iter().filter_map(wanted).collect();
        Pass { wanted: wanted.into(), journal }
    }

    /// The headers that the next segment has of what is wanted, of each partition in its order; none when the pass is over.
    ///
    /// # Errors
    /// Where the disk fails or the journal is closed.
    pub async fn next(&mut self) -> Result<Option<Vec<Header>>, ReadError> {
        let wanted = self.wanted.clone();
        let found = self.journal.ask(move |shared| next(shared, &wanted)).await?;
        Ok(found.map(|(seen, headers)| {
            let wanted = Arc::make_mut(&mut self.wanted);
            for (id, upto) in seen {
                if let Some(left) = wanted.get_mut(&id) {
                    left.start = upto;
                }
            }
            wanted.retain(|_, left| !left.is_empty());
            headers
        }))
    }
}

/// Up to where each partition was looked at, and the headers that were found.
type Seen = (Vec<(PartitionId, u64)>, Vec<Header>);

/// A segment, and what is wanted of it.
struct Part {
    key: FileKey,
    end: u32,
    last: u32,
    of: HashMap<PartitionId, Sought>,
}

struct Sought {
    born: u64,
    offsets: Range<u64>,
}

/// The headers of the first segment that has anything of what is wanted.
fn next(shared: &Shared, wanted: &Wanted) -> Result<Option<Seen>, ReadError> {
    let mut tries = 0;
    loop {
        let Some(part) = part(shared, wanted)? else { return Ok(None) };
        match part.headers(shared) {
            Ok(headers) => {
                let seen = part.of.iter().map(|(id, sought)| (*id, sought.offsets.end)).collect();
                return Ok(Some((seen, headers)));
            }
            // Cleaned under the reader: it has another file now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                tries += 1;
                shared.files.forget(part.key);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn part(shared: &Shared, wanted: &Wanted) -> Result<Option<Part>, ReadError> {
    let state = shared.state();
    if state.phase == Phase::Closed {
        return Err(ReadError::Closed);
    }
    let spans = || {
        wanted.iter().filter_map(|(id, left)| {
            let known = state.partitions.get(id)?;
            let from = left.start.max(known.first);
            let behind = known.spans.partition_point(|span| span.end <= from);
            // What can't be read is left out.
            let mut there =
                known.spans.range(behind..).filter(|span| state.segments.contains_key(&span.segment));
            let span = there.next()?;
            let offsets = from..span.end.min(left.end);
            (span.first < left.end && from < left.end).then_some((
                *id,
                span.segment,
                Sought { born: known.born, offsets },
            ))
        })
    };
    let Some(number) = spans().map(|(_, segment, _)| segment).min() else { return Ok(None) };
    let Some(segment) = state.segments.get(&number) else { return Ok(None) };
    let here = spans().filter(|(_, segment, _)| *segment == number);
    let of = here.map(|(id, _, sought)| (id, sought)).collect();
    let key = (number, segment.generation);
    Ok(Some(Part { key, end: segment.end, last: segment.last, of }))
}

impl Part {
    fn headers(&self, shared: &Shared) -> io::Result<Vec<Header>> {
        let way = look_up(shared, self.key, Miss::Read, |strands| {
            let each =
                self.of.iter().filter_map(|(id, sought)| Some((strands.get(id)?, sought.offsets.start)));
            merged(each, self.end)
        })?;
        let way = way.unwrap_or_default();
        let mut reader = Reader::new(shared, self.key, self.end, Miss::Read);
        let (mut found, mut position) = (Vec::new(), 0);
        while let Some(sought) = way.seek(position).filter(|sought| sought + HEADER_BYTES as u32 <= self.end)
        {
            let Some((at, Some(header))) = reader.header(sought)? else { break };
            position = at + header.length;
            let sought = self.of.get(&PartitionId(header.partition));
            let is_wanted = sought.is_some_and(|sought| {
                // What reaches out of what is known to be here nobody wrote here.
                let is_within =
                    (sought.offsets.start + 1..=sought.offsets.end).contains(&header.next_offset());
                is_within && is_of(sought.born, self.key, self.last, at)
            });
            if is_wanted {
                found.push(header);
            }
        }
        Ok(found)
    }
}

/// The way through a segment that leads past everything behind those offsets: the first place of any of them in each granule.
fn merged<'a>(strands: impl Iterator<Item = (&'a Strand, u64)>, end: u32) -> Strand {
    let mut first: Vec<Option<u32>> = vec![None; end.div_ceil(GRANULE) as usize];
    for (strand, from) in strands {
        let begin = strand.locate(from);
        for entry in strand.entries.iter().filter(|entry| entry.position >= begin) {
            if let Some(known) = first.get_mut((entry.position / GRANULE) as usize) {
                *known = Some(known.map_or(entry.position, |known| known.min(entry.position)));
            }
        }
    }
    Strand::through(first.into_iter().flatten())
}
