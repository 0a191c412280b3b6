//! Events as batches of records, numbered, so that one that is pushed again is stored once.

use bytes::Bytes;
use sidestream_event::{
    Event, Text, Value, json,
    native::partition_of,
    record::{BatchWriter, HEADER_BYTES, Header, RecordError},
};
use sidestream_host::Random;

use super::TRACEPARENT;
use crate::Evaluate;

/// Who pushes to a partition, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) producer_id: u64,
    pub(super) next_sequence: u64,
}

/// A batch for one partition. It has its numbers when it is first pushed, and keeps them.
pub(super) struct Piece {
    pub(super) partition: u32,
    /// Which events it holds, by their indices.
    pub(super) events: Vec<usize>,
    batch: Bytes,
    numbers: Option<Lane>,
}

/// Events of one batch of the pipeline, in pieces.
#[derive(Default)]
pub(super) struct Pieces {
    /// In order, as far as they are of one partition.
    pub(super) left: Vec<Piece>,
    /// Indices of events that will never be taken, and why.
    pub(super) refused: Vec<(usize, String)>,
}

impl Lane {
    /// A producer that nobody knows.
    pub(super) fn new(random: &mut Random) -> Lane {
        // 0 is nobody.
        Lane { producer_id: random.next_u64().max(1), next_sequence: 0 }
    }
}

impl Pieces {
    /// The records of `events`, for that many partitions: those of a key in its own, the others in `keyless`.
    pub(super) fn pack(events: &[Event], key: Option<&Evaluate>, partitions: u32, keyless: u32) -> Pieces {
        let mut packing = Packing {
            writers: (0..partitions).map(|_| (BatchWriter::bounded(PIECE_BYTES), Vec::new())).collect(),
            pieces: Pieces::default(),
        };
        let mut value = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let added = key_of(event, key).and_then(|key| {
                let partition = partition_in(key.as_deref(), partitions, keyless);
                packing
                    .add(partition, index, event, key.as_deref(), &mut value)
                    .map_err(|error| error.to_string())
            });
            if let Err(reason) = added {
                packing.pieces.refused.push((index, reason));
            }
        }
        (0..partitions).for_each(|partition| packing.close(partition));
        packing.pieces
    }

    /// These events will never be taken.
    pub(super) fn refuse(&mut self, piece: Piece, reason: &str) {
        self.refused.extend(piece.events.into_iter().map(|index| (index, reason.to_owned())));
    }
}

struct Packing {
    /// By partition, with the indices of the events in it.
    writers: Vec<(BatchWriter, Vec<usize>)>,
    pieces: Pieces,
}

impl Packing {
    fn add(
        &mut self,
        partition: u32,
        index: usize,
        event: &Event,
        key: Option<&str>,
        value: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let added = add(&mut self.writers[partition as usize].0, event, key, value);
        if let Err(RecordError::BatchFull { .. }) = added {
            self.close(partition);
            add(&mut self.writers[partition as usize].0, event, key, value)?;
        } else {
            added?;
        }
        self.writers[partition as usize].1.push(index);
        Ok(())
    }

    fn close(&mut self, partition: u32) {
        let (writer, events) = &mut self.writers[partition as usize];
        // It fails where there are no records.
        if let Ok(batch) = writer.finish(Header::default()) {
            let events = std::mem::take(events);
            self.pieces.left.push(Piece { partition, events, batch, numbers: None });
        }
    }
}

impl Piece {
    /// The batch as it is pushed, by `lane` the first time.
    pub(super) fn numbered(&mut self, lane: &mut Lane) -> Result<Bytes, RecordError> {
        if self.numbers.is_none() {
            let mut header = Header::read(&self.batch)?;
            (header.producer_id, header.first_sequence) = (lane.producer_id, lane.next_sequence);
            let mut batch = Vec::from(std::mem::take(&mut self.batch));
            if let Some(place) = batch.first_chunk_mut::<HEADER_BYTES>() {
                header.write(place);
            }
            self.batch = Bytes::from(batch);
            self.numbers = Some(*lane);
            lane.next_sequence += self.events.len() as u64;
        }
        Ok(self.batch.clone())
    }

    /// Its numbers mean nothing any more: it gets others when it is pushed next.
    pub(super) fn unnumber(&mut self) {
        self.numbers = None;
    }
}

/// The key that the record of an event has, as `key` or else the event says.
pub(super) fn key_of(event: &Event, key: Option<&Evaluate>) -> Result<Option<Text>, String> {
    match key {
        None => Ok(event.meta.key.clone()),
        Some(key) => key(event).map(|key| text_of(&key)).map_err(|error| format!("`key`: {error}")),
    }
}

/// The partition of a record.
pub(super) fn partition_in(key: Option<&str>, partitions: u32, keyless: u32) -> u32 {
    key.map_or(keyless, |key| partition_of(key.as_bytes(), partitions))
}

/// Adds an event to a batch as the record it is; `value` is room for its body.
pub(super) fn add(
    writer: &mut BatchWriter,
    event: &Event,
    key: Option<&str>,
    value: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let mut headers: Vec<(&str, &[u8])> = Vec::new();
    if let Some(context) = event.meta.context.as_deref() {
        headers.extend(context.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        headers.extend(context.traceparent.iter().map(|trace| (TRACEPARENT, trace.as_bytes())));
    }
    let body: &[u8] = match &event.body {
        Value::Text(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
        other => {
            value.clear();
            json::write(other, value);
            value
        }
    };
    writer.push(event.meta.time.as_nanos(), key.map(str::as_bytes), &headers, body)
}

/// A value as text; none for null, a list or a map.
fn text_of(value: &Value) -> Option<Text> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Null | Value::List(_) | Value::Map(_) | Value::Bytes(_) => None,
        plain => Some(plain.to_string().into()),
    }
}

/// A batch up to this goes to a partition at once; one record goes however large it is.
pub(super) const PIECE_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use sidestream_event::record::{RECORD_BYTES_MAX, records, split};

    use super::*;

    fn values(piece: &mut Piece, lane: &mut Lane) -> (Header, Vec<String>) {
        let (header, body) = split(&piece.numbered(lane).unwrap()).unwrap();
        let texts = records(&header, &body)
            .map(|record| String::from_utf8_lossy(record.unwrap().value).into_owned())
            .collect();
        (header, texts)
    }

    #[test]
    fn text_and_bytes_stand_as_they_are_and_everything_else_as_json() {
        let map: Value = [("a", Value::from(1))].into_iter().collect();
        let bytes = Value::Bytes(Bytes::from_static(b"raw"));
        let events: Vec<Event> = [Value::from("plain \"text\""), map, bytes, Value::from(2.5)]
            .into_iter()
            .map(Event::new)
            .collect();
        let mut pieces = Pieces::pack(&events, None, 1, 0);
        let mut lane = Lane { producer_id: 7, next_sequence: 40 };
        let (header, texts) = values(&mut pieces.left[0], &mut lane);
        assert_eq!(texts, ["plain \"text\"", "{\"a\":1}", "raw", "2.5"]);
        assert_eq!((header.producer_id, header.first_sequence, lane.next_sequence), (7, 40, 44));
        // Pushed again it has the same numbers, whatever was pushed meanwhile.
        lane.next_sequence = 90;
        assert_eq!(values(&mut pieces.left[0], &mut lane).0.first_sequence, 40);
        pieces.left[0].unnumber();
        assert_eq!(values(&mut pieces.left[0], &mut lane).0.first_sequence, 90);
    }

    #[test]
    fn a_record_that_is_too_large_is_refused_alone() {
        let events = [Event::new("small"), Event::new("x".repeat(RECORD_BYTES_MAX + 1)), Event::new("too")];
        let mut pieces = Pieces::pack(&events, None, 3, 2);
        assert_eq!((pieces.refused.len(), pieces.refused[0].0), (1, 1));
        assert_eq!((pieces.left.len(), pieces.left[0].partition), (1, 2));
        assert_eq!(pieces.left[0].events, [0, 2]);
        let mut lane = Lane { producer_id: 7, next_sequence: 0 };
        assert_eq!(values(&mut pieces.left[0], &mut lane).1, ["small", "too"]);
    }

    #[test]
    fn events_of_a_key_stay_together_and_in_order_over_several_pieces() {
        let large = "y".repeat(RECORD_BYTES_MAX / 3);
        let events: Vec<Event> = (0..40)
            .map(|n| {
                let mut event = Event::new(format!("{n} {large}"));
                event.meta.key = Some(format!("k{}", n % 4).as_str().into());
                event
            })
            .collect();
        let pieces = Pieces::pack(&events, None, 8, 0);
        assert!(pieces.left.len() > 4 && pieces.refused.is_empty());
        for n in 0..4 {
            let own = partition_of(format!("k{n}").as_bytes(), 8);
            let of_it = pieces.left.iter().filter(|piece| piece.partition == own);
            let seen: Vec<usize> =
                of_it.flat_map(|piece| &piece.events).copied().filter(|at| at % 4 == n).collect();
            assert_eq!(seen, (0..10).map(|own| own * 4 + n).collect::<Vec<_>>());
        }
    }
}
