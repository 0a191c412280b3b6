//! What a producer has for one partition: a batch being filled, and batches that are sent and not answered, in order.
//!
//! ```text
//!   record ──▶ filling ──seal──▶ sent [batch, batch, ..] ──answer──▶ receipts
//!                                  ▲        │ lost: all of them again, in order, with the same numbers
//!                                  └────────┘
//! ```
//!
//! A server stores a numbered batch once, so sending again is safe. A batch that is refused for good leaves a gap in the
//! numbers: what was sent behind it is refused with it, and the lane goes on as a new producer.

use std::collections::VecDeque;

use bytes::Bytes;
use sidestream_event::{
    native::read_places,
    record::{BatchWriter, HEADER_BYTES, Header, RecordError, compress, split},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{ClientError, DataKey, Receipt, Record};

/// Where the receipt of a record goes. The room that the record takes is free when this is dropped.
pub(crate) struct Owed {
    pub(crate) receipt: oneshot::Sender<Result<Receipt, ClientError>>,
    pub(crate) _room: OwnedSemaphorePermit,
}

/// See the module.
pub(crate) struct Lane {
    partition: u32,
    producer_id: u64,
    next_sequence: u64,
    next_number: u64,
    filling: BatchWriter,
    filling_owed: Vec<Owed>,
    sent: VecDeque<Sent>,
    /// How many of `sent` are on their way now; the others wait for a try.
    on_the_way: usize,
    /// Answers of earlier rounds mean nothing: everything of theirs was sent again.
    round: u64,
    /// Records taken in, ever.
    pub(crate) taken: u64,
    /// Records answered, ever.
    pub(crate) settled: u64,
}

struct Sent {
    /// Its place among the batches of this lane.
    number: u64,
    batch: Bytes,
    owed: Vec<Owed>,
    /// Why it is refused, where one before it is not answered yet: that one may say more.
    refused: Option<ClientError>,
}

/// Where a batch is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Where its first record is.
    pub(crate) first: Receipt,
    /// Where the others are, when they do not follow it.
    pub(crate) places: Bytes,
}

impl Stored {
    /// A receipt for each of its records.
    pub(crate) fn receipts(&self, count: usize) -> Result<Vec<Receipt>, ClientError> {
        let offsets = read_places(&self.places, self.first.offset, count);
        let offsets = offsets.ok_or_else(|| ClientError::Protocol("not each record has a place".into()))?;
        Ok(offsets.into_iter().map(|offset| Receipt { offset, ..self.first }).collect())
    }
}

/// What to do after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing more.
    GoOn,
    /// Wait, and send all of it again.
    Again(ClientError),
}

impl Lane {
    pub(crate) fn new(partition: u32, batch_bytes: usize, producer_id: u64) -> Lane {
        Lane {
            partition,
            producer_id,
            next_sequence: 0,
            next_number: 0,
            filling: BatchWriter::bounded(batch_bytes),
            filling_owed: Vec::new(),
            sent: VecDeque::new(),
            on_the_way: 0,
            round: 0,
            taken: 0,
            settled: 0,
        }
    }

    /// Takes a record, or gives it back where the batch is full: to be sealed first.
    pub(crate) fn take(&mut self, record: &Record, time: i64, owed: Owed) -> Result<(), (RecordError, Owed)> {
        let headers: &[(String, Bytes)] = &record.headers;
        match self.filling.push(record.time.unwrap_or(time), record.key.as_deref(), headers, &record.value) {
            Ok(()) => {
                self.filling_owed.push(owed);
                self.taken += 1;
                Ok(())
            }
            Err(error) => Err((error, owed)),
        }
    }

    pub(crate) fn is_filling(&self) -> bool {
        !self.filling.is_empty()
    }

    /// Batches that are sealed and not answered.
    pub(crate) fn sent_len(&self) -> usize {
        self.sent.len()
    }

    /// Closes the batch that is being filled, and puts it behind those that are sent: compressed and encrypted, where that is
    /// asked for.
    pub(crate) fn seal(&mut self, key: Option<&DataKey>, is_compressed: bool) {
        let owed = std::mem::take(&mut self.filling_owed);
        let header =
            Header { producer_id: self.producer_id, first_sequence: self.next_sequence, ..Header::default() };
        let filled = self.filling.finish(header).map_err(ClientError::from);
        let sealed = filled.and_then(|batch| wrapped(batch, key, is_compressed));
        match sealed {
            Ok(batch) => {
                self.next_sequence += owed.len() as u64;
                self.sent.push_back(Sent { number: self.next_number, batch, owed, refused: None });
                self.next_number += 1;
            }
            Err(error) => self.settle(owed, |_| Err(error.clone())),
        }
    }

    /// The next batch that is to go on its way, with its number.
    pub(crate) fn next_to_send(&mut self) -> Option<(u64, Bytes)> {
        let next = self.sent.get(self.on_the_way)?;
        self.on_the_way += 1;
        Some((next.number, next.batch.clone()))
    }

    /// Whether nothing waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.sent.is_empty()
    }

    /// The answer to a batch of a round.
    pub(crate) fn answered(
        &mut self,
        (round, number): (u64, u64),
        answer: Result<Stored, ClientError>,
        new_id: u64,
    ) -> Next {
        let place = self.sent.iter().position(|sent| sent.number == number);
        let Some(place) = place.filter(|_| round == self.round) else { return Next::GoOn };
        match answer {
            Ok(stored) => {
                let owed = self.sent.remove(place).map(|sent| sent.owed).unwrap_or_default();
                self.on_the_way -= 1;
                let receipts = stored.receipts(owed.len());
                self.settle(owed, |index| match &receipts {
                    Ok(receipts) => Ok(receipts[index as usize]),
                    Err(error) => Err(error.clone()),
                });
            }
            Err(error) if error.is_worth_retrying() => {
                self.begin_round();
                return Next::Again(error);
            }
            Err(error) => self.sent[place].refused = Some(error),
        }
        if let Some(error) = self.sent.front().and_then(|oldest| oldest.refused.clone()) {
            self.give_up(&error, new_id);
        }
        Next::GoOn
    }

    /// Fails everything that is sent, and goes on as a new producer.
    pub(crate) fn give_up(&mut self, error: &ClientError, new_id: u64) {
        self.begin_round();
        for sent in std::mem::take(&mut self.sent) {
            self.settle(sent.owed, |_| Err(error.clone()));
        }
        (self.producer_id, self.next_sequence) = (new_id, 0);
    }

    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    pub(crate) fn partition(&self) -> u32 {
        self.partition
    }

    fn begin_round(&mut self) {
        self.round += 1;
        self.on_the_way = 0;
        self.sent.iter_mut().for_each(|sent| sent.refused = None);
    }

    fn settle(&mut self, owed: Vec<Owed>, outcome: impl Fn(u64) -> Result<Receipt, ClientError>) {
        self.settled += owed.len() as u64;
        for (index, owed) in owed.into_iter().enumerate() {
            // Who does not wait for a receipt needs none.
            let _ = owed.receipt.send(outcome(index as u64));
        }
    }
}

fn wrapped(batch: Bytes, key: Option<&DataKey>, is_compressed: bool) -> Result<Bytes, ClientError> {
    if key.is_none() && !is_compressed {
        return Ok(batch);
    }
    let (header, body) = split(&batch)?;
    let packed = if is_compressed { compress(&header, &body) } else { None };
    let is_packed = packed.is_some();
    let (header, body) = packed.unwrap_or((header, body));
    match key {
        Some(key) => Ok(key.seal(header, &body)?),
        // What does not get smaller goes as it is.
        None if !is_packed => Ok(batch),
        None => {
            let mut bytes = vec![0; HEADER_BYTES];
            if let Some(place) = bytes.first_chunk_mut() {
                header.write(place);
            }
            bytes.extend_from_slice(&body);
            Ok(bytes.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sidestream_event::{
        native::{Refusal, write_places},
        record::Header,
    };
    use tokio::sync::Semaphore;

    use super::*;

    struct World {
        lane: Lane,
        room: Arc<Semaphore>,
    }

    type Receipts = oneshot::Receiver<Result<Receipt, ClientError>>;

    impl World {
        fn new() -> World {
            World { lane: Lane::new(3, 1 << 16, 7), room: Arc::new(Semaphore::new(100)) }
        }

        fn push(&mut self, value: &str) -> Receipts {
            let (receipt, receiver) = oneshot::channel();
            let owed = Owed { receipt, _room: self.room.clone().try_acquire_owned().unwrap() };
            assert!(self.lane.take(&Record::new(value.to_owned()), 5, owed).is_ok());
            receiver
        }

        fn send(&mut self) -> Header {
            Header::read(&self.lane.next_to_send().unwrap().1).unwrap()
        }
    }

    fn receipt(offset: u64) -> Result<Stored, ClientError> {
        Ok(Stored { first: Receipt { partition: 3, offset, epoch: 0 }, places: Bytes::new() })
    }

    #[test]
    fn records_that_were_there_before_have_their_own_offsets() {
        let mut world = World::new();
        let mut receipts = [world.push("a"), world.push("b"), world.push("c")];
        world.lane.seal(None, false);
        assert_eq!(world.send().count, 3);
        let stored = Stored { places: write_places(&[(20, 1), (4, 1), (21, 1)]), ..receipt(20).unwrap() };
        assert_eq!(world.lane.answered((0, 0), Ok(stored), 8), Next::GoOn);
        let offsets = receipts.each_mut().map(|receipt| receipt.try_recv().unwrap().unwrap().offset);
        assert_eq!(offsets, [20, 4, 21]);
    }

    #[test]
    fn records_of_a_batch_get_offsets_in_their_order_and_their_room_is_free_again() {
        let mut world = World::new();
        let (mut first, mut second) = (world.push("a"), world.push("b"));
        assert_eq!(world.room.available_permits(), 98);
        world.lane.seal(None, false);
        assert_eq!(world.send().count, 2);
        assert_eq!(world.lane.answered((0, 0), receipt(10), 8), Next::GoOn);
        assert_eq!(first.try_recv().unwrap().unwrap().offset, 10);
        assert_eq!(second.try_recv().unwrap().unwrap().offset, 11);
        assert_eq!((world.room.available_permits(), world.lane.is_idle()), (100, true));
    }

    #[test]
    fn answers_may_come_in_any_order() {
        let mut world = World::new();
        let mut first = world.push("a");
        world.lane.seal(None, false);
        let mut second = world.push("b");
        world.lane.seal(None, false);
        let (_, _) = (world.send(), world.send());
        assert_eq!(world.lane.answered((0, 1), receipt(11), 8), Next::GoOn);
        assert_eq!(second.try_recv().unwrap().unwrap().offset, 11);
        assert!(first.try_recv().is_err() && !world.lane.is_idle());
        assert_eq!(world.lane.answered((0, 0), receipt(10), 8), Next::GoOn);
        assert_eq!(first.try_recv().unwrap().unwrap().offset, 10);
        assert!(world.lane.is_idle());
    }

    #[test]
    fn what_is_lost_is_sent_again_in_order_with_the_same_numbers() {
        let mut world = World::new();
        let _receipts = [world.push("a")];
        world.lane.seal(None, false);
        let _more = [world.push("b")];
        world.lane.seal(None, false);
        let before = [world.send(), world.send()];
        assert!(world.lane.next_to_send().is_none());
        let lost = ClientError::Lost("test".into());
        assert_eq!(world.lane.answered((0, 0), Err(lost.clone()), 8), Next::Again(lost.clone()));
        // The second batch of the round before says the same, and changes nothing.
        assert_eq!(world.lane.answered((0, 1), Err(lost), 8), Next::GoOn);
        assert_eq!([world.send(), world.send()], before);
        assert_eq!((before[0].first_sequence, before[1].first_sequence, before[1].producer_id), (0, 1, 7));
    }

    #[test]
    fn what_is_sent_behind_a_refused_batch_is_refused_with_it_and_numbers_begin_anew() {
        let mut world = World::new();
        let mut first = world.push("a");
        world.lane.seal(None, false);
        let mut second = world.push("b");
        world.lane.seal(None, false);
        let (_, _) = (world.send(), world.send());
        let full = ClientError::Refused(Refusal::Full { what: "quota".into(), limit: 1 });
        // The answer to the second comes first, and says less.
        let gap = ClientError::Refused(Refusal::OutOfSequence { expected: 0 });
        assert_eq!(world.lane.answered((0, 1), Err(gap), 8), Next::GoOn);
        assert!(second.try_recv().is_err());
        assert_eq!(world.lane.answered((0, 0), Err(full.clone()), 8), Next::GoOn);
        assert_eq!(first.try_recv().unwrap(), Err(full.clone()));
        assert_eq!(second.try_recv().unwrap(), Err(full));
        let _third = world.push("c");
        world.lane.seal(None, false);
        let header = world.send();
        assert_eq!((header.producer_id, header.first_sequence), (8, 0));
    }

    #[test]
    fn what_is_compressed_and_encrypted_is_opened_as_it_was() {
        let key = DataKey::new(&[7; 32]).unwrap();
        let mut writer = BatchWriter::new();
        let none: [(&str, &[u8]); 0] = [];
        writer.push(1, None, &none, &[b'a'; 1000]).unwrap();
        let batch = writer.finish(Header { producer_id: 7, ..Header::default() }).unwrap();
        let expected = split(&batch).unwrap().1;
        for (key, is_compressed) in [(None, false), (None, true), (Some(&key), false), (Some(&key), true)] {
            let wrapped = wrapped(batch.clone(), key, is_compressed).unwrap();
            assert_eq!(wrapped.len() < 400, is_compressed);
            let (header, body) = crate::reader::opened(&wrapped, key).unwrap();
            assert_eq!((header.count, header.producer_id, body), (1, 7, expected.clone()));
        }
        // What does not get smaller goes as it is.
        writer.push(1, None, &none, b"a").unwrap();
        let small = writer.finish(Header::default()).unwrap();
        assert_eq!(wrapped(small.clone(), None, true), Ok(small));
    }
}
