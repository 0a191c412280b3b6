//! What a start reads: little, however much was pushed, to however many partitions, in however small pieces.

mod local;

use std::sync::Arc;

use local::{batch, name};
use sidestream_broker::{Broker, DnpipeSpec, PushError};
use sidestream_conformance::Push;
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Journal, PartitionId, Settings};

const PARTITIONS: u32 = 200;
/// What a start may read: what is pushed between two times that producers are written down, and while they are.
const READ_MAX: u64 = 80 << 20;

/// Nothing is kept in memory, so that whatever is read twice is counted twice.
async fn open(disk: &SimDisk) -> (Broker, Journal) {
    let settings =
        Settings { segment_bytes: 4 << 20, cache_bytes: 0, reserve_bytes: 0, ..Settings::default() };
    let clock = Clock::simulated(0).0;
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
    (Broker::open(journal.clone(), &recovered, clock).await.unwrap(), journal)
}

/// Pushes to each partition in turn, until so many bytes are pushed: what the last push to each was.
async fn push_turn_by_turn(broker: &Broker, partitions: u32, bytes: usize, each: usize) -> Vec<Push> {
    let looked_after = tokio::spawn({
        let broker = broker.clone();
        async move { broker.run().await }
    });
    let values = vec!["x".repeat(each)];
    let mut last = Vec::new();
    for sequence in 0..(bytes / each / partitions as usize) as u64 {
        last.clear();
        let mut answers = Vec::new();
        for partition in 0..partitions {
            let (values, producer) = (values.clone(), Some((7, 0, sequence)));
            let push = Push { partition, values, producer, ..Push::one("orders", "") };
            answers.push(loop {
                match broker.push(&name("orders"), partition, batch(&push), push.only_if) {
                    Err(PushError::Busy) => broker.room().await,
                    pushing => break pushing.unwrap(),
                }
            });
            last.push(push);
        }
        for pushing in answers {
            assert_eq!(pushing.await.unwrap().base_offset, sequence);
        }
    }
    looked_after.abort();
    last
}

async fn check(bytes: usize, each: usize) {
    let disk = SimDisk::new();
    let (broker, journal) = open(&disk).await;
    broker.apply(DnpipeSpec { partitions: PARTITIONS, ..DnpipeSpec::new(name("orders")) }).await.unwrap();
    let last = push_turn_by_turn(&broker, PARTITIONS, bytes, each).await;
    drop((broker, journal));
    let (broker, journal) = open(&disk.cut(|_| 0)).await;
    let read = journal.counts().read_bytes;
    assert!((1..READ_MAX).contains(&read), "{} KiB of {} were read", read >> 10, bytes >> 10);
    for push in last {
        let again = broker.push(&name("orders"), push.partition, batch(&push), push.only_if).unwrap();
        assert!(again.await.unwrap().is_repeat, "its producers are known");
    }
}

#[tokio::test]
async fn a_start_reads_little_of_much_that_was_pushed_to_many_partitions() {
    check(256 << 20, 64 << 10).await;
}

#[tokio::test]
async fn what_is_of_many_partitions_in_small_pieces_is_read_once() {
    check(16 << 20, 700).await;
}

/// Or each segment would have some of it, and none could be freed when the records in it are gone, but only copied.
#[tokio::test]
async fn the_state_does_not_stand_in_every_segment_of_what_was_pushed() {
    let disk = SimDisk::new();
    let (broker, journal) = open(&disk).await;
    broker.apply(DnpipeSpec { partitions: 8, ..DnpipeSpec::new(name("orders")) }).await.unwrap();
    push_turn_by_turn(&broker, 8, 768 << 20, 128 << 10).await;
    broker.reset(&name("orders")).await.unwrap();
    let gone = async {
        while journal.usage().used > 32 << 20 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.expect("it is gone");
    let counts = journal.counts();
    // Without it, one in four is copied, as often as producers are written down.
    assert!(counts.cleaned * 16 < counts.freed, "{counts:?}");
}

#[tokio::test]
async fn what_a_start_reads_of_the_state_does_not_stay_in_memory() {
    let disk = SimDisk::new();
    let settings = Settings { reserve_bytes: 0, ..Settings::default() };
    let clock = Clock::simulated(0).0;
    let open =
        |disk: &SimDisk| Journal::open(Arc::new(disk.clone()), settings.clone(), clock.clone()).unwrap();
    let (journal, recovered) = open(&disk);
    let broker = Broker::open(journal.clone(), &recovered, clock.clone()).await.unwrap();
    for number in 0..1000 {
        broker.apply(DnpipeSpec::new(name(&format!("orders-{number}")))).await.unwrap();
    }
    let state = journal.bounds(PartitionId::STATE).unwrap().bytes;
    drop((broker, journal));
    let (journal, recovered) = open(&disk.cut(|_| 0));
    let broker = Broker::open(journal.clone(), &recovered, clock.clone()).await.unwrap();
    assert_eq!(broker.list().len(), 1000);
    let counts = journal.counts();
    assert!(counts.read_bytes > state, "{counts:?}");
    // What was written since is there.
    assert!(counts.cache_bytes < state / 4, "{counts:?}, {state} bytes of state");
}
