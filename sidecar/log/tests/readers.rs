//! Readers: whoever is at the end shares one copy and never asks the disk, whoever reads on finds what comes next in memory,
//! and what is in memory stays within its budget.

mod common;

use std::{path::Path, sync::Arc};

use common::now;
use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::{
    Clock, Random,
    disk::{self, Choice, SimDisk},
};
use sidestream_log::{Appending, Durability, Journal, PartitionId, Settings};

const FOLLOWED: PartitionId = PartitionId(0);

fn open(directory: &Path, settings: Settings) -> Journal {
    let disk = disk::open(directory, Choice::File).expect("a directory");
    Journal::open(disk, settings, Clock::machine()).expect("a journal").0
}

fn append(journal: &Journal, partition: PartitionId, body: &[u8]) -> Appending {
    let length = (HEADER_BYTES + body.len()) as u32;
    let header = Header { length, count: 1, body_crc: crc32c::crc32c(body), ..Header::default() };
    journal.append(partition, header, body, Durability::Memory).expect("room")
}

fn body(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::seeded(seed);
    (0..length).map(|_| random.next_u64() as u8).collect()
}

#[tokio::test]
async fn sixty_four_who_follow_the_end_share_one_copy_and_the_disk_is_not_asked() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), Settings { segment_bytes: 4 << 20, ..Settings::default() });
    let mut random = Random::seeded(5);
    for at in 0..200 {
        // Small groups and large ones, across the ends of segments.
        let length = if at % 10 == 0 { 1 << 20 } else { 1 + random.below(30_000) as usize };
        let pushed = body(at, length);
        append(&journal, FOLLOWED, &pushed).await.unwrap();
        let mut first = None;
        for _ in 0..64 {
            let read = journal.read(FOLLOWED, at, 4 << 20).await.unwrap();
            assert_eq!(read.next, at + 1);
            let found = &read.batches[0].body;
            assert_eq!(*found, pushed);
            assert_eq!(*first.get_or_insert(found.as_ptr()), found.as_ptr(), "one copy");
        }
    }
    assert_eq!(journal.counts().read_bytes, 0);
    journal.close().await;
}

#[test]
fn who_reads_on_finds_what_comes_next_in_memory_also_among_what_is_of_others() {
    const BATCHES: u64 = 2000;
    let (disk, clock, other) = (SimDisk::new(), Clock::simulated(0).0, PartitionId(1));
    let settings = Settings { segment_bytes: 4 << 20, reserve_bytes: 0, ..Settings::default() };
    let open = || Journal::open_stepped(Arc::new(disk.clone()), settings.clone(), clock.clone()).unwrap();
    let (journal, mut steps, _) = open();
    drop(journal.create(other));
    for batch in 0..BATCHES {
        drop((append(&journal, FOLLOWED, &body(batch, 4000)), append(&journal, other, &body(batch, 12_000))));
        steps.commit();
    }
    steps.close();
    drop(journal);
    // Nothing is in memory any more.
    let (journal, ..) = open();
    let (mut at, mut reads, mut asked) = (0, 0, 0);
    while at < BATCHES {
        let before = journal.counts().read_bytes;
        let read = now(journal.read(FOLLOWED, at, 40_000)).expect("nobody else is asked").unwrap();
        for batch in &read.batches {
            assert_eq!(batch.body, body(batch.header.base_offset, 4000));
        }
        at = read.next;
        reads += 1;
        asked += u32::from(journal.counts().read_bytes != before);
    }
    // Eight MiB in all, and one at a time is read ahead.
    assert!(reads >= 200 && asked <= 20, "{asked} of {reads} reads asked the disk: {:?}", journal.counts());
}

#[tokio::test]
async fn what_is_in_memory_stays_within_its_budget_whatever_is_written_and_read() {
    const BUDGET: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { segment_bytes: 4 << 20, cache_bytes: BUDGET as usize, ..Settings::default() };
    let journal = open(directory.path(), settings);
    let mut random = Random::seeded(11);
    let mut written = 0;
    for round in 0..400_u64 {
        append(&journal, FOLLOWED, &body(round, 1 + random.below(60_000) as usize)).await.unwrap();
        written += 1;
        let from = random.below(written);
        let read = journal.read(FOLLOWED, from, 100_000).await.unwrap();
        assert_eq!(read.batches[0].header.base_offset, from);
        let counts = journal.counts();
        assert!(counts.cache_bytes <= BUDGET, "{counts:?}");
    }
    let counts = journal.counts();
    assert!(counts.cache_evicted > 0 && counts.cache_hits > 0 && counts.cache_misses > 0, "{counts:?}");
    assert!(counts.read_bytes > 0, "{counts:?}");
    journal.close().await;
}

/// A batch here and there among what is of others: each keeps what was read around it in memory.
#[test]
fn an_answer_holds_little_more_in_memory_than_was_asked_for() {
    const SPARSE: u64 = 64;
    let (disk, clock, other) = (SimDisk::new(), Clock::simulated(0).0, PartitionId(1));
    let settings =
        Settings { segment_bytes: 4 << 20, reserve_bytes: 0, cache_bytes: 0, ..Settings::default() };
    let open = || Journal::open_stepped(Arc::new(disk.clone()), settings.clone(), clock.clone()).unwrap();
    let (journal, mut steps, _) = open();
    drop(journal.create(other));
    for batch in 0..SPARSE {
        drop((
            append(&journal, FOLLOWED, &body(batch, 100)),
            append(&journal, other, &body(batch, 600 << 10)),
        ));
        steps.commit();
    }
    steps.close();
    drop(journal);
    let (journal, ..) = open();
    let (mut next, mut answers) = (0, 0);
    while next < SPARSE {
        let before = journal.counts().read_bytes;
        let read = now(journal.read(FOLLOWED, next, 1 << 20)).expect("nobody else is asked").unwrap();
        assert_eq!(read.batches[0].header.base_offset, next);
        let held = journal.counts().read_bytes - before;
        assert!(held <= 6 << 20, "{held} bytes for {} batches", read.batches.len());
        (next, answers) = (read.next, answers + 1);
    }
    assert!(answers > 1);
}
