//! Reading all of a journal, to know that it can be read.

use std::io;

use crate::{
    Damage, Lost, PartitionId, ReadError, around,
    read::headers,
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
    let is_told = |damage: &Damage| damage.is_mended || damage.lost.is_some();
    if !verified.damage.iter().all(is_told) || !shared.state().damage.is_empty() {
        let missing = missing(shared, &verified.damage)?;
        verified.damage.extend(missing);
    }
    Ok(verified)
}

/// Offsets that no batch has which can be read, as whoever reads is told of them: where it is not known what stood in a place,
/// what is known is what is nowhere. Without what is told already.
fn missing(shared: &Shared, told: &[Damage]) -> Result<Vec<Damage>, ReadError> {
    let (segment, partitions) = {
        let state = shared.state();
        let mut partitions: Vec<(PartitionId, u64)> =
            state.partitions.iter().map(|(id, known)| (*id, known.first)).collect();
        partitions.sort_unstable_by_key(|(id, _)| id.0);
        (state.segments.keys().next_back().copied().unwrap_or_default(), partitions)
    };
    let mut found = Vec::new();
    for (partition, first) in partitions {
        let mut next = first;
        loop {
            match headers(shared, partition, next, WALKED_BYTES) {
                Ok((_, end)) if end > next => next = end,
                Err(ReadError::Damaged { from, to }) if to > next => {
                    found.extend(
                        without(told, Lost { partition, from, to }).into_iter().map(|lost| Damage {
                            segment,
                            from: 0,
                            to: 0,
                            lost: Some(lost),
                            is_mended: false,
                        }),
                    );
                    next = to;
                }
                // Its end; or it was trimmed or removed since.
                Ok(_)
                | Err(ReadError::Damaged { .. } | ReadError::OutOfRange { .. } | ReadError::Unknown { .. }) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// What is left of `lost` without what is told.
fn without(told: &[Damage], lost: Lost) -> Vec<Lost> {
    let mut known: Vec<Lost> = told.iter().filter_map(|damage| damage.lost).collect();
    known.retain(|own| own.partition == lost.partition && own.from < lost.to && lost.from < own.to);
    known.sort_unstable_by_key(|own| own.from);
    let (mut left, mut at) = (Vec::new(), lost.from);
    for own in known {
        if own.from > at {
            left.push(Lost { from: at, to: own.from, ..lost });
        }
        at = at.max(own.to);
    }
    if at < lost.to {
        left.push(Lost { from: at, ..lost });
    }
    left
}

/// Bytes of batches between two looks at what a partition has.
const WALKED_BYTES: usize = 16 << 20;

/// The sum of the last batch of a segment, where it is known and still the last.
fn segment_chain(shared: &Shared, number: u32, end: u32) -> Option<u32> {
    let state = shared.state();
    state.segments.get(&number).filter(|segment| segment.end == end).and_then(|segment| segment.end_chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_lost_no_part_is_told_twice() {
        let lost = |from, to| Lost { partition: PartitionId(1), from, to };
        let damage = |lost| Damage { segment: 1, from: 8192, to: 8500, lost, is_mended: false };
        let other = Lost { partition: PartitionId(2), ..lost(0, 100) };
        let told = [other, lost(7, 9), lost(2, 3), lost(20, 30)].map(Some).map(damage);
        assert_eq!(without(&told, lost(0, 10)), [lost(0, 2), lost(3, 7), lost(9, 10)]);
        assert_eq!(without(&told, lost(2, 3)), []);
        assert_eq!(without(&told, lost(8, 22)), [lost(9, 20)]);
        assert_eq!(without(&[damage(None)], lost(4, 5)), [lost(4, 5)]);
    }
}
