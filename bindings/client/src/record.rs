//! A record as a program sees it.

use bytes::Bytes;
use sidestream_event::{Bytes as Body, record::records};

use crate::{ClientError, DataKey, reader::opened};

/// A record to be pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What it is about: records of one key are in order.
    pub key: Option<Bytes>,
    /// What is said beside the value, in order.
    pub headers: Vec<(String, Bytes)>,
    /// The value.
    pub value: Bytes,
    /// When it happened, in nanoseconds since 1970-01-01T00:00:00Z; none for now.
    pub time: Option<i64>,
}

/// A record that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The partition it is in.
    pub partition: u32,
    /// Its place there.
    pub offset: u64,
    /// The epoch it is in: how often the dnpipe had been reset.
    pub epoch: u32,
    /// When it happened, in nanoseconds since 1970-01-01T00:00:00Z.
    pub time: i64,
    /// What it is about.
    pub key: Option<Bytes>,
    /// What is said beside the value, in order.
    pub headers: Vec<(String, Bytes)>,
    /// The value.
    pub value: Bytes,
}

impl Record {
    /// A record of this value, without key and headers.
    pub fn new(value: impl Into<Bytes>) -> Record {
        Record { value: value.into(), ..Record::default() }
    }

    /// The same with a key.
    pub fn key(self, key: impl Into<Bytes>) -> Record {
        Record { key: Some(key.into()), ..self }
    }

    /// The same with a header more.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Record {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// About what it takes in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        RECORD_OVERHEAD + self.key.as_ref().map_or(0, Bytes::len) + headers + self.value.len()
    }
}

/// The records of a batch whose offset `is_wanted`, decrypted and expanded; keys and values are slices of its body.
pub(crate) fn of_batch(
    batch: &Body,
    key: Option<&DataKey>,
    partition: u32,
    is_wanted: impl Fn(u64) -> bool,
) -> Result<Vec<Pulled>, ClientError> {
    let (header, body) = opened(batch, key)?;
    let mut wanted = Vec::new();
    for record in records(&header, &body) {
        let record = record?;
        if !is_wanted(record.offset) {
            continue;
        }
        let kept = |slice: &[u8]| body.slice_ref(slice);
        wanted.push(Pulled {
            partition,
            offset: record.offset,
            epoch: header.reset_epoch,
            time: record.time,
            key: record.key.map(kept),
            headers: record.headers.iter().map(|(name, value)| (name.to_owned(), kept(value))).collect(),
            value: kept(record.value),
        });
    }
    Ok(wanted)
}

/// What a record takes beside its bytes.
const RECORD_OVERHEAD: usize = 64;
