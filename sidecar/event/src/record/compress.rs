//! Bodies that are compressed by their pusher, and stored as they come.
//!
//! ```text
//!   body := length of the records u32, records as an LZ4 block       the flag `compressed`; encrypted after that, if at all
//! ```
//!
//! The format is that of `lz4/doc/lz4_Block_format.md`. Nothing is made for a length that the block can't have, or that no batch
//! may have: an LZ4 block of n bytes stands for 255 n at most.

use bytes::Bytes;

use super::{BATCH_BYTES_MAX, Flags, HEADER_BYTES, Header, RecordError};

const LENGTH: usize = size_of::<u32>();
/// A byte of a block stands for so many at most.
const EXPANSION_MAX: usize = 255;

/// The batch with its body compressed; none where that does not make it smaller, or where it is wrapped already.
pub fn compress(header: &Header, body: &[u8]) -> Option<(Header, Bytes)> {
    if header.flags != Flags::PLAIN {
        return None;
    }
    let mut packed = vec![0; LENGTH + lz4_flex::block::get_maximum_output_size(body.len())];
    let (length, block) = packed.split_at_mut(LENGTH);
    length.copy_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    let used = lz4_flex::block::compress_into(body, block).ok()?;
    packed.truncate(LENGTH + used);
    if packed.len() >= body.len() {
        return None;
    }
    let header = Header {
        length: (HEADER_BYTES + packed.len()) as u32,
        flags: Flags::COMPRESSED,
        body_crc: crc32c::crc32c(&packed),
        ..*header
    };
    Some((header, Bytes::from(packed)))
}

/// The batch as it was before it was compressed; one that is not compressed as it is.
///
/// # Errors
/// [`RecordError::Wrapped`] where it is encrypted, [`RecordError::Packed`] where the body is not what a compressed one is.
pub fn expand(header: &Header, body: &Bytes) -> Result<(Header, Bytes), RecordError> {
    if !header.flags.has(Flags::COMPRESSED) {
        return Ok((*header, body.clone()));
    }
    if header.flags != Flags::COMPRESSED {
        return Err(RecordError::Wrapped { flags: header.flags });
    }
    let (length, block) = body.split_first_chunk::<LENGTH>().ok_or(RecordError::Packed { claimed: 0 })?;
    let claimed = u32::from_le_bytes(*length);
    let wrong = RecordError::Packed { claimed };
    let length = claimed as usize;
    if length > BATCH_BYTES_MAX - HEADER_BYTES || length > block.len().saturating_mul(EXPANSION_MAX) {
        return Err(wrong);
    }
    let mut records = vec![0; length];
    match lz4_flex::block::decompress_into(block, &mut records) {
        Ok(found) if found == length => {}
        _ => return Err(wrong),
    }
    let header = Header {
        length: (HEADER_BYTES + length) as u32,
        flags: Flags::PLAIN,
        body_crc: crc32c::crc32c(&records),
        ..*header
    };
    Ok((header, Bytes::from(records)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{BatchWriter, records, split};

    fn batch(values: &[Vec<u8>]) -> (Header, Bytes) {
        let mut writer = BatchWriter::new();
        for (time, value) in (0..).zip(values) {
            writer.push(time, Some(b"key"), &[("name", "value")], value).unwrap();
        }
        split(&writer.finish(Header { producer_id: 7, ..Header::default() }).unwrap()).unwrap()
    }

    /// A body under right sums.
    fn packed(body: Vec<u8>) -> (Header, Bytes) {
        let length = (HEADER_BYTES + body.len()) as u32;
        let body_crc = crc32c::crc32c(&body);
        (Header { length, count: 1, flags: Flags::COMPRESSED, body_crc, ..Header::default() }, body.into())
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_expanded_to_what_it_was(
            values in prop::collection::vec(prop::collection::vec(0u8..4, 0..300), 1..40),
        ) {
            let (header, body) = batch(&values);
            let Some((small, block)) = compress(&header, &body) else { return Ok(()) };
            prop_assert!(block.len() < body.len() && small.check(&block).is_ok());
            prop_assert_eq!((small.count, small.producer_id), (header.count, 7));
            prop_assert!(records(&small, &block).next().unwrap().is_err(), "nobody reads it as it is");
            prop_assert_eq!(expand(&small, &block), Ok((header, body)));
        }

        /// Whoever sends a batch can make its sums right.
        #[test]
        fn any_body_is_expanded_or_refused(
            body in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..4, Just(0xff)], 0..200),
        ) {
            let (header, body) = packed(body);
            if let Ok((found, records)) = expand(&header, &body) {
                prop_assert!(records.len() <= 255 * body.len() && found.check(&records).is_ok());
            }
        }
    }

    #[test]
    fn what_can_not_be_is_refused_before_anything_is_made_for_it() {
        let zeros = vec![0; 100_000];
        let (header, body) = batch(&[zeros]);
        let (small, block) = compress(&header, &body).unwrap();
        assert!(block.len() < 1000 && expand(&small, &block).is_ok());
        for claimed in [u32::MAX, BATCH_BYTES_MAX as u32, 255 * block.len() as u32, body.len() as u32 - 1] {
            let mut lie = block.to_vec();
            lie[..4].copy_from_slice(&claimed.to_le_bytes());
            let (header, lie) = packed(lie);
            assert_eq!(expand(&header, &lie), Err(RecordError::Packed { claimed }));
        }
        for length in 0..4 {
            let (header, cut) = packed(block[..length].to_vec());
            assert_eq!(expand(&header, &cut), Err(RecordError::Packed { claimed: 0 }));
        }
    }

    #[test]
    fn what_does_not_get_smaller_stays_and_what_is_encrypted_is_not_guessed_at() {
        let (header, body) = batch(&[vec![1, 2, 3]]);
        assert_eq!(compress(&header, &body), None);
        assert_eq!(expand(&header, &body), Ok((header, body.clone())));
        let flags = Flags::COMPRESSED.and(Flags::ENCRYPTED);
        let sealed = Header { flags, ..header };
        assert_eq!(expand(&sealed, &body), Err(RecordError::Wrapped { flags }));
        assert_eq!(compress(&sealed, &body), None);
    }

    /// Made by hand from the block format: it must be read for ever.
    #[test]
    fn a_compressed_body_of_version_1_looks_like_this() {
        // A record of 40 bytes: its length, three zeros, and `abcd` nine times and one more `a`.
        let mut plain = vec![40, 0, 0, 0];
        plain.extend(b"abcd".iter().cycle().take(37));
        // Eight literals; a match of 4 + 15 + 9 bytes, 4 back; five literals.
        let mut body = vec![41, 0, 0, 0, 0x8f, 40, 0, 0, 0, b'a', b'b', b'c', b'd', 4, 0, 9, 0x50];
        body.extend(b"abcda");
        let (header, body) = packed(body);
        let (header, found) = expand(&header, &body).unwrap();
        assert_eq!(found, plain);
        assert_eq!(
            records(&header, &found).map(|record| record.unwrap().value.len()).collect::<Vec<_>>(),
            [37]
        );
    }
}
