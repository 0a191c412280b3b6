//! Where the records of a batch are that was pushed, when they do not follow each other: the tail of `Pushed`.
//!
//! ```text
//!   tail := (first offset u64, count u32)*      little endian; in the order of the batch's records
//! ```
//!
//! Some of them were there before, under the same message ids, and were left out. Who does not read the tail knows where the
//! first record is.

use bytes::Bytes;

/// Runs of offsets, as bytes.
pub fn write_places(runs: &[(u64, u32)]) -> Bytes {
    let mut out = Vec::with_capacity(runs.len() * RUN_BYTES);
    for (first, count) in runs {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.into()
}

/// The offset of each of `count` records of a batch whose first is at `base_offset`; none where the tail says something else.
pub fn read_places(tail: &[u8], base_offset: u64, count: usize) -> Option<Vec<u64>> {
    if tail.is_empty() {
        return Some((base_offset..).take(count).collect());
    }
    let (runs, rest) = tail.as_chunks::<RUN_BYTES>();
    let runs = runs.iter().map(|run| {
        let [a, b, c, d, e, f, g, h, counted @ ..] = *run;
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes(counted))
    });
    let mut offsets = Vec::with_capacity(count);
    for (first, counted) in runs {
        if counted as usize > count - offsets.len() {
            return None;
        }
        offsets.extend((0..u64::from(counted)).map(|n| first.wrapping_add(n)));
    }
    (rest.is_empty() && offsets.len() == count).then_some(offsets)
}

const RUN_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_were_written() {
        let tail = write_places(&[(7, 1), (20, 2), (9, 1)]);
        assert_eq!(tail.len(), 36);
        assert_eq!(read_places(&tail, 7, 4), Some(vec![7, 20, 21, 9]));
        assert_eq!(read_places(&[], 7, 3), Some(vec![7, 8, 9]));
    }

    #[test]
    fn what_does_not_fit_the_batch_is_not_believed() {
        let tail = write_places(&[(7, 1), (20, u32::MAX)]);
        assert_eq!(read_places(&tail, 7, 4), None);
        assert_eq!(read_places(&tail[..13], 7, 1), None);
        assert_eq!(read_places(&write_places(&[(7, 1)]), 7, 2), None);
        assert_eq!(read_places(&write_places(&[(7, 3)]), 7, 2), None);
    }
}
