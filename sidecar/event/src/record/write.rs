//! Batches being made: records go into one piece of memory, which becomes the batch.

use bytes::Bytes;

use super::{BATCH_BYTES_MAX, Flags, HEADER_BYTES, Header, RECORD_BYTES_MAX, RecordError, SEAL_BYTES};
use crate::varint;

/// Gathers records into a batch of [`BATCH_BYTES_MAX`] at most, when it is sealed.
#[derive(Debug)]
pub struct BatchWriter {
    /// Room for the header, then the body.
    bytes: Vec<u8>,
    bytes_max: usize,
    count: u32,
    base_time: i64,
}

impl Default for BatchWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchWriter {
    /// An empty batch.
    pub fn new() -> Self {
        Self::bounded(BATCH_BYTES_MAX)
    }

    /// An empty batch that is full at `bytes_max`, header included; at least one record fits however large it is.
    pub fn bounded(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.clamp(HEADER_BYTES, BATCH_BYTES_MAX - SEAL_BYTES);
        Self { bytes: vec![0; HEADER_BYTES], bytes_max, count: 0, base_time: 0 }
    }

    /// Adds a record. `time` is in nanoseconds since 1970; names and values of `headers` are kept in their order. An error
    /// leaves the batch as it was: [`RecordError::BatchFull`] says that the record fits into another one.
    pub fn push<N: AsRef<str>, V: AsRef<[u8]>>(
        &mut self,
        time: i64,
        key: Option<&[u8]>,
        headers: &[(N, V)],
        value: &[u8],
    ) -> Result<(), RecordError> {
        let base_time = if self.count == 0 { time } else { self.base_time };
        let since = time.wrapping_sub(base_time);
        let delta = varint::fold(since);
        let named: usize = headers
            .iter()
            .map(|(name, value)| sized(name.as_ref().len()) + sized(value.as_ref().len()))
            .sum();
        let length = varint::length(delta)
            + key.map_or(1, |key| varint::length(key.len() as u64 + 1) + key.len())
            + varint::length(headers.len() as u64)
            + named
            + value.len();
        if length > RECORD_BYTES_MAX {
            return Err(RecordError::RecordTooLarge { bytes: length });
        }
        self.make_room(sized(length))?;
        let out = &mut self.bytes;
        varint::write(length as u64, out);
        varint::write(delta, out);
        match key {
            None => out.push(0),
            Some(key) => {
                varint::write(key.len() as u64 + 1, out);
                out.extend_from_slice(key);
            }
        }
        varint::write(headers.len() as u64, out);
        for (name, value) in headers {
            for bytes in [name.as_ref().as_bytes(), value.as_ref()] {
                varint::write(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
        }
        out.extend_from_slice(value);
        (self.base_time, self.count) = (base_time, self.count + 1);
        Ok(())
    }

    /// Adds a record as it stands in another batch ([`super::Record::raw`]) whose times count from `base_time`. All the
    /// records of one batch must come from batches of one base time.
    pub fn push_raw(&mut self, base_time: i64, raw: &[u8]) -> Result<(), RecordError> {
        self.make_room(raw.len())?;
        debug_assert!(self.count == 0 || self.base_time == base_time, "times would be changed");
        self.bytes.extend_from_slice(raw);
        (self.base_time, self.count) = (base_time, self.count + 1);
        Ok(())
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no records yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far, header included.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch, and an empty one in its place. Of `header` count are what only the pusher knows: producer, sequence,
    /// position; lengths, count, times, flags and sums are filled in. An error says that there are no records.
    pub fn finish(&mut self, header: Header) -> Result<Bytes, RecordError> {
        if self.count == 0 {
            return Err(RecordError::Empty);
        }
        let empty = Self::bounded(self.bytes_max);
        let Self { mut bytes, count, base_time, .. } = std::mem::replace(self, empty);
        let body_crc = crc32c::crc32c(&bytes[HEADER_BYTES..]);
        let length = bytes.len() as u32;
        let header = Header { length, count, base_time, body_crc, flags: Flags::PLAIN, ..header };
        if let Some(place) = bytes.first_chunk_mut::<HEADER_BYTES>() {
            header.write(place);
        }
        Ok(Bytes::from(bytes))
    }

    fn make_room(&mut self, more: usize) -> Result<(), RecordError> {
        let left = self.bytes_max.saturating_sub(self.bytes.len());
        if more > left && self.count > 0 {
            return Err(RecordError::BatchFull { bytes: more, left });
        }
        Ok(())
    }
}

const _: () = assert!(
    HEADER_BYTES + RECORD_BYTES_MAX + 10 <= BATCH_BYTES_MAX - SEAL_BYTES,
    "the largest record must fit into an empty batch"
);

/// Bytes of a string of `length` with its length.
fn sized(length: usize) -> usize {
    varint::length(length as u64) + length
}
