//! What is pushed over gRPC, and how it becomes a batch.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType, varint},
};
use sidestream_event::{
    native::{Conditions, DnpipeName, Refusal, Request, partition_of},
    record::{BatchWriter, Header, RECORD_BYTES_MAX, RecordError},
};

use super::{asked, proto};
use crate::{limits::PUSHED_RECORDS_MAX, session::Session};

/// A batch to be appended: all of it is stored, or nothing. The message `PushRequest` of `dnpipes.proto`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PushRequest {
    /// `namespace/name`.
    pub dnpipe: String,
    /// To which partition; where absent, that of the first record's key, or of its value where it has none.
    pub partition: Option<u32>,
    /// One at least.
    pub records: Records,
    /// Only where the dnpipe is in this epoch.
    pub if_epoch: Option<u32>,
    /// Only where the first record gets this offset.
    pub if_next: Option<u64>,
    /// Who pushes: what it pushes again is stored once.
    pub producer: Option<proto::Producer>,
}

/// Records as they were written, one behind the other: a list of them takes many times their bytes, which a caller could have
/// a server make for next to nothing.
#[derive(Clone, Default, PartialEq)]
pub struct Records {
    /// Each with its length before it.
    bytes: BytesMut,
    count: usize,
}

impl Records {
    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn push(&mut self, record: &[u8]) {
        varint::encode_varint(record.len() as u64, &mut self.bytes);
        self.bytes.put_slice(record);
        self.count += 1;
    }

    /// Each record as it was written.
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            // Both were written here.
            let length = varint::decode_varint(&mut rest).ok()?;
            rest.split_off(..length as usize)
        })
    }
}

impl FromIterator<proto::Record> for Records {
    fn from_iter<I: IntoIterator<Item = proto::Record>>(records: I) -> Records {
        let mut all = Records::default();
        records.into_iter().for_each(|record| all.push(&record.encode_to_vec()));
        all
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} records of {} bytes", self.count, self.bytes.len())
    }
}

impl PushRequest {
    /// The partition that it goes to, the push, and what it appends.
    pub(super) fn read(self, session: &Session) -> Result<(u32, Request, Bytes), Refusal> {
        let dnpipe = asked::name(&self.dnpipe)?;
        // Who may not push has us make nothing of what it sent.
        session.may_push(&dnpipe)?;
        if self.records.len() > PUSHED_RECORDS_MAX {
            let (count, most) = (self.records.len(), PUSHED_RECORDS_MAX);
            let reason = format!("{count} records are more than the {most} of a push; push less at a time");
            return Err(Refusal::Bad { reason });
        }
        let (mut writer, mut now, mut partition) = (BatchWriter::new(), None, self.partition);
        for record in self.records.iter() {
            // It is many times its bytes while it is looked at.
            if record.len() > WRITTEN_BYTES_MAX {
                return Err(bad(RecordError::RecordTooLarge { bytes: record.len() }));
            }
            let proto::Record { value, key, time, headers } =
                proto::Record::decode(record).map_err(no_record)?;
            let key = key.as_deref();
            partition = partition.or_else(|| Some(place(session, &dnpipe, key.unwrap_or(&value))));
            let headers: Vec<_> = headers.iter().map(|own| (own.name.as_str(), &own.value[..])).collect();
            let time =
                time.unwrap_or_else(|| *now.get_or_insert_with(|| session.shared.storage.wall_nanos()));
            writer.push(time, key, &headers, &value).map_err(bad)?;
        }
        let batch = writer.finish(self.producer.map_or(Ok(Header::default()), header)?).map_err(bad)?;
        let only_if = Conditions { epoch: self.if_epoch, next_offset: self.if_next };
        let partition = partition.unwrap_or_default();
        Ok((partition, Request::Push { dnpipe, partition, only_if }, batch))
    }
}

/// A record that is longer as a message is longer than [`RECORD_BYTES_MAX`] as it is stored: each header has four bytes more in one,
/// and is four bytes there where it says anything; the rest is the time, and what stands before value and key.
const WRITTEN_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX + 64;

/// The partition of a key. Of a dnpipe that is not here any: it is refused for that.
fn place(session: &Session, dnpipe: &DnpipeName, key: &[u8]) -> u32 {
    let partitions = session.shared.broker.describe(dnpipe).map_or(1, |found| found.partitions.len());
    partition_of(key, partitions as u32)
}

fn header(producer: proto::Producer) -> Result<Header, Refusal> {
    let proto::Producer { id, epoch, sequence, position } = producer;
    if id == 0 {
        return Err(Refusal::Bad { reason: "producer 0 is nobody; choose another number".into() });
    }
    let header = Header { producer_id: id, producer_epoch: epoch, ..Header::default() };
    Ok(Header { first_sequence: sequence, position, ..header })
}

fn bad(error: RecordError) -> Refusal {
    match error {
        RecordError::Empty => Refusal::Bad { reason: "there are no records; push one at least".into() },
        RecordError::RecordTooLarge { bytes } => {
            Refusal::TooLarge { bytes: bytes as u64, max: RECORD_BYTES_MAX as u64 }
        }
        error => Refusal::Bad { reason: format!("the records make no batch: {error}; push less at a time") },
    }
}

fn no_record(error: DecodeError) -> Refusal {
    Refusal::Bad { reason: format!("a record is none: {error}; make the message with a library") }
}

/// As prost derives it, but for the records.
impl Message for PushRequest {
    fn encode_raw(&self, out: &mut impl BufMut) {
        if !self.dnpipe.is_empty() {
            encoding::string::encode(1, &self.dnpipe, out);
        }
        if let Some(partition) = &self.partition {
            encoding::uint32::encode(2, partition, out);
        }
        for record in self.records.iter() {
            encoding::encode_key(3, WireType::LengthDelimited, out);
            varint::encode_varint(record.len() as u64, out);
            out.put_slice(record);
        }
        if let Some(epoch) = &self.if_epoch {
            encoding::uint32::encode(4, epoch, out);
        }
        if let Some(next) = &self.if_next {
            encoding::uint64::encode(5, next, out);
        }
        if let Some(producer) = &self.producer {
            encoding::message::encode(6, producer, out);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        bytes: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::string::merge(wire_type, &mut self.dnpipe, bytes, context),
            2 => encoding::uint32::merge(wire_type, self.partition.get_or_insert_default(), bytes, context),
            3 => {
                let mut record = Bytes::new();
                encoding::bytes::merge(wire_type, &mut record, bytes, context)?;
                self.records.push(&record);
                Ok(())
            }
            4 => encoding::uint32::merge(wire_type, self.if_epoch.get_or_insert_default(), bytes, context),
            5 => encoding::uint64::merge(wire_type, self.if_next.get_or_insert_default(), bytes, context),
            6 => encoding::message::merge(wire_type, self.producer.get_or_insert_default(), bytes, context),
            _ => encoding::skip_field(wire_type, tag, bytes, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let name = if self.dnpipe.is_empty() { 0 } else { encoding::string::encoded_len(1, &self.dnpipe) };
        name + self.partition.as_ref().map_or(0, |own| encoding::uint32::encoded_len(2, own))
            + self.records.bytes.len()
            + self.records.len() * encoding::key_len(3)
            + self.if_epoch.as_ref().map_or(0, |own| encoding::uint32::encoded_len(4, own))
            + self.if_next.as_ref().map_or(0, |own| encoding::uint64::encoded_len(5, own))
            + self.producer.as_ref().map_or(0, |own| encoding::message::encoded_len(6, own))
    }

    fn clear(&mut self) {
        *self = PushRequest::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As prost derives it.
    #[derive(Clone, PartialEq, Message)]
    struct Derived {
        #[prost(string, tag = "1")]
        dnpipe: String,
        #[prost(uint32, optional, tag = "2")]
        partition: Option<u32>,
        #[prost(message, repeated, tag = "3")]
        records: Vec<proto::Record>,
        #[prost(uint32, optional, tag = "4")]
        if_epoch: Option<u32>,
        #[prost(uint64, optional, tag = "5")]
        if_next: Option<u64>,
        #[prost(message, optional, tag = "6")]
        producer: Option<proto::Producer>,
    }

    #[test]
    fn a_push_is_the_same_bytes_as_one_of_a_generated_message() {
        let record = |value: &str| proto::Record {
            value: Bytes::from(value.to_owned()),
            key: Some(Bytes::from_static(b"k")),
            time: Some(-1),
            headers: vec![proto::Header { name: "n".into(), value: Bytes::from_static(b"v") }],
        };
        let long = "x".repeat(300);
        for records in [vec![], vec![record("")], vec![record("a"), record(&long)]] {
            let derived = Derived {
                dnpipe: "shop/orders".into(),
                partition: Some(0),
                records: records.clone(),
                if_epoch: Some(7),
                if_next: Some(u64::MAX),
                producer: Some(proto::Producer { id: 1, epoch: 2, sequence: 3, position: 4 }),
            };
            let bytes = derived.encode_to_vec();
            let own = PushRequest::decode(&bytes[..]).unwrap();
            assert_eq!(own.records, records.into_iter().collect());
            assert_eq!(own.encode_to_vec(), bytes);
            assert_eq!(own.encoded_len(), bytes.len());
        }
        assert_eq!(PushRequest::default().encode_to_vec(), Derived::default().encode_to_vec());
        // What comes twice counts the second time; what is not known is left out.
        let twice = [2 << 3, 1, 2 << 3, 5, 15 << 3, 9];
        assert_eq!(PushRequest::decode(&twice[..]).unwrap().partition, Some(5));
        assert!(PushRequest::decode(&[3 << 3 | 2, 200][..]).is_err());
    }
}
