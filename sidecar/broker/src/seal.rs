//! Batches as they lie on the disk of a dnpipe that is encrypted: AES-256-GCM (NIST SP 800-38D) over the whole body.
//!
//! ```text
//!   key    := HKDF-SHA256(data key of the epoch; salt: salt u32, leader epoch u32, partition of the dnpipe u32)
//!   nonce  := base offset u64, lower half of the append time u32
//!   body   := records encrypted, tag (16 bytes)                     the header has the flag `sealed` and the salt
//!   beside := the header as it is written, with zeros for what the journal adds, and the dnpipe's number of the partition
//! ```
//!
//! Everything that a header says is authenticated, so a batch can't be given another place, epoch, time or producer. No two
//! batches have one nonce under one key: an offset is given once for as long as the tail of a partition is known, and where the
//! disk took batches back, or a process ended, the tail is read anew, and a salt drawn. Sums are over what lies on the disk,
//! so damage is found without the key.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use bytes::Bytes;
use sidestream_event::record::{Flags, HEADER_BYTES, Header, SEAL_BYTES};
use sidestream_log::StoredBatch;

use crate::keys::{DataKey, KeyError};

/// Seals what is pushed to a partition, for as long as its tail is known.
pub(crate) struct Sealer {
    /// Of the data key.
    pub(crate) epoch: u32,
    salt: u32,
    partition: u32,
    key: LessSafeKey,
}

impl Sealer {
    pub(crate) fn new(
        key: &DataKey,
        epoch: u32,
        leader_epoch: u32,
        partition: u32,
    ) -> Result<Self, KeyError> {
        let mut salt = [0; 4];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| KeyError::Random)?;
        let salt = u32::from_le_bytes(salt);
        let key = derive(key, salt, leader_epoch, partition).ok_or(KeyError::Random)?;
        Ok(Self { epoch, salt, partition, key })
    }

    /// The batch as it is to be stored. `header` is complete but for what the journal adds.
    pub(crate) fn seal(&self, header: &Header, body: &[u8]) -> Result<(Header, Bytes), KeyError> {
        let (length, flags) = (header.length + SEAL_BYTES as u32, header.flags.and(Flags::SEALED));
        let header = Header { length, flags, salt: self.salt, ..*header };
        let mut sealed = Vec::with_capacity(body.len() + SEAL_BYTES);
        sealed.extend_from_slice(body);
        let beside = Aad::from(facts(&header, self.partition));
        let done = self.key.seal_in_place_append_tag(nonce(&header), beside, &mut sealed);
        done.map_err(|_| KeyError::Random)?;
        Ok((Header { body_crc: crc32c::crc32c(&sealed), ..header }, Bytes::from(sealed)))
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Sealer(epoch {})", self.epoch)
    }
}

/// The batch as it was pushed; none where it was sealed with another key, or is not what was sealed.
pub(crate) fn open(key: &DataKey, partition: u32, batch: &StoredBatch) -> Option<StoredBatch> {
    let header = &batch.header;
    let own = derive(key, header.salt, header.leader_epoch, partition)?;
    let mut body = batch.body.to_vec();
    let opened = own.open_in_place(nonce(header), Aad::from(facts(header, partition)), &mut body).ok()?;
    let length = opened.len();
    body.truncate(length);
    let header = Header {
        length: (HEADER_BYTES + length) as u32,
        flags: header.flags.without(Flags::SEALED),
        salt: 0,
        body_crc: crc32c::crc32c(&body),
        ..*header
    };
    Some(StoredBatch { header, body: Bytes::from(body) })
}

fn derive(key: &DataKey, salt: u32, leader_epoch: u32, partition: u32) -> Option<LessSafeKey> {
    let numbers = [salt, leader_epoch, partition].map(u32::to_le_bytes).concat();
    let extracted = Salt::new(HKDF_SHA256, &numbers).extract(&key.secret[..]);
    let expanded = extracted.expand(&[b"sidestream batch 1"], &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(expanded)))
}

fn nonce(header: &Header) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&header.base_offset.to_le_bytes());
    nonce[8..].copy_from_slice(&(header.append_time as u32).to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What of a header stays the same wherever the batch lies.
fn facts(header: &Header, partition: u32) -> [u8; HEADER_BYTES] {
    let mut facts = [0; HEADER_BYTES];
    Header { partition, chain: 0, place: 0, frontier: 0, body_crc: 0, ..*header }.write(&mut facts);
    facts
}

#[cfg(test)]
mod tests {
    use sidestream_event::record::{BatchWriter, records, split};

    use super::*;
    use crate::keys::{
        Wrapped,
        tests::{Given, by},
    };

    fn key() -> DataKey {
        DataKey::create(&Given(vec![7; 32]), &by(), &"shop/orders".parse().unwrap(), 0).unwrap()
    }

    fn batch() -> (Header, Bytes) {
        let mut writer = BatchWriter::new();
        writer.push(5, Some(b"key"), &[("h", "v")], b"a secret value").unwrap();
        writer.push(9, None, &[("h", "v")], b"another").unwrap();
        let batch = writer.finish(Header { producer_id: 7, ..Header::default() }).unwrap();
        let (header, body) = split(&batch).unwrap();
        let known =
            Header { base_offset: 1000, leader_epoch: 3, reset_epoch: 2, append_time: 1 << 40, ..header };
        (known, body)
    }

    fn sealed(key: &DataKey, partition: u32) -> StoredBatch {
        let (header, body) = batch();
        let sealer = Sealer::new(key, 2, header.leader_epoch, partition).unwrap();
        let (header, body) = sealer.seal(&header, &body).unwrap();
        assert_eq!(header.check(&body), Ok(()));
        StoredBatch { header, body }
    }

    #[test]
    fn a_batch_is_opened_as_it_was_wherever_the_journal_has_put_it() {
        let key = key();
        let sealed = sealed(&key, 4);
        assert!(!sealed.body.windows(6).any(|window| window == b"secret"));
        assert!(records(&sealed.header, &sealed.body).next().unwrap().is_err());
        let moved = Header { partition: 99, chain: 5, place: 7 << 32, frontier: 512, ..sealed.header };
        let opened = open(&key, 4, &StoredBatch { header: moved, ..sealed }).unwrap();
        let (header, body) = batch();
        assert_eq!(opened.body, body);
        let found = Header { partition: 0, chain: 0, place: 0, frontier: 0, ..opened.header };
        assert_eq!(found, header);
    }

    #[test]
    fn no_other_place_time_or_producer_and_no_flipped_bit_is_believed() {
        let key = key();
        let sealed = sealed(&key, 4);
        type Change = fn(&mut Header);
        let changes: [(&str, Change); 10] = [
            ("offset", |header| header.base_offset += 1),
            ("reset epoch", |header| header.reset_epoch += 1),
            ("leader epoch", |header| header.leader_epoch += 1),
            ("count", |header| header.count += 1),
            ("base time", |header| header.base_time += 1),
            ("append time", |header| header.append_time += 1 << 33),
            ("producer", |header| header.producer_id += 1),
            ("sequence", |header| header.first_sequence += 1),
            ("position", |header| header.position += 1),
            ("salt", |header| header.salt ^= 1),
        ];
        for (what, change) in changes {
            let mut other = sealed.clone();
            change(&mut other.header);
            assert!(open(&key, 4, &other).is_none(), "{what}");
        }
        assert!(open(&key, 5, &sealed).is_none(), "another partition");
        assert!(open(&self::key(), 4, &sealed).is_none(), "another key");
        for bit in 0..sealed.body.len() * 8 {
            let mut body = sealed.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let other = StoredBatch { body: body.into(), ..sealed.clone() };
            assert!(open(&key, 4, &other).is_none(), "bit {bit}");
        }
        for length in [0, 1, SEAL_BYTES, sealed.body.len() - 1] {
            let other = StoredBatch { body: sealed.body.slice(..length), ..sealed.clone() };
            assert!(open(&key, 4, &other).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn who_seals_anew_at_the_same_offset_does_not_use_the_same_key() {
        let key = key();
        let (header, body) = batch();
        let seal = |_| Sealer::new(&key, 2, 3, 4).unwrap().seal(&header, &body).unwrap().1;
        let made: Vec<Bytes> = (0..8).map(seal).collect();
        assert!((0..8).all(|at| made[at + 1..].iter().all(|other| *other != made[at])));
    }

    /// Made by a program that shares nothing with this one, from the drawing at the top. It must be read for ever.
    #[test]
    fn a_sealed_batch_of_version_1_looks_like_this() {
        let text = concat!(
            "89000000010470001100000003000000e80300000000000002000000010000000080d546c1467a184d00000000000000",
            "01000000000000000c0000000000000004030201475e81ee154d314ec1467a1800000000000000000020000007000000",
            "00200000efbeadde000000009aa079aa2824f2b4ba000c63acdbe43ae5c451a22f26d601233477eb70"
        );
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        let batch: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
        let (header, body) = split(&batch.into()).unwrap();
        let wrapped = Wrapped {
            by: by(),
            key: concat!(
                "6465666768696a6b6c6d6e6fedbe7bc3dc4cf33b9bc7fa4d7fc0cf58e767a3af2ec956d7027409ed5e0600ed",
                "21f35baf19303aedab210f7c033a563c"
            )
            .into(),
        };
        let keys = Given((0..32).collect());
        let key = DataKey::unwrap(&keys, &wrapped, &"shop/orders".parse().unwrap(), 2).unwrap();
        let opened = open(&key, 4, &StoredBatch { header, body }).unwrap();
        let found: Vec<_> = records(&opened.header, &opened.body).map(Result::unwrap).collect();
        assert_eq!((found.len(), found[0].offset, found[0].value), (1, 1000, &b"hello"[..]));
    }
}
