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
    Clock, SimulatedClock,
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

/// No offset is given again that may be where the newest segment can't be read: so there is a gap of as many as may be. Who reads
/// as one of a group is over it at once.
#[tokio::test]
async fn a_start_that_cannot_read_half_of_a_segment_holds_up_no_group() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let mut gaps = 0;
    for spoiled in (0..100).step_by(4).map(|first| first..128) {
        let disk = SimDisk::new();
        let broker = open(&disk, &clock).await;
        broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
        for sequence in 0..3 {
            push(&broker, sequence).await;
        }
        drop(broker);
        // Another segment, which is the newest.
        let disk = disk.kill();
        let broker = open(&disk, &clock).await;
        push(&broker, 3).await;
        drop(broker);
        let disk = disk.kill();
        let newest =
            disk.list().unwrap().into_iter().filter(|name| name.ends_with(".segment")).max().unwrap();
        disk.spoil(&newest, spoiled.clone());
        let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() };
        let Ok((journal, recovered)) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()) else {
            continue;
        };
        let Ok(broker) = Broker::open(journal, &recovered, clock.clone()).await else { continue };
        let Some(described) = broker.describe(&name("orders")) else { continue };
        gaps += u64::from(described.partitions[0].next > 1 << 20);
        let after = Push::one("orders", "after");
        let pushing = broker.push(&name("orders"), 0, batch(&after), after.only_if).unwrap();
        pushing.await.unwrap();
        let member = broker.join(&name("orders"), "billing", "a", JoinOptions::default()).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let wait = Some(Duration::from_secs(5));
                for given in broker.next(&member, Limits::default(), wait).await.unwrap().deliveries {
                    let ranges: Vec<_> = given.ranges.iter().map(|(from, to, _)| *from..*to).collect();
                    broker.ack(&member, 0, &ranges).await.unwrap();
                    if values(&given.batches, &given.ranges).iter().any(|(_, value, _)| value == "after") {
                        return;
                    }
                }
            }
        });
        read.await.unwrap_or_else(|_| panic!("sectors {spoiled:?}: it never comes to what was pushed"));
    }
    assert!(gaps > 3, "{gaps}");
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

/// Fills a segment but for some room, and has the disk refuse the next one while a large push is in the group that begins it.
async fn refused(at: u64, is_dropped: bool) -> (SimDisk, Clock, SimulatedClock, Broker, Push) {
    let (clock, hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let broker = open(&disk, &clock).await;
    let spec =
        DnpipeSpec { dedupe_window: Some(Duration::from_secs(600)), ..DnpipeSpec::new(name("orders")) };
    broker.apply(spec).await.unwrap();
    let large = "x".repeat(20 << 10);
    let nth = |n: u64| Push {
        producer: Some((7, 0, n)),
        message_id: Some(format!("message {n}")),
        ..Push::one("orders", &large)
    };
    for n in 0..2 {
        let push = nth(n);
        broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap().await.unwrap();
    }
    disk.fail(at, Fault::NoSpace);
    let push = nth(2);
    let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap();
    if is_dropped {
        drop(pushing);
    } else if let Ok(pushed) = pushing.await {
        assert_eq!(pushed.base_offset, 2);
    }
    (disk, clock, hand, broker, push)
}

/// What was refused when it had its offset already is not known as pushed: neither by its number nor by its id, neither at
/// once nor after a start.
#[tokio::test]
async fn a_push_that_is_refused_with_its_segment_is_never_answered_with_the_offset_of_another() {
    let mut refusals = 0;
    for (at, is_dropped, has_number) in
        (0..6).flat_map(|at| [(at, true, true), (at, false, true), (at, true, false), (at, false, false)])
    {
        let (disk, clock, hand, broker, mut push) = refused(at, is_dropped).await;
        if !has_number {
            push.producer = None;
        }
        let again = |broker: &Broker| {
            let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if);
            async move {
                let answer = async { pushing?.await };
                tokio::time::timeout(Duration::from_secs(5), answer).await.expect("it is answered")
            }
        };
        // Its offset is given to another before it comes again, or it was kept.
        let first = again(&broker).await;
        hand.advance(Duration::from_secs(10));
        broker.maintain().await;
        let other = Push { producer: Some((8, 0, 0)), ..Push::one("orders", "other") };
        // The error may meet this one, where what the journal does beside took fewer operations.
        let pushed = loop {
            let pushing = broker.push(&name("orders"), 0, batch(&other), other.only_if);
            match async { pushing?.await }.await {
                Ok(pushed) => break pushed,
                Err(PushError::Failed { .. } | PushError::Full { .. }) => broker.maintain().await,
                Err(error) => panic!("{error}"),
            }
        };
        match first {
            Ok(first) => assert_eq!((first.base_offset, pushed.base_offset), (2, 3)),
            Err(_) => {
                refusals += 1;
                assert_eq!(pushed.base_offset, 2);
                match again(&broker).await {
                    Ok(pushed) => assert_eq!(pushed.base_offset, 3),
                    Err(error) => assert!(matches!(error, PushError::Full { .. }), "{error}"),
                }
            }
        }
        let (_, before) = all(&broker).await;
        drop(broker);
        let broker = open(&disk.cut(|_| 0), &clock).await;
        assert_eq!(all(&broker).await.1, before);
        let pushed = again(&broker).await.unwrap();
        let (_, value) = &all(&broker).await.1[pushed.base_offset as usize];
        assert_eq!(value.len(), 20 << 10, "its own record, at {}", pushed.base_offset);
    }
    assert!(refusals > 0, "the disk refused nothing");
}

/// As `orders` is after a reset that the disk has no room for: as if nobody had asked.
#[tokio::test]
async fn a_reset_that_is_refused_leaves_the_dnpipe_as_it_was() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let mut refusals = 0;
    for small in 0..140 {
        // Room for one segment and no reserve.
        let disk = SimDisk::new().with_capacity(100 << 10);
        let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 0, ..Settings::default() };
        let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
        let broker = Broker::open(journal, &recovered, clock.clone()).await.unwrap();
        broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
        let mut kept = 0;
        for n in 0..small {
            let push = Push::one("orders", n);
            let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if);
            match async { pushing?.await }.await {
                Ok(_) => kept += 1,
                Err(_) => break,
            }
        }
        let epoch = match broker.reset(&name("orders")).await {
            Ok(epoch) => epoch,
            Err(error) => {
                assert!(
                    matches!(error, ResetError::Write(PushError::Full { .. } | PushError::Failed { .. })),
                    "{error}"
                );
                refusals += u64::from(matches!(error, ResetError::Write(PushError::Full { .. })));
                0
            }
        };
        let (found, records) = all(&broker).await;
        assert_eq!((found, records.len()), (epoch, if epoch == 0 { kept } else { 0 }), "after {small}");
    }
    assert!(refusals > 0, "the disk refused no reset");
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

/// A sector that can't be read, anywhere: it costs what is in it, and stops neither a start nor a group.
#[tokio::test]
async fn a_sector_that_cannot_be_read_costs_what_is_in_it_and_stops_nobody() {
    const RECORDS: u64 = 10;
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let broker = open(&disk, &clock).await;
    broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
    for n in 0..RECORDS {
        let push = Push::one("orders", format!("{n}{}", "x".repeat(600)));
        broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap().await.unwrap();
    }
    drop(broker);
    // What was there is noted as durable by the start after it.
    let disk = disk.kill();
    drop(open(&disk, &clock).await);
    let disk = disk.kill();
    let names = disk.list().unwrap();
    let whole: Vec<_> = names.iter().map(|name| disk.bytes(name).unwrap()).collect();
    let (mut lost, mut nameless) = (0, 0);
    for (name_at, file) in names.iter().enumerate().filter(|(_, file)| file.ends_with(".segment")) {
        let used = whole[name_at].iter().rposition(|byte| *byte != 0).unwrap_or_default() / 512 + 2;
        for sector in 0..used.min(whole[name_at].len() / 512) {
            let disk = disk.kill();
            disk.spoil(file, sector..sector + 1);
            let broker = open(&disk, &clock).await;
            if broker.list().is_empty() {
                // That there was such a dnpipe stood there.
                nameless += 1;
            } else {
                let (found, damaged) = read_around(&broker).await;
                assert_eq!(found + damaged, RECORDS, "{file}, sector {sector}");
                assert!(damaged <= 2, "{file}, sector {sector}: {damaged} lost");
                lost += damaged;
                let member = join(&broker).await;
                let mut handled = 0;
                while handled < found {
                    let claimed = broker.next(&member, Limits::default(), None).await.unwrap();
                    let given =
                        claimed.deliveries.iter().map(|given| values(&given.batches, &given.ranges).len());
                    handled += given.sum::<usize>() as u64;
                }
                let again = Push::one("orders", "again");
                let pushed =
                    broker.push(&name("orders"), 0, batch(&again), again.only_if).unwrap().await.unwrap();
                assert!(pushed.base_offset >= RECORDS, "{file}, sector {sector}: an offset is given twice");
            }
            drop(broker);
            let disk = disk.kill();
            disk.restore();
            for other in disk.list().unwrap().iter().filter(|other| !names.contains(other)) {
                disk.remove(other).unwrap();
            }
            for (name, bytes) in names.iter().zip(&whole) {
                if disk.bytes(name).is_none() {
                    disk.create(name).unwrap();
                }
                disk.corrupt(name, |found| *found = bytes.clone());
            }
        }
    }
    assert!(lost >= RECORDS && nameless <= 2, "{lost} {nameless}");
}

/// How many records can be read, and how many are said to be damaged.
async fn read_around(broker: &Broker) -> (u64, u64) {
    let (orders, mut from) = (name("orders"), From::First(0));
    let (mut found, mut damaged) = (0, 0);
    loop {
        match broker.pull(&orders, 0, from, Limits::default(), None).await {
            Ok(pulled) if pulled.batches.is_empty() => return (found, damaged),
            Ok(pulled) => {
                for (offset, value, _) in values(&pulled.batches, &[(pulled.from, pulled.next, 0)]) {
                    assert!(value.starts_with(&offset.to_string()));
                    found += 1;
                }
                from = From::Offset(pulled.next);
            }
            Err(PullError::Damaged { from: lost, to }) => {
                damaged += to.min(10) - lost;
                from = From::Offset(to);
            }
            Err(other) => panic!("{other}"),
        }
    }
}
