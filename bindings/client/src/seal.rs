//! Encryption before anything leaves the program: AES-256-GCM (NIST SP 800-38D) over the whole body of a batch.
//!
//! ```text
//!   0        12             12 + n       28 + n
//!   | nonce  | records      | tag        |           the body of a batch with the flag `encrypted`
//! ```
//!
//! What the header says of the records (how many, their base time, their producer and sequence) is authenticated with them, so a server
//! cannot give them another place in their producer's order. The nonce is random; one key should seal at most 2^32 batches.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use bytes::Bytes;
use sidestream_event::record::{BATCH_BYTES_MAX, Flags, HEADER_BYTES, Header};

/// A key that only its participants know.
#[derive(Clone)]
pub struct DataKey(std::sync::Arc<RandomizedNonceKey>);

/// Why a batch cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The key has not 32 bytes.
    KeyLength {
        /// How many it has.
        bytes: usize,
    },
    /// The batch was sealed with another key, or its bytes were changed.
    WrongKey,
    /// The batch is encrypted, and there is no key here.
    NoKey,
    /// The batch is not encrypted, and there is a key here.
    NotSealed,
    /// Nothing more can be sealed: the batch is too large, or the machine gives no randomness.
    Failed,
}

impl DataKey {
    /// The key of 32 bytes.
    ///
    /// # Errors
    /// [`SealError::KeyLength`].
    pub fn new(bytes: &[u8]) -> Result<DataKey, SealError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes);
        let key = key.map_err(|_| SealError::KeyLength { bytes: bytes.len() })?;
        Ok(DataKey(std::sync::Arc::new(key)))
    }

    /// The batch with its body encrypted.
    pub(crate) fn seal(&self, header: Header, body: &[u8]) -> Result<Bytes, SealError> {
        let mut records = body.to_vec();
        let aad = Aad::from(facts(&header));
        let nonce = self.0.seal_in_place_append_tag(aad, &mut records).map_err(|_| SealError::Failed)?;
        let length = HEADER_BYTES + NONCE_LEN + records.len();
        if length > BATCH_BYTES_MAX {
            return Err(SealError::Failed);
        }
        let mut batch = vec![0; HEADER_BYTES];
        batch.extend_from_slice(nonce.as_ref());
        batch.extend_from_slice(&records);
        let body_crc = crc32c::crc32c(&batch[HEADER_BYTES..]);
        let header =
            Header { length: length as u32, body_crc, flags: header.flags.and(Flags::ENCRYPTED), ..header };
        if let Some(place) = batch.first_chunk_mut::<HEADER_BYTES>() {
            header.write(place);
        }
        Ok(Bytes::from(batch))
    }

    /// The records of an encrypted batch, and its header as it would be without encryption.
    pub(crate) fn open(&self, header: &Header, body: &[u8]) -> Result<(Header, Bytes), SealError> {
        if !header.flags.has(Flags::ENCRYPTED) {
            return Err(SealError::NotSealed);
        }
        let (nonce, sealed) = body.split_first_chunk::<NONCE_LEN>().ok_or(SealError::WrongKey)?;
        let mut records = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(facts(header)), &mut records);
        let length = opened.map_err(|_| SealError::WrongKey)?.len();
        records.truncate(length);
        Ok((Header { flags: header.flags.without(Flags::ENCRYPTED), ..*header }, Bytes::from(records)))
    }
}

/// What must not change without the key.
fn facts(header: &Header) -> [u8; 32] {
    let mut facts = [0; 32];
    facts[..4].copy_from_slice(&header.count.to_le_bytes());
    facts[4..12].copy_from_slice(&header.base_time.to_le_bytes());
    facts[12..20].copy_from_slice(&header.producer_id.to_le_bytes());
    facts[20..24].copy_from_slice(&header.producer_epoch.to_le_bytes());
    facts[24..].copy_from_slice(&header.first_sequence.to_le_bytes());
    facts
}

impl fmt::Debug for DataKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("DataKey")
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::KeyLength { bytes } => {
                write!(
                    out,
                    "the key has {bytes} bytes, and AES-256 takes 32; make one with `head -c 32 /dev/urandom`"
                )
            }
            SealError::WrongKey => {
                out.write_str("a batch cannot be decrypted: it was sealed with another key, or changed")
            }
            SealError::NoKey => out
                .write_str("a batch is encrypted, and there is no key here; give the one it was pushed with"),
            SealError::NotSealed => {
                out.write_str("a batch is not encrypted, and a key was given; leave the key out")
            }
            SealError::Failed => {
                out.write_str("a batch cannot be encrypted: it would be too large; push less at a time")
            }
        }
    }
}

impl std::error::Error for SealError {}

#[cfg(test)]
mod tests {
    use sidestream_event::record::{BatchWriter, records, split};

    use super::*;

    fn batch() -> (Header, Bytes) {
        let mut writer = BatchWriter::new();
        writer.push(5, Some(b"key"), &[("h", "v")], b"secret").unwrap();
        split(&writer.finish(Header { producer_id: 7, ..Header::default() }).unwrap()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_the_key_alone() {
        let key = DataKey::new(&[1; 32]).unwrap();
        let (header, body) = batch();
        let sealed = key.seal(header, &body).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let (header, body) = split(&sealed).unwrap();
        assert!(records(&header, &body).next().unwrap().is_err());
        let (plain, opened) = key.open(&header, &body).unwrap();
        assert_eq!(records(&plain, &opened).next().unwrap().unwrap().value, b"secret");
        let other = DataKey::new(&[2; 32]).unwrap();
        assert_eq!(other.open(&header, &body), Err(SealError::WrongKey));
    }

    #[test]
    fn a_place_in_the_order_cannot_be_changed_and_neither_can_a_bit() {
        let key = DataKey::new(&[1; 32]).unwrap();
        let (header, body) = batch();
        let (header, body) = split(&key.seal(header, &body).unwrap()).unwrap();
        for moved in [
            Header { first_sequence: 1, ..header },
            Header { producer_id: 8, ..header },
            Header { producer_epoch: 1, ..header },
            Header { base_time: 6, ..header },
            Header { count: 2, ..header },
        ] {
            assert_eq!(key.open(&moved, &body), Err(SealError::WrongKey));
        }
        for bit in 0..body.len() * 8 {
            let mut flipped = body.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&header, &flipped), Err(SealError::WrongKey));
        }
        // What the server fills in is its own.
        assert!(key.open(&Header { base_offset: 9, reset_epoch: 2, ..header }, &body).is_ok());
    }

    #[test]
    fn a_key_of_another_length_is_refused_with_its_length() {
        assert_eq!(DataKey::new(b"short").unwrap_err(), SealError::KeyLength { bytes: 5 });
    }
}
