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
    /// Behind the last segment that was looked at.
    from: u32,
    wanted: Wanted,
}

/// From which offset on each partition is wanted.
type Wanted = std::sync::Arc<BTreeMap<PartitionId, u64>>;

impl Pass {
    pub(crate) fn new(journal: Journal, wanted: BTreeMap<PartitionId, u64>) -> Pass {
        Pass { journal, from: 0, wanted: wanted.into() }
    }

    /// The headers that the next segment has of what is wanted, of each partition in its order; none when the pass is over.
    ///
    /// # Errors
    /// Where the disk fails or the journal is closed.
    pub async fn next(&mut self) -> Result<Option<Vec<Header>>, ReadError> {
        let (from, wanted) = (self.from, self.wanted.clone());
        let found = self.journal.ask(move |shared| next(shared, &wanted, from)).await?;
        Ok(found.map(|(segment, headers)| {
            self.from = segment + 1;
            headers
        }))
    }
}

/// A segment, and what is wanted of it.
struct Part {
    number: u32,
    key: FileKey,
    end: u32,
    last: u32,
    of: HashMap<PartitionId, Range>,
}

struct Range {
    born: u64,
    /// Offsets.
    from: u64,
    to: u64,
}

/// The first segment of number `from` or higher that has anything of what is wanted, and the headers of that.
fn next(shared: &Shared, wanted: &Wanted, from: u32) -> Result<Option<(u32, Vec<Header>)>, ReadError> {
    let mut tries = 0;
    loop {
        let Some(part) = part(shared, wanted, from)? else { return Ok(None) };
        match part.headers(shared) {
            Ok(headers) => return Ok(Some((part.number, headers))),
            // Cleaned under the reader: it has another file now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                tries += 1;
                shared.files.forget(part.key);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn part(shared: &Shared, wanted: &Wanted, from: u32) -> Result<Option<Part>, ReadError> {
    let state = shared.state();
    if state.phase == Phase::Closed {
        return Err(ReadError::Closed);
    }
    let spans = |at: u32| {
        let state = &state;
        wanted.iter().filter_map(move |(id, offset)| {
            let known = state.partitions.get(id)?;
            let offset = (*offset).max(known.first);
            let is_before = |span: &crate::index::Span| span.segment < at || span.end <= offset;
            let span = known.spans.get(known.spans.partition_point(is_before))?;
            Some((*id, known.born, offset, *span))
        })
    };
    let Some(number) = spans(from).map(|(.., span)| span.segment).min() else { return Ok(None) };
    let Some(segment) = state.segments.get(&number) else {
        return Err(io::Error::from(io::ErrorKind::NotFound).into());
    };
    let here = spans(number).filter(|(.., span)| span.segment == number);
    let of = here.map(|(id, born, from, span)| (id, Range { born, from, to: span.end })).collect();
    let key = (number, segment.generation);
    Ok(Some(Part { number, key, end: segment.end, last: segment.last, of }))
}

impl Part {
    fn headers(&self, shared: &Shared) -> io::Result<Vec<Header>> {
        let way = look_up(shared, self.number, Miss::Read, |strands| {
            let each = self.of.iter().filter_map(|(id, range)| Some((strands.get(id)?, range.from)));
            merged(each, self.end)
        })?;
        let way = way.unwrap_or_default();
        let mut reader = Reader::new(shared, self.key, self.end, Miss::Read);
        let (mut found, mut position) = (Vec::new(), 0);
        while let Some(sought) = way.seek(position).filter(|sought| sought + HEADER_BYTES as u32 <= self.end)
        {
            let Some((at, Some(header))) = reader.header(sought)? else { break };
            position = at + header.length;
            let range = self.of.get(&PartitionId(header.partition));
            let is_wanted = range.is_some_and(|range| {
                is_of(range.born, self.key, self.last, at)
                    && header.next_offset() > range.from
                    // What reaches out of what is known to be here nobody wrote here.
                    && header.next_offset() <= range.to
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
