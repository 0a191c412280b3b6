//! Whoever pushes alone writes, too; and what it promised is kept as if the storage thread had written it.

mod common;

use std::{path::Path, sync::Arc, thread, time::Duration};

use common::{header, now};
use sidestream_host::{
    Clock,
    disk::{self, Choice, SimDisk},
};
use sidestream_log::{Appending, Durability, Journal, PartitionId, Settings};

const STATE: PartitionId = PartitionId::STATE;
/// Long for a machine that is busy with other things; nothing waits for it to pass.
const LONG: Duration = Duration::from_secs(60);

fn open(directory: &Path, settings: Settings) -> Journal {
    let disk = disk::open(directory, Choice::File).unwrap();
    Journal::open(disk, settings, Clock::machine()).unwrap().0
}

fn push(journal: &Journal, length: usize, durability: Durability) -> Appending {
    let body = vec![7; length];
    journal.hold().append(STATE, None, header(&body, 1, 0), &body, durability).unwrap()
}

/// Pushes one after the other, each a while after the one before: how many of them were written by who pushed.
async fn written_alone(journal: &Journal, pushes: usize, length: usize, durability: Durability) -> u64 {
    let before = journal.counts().alone;
    for _ in 0..pushes {
        thread::sleep(Duration::from_millis(1));
        let appending = push(journal, length, durability);
        tokio::time::timeout(LONG, appending).await.expect("it is written").unwrap();
    }
    journal.counts().alone - before
}

#[tokio::test]
async fn who_pushes_alone_to_the_kernel_waits_for_nobody_and_others_for_the_storage_thread() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), Settings::default());
    push(&journal, 100, Durability::PageCache).await.unwrap();
    assert!(written_alone(&journal, 200, 1000, Durability::PageCache).await > 100);
    assert_eq!(
        written_alone(&journal, 20, 1000, Durability::Device).await,
        0,
        "it would wait for the device"
    );
    assert_eq!(written_alone(&journal, 20, 70 << 10, Durability::Memory).await, 0, "that takes a while");
    assert_eq!(journal.bounds(STATE).unwrap().readable, 241);
    journal.close().await;
}

#[tokio::test]
async fn what_was_written_alone_gets_to_the_device_in_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { flush: Duration::from_millis(100), ..Settings::default() };
    let journal = open(directory.path(), settings);
    let mut written_alone = 0;
    for _ in 0..5 {
        push(&journal, 100, Durability::Device).await.unwrap();
        // Until the storage thread has noted that all is durable, and waits for nothing.
        thread::sleep(Duration::from_millis(200));
        // That one alone is for the kernel leaves it waiting for nothing.
        push(&journal, 100, Durability::Memory).await.unwrap();
        thread::sleep(Duration::from_millis(50));
        let (before, alone) = (journal.counts().barriers, journal.counts().alone);
        push(&journal, 100, Durability::PageCache).await.unwrap();
        written_alone += journal.counts().alone - alone;
        let flushed = async {
            while journal.counts().barriers == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, flushed).await.expect("the device has it");
    }
    assert!(written_alone > 0, "what this is about");
    journal.close().await;
}

/// Four at once, each with one under way, at all three durabilities: every one is told, and each offset is given once.
#[test]
fn nobody_waits_for_ever_whoever_writes() {
    const PUSHES: usize = 3000;
    let directory = tempfile::tempdir().unwrap();
    let settings =
        Settings { segment_bytes: 1 << 20, flush: Duration::from_millis(3), ..Settings::default() };
    let journal = open(directory.path(), settings);
    let push_all = |who: usize| {
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut offsets = Vec::new();
        for push in 0..PUSHES {
            let durability = match (who + push) % 16 {
                0 => Durability::Device,
                1 => Durability::Memory,
                _ => Durability::PageCache,
            };
            let appending = self::push(&journal, 40 + push % 900, durability);
            let told = waiting.block_on(async { tokio::time::timeout(LONG, appending).await });
            offsets.push(told.expect("somebody writes it").unwrap().base_offset);
        }
        offsets
    };
    let mut all = thread::scope(|scope| {
        let pushing: Vec<_> = (0..4)
            .map(|who| {
                scope.spawn({
                    let push_all = &push_all;
                    move || push_all(who)
                })
            })
            .collect();
        let offsets = pushing.into_iter().map(|one| one.join().unwrap());
        offsets.inspect(|offsets| assert!(offsets.is_sorted())).flatten().collect::<Vec<_>>()
    });
    all.sort();
    assert!(all.into_iter().eq(0..4 * PUSHES as u64));
    assert!(journal.counts().alone > 0, "{:?}", journal.counts());
    drop(journal);
    let journal = open(directory.path(), Settings::default());
    assert_eq!(journal.bounds(STATE).unwrap().readable, 4 * PUSHES as u64);
    assert!(journal.damage().is_empty());
}

/// In a stepped journal nothing happens but in its steps.
#[test]
fn where_the_steps_are_its_callers_nobody_else_writes() {
    let (journal, mut steps, _) =
        Journal::open_stepped(Arc::new(SimDisk::new()), Settings::default(), Clock::simulated(0).0).unwrap();
    drop(push(&journal, 10, Durability::Memory));
    steps.commit();
    let mut appending = push(&journal, 10, Durability::Memory);
    assert!(now(&mut appending).is_none());
    steps.commit();
    assert!(now(&mut appending).is_some());
}
