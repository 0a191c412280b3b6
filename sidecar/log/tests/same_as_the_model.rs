//! On every disk a journal does what a list in memory does, through closing and opening again.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{body, header, setting};
use proptest::prelude::*;
use sidestream_host::{
    Clock,
    disk::{self, Choice, Disk, SimDisk},
};
use sidestream_log::{Durability, Journal, PartitionId, ReadError, Settings};

#[derive(Clone, Debug)]
enum Act {
    Append { partition: u32, lengths: Vec<usize>, durability: Durability },
    Trim { partition: u32, share: f64 },
    Remove { partition: u32 },
    Read { partition: u32, share: f64, max_bytes: usize },
    Find { partition: u32, share: f64 },
    Reopen { closes: bool },
}

fn act() -> impl Strategy<Value = Act> {
    let partition = 0..4_u32;
    let durability =
        prop_oneof![Just(Durability::Device), Just(Durability::PageCache), Just(Durability::Memory)];
    let lengths = prop::collection::vec(prop_oneof![8..600_usize, 8..9000_usize], 1..12);
    prop_oneof![
        8 => (partition.clone(), lengths, durability)
            .prop_map(|(partition, lengths, durability)| Act::Append { partition, lengths, durability }),
        1 => (partition.clone(), 0.0..1.0).prop_map(|(partition, share)| Act::Trim { partition, share }),
        1 => (1..4_u32).prop_map(|partition| Act::Remove { partition }),
        3 => (partition.clone(), 0.0..1.0, 1..30_000_usize)
            .prop_map(|(partition, share, max_bytes)| Act::Read { partition, share, max_bytes }),
        1 => (partition, 0.0..1.0).prop_map(|(partition, share)| Act::Find { partition, share }),
        1 => any::<bool>().prop_map(|closes| Act::Reopen { closes }),
    ]
}

/// A list in memory.
#[derive(Default)]
struct List {
    first: u64,
    next: u64,
    /// Base offset, count, what it was made of, when.
    batches: Vec<(u64, u32, u64, usize, i64)>,
}

struct Both {
    open: Box<dyn Fn() -> Arc<dyn Disk>>,
    journal: Option<Journal>,
    lists: BTreeMap<u32, List>,
    /// The number in the journal of each list: a removed one's is not used again.
    numbers: BTreeMap<u32, u32>,
    ids: u64,
}

impl Both {
    async fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Append { partition, lengths, durability } => {
                self.append(partition, lengths, durability).await
            }
            Act::Trim { partition, share } => {
                let Some((id, list)) = self.list(partition) else { return Ok(()) };
                let before = list.first + ((list.next - list.first) as f64 * share) as u64;
                list.first = before;
                prop_assert_eq!(self.journal().trim(id, before).await, Ok(()));
                prop_assert_eq!(self.journal().bounds(id).unwrap().first, before);
                Ok(())
            }
            Act::Remove { partition } => {
                let Some((id, _)) = self.list(partition) else { return Ok(()) };
                prop_assert_eq!(self.journal().remove(id).await, Ok(()));
                self.lists.remove(&partition);
                prop_assert_eq!(self.journal().bounds(id), None);
                Ok(())
            }
            Act::Read { partition, share, max_bytes } => self.read(partition, share, max_bytes).await,
            Act::Find { partition, share } => self.find(partition, share).await,
            Act::Reopen { closes } => {
                if closes {
                    self.journal().close().await;
                }
                self.journal = None;
                let (journal, recovered) =
                    Journal::open((self.open)(), settings(), Clock::machine()).unwrap();
                self.journal = Some(journal);
                prop_assert_eq!(recovered.damage, vec![]);
                prop_assert_eq!(self.journal().partitions().len(), self.lists.len());
                for partition in 0..4 {
                    for share in [0.0, 0.3, 0.6, 0.9] {
                        self.read(partition, share, 20_000).await?;
                    }
                }
                Ok(())
            }
        }
    }

    async fn append(
        &mut self,
        partition: u32,
        lengths: Vec<usize>,
        durability: Durability,
    ) -> Result<(), TestCaseError> {
        if !self.lists.contains_key(&partition) {
            let number = self.numbers.get(&partition).copied().unwrap_or(partition) + 100;
            self.numbers.insert(partition, number);
            prop_assert_eq!(self.journal().create_at(PartitionId(number), 7).await, Ok(()));
            self.lists.insert(partition, List { first: 7, next: 7, batches: Vec::new() });
        }
        let mut waiting = Vec::new();
        for length in lengths {
            self.ids += 1;
            let id = self.ids;
            let (body, count) = (body(id, length), 1 + (id % 2) as u32);
            let header = header(&body, count, id as i64);
            let (number, list) = self.list(partition).unwrap();
            let offset = list.next;
            list.next += u64::from(count);
            list.batches.push((offset, count, id, length, id as i64));
            let appending = loop {
                match self.journal().append(number, header, &body, durability) {
                    Err(sidestream_log::AppendError::Busy) => self.journal().room().await,
                    appending => break appending.unwrap(),
                }
            };
            prop_assert_eq!(appending.base_offset, offset);
            waiting.push((appending, offset + u64::from(count)));
        }
        let (number, _) = self.list(partition).unwrap();
        for (appending, end) in waiting {
            prop_assert!(appending.await.is_ok());
            prop_assert!(self.journal().bounds(number).unwrap().readable >= end);
        }
        Ok(())
    }

    async fn read(&mut self, partition: u32, share: f64, max_bytes: usize) -> Result<(), TestCaseError> {
        let Some((id, list)) = self.list(partition) else { return Ok(()) };
        let from = list.first + ((list.next - list.first) as f64 * share) as u64;
        let expected: Vec<_> = list
            .batches
            .iter()
            .filter(|(base, count, ..)| base + u64::from(*count) > from)
            .copied()
            .collect();
        let (first, next) = (list.first, list.next);
        let read = self.journal().read(id, from, max_bytes).await.unwrap();
        prop_assert!(
            read.batches.len() <= expected.len() && (read.batches.is_empty() == expected.is_empty())
        );
        for (batch, (base, count, id, length, _)) in read.batches.iter().zip(&expected) {
            prop_assert_eq!((batch.header.base_offset, batch.header.count), (*base, *count));
            prop_assert!(batch.body == body(*id, *length));
        }
        let bytes: usize = read.batches.iter().map(|batch| batch.header.length as usize).sum();
        prop_assert!(bytes <= max_bytes || read.batches.len() == 1);
        prop_assert_eq!(read.next, read.batches.last().map_or(from, |batch| batch.header.next_offset()));
        let beyond = self.journal().read(id, next + 1, 10).await.unwrap_err();
        prop_assert_eq!(beyond, ReadError::OutOfRange { first, readable: next });
        Ok(())
    }

    /// Offsets by time, and by bytes to keep.
    async fn find(&mut self, partition: u32, share: f64) -> Result<(), TestCaseError> {
        let time = (self.ids as f64 * share) as i64;
        let Some((id, list)) = self.list(partition) else { return Ok(()) };
        let (first, next) = (list.first, list.next);
        let at = list.batches.iter().find(|batch| batch.4 >= time && batch.0 + u64::from(batch.1) > first);
        let expected = at.map_or(next, |batch| batch.0.max(first));
        prop_assert_eq!(self.journal().offset_at(id, time).await, Ok(expected));
        let list = self.list(partition).unwrap().1;
        let sizes: Vec<_> = list.batches.iter().map(|batch| (batch.0, batch.3.max(8) as u64 + 112)).collect();
        let bytes = (sizes.iter().map(|size| size.1).sum::<u64>() as f64 * share) as u64;
        let mut kept = 0;
        let mut expected = next;
        for (base, size) in sizes.iter().rev() {
            kept += size;
            if kept > bytes {
                break;
            }
            expected = *base;
        }
        prop_assert_eq!(self.journal().offset_keeping(id, bytes).await, Ok(expected.max(first)));
        Ok(())
    }

    fn list(&mut self, partition: u32) -> Option<(PartitionId, &mut List)> {
        let number = self.numbers.get(&partition).copied().unwrap_or(0);
        self.lists.get_mut(&partition).map(|list| (PartitionId(number), list))
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().expect("open")
    }
}

fn settings() -> Settings {
    Settings {
        segment_bytes: 64 << 10,
        group_bytes_max: 24 << 10,
        reserve_bytes: 0,
        cache_bytes: 100 << 10,
        zero_ahead_bytes: 32 << 10,
        ..Settings::default()
    }
}

fn same(open: impl Fn() -> Arc<dyn Disk> + 'static, acts: Vec<Act>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (journal, _) = Journal::open(open(), settings(), Clock::machine()).unwrap();
    let mut both = Both {
        open: Box::new(open),
        journal: Some(journal),
        // The state's partition is there from the start.
        lists: BTreeMap::from([(0, List::default())]),
        numbers: BTreeMap::from([(0, 0)]),
        ids: 0,
    };
    runtime.block_on(async {
        for act in acts {
            both.act(act).await?;
        }
        both.act(Act::Reopen { closes: true }).await
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: setting("PROPTEST_CASES", 24) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_the_simulated_disk(acts in prop::collection::vec(act(), 1..40)) {
        let disk = SimDisk::new();
        same(move || Arc::new(disk.clone()), acts)?;
    }

    #[test]
    fn on_plain_system_calls(acts in prop::collection::vec(act(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        same(move || disk::open(directory.path(), Choice::File).unwrap(), acts)?;
    }

    #[test]
    fn on_io_uring_where_there_is_one(acts in prop::collection::vec(act(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        same(move || disk::open(directory.path(), Choice::Auto).unwrap(), acts)?;
    }
}
