//! What a partition knows of who pushes to it: which numbers of a producer it has, and at which offsets. Pure.
//!
//! ```text
//!   numbers of a producer   0 ─────────── 40 ──── 55 ─────── 70 = next
//!   its runs                [offset 12..52)[90..105)[130..145)
//! ```
//!
//! A run is a piece of a producer's numbers whose records follow each other in the partition. A producer that pushes
//! alone has one run however long it pushes; among others it has one for each batch, and the oldest are forgotten.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use sidestream_event::record::Header;

use crate::{error::PushError, limits};

/// The producers of a partition, by their ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Producers {
    by_id: HashMap<u64, Producer>,
}

/// What is known of one producer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Producer {
    pub(crate) epoch: u32,
    /// The number its next record has.
    pub(crate) next: u64,
    /// The source position of its last results; 0 is none.
    #[serde(default)]
    pub(crate) position: u64,
    /// When it last pushed: nanoseconds since 1970.
    pub(crate) seen: i64,
    pub(crate) runs: VecDeque<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    first: u64,
    next: u64,
    offset: u64,
    reset_epoch: u32,
    /// How many of its records were left out, because they were there already: a run of one batch, whose records do not follow
    /// each other.
    #[serde(default, skip_serializing_if = "is_none")]
    skipped: u32,
}

fn is_none(skipped: &u32) -> bool {
    *skipped == 0
}

/// What a batch is to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// New: it may be appended.
    New,
    /// It was appended before, here; so many of its records were there already.
    Repeat { offset: u64, reset_epoch: u32, skipped: u32 },
}

impl Producer {
    /// With as many runs, the newest, at most.
    pub(crate) fn newest(&self, runs_max: usize) -> Producer {
        let skipped = self.runs.len().saturating_sub(runs_max);
        Producer { runs: self.runs.iter().skip(skipped).copied().collect(), ..*self }
    }
}

impl Producers {
    /// Whether the batch of `header` is new. `now` decides who was idle for long enough to make room.
    pub(crate) fn check(&self, header: &Header, now: i64) -> Result<Verdict, PushError> {
        if header.producer_id == 0 {
            return Ok(Verdict::New);
        }
        let (first, next) = (header.first_sequence, header.next_sequence());
        let Some(known) = self.by_id.get(&header.producer_id) else {
            if self.by_id.len() >= limits::PRODUCERS_MAX && self.idlest(now).is_none() {
                return Err(PushError::TooManyProducers);
            }
            return if first == 0 { Ok(Verdict::New) } else { Err(PushError::OutOfSequence { expected: 0 }) };
        };
        if header.producer_epoch < known.epoch {
            return Err(PushError::Fenced { current: known.epoch });
        }
        let expected = if header.producer_epoch > known.epoch { 0 } else { known.next };
        if first == expected {
            return Ok(Verdict::New);
        }
        if next > expected {
            return Err(PushError::OutOfSequence { expected });
        }
        let run = known.runs.iter().rev().find(|run| (run.first..run.next).contains(&first));
        match run {
            Some(run) => {
                let (offset, reset_epoch) = (run.offset + (first - run.first), run.reset_epoch);
                Ok(Verdict::Repeat { offset, reset_epoch, skipped: run.skipped })
            }
            None => Err(PushError::Forgotten { expected }),
        }
    }

    /// Notes a batch that was appended, as it was appended.
    pub(crate) fn note(&mut self, header: &Header) {
        if header.producer_id == 0 {
            return;
        }
        if !self.by_id.contains_key(&header.producer_id) && self.by_id.len() >= limits::PRODUCERS_MAX {
            // Checked before; what is read at a start was checked when it was pushed.
            if let Some(id) = self.idlest(header.append_time).or_else(|| self.by_id.keys().copied().next()) {
                self.by_id.remove(&id);
            }
        }
        let known = self.by_id.entry(header.producer_id).or_default();
        if header.producer_epoch > known.epoch {
            (known.epoch, known.next) = (header.producer_epoch, 0);
            known.runs.clear();
        }
        let (first, next) = (header.first_sequence, header.next_sequence());
        // What was left out of a batch is at other offsets than its neighbours: only the rest of it is a run.
        let follows = |run: &&mut Run| {
            let length = run.next - run.first;
            run.next == first
                && run.offset + length == header.base_offset
                && run.reset_epoch == header.reset_epoch
                && header.skipped + run.skipped == 0
        };
        match known.runs.back_mut().filter(follows) {
            Some(run) => run.next = next,
            None => {
                let (offset, reset_epoch) = (header.base_offset, header.reset_epoch);
                let skipped = header.skipped;
                known.runs.push_back(Run { first, next, offset, reset_epoch, skipped });
                if known.runs.len() > limits::RUNS_MAX {
                    known.runs.pop_front();
                }
            }
        }
        (known.next, known.seen) = (next, header.append_time);
        known.position = known.position.max(header.position);
    }

    /// Notes numbers that were used up without anything being appended.
    pub(crate) fn skip(&mut self, header: &Header, offset: u64, now: i64) {
        let as_if =
            Header { base_offset: offset, append_time: now, skipped: 1, count: header.count - 1, ..*header };
        self.note(&as_if);
    }

    /// A new incarnation of a producer, which goes on where the one before was.
    pub(crate) fn open(&mut self, id: u64, now: i64) -> Result<&Producer, PushError> {
        if !self.by_id.contains_key(&id) && self.by_id.len() >= limits::PRODUCERS_MAX {
            let idlest = self.idlest(now).ok_or(PushError::TooManyProducers)?;
            self.by_id.remove(&idlest);
        }
        let known = self.by_id.entry(id).or_default();
        (known.epoch, known.seen) = (known.epoch + 1, now);
        Ok(known)
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Producer> {
        self.by_id.get(&id)
    }

    /// All of them, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<(u64, &Producer)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(id, producer)| (*id, producer)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// As it was written down.
    pub(crate) fn put(&mut self, id: u64, producer: Producer) {
        self.by_id.insert(id, producer);
    }

    /// Incarnations of a producer before this one are over.
    pub(crate) fn fence(&mut self, id: u64, epoch: u32) {
        if epoch > 0 {
            let known = self.by_id.entry(id).or_default();
            known.epoch = known.epoch.max(epoch);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.by_id.clear();
    }

    /// Who makes room: of those that were idle for long enough the idlest, and one with a position only where there is no other.
    /// Where that is forgotten, a pipeline that comes back has some of its results twice.
    fn idlest(&self, now: i64) -> Option<u64> {
        let is_due = |producer: &Producer| {
            let idle = if producer.position > 0 { limits::POSITION_IDLE } else { limits::PRODUCER_IDLE };
            now.saturating_sub(producer.seen) >= idle.as_nanos() as i64
        };
        let due = self.by_id.iter().filter(|(_, producer)| is_due(producer));
        due.min_by_key(|(_, producer)| (producer.position > 0, producer.seen)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: u64 = 7;

    fn batch(id: u64, epoch: u32, first: u64, count: u32) -> Header {
        Header { producer_id: id, producer_epoch: epoch, first_sequence: first, count, ..Header::default() }
    }

    /// Checks and, where it is new, appends at the end of `log`.
    fn push(producers: &mut Producers, header: Header, log: &mut u64) -> Result<Verdict, PushError> {
        let verdict = producers.check(&header, 0)?;
        if verdict == Verdict::New {
            producers.note(&Header { base_offset: *log, ..header });
            *log += u64::from(header.count);
        }
        Ok(verdict)
    }

    #[test]
    fn a_batch_that_comes_again_is_found_where_it_was_put() {
        let (mut producers, mut log) = (Producers::default(), 100);
        push(&mut producers, batch(ID, 0, 0, 5), &mut log).unwrap();
        push(&mut producers, batch(8, 0, 0, 2), &mut log).unwrap();
        push(&mut producers, batch(ID, 0, 5, 5), &mut log).unwrap();
        let mut again = |first, count| push(&mut producers, batch(ID, 0, first, count), &mut log);
        assert_eq!(again(0, 5), Ok(Verdict::Repeat { offset: 100, reset_epoch: 0, skipped: 0 }));
        assert_eq!(again(5, 5), Ok(Verdict::Repeat { offset: 107, reset_epoch: 0, skipped: 0 }));
        assert_eq!(again(11, 1), Err(PushError::OutOfSequence { expected: 10 }));
        assert_eq!(again(8, 5), Err(PushError::OutOfSequence { expected: 10 }), "cut anew");
        assert_eq!(again(10, 1), Ok(Verdict::New));
    }

    #[test]
    fn an_unknown_producer_begins_at_0() {
        let producers = Producers::default();
        assert_eq!(producers.check(&batch(ID, 0, 3, 1), 0), Err(PushError::OutOfSequence { expected: 0 }));
        assert_eq!(producers.check(&batch(ID, 0, 0, 1), 0), Ok(Verdict::New));
        assert_eq!(producers.check(&batch(0, 0, 3, 1), 0), Ok(Verdict::New), "nobody has no numbers");
    }

    #[test]
    fn an_earlier_incarnation_is_fenced() {
        let (mut producers, mut log) = (Producers::default(), 0);
        push(&mut producers, Header { position: 40, ..batch(ID, 0, 0, 5) }, &mut log).unwrap();
        let opened = producers.open(ID, 0).unwrap();
        assert_eq!((opened.epoch, opened.next, opened.position), (1, 5, 40));
        assert_eq!(push(&mut producers, batch(ID, 0, 5, 1), &mut log), Err(PushError::Fenced { current: 1 }));
        assert_eq!(push(&mut producers, batch(ID, 1, 5, 1), &mut log), Ok(Verdict::New));
        // One that names a later epoch of its own begins anew.
        assert_eq!(
            push(&mut producers, batch(ID, 4, 6, 1), &mut log),
            Err(PushError::OutOfSequence { expected: 0 })
        );
        assert_eq!(push(&mut producers, batch(ID, 4, 0, 1), &mut log), Ok(Verdict::New));
    }

    #[test]
    fn what_is_too_old_is_known_to_be_a_repeat_without_its_offset() {
        let (mut producers, mut log) = (Producers::default(), 0);
        for n in 0..limits::RUNS_MAX as u64 + 1 {
            push(&mut producers, batch(ID, 0, n, 1), &mut log).unwrap();
            push(&mut producers, batch(8, 0, n, 1), &mut log).unwrap();
        }
        let expected = limits::RUNS_MAX as u64 + 1;
        assert_eq!(producers.check(&batch(ID, 0, 0, 1), 0), Err(PushError::Forgotten { expected }));
        assert_eq!(
            producers.check(&batch(ID, 0, 1, 1), 0),
            Ok(Verdict::Repeat { offset: 2, reset_epoch: 0, skipped: 0 })
        );
    }

    #[test]
    fn only_who_was_idle_for_long_makes_room() {
        let mut producers = Producers::default();
        for id in 1..=limits::PRODUCERS_MAX as u64 {
            producers.note(&Header { append_time: id as i64, ..batch(id, 0, 0, 1) });
        }
        let (new, idle) = (batch(1 << 20, 0, 0, 1), limits::PRODUCER_IDLE.as_nanos() as i64);
        assert_eq!(producers.check(&new, idle), Err(PushError::TooManyProducers));
        assert_eq!(producers.check(&new, idle + 1), Ok(Verdict::New));
        producers.note(&Header { append_time: idle + 1, ..new });
        assert!(producers.get(1).is_none() && producers.get(2).is_some());
        assert_eq!(producers.all().len(), limits::PRODUCERS_MAX);
    }

    #[test]
    fn where_a_pipeline_stands_is_forgotten_last() {
        let mut producers = Producers::default();
        let (hour, week) = (limits::PRODUCER_IDLE.as_nanos() as i64, limits::POSITION_IDLE.as_nanos() as i64);
        for id in 1..=limits::PRODUCERS_MAX as u64 {
            // The first two are of pipelines; the others push later.
            let position = if id <= 2 { 40 } else { 0 };
            producers.note(&Header { append_time: id as i64, position, ..batch(id, 0, 0, 1) });
        }
        producers.note(&Header { append_time: 2 * hour, ..batch(1 << 20, 0, 0, 1) });
        let has = |producers: &Producers, id| producers.get(id).is_some();
        assert!(has(&producers, 1) && has(&producers, 2) && !has(&producers, 3));
        for id in 4..=limits::PRODUCERS_MAX as u64 {
            producers.note(&Header { append_time: week, ..batch(id, 0, 1, 1) });
        }
        producers.note(&Header { append_time: week, ..batch(1 << 20, 0, 1, 1) });
        assert_eq!(producers.check(&batch(1 << 21, 0, 0, 1), week), Err(PushError::TooManyProducers));
        producers.note(&Header { append_time: week + 2, ..batch(1 << 21, 0, 0, 1) });
        assert!(!has(&producers, 1) && has(&producers, 2) && has(&producers, 4));
    }

    proptest! {
        /// Whatever is lost and sent again, by whoever: each number of each producer is in the log once, in order.
        #[test]
        fn every_number_is_taken_once_and_in_order(
            steps in prop::collection::vec((1u64..4, 0u64..12, 1u32..4, any::<bool>()), 1..200),
        ) {
            let (mut producers, mut log) = (Producers::default(), 0);
            let mut taken: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
            for (id, first, count, is_written_down) in steps {
                let end = log;
                match push(&mut producers, batch(id, 0, first, count), &mut log) {
                    Ok(Verdict::New) => {
                        let numbers = taken.entry(id).or_default();
                        prop_assert_eq!(first, numbers.len() as u64);
                        numbers.extend((0..u64::from(count)).map(|n| (first + n, end + n)));
                    }
                    Ok(Verdict::Repeat { offset, .. }) => {
                        prop_assert_eq!(taken[&id][first as usize], (first, offset));
                    }
                    Err(PushError::OutOfSequence { expected }) => {
                        prop_assert_eq!(expected, taken.get(&id).map_or(0, Vec::len) as u64);
                        prop_assert!(first > expected || first + u64::from(count) > expected);
                    }
                    Err(error) => prop_assert!(false, "{}", error),
                }
                if is_written_down {
                    let mut read = Producers::default();
                    for (id, producer) in producers.all() {
                        let text = serde_json::to_string(producer).unwrap();
                        read.put(id, serde_json::from_str(&text).unwrap());
                    }
                    prop_assert_eq!(&read, &producers);
                }
            }
        }
    }
}
