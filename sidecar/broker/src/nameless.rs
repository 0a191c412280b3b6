//! Partitions with records that no dnpipe names, since a start that could not read all of the state.
//!
//! ```text
//!   a start can't read all state ──▶ noted: partitions 4, 5 have records and no name     nothing is removed, nothing is
//!        │                                                                               made anew, the old state stays
//!        ▼
//!   the next start ──▶ reads it all: 4 and 5 have their name again, or nobody ever named them, and they go
//!                 └──▶ can't either: when state is written anew, it is without it; 4 and 5 stay as they are
//! ```

use std::collections::{BTreeMap, BTreeSet};

use sidestream_log::PartitionId;

use crate::{Broker, error::ApplyError, limits, pipe::lock, state::Change};

/// What a start knows of them.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    /// Their numbers in the journal.
    partitions: Vec<u32>,
    /// This start was the first that could not read what names some of them; the next one may.
    is_first: bool,
}

impl Broker {
    /// Removes partitions that nobody names: their making, or their removal, was not finished. Where not all of the state could
    /// be read they are kept instead, but for those without records; and so are those of `before` whose name is gone for good.
    /// What the next start must know of it, if anything.
    pub(crate) fn keep_nameless(
        &self,
        unnamed: BTreeSet<PartitionId>,
        before: &BTreeMap<u32, bool>,
        is_whole: bool,
    ) -> Option<Change> {
        let journal = &self.inner.journal;
        let has_records = |id: &PartitionId| journal.bounds(*id).is_some_and(|bounds| bounds.next > 0);
        let is_forgotten = |id: &PartitionId| before.get(&id.0) == Some(&true);
        let (kept, orphans): (Vec<PartitionId>, Vec<PartitionId>) =
            unnamed.into_iter().partition(|id| is_forgotten(id) || !is_whole && has_records(id));
        if is_whole {
            orphans.into_iter().for_each(|orphan| drop(journal.remove(orphan)));
        }
        let partitions: Vec<u32> = kept.into_iter().map(|id| id.0).collect();
        if !partitions.is_empty() {
            tracing::error!(
                ?partitions,
                "partitions with records have no name, for a part of the state of the dnpipes could not be read: as they may be of any dnpipe that is not known, none is made"
            );
        }
        let is_first = partitions.iter().any(|id| !before.contains_key(id));
        *lock(&self.inner.nameless) = Nameless { partitions, is_first };
        self.nameless_noted()
    }

    /// What a start has to write down that is the first to find some of them.
    pub(crate) fn nameless_noted(&self) -> Option<Change> {
        let nameless = lock(&self.inner.nameless);
        let partitions = nameless.partitions.clone();
        nameless.is_first.then_some(Change::Nameless { partitions, forgotten: false })
    }

    /// What is said of them where the state is written anew, without their names.
    pub(crate) fn nameless_forgotten(&self) -> Option<Change> {
        let partitions = lock(&self.inner.nameless).partitions.clone();
        (!partitions.is_empty()).then_some(Change::Nameless { partitions, forgotten: true })
    }

    /// Whether what is written anew may take the place of what was there: not before a second start could not read it either,
    /// unless it would fill the disk.
    pub(crate) fn may_forget_state(&self) -> bool {
        let (state, journal) = (&self.inner.state, &self.inner.journal);
        let is_much = || state.since() >= limits::STATE_HELD_BYTES || journal.is_reserve_low();
        !lock(&self.inner.nameless).is_first || is_much()
    }

    /// No dnpipe is made while there are any: it may be one of theirs, and would begin again with offsets that were given.
    pub(crate) fn check_nameless(&self) -> Result<(), ApplyError> {
        match lock(&self.inner.nameless).partitions.len() {
            0 => Ok(()),
            partitions => Err(ApplyError::Nameless { partitions }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sidestream_event::record::{BatchWriter, Header, split};
    use sidestream_host::{
        Clock,
        disk::{Disk, SimDisk},
    };
    use sidestream_log::{Durability, Journal, Settings};

    use super::*;
    use crate::{DnpipeSpec, state::Change};

    async fn open(disk: &SimDisk) -> (Journal, Broker) {
        let (clock, _) = Clock::simulated(0);
        let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() };
        let opened = Journal::open(Arc::new(disk.clone()), settings, clock.clone());
        let (journal, recovered) = opened.unwrap();
        (journal.clone(), Broker::open(journal, &recovered, clock).await.unwrap())
    }

    /// Only the second start that can't read a name may write the state without it, and says so there.
    #[tokio::test]
    async fn what_named_records_is_forgotten_by_the_second_start_and_they_are_not() {
        let disk = SimDisk::new();
        let (journal, broker) = open(&disk).await;
        let spec = DnpipeSpec::new("shop/orders".parse().unwrap());
        broker.apply(spec.clone()).await.unwrap();
        let mut writer = BatchWriter::new();
        let none: [(&str, &[u8]); 0] = [];
        writer.push(0, None, &none, b"an order").unwrap();
        let batch = writer.finish(Header::default()).unwrap();
        let (header, body) = split(&batch).unwrap();
        journal.append(PartitionId(1), header, &body, Durability::Device).unwrap().await.unwrap();
        drop((journal, broker));
        let mut disk = disk.kill();
        let is_named = |bytes: &[u8]| bytes.windows(15).position(|own| own == br#"{"kind":"dnpipe"#);
        let names = disk.list().unwrap();
        let (file, at) = names.iter().find_map(|file| Some((file, is_named(&disk.bytes(file)?)?))).unwrap();
        disk.corrupt(file, |bytes| bytes[at + 3] ^= 1);
        let refused = Err(ApplyError::Nameless { partitions: 1 });
        for start in 0..5 {
            let (journal, broker) = open(&disk).await;
            assert_eq!(broker.apply(spec.clone()).await, refused, "start {start}");
            assert_eq!(journal.bounds(PartitionId(1)).map(|bounds| bounds.next), Some(1), "start {start}");
            assert_eq!(broker.may_forget_state(), start > 0, "start {start}");
            if broker.may_forget_state() {
                broker.snapshot().await.unwrap();
            }
            let note = Change::Nameless { partitions: vec![1], forgotten: true };
            assert_eq!(broker.nameless_forgotten(), Some(note));
            drop((journal, broker));
            disk = disk.kill();
        }
    }
}
