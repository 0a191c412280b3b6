//! A disk that fails once, at any of its operations: nothing that was answered is lost, nothing is there twice, and the
//! broker goes on by itself.

mod local;

use std::{sync::Arc, time::Duration};

use local::{batch, name, values};
use sidestream_broker::{
    Broker, DnpipeSpec, GroupError, JoinOptions, Limits, PullError, PushError, ResetError,
};
use sidestream_conformance::{From, Push};
use sidestream_host::{
    Clock,
    disk::{Disk, SimDisk, sim::Fault},
};
use sidestream_log::{Journal, Settings};

/// As a client does that is told of a failure: the same again, until it is answered.
async fn push(broker: &Broker, sequence: u64) -> u64 {
    let push = Push { producer: Some((7, 0, sequence)), ..Push::one("orders", sequence) };
    for _ in 0..50 {
        let answer = match broker.push(&name("orders"), 0, batch(&push), push.only_if) {
            Ok(pushing) => pushing.await,
            Err(refused) => Err(refused),
        };
        match answer {
            Ok(pushed) => return pushed.base_offset,
            Err(PushError::Failed { .. } | PushError::Full { .. } | PushError::Busy) => {
                broker.maintain().await
            }
            Err(other) => panic!("number {sequence}: {other}"),
        }
    }
    panic!("number {sequence} is never taken");
}

async fn all(broker: &Broker) -> (u32, Vec<(u64, String)>) {
    for _ in 0..50 {
        match broker.pull(&name("orders"), 0, From::First(0), Limits::default(), None).await {
            Ok(pulled) => {
                assert_eq!(pulled.next, pulled.end);
                let found = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
                return (pulled.epoch, found.into_iter().map(|(offset, value, _)| (offset, value)).collect());
            }
            Err(PullError::Failed { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it is never read");
}

async fn open(disk: &SimDisk, clock: &Clock) -> Broker {
    let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() };
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
    Broker::open(journal, &recovered, clock.clone()).await.unwrap()
}

/// Pushes, acknowledges and resets, while operation `at` from its start on goes wrong.
async fn live(at: u64, fault: Fault) {
    let (clock, hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let broker = open(&disk, &clock).await;
    broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
    for sequence in 0..3 {
        assert_eq!(push(&broker, sequence).await, sequence);
    }
    disk.fail(at, fault);
    for sequence in 3..6 {
        let offset = push(&broker, sequence).await;
        assert_eq!(offset, sequence, "an offset was left out, or given twice");
    }
    let member = join(&broker).await;
    let mut handled = Vec::new();
    while handled.len() < 6 {
        match broker.next(&member, Limits::default(), None).await {
            Ok(claimed) => handled
                .extend(claimed.deliveries.iter().flat_map(|given| values(&given.batches, &given.ranges))),
            Err(GroupError::Pull(PullError::Failed { .. })) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    while let Err(error) = broker.ack(&member, 0, std::slice::from_ref(&(0..5))).await {
        assert!(
            matches!(error, GroupError::Write(PushError::Failed { .. } | PushError::Full { .. })),
            "{error}"
        );
    }
    let expected: Vec<_> = (0..6).map(|n| (n, n.to_string())).collect();
    assert_eq!(all(&broker).await, (0, expected.clone()));
    drop(broker);
    // A cut that takes all it can: what was answered was answered for good.
    let disk = disk.cut(|_| 0);
    let broker = open(&disk, &clock).await;
    assert_eq!(all(&broker).await, (0, expected));
    assert_eq!(broker.group(&name("orders"), "billing").await.unwrap().lag_records, 1);
    disk.fail(at, fault);
    let epoch = loop {
        match broker.reset(&name("orders")).await {
            Ok(epoch) => break epoch,
            Err(ResetError::Write(PushError::Failed { .. } | PushError::Full { .. })) => {
                broker.maintain().await
            }
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(epoch, 1);
    for sequence in 6..9 {
        assert_eq!(push(&broker, sequence).await, sequence);
    }
    hand.advance(Duration::from_secs(10));
    broker.maintain().await;
    let expected: Vec<_> = (6..9).map(|n| (n, n.to_string())).collect();
    assert_eq!(all(&broker).await, (1, expected.clone()));
    drop(broker);
    let broker = open(&disk.cut(|_| 0), &clock).await;
    assert_eq!(all(&broker).await, (1, expected));
    assert_eq!(push(&broker, 8).await, 8, "a repeat");
    assert_eq!(push(&broker, 9).await, 9);
}

async fn join(broker: &Broker) -> sidestream_broker::Membership {
    for _ in 0..50 {
        match broker.join(&name("orders"), "billing", "a", JoinOptions::default()).await {
            Ok(member) => return member,
            Err(error) => {
                assert!(
                    matches!(error, GroupError::Write(PushError::Failed { .. } | PushError::Full { .. })),
                    "{error}"
                );
            }
        }
    }
    panic!("nobody can join");
}

#[tokio::test]
async fn a_disk_that_fails_once_at_any_operation_loses_nothing_that_was_answered() {
    for at in 0..40 {
        live(at, Fault::Io).await;
    }
}

#[tokio::test]
async fn a_disk_that_is_full_once_at_any_operation_loses_nothing_that_was_answered() {
    for at in 0..40 {
        live(at, Fault::NoSpace).await;
    }
}

#[tokio::test]
async fn a_write_that_is_cut_short_once_loses_nothing_that_was_answered() {
    for at in 0..40 {
        live(at, Fault::Short).await;
    }
}

/// Decay in the middle of what was written: it is told by its range, what comes after it is there, and groups go on.
#[tokio::test]
async fn damaged_records_are_told_by_their_range_and_hold_nobody_up() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let broker = open(&disk, &clock).await;
    broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
    for value in ["before", "victim", "after"] {
        let push = Push::one("orders", value);
        broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap().await.unwrap();
    }
    drop(broker);
    let disk = disk.cut(|_| 0);
    let is_there = |bytes: &[u8]| bytes.windows(6).position(|window| window == b"victim");
    let files = disk.list().unwrap();
    let (file, at) =
        files.iter().find_map(|file| Some((file, is_there(&disk.bytes(file)?)?))).expect("it is on the disk");
    disk.corrupt(file, |bytes| bytes[at] ^= 1);
    let broker = open(&disk, &clock).await;
    let orders = name("orders");
    let pull = |from| broker.pull(&orders, 0, from, Limits::default(), None);
    let found = |pulled: sidestream_broker::Pulled| values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
    assert_eq!(found(pull(From::First(0)).await.unwrap()), [(0, "before".into(), 0)]);
    assert_eq!(pull(From::Offset(1)).await.unwrap_err(), PullError::Damaged { from: 1, to: 2 });
    assert_eq!(found(pull(From::Offset(2)).await.unwrap()), [(2, "after".into(), 0)]);
    let member = join(&broker).await;
    let mut handled = Vec::new();
    while handled.len() < 2 {
        let claimed = broker.next(&member, Limits::default(), None).await.unwrap();
        handled.extend(claimed.deliveries.iter().flat_map(|given| values(&given.batches, &given.ranges)));
    }
    assert_eq!(handled, [(0, "before".into(), 1), (2, "after".into(), 1)]);
    broker.ack(&member, 0, std::slice::from_ref(&(0..3))).await.unwrap();
    assert_eq!(broker.group(&name("orders"), "billing").await.unwrap().lag_records, 0);
}

/// A part of the broker's own state that can't be read: whatever it named, no records are thrown away for it.
#[tokio::test]
async fn damaged_state_never_costs_records() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let broker = open(&disk, &clock).await;
    broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
    push(&broker, 0).await;
    drop(broker);
    let disk = disk.cut(|_| 0);
    let is_there = |bytes: &[u8]| bytes.windows(15).position(|window| window == br#"{"kind":"dnpipe"#);
    let files = disk.list().unwrap();
    let (file, at) =
        files.iter().find_map(|file| Some((file, is_there(&disk.bytes(file)?)?))).expect("it is on the disk");
    disk.corrupt(file, |bytes| bytes[at + 3] ^= 1);
    let broker = open(&disk, &clock).await;
    assert_eq!(broker.list(), [], "nobody knows what it was called");
    // Its name is lost, its records are not: the same bytes read again bring both back.
    drop(broker);
    let disk = disk.cut(|_| 0);
    disk.corrupt(file, |bytes| bytes[at + 3] ^= 1);
    let broker = open(&disk, &clock).await;
    assert_eq!(all(&broker).await.1, [(0, "0".to_owned())]);
}
