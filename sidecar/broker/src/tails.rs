//! What partitions know of their producers, after a start or a failure of the disk: what was written down of them last, and
//! the headers behind that, of all of them in one pass through the journal.

use std::collections::{BTreeMap, HashMap, VecDeque};

use sidestream_event::record::Header;
use sidestream_log::{Bounds, PartitionId, ReadError};

use crate::{Broker, pipe::Tail, producers::Producer, state::Change};

/// By the partitions' numbers in the journal.
pub(crate) type Tails = HashMap<PartitionId, Found>;

/// A tail as it was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) tail: Tail,
    /// Something was written down of records that never came to be.
    pub(crate) is_ahead: bool,
}

impl Broker {
    /// The tails of those of these partitions that the journal has. Takes what was written down of them out of `written`.
    pub(crate) async fn read_tails(
        &self,
        ids: impl IntoIterator<Item = PartitionId>,
        written: &mut BTreeMap<u32, Vec<Change>>,
    ) -> Result<Tails, ReadError> {
        let mut reading: HashMap<PartitionId, Reading> = ids
            .into_iter()
            .filter_map(|id| {
                let changes = written.remove(&id.0).unwrap_or_default();
                Some((id, Reading::new(changes, &self.inner.journal.bounds(id)?)))
            })
            .collect();
        let mut pass = self.inner.journal.pass(reading.iter().map(|(id, tail)| (*id, tail.upto)).collect());
        while let Some(headers) = pass.next().await? {
            self.inner.state.pushed(headers.iter().map(|header| u64::from(header.length)).sum());
            for header in &headers {
                if let Some(tail) = reading.get_mut(&PartitionId(header.partition)) {
                    tail.note(header);
                }
            }
        }
        Ok(reading.into_iter().map(|(id, tail)| (id, tail.finish())).collect())
    }
}

/// A tail while it is read.
struct Reading {
    found: Found,
    /// Up to where what was written down says everything.
    upto: u64,
    /// Of one producer each, behind that, in their order.
    single: VecDeque<(u64, u64, Producer)>,
    /// Of what knows more than the partition has, because the disk failed in between, only who was fenced is believed.
    fenced: Vec<(u64, u32)>,
}

impl Reading {
    fn new(changes: Vec<Change>, bounds: &Bounds) -> Reading {
        let mut reading = Reading {
            found: Found::default(),
            upto: bounds.first,
            single: VecDeque::new(),
            fenced: Vec::new(),
        };
        for change in changes {
            match change {
                Change::Producers { upto, append_time, producers, .. } if upto <= bounds.next => {
                    reading.single.clear();
                    let tail = &mut reading.found.tail;
                    tail.producers.clear();
                    producers.into_iter().for_each(|(id, producer)| tail.producers.put(id, producer));
                    tail.append_time = append_time;
                    reading.upto = upto;
                }
                Change::Producers { producers, .. } => {
                    reading.found.is_ahead = true;
                    reading.fenced.extend(producers.iter().map(|(id, producer)| (*id, producer.epoch)));
                }
                Change::Producer { upto, id, producer, .. } if upto <= bounds.next => {
                    reading.single.push_back((upto, id, producer));
                }
                Change::Producer { id, producer, .. } => {
                    reading.found.is_ahead = true;
                    reading.fenced.push((id, producer.epoch));
                }
                _ => (),
            }
        }
        reading
    }

    /// Notes the next batch behind what was written down.
    fn note(&mut self, header: &Header) {
        if header.base_offset < self.upto {
            return;
        }
        let tail = &mut self.found.tail;
        while let Some((_, id, producer)) = self.single.pop_front_if(|(upto, ..)| *upto <= header.base_offset)
        {
            tail.producers.put(id, producer);
        }
        tail.producers.note(header);
        tail.append_time = tail.append_time.max(header.append_time);
        tail.is_dirty = true;
    }

    fn finish(self) -> Found {
        let mut found = self.found;
        for (_, id, producer) in self.single {
            found.tail.producers.put(id, producer);
        }
        for (id, epoch) in self.fenced {
            found.tail.producers.fence(id, epoch);
        }
        found
    }
}
