//! The batches of a lane: the results of one partition of a source, in one partition of a dnpipe, numbered and with the place in
//! the source behind the last of them.

use std::collections::VecDeque;

use bytes::Bytes;
use sidestream_client::{Client, ClientError, DnpipeName, Incarnation};
use sidestream_event::{
    Event,
    record::{BatchWriter, Header, RecordError},
};

use super::numbered::{PIECE_BYTES, add};

/// Results of one partition of a source, in one partition of the dnpipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneId {
    pub(super) producer: u64,
    pub(super) partition: u32,
}

/// Results that are pushed together.
pub(super) struct Piece {
    /// Which events they are, by their indices.
    events: Vec<usize>,
    batch: Bytes,
    /// What the lane goes on with when they are there.
    after: Incarnation,
}

/// What came of a lane's pieces.
pub(super) struct Pushed {
    pub(super) lane: LaneId,
    /// As far as they are there.
    pub(super) incarnation: Incarnation,
    /// The events of the piece that was not taken, and why.
    pub(super) stopped: Option<(Vec<usize>, ClientError)>,
}

/// Pushes the pieces of a lane, one after the other.
pub(super) async fn push_all(
    client: Client,
    dnpipe: DnpipeName,
    lane: LaneId,
    mut incarnation: Incarnation,
    pieces: VecDeque<Piece>,
) -> Pushed {
    for Piece { events, batch, after } in pieces {
        if let Err(error) = client.push_batch(&dnpipe, lane.partition, batch).await {
            return Pushed { lane, incarnation, stopped: Some((events, error)) };
        }
        incarnation = after;
    }
    Pushed { lane, incarnation, stopped: None }
}

/// The pieces of a lane.
pub(super) struct Packing {
    producer: u64,
    /// What the lane goes on with behind the pieces that are whole.
    next: Incarnation,
    writer: BatchWriter,
    events: Vec<usize>,
    /// Behind the last of them.
    position: u64,
    pieces: VecDeque<Piece>,
}

impl Packing {
    pub(super) fn new(producer: u64, next: Incarnation) -> Packing {
        let writer = BatchWriter::bounded(PIECE_BYTES);
        Packing {
            producer,
            next,
            writer,
            events: Vec::new(),
            position: next.position,
            pieces: VecDeque::new(),
        }
    }

    /// Adds the event of this index, which comes from this offset; `value` is room for its body.
    pub(super) fn add(
        &mut self,
        (index, offset): (usize, u64),
        event: &Event,
        key: Option<&str>,
        value: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let added = add(&mut self.writer, event, key, value);
        if let Err(RecordError::BatchFull { .. }) = added {
            self.close();
            add(&mut self.writer, event, key, value)?;
        } else {
            added?;
        }
        self.events.push(index);
        self.position = offset + 1;
        Ok(())
    }

    fn close(&mut self) {
        let header = Header {
            producer_id: self.producer,
            producer_epoch: self.next.epoch,
            first_sequence: self.next.next_sequence,
            position: self.position,
            ..Header::default()
        };
        // It fails where there are no records.
        if let Ok(batch) = self.writer.finish(header) {
            let events = std::mem::take(&mut self.events);
            let next_sequence = self.next.next_sequence + events.len() as u64;
            self.next = Incarnation { next_sequence, position: self.position, ..self.next };
            self.pieces.push_back(Piece { events, batch, after: self.next });
        }
    }

    pub(super) fn finish(mut self) -> VecDeque<Piece> {
        self.close();
        self.pieces
    }
}

#[cfg(test)]
mod tests {
    use sidestream_event::record::split;

    use super::*;

    #[test]
    fn pieces_follow_each_other_in_their_numbers_and_in_the_places_of_their_source() {
        let before = Incarnation { epoch: 3, next_sequence: 40, position: 7 };
        let mut packing = Packing::new(9, before);
        let event = Event::new("x".repeat(PIECE_BYTES / 3));
        let offsets = [7, 8, 20, 21, 22, 30];
        for (index, offset) in offsets.into_iter().enumerate() {
            packing.add((index, offset), &event, None, &mut Vec::new()).unwrap();
        }
        let (mut next, mut events) = (before, Vec::new());
        let pieces = packing.finish();
        assert!(pieces.len() > 1);
        for piece in pieces {
            let (header, _) = split(&piece.batch).unwrap();
            assert_eq!((header.producer_id, header.producer_epoch), (9, 3));
            assert_eq!(header.first_sequence, next.next_sequence);
            events.extend(piece.events);
            next = piece.after;
            assert_eq!((header.next_sequence(), header.position), (next.next_sequence, next.position));
            assert_eq!(next.position, offsets[events.len() - 1] + 1);
        }
        assert_eq!((events, next.next_sequence), ((0..6).collect(), 46));
    }
}
