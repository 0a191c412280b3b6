//! Reading all of a journal, to know that it can be read.

use std::io;

use crate::{
    Damage, ReadError, around,
    scan::scan_whole,
    state::{Segment, Shared},
};

/// What [`verify`](crate::Journal::verify) found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Segments read.
    pub segments: u64,
    /// Batches whose sums are right.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What can't be read.
    pub damage: Vec<Damage>,
}

/// Reads every segment and checks every sum.
pub(crate) fn verify(shared: &Shared) -> Result<Verified, ReadError> {
    let segments: Vec<(u32, Segment)> =
        shared.state().segments.iter().map(|(number, segment)| (*number, *segment)).collect();
    let mut verified = Verified::default();
    for (number, segment) in segments {
        let key = (number, segment.generation);
        let file = shared.files.open(&*shared.disk, key);
        let read = match file.and_then(|file| around::read(&*file, 0, segment.end as usize)) {
            Ok(read) => read,
            // Freed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let end_chain = segment_chain(shared, number, segment.end);
        let (scanned, head) = scan_whole(&read, number, &Segment { end_chain, ..segment });
        let of_head = head.as_ref().map_or(Some((0, segment.start)), |read| read.damaged);
        verified.damage.extend(of_head.map(|(from, to)| Damage {
            segment: number,
            from: from.into(),
            to: to.into(),
            lost: None,
            is_mended: true,
        }));
        verified.segments += 1;
        verified.batches += scanned.found.len() as u64;
        verified.bytes += scanned.found.iter().map(|found| u64::from(found.header.length)).sum::<u64>();
        verified.damage.extend(scanned.damage);
        verified.damage.extend(scanned.torn.map(|(from, to)| Damage {
            segment: number,
            from: from.into(),
            to: to.into(),
            lost: None,
            is_mended: false,
        }));
    }
    Ok(verified)
}

/// The sum of the last batch of a segment, where it is known and still the last.
fn segment_chain(shared: &Shared, number: u32, end: u32) -> Option<u32> {
    let state = shared.state();
    state.segments.get(&number).filter(|segment| segment.end == end).and_then(|segment| segment.end_chain)
}
