//! Which records the events of a pipeline are that delivers exactly once: its sources write it down, its sinks look it up.
//!
//! ```text
//!   events of a source   0 ───────── 512 ─────── 700 ──────── 900     their numbers in this process
//!   rows                 [part. 0, 40..552)[part. 1, 0..188)[...)     forgotten when they are acknowledged
//! ```

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sidestream_client::{Client, DnpipeName};
use sidestream_event::fnv1a;
use sidestream_host::Random;

/// What the sources and sinks of one pipeline that delivers exactly once tell each other. Clones are of the same pipeline.
#[derive(Clone, Default)]
pub struct ExactlyOnce {
    stage: String,
    sources: Arc<Mutex<HashMap<String, Arc<Places>>>>,
}

/// What a source has brought in.
pub(super) struct Places {
    /// Of the server it reads from, which may be another one than a sink's: for questions.
    pub(super) client: Client,
    pub(super) dnpipe: DnpipeName,
    group: String,
    rows: Mutex<VecDeque<Row>>,
}

/// Events that follow each other and are records that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The number of the first event.
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) partition: u32,
    /// The offset of the first record.
    pub(super) offset: u64,
}

impl ExactlyOnce {
    /// The same for the stage called `stage`.
    pub fn of(&self, stage: &str) -> ExactlyOnce {
        ExactlyOnce { stage: stage.to_owned(), sources: self.sources.clone() }
    }

    /// The stage.
    pub(super) fn stage(&self) -> &str {
        &self.stage
    }

    /// This stage is a source that reads `dnpipe` for `group`.
    pub(super) fn reads(&self, client: Client, dnpipe: &DnpipeName, group: &str) -> Arc<Places> {
        let (dnpipe, group) = (dnpipe.clone(), group.to_owned());
        let places = Arc::new(Places { client, dnpipe, group, rows: Mutex::default() });
        self.lock().insert(self.stage.clone(), places.clone());
        places
    }

    /// What the source stage called `source` has brought in.
    pub(super) fn of_source(&self, source: &str) -> Option<Arc<Places>> {
        self.lock().get(source).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Places>>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Written down before the events are sent.
    pub(super) fn add(&self, row: Row) {
        self.lock().push_back(row);
    }

    /// The row of an event that is on its way.
    pub(super) fn find(&self, sequence: u64) -> Option<Row> {
        let rows = self.lock();
        let after = rows.partition_point(|row| row.first <= sequence);
        let row = *rows.get(after.checked_sub(1)?)?;
        (sequence < row.first + row.count).then_some(row)
    }

    /// Nobody asks for events before this number any more.
    pub(super) fn forget(&self, before: u64) {
        let mut rows = self.lock();
        while rows.front().is_some_and(|row| row.first + row.count <= before) {
            rows.pop_front();
        }
    }

    /// The producer of the results that `stage` of `pipeline` has of a partition: the same for ever, in every process.
    ///
    /// FNV-1a (64 bit) of their names, mixed by SplitMix64: names that differ little give numbers that differ much.
    pub(super) fn producer(&self, pipeline: &str, stage: &str, partition: u32) -> u64 {
        let names = format!("{pipeline}\0{stage}\0{}\0{}\0{partition}", self.dnpipe, self.group);
        // 0 is nobody.
        Random::seeded(fnv1a(names.as_bytes())).next_u64().max(1)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    /// The offset of an event of it.
    pub(super) fn offset_of(&self, sequence: u64) -> Option<u64> {
        let at = sequence.checked_sub(self.first).filter(|at| *at < self.count)?;
        Some(self.offset + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: u64, count: u64, partition: u32, offset: u64) -> Row {
        Row { first, count, partition, offset }
    }

    #[test]
    fn an_event_is_found_until_it_is_forgotten() {
        let once = ExactlyOnce::default();
        let places =
            once.of("in").reads(Client::local("nowhere"), &"shop/orders".parse().unwrap(), "billing");
        places.add(row(0, 5, 0, 40));
        places.add(row(5, 2, 1, 0));
        places.add(row(9, 1, 0, 45));
        let found = |sequence| {
            let row = once.of("out").of_source("in")?.find(sequence)?;
            Some((row.partition, row.offset_of(sequence)?))
        };
        assert_eq!(
            [0, 4, 5, 6, 7, 9, 10].map(found),
            [Some((0, 40)), Some((0, 44)), Some((1, 0)), Some((1, 1)), None, Some((0, 45)), None]
        );
        places.forget(6);
        assert_eq!([4, 5, 9].map(found), [None, Some((1, 0)), Some((0, 45))]);
        places.forget(7);
        assert_eq!([5, 9].map(found), [None, Some((0, 45))]);
        assert!(once.of_source("other").is_none());
    }

    #[test]
    fn every_stage_group_and_partition_has_a_producer_of_its_own_for_ever() {
        let (client, orders) = (Client::local("nowhere"), "shop/orders".parse().unwrap());
        let places = |group| ExactlyOnce::default().of("in").reads(client.clone(), &orders, group);
        let one = places("billing");
        let ids = [
            one.producer("shop/p", "out", 0),
            one.producer("shop/p", "out", 1),
            one.producer("shop/p", "more", 0),
            one.producer("shop/q", "out", 0),
            places("copies").producer("shop/p", "out", 0),
        ];
        let different: std::collections::BTreeSet<u64> = ids.into_iter().collect();
        assert_eq!(different.len(), ids.len());
        assert_eq!(
            ids[0], 6_168_962_766_255_676_501,
            "what it is must never change: results that are there are known by it"
        );
    }
}
