//! What the disk takes back while a reset is on its way: nothing that is pushed afterwards is lost to it.

mod local;

use std::{collections::BTreeSet, sync::Arc};

use local::{batch, name, stepped::Stepped, values};
use sidestream_broker::{Broker, DnpipeSpec, Limits, PushError};
use sidestream_conformance::{From, Push};
use sidestream_host::{
    Clock,
    disk::{SimDisk, sim::Fault},
};
use sidestream_log::{Journal, Settings};

fn settings() -> Settings {
    Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() }
}

/// Until it is answered, as a client does.
async fn push(world: &mut Stepped, value: &str) -> u64 {
    for _ in 0..50 {
        let (broker, push) = (world.broker.clone(), Push::one("orders", value));
        let answer = match broker.push(&name("orders"), 0, batch(&push), push.only_if) {
            Ok(pushing) => world.until(pushing).await.unwrap(),
            Err(refused) => Err(refused),
        };
        match answer {
            Ok(pushed) => return pushed.base_offset,
            Err(PushError::Failed { .. } | PushError::Full { .. } | PushError::Busy) => {
                world.until(async move { broker.maintain().await }).await.unwrap();
                while world.steps.keep() {}
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("{value} is never taken");
}

async fn all(world: &mut Stepped) -> (u32, Vec<(u64, String)>) {
    let broker = world.broker.clone();
    let pull = async move { broker.pull(&name("orders"), 0, From::First(0), Limits::default(), None).await };
    let pulled = world.until(pull).await.unwrap().unwrap();
    let found = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
    (pulled.epoch, found.into_iter().map(|(offset, value, _)| (offset, value)).collect())
}

/// Pushes that are on their way, a reset behind them, and the disk fails; `groups` more are written before the power goes.
/// Whether the reset stands although what was pushed before it does not.
async fn taken_back(fault: Fault, at: u64, filled: usize, groups: Option<u64>) -> bool {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let mut world = Stepped::open_with(&disk, &clock, settings()).await;
    let broker = world.broker.clone();
    world.until(async move { broker.apply(DnpipeSpec::new(name("orders"))).await }).await.unwrap().unwrap();
    while world.steps.keep() {}
    // The next group finds room in its segment, or has to begin another.
    for _ in 0..filled {
        push(&mut world, &"x".repeat(12 << 10)).await;
    }
    let first = push(&mut world, "old").await;
    let (broker, large) = (world.broker.clone(), Push::one("orders", "y".repeat(12 << 10)));
    let under_way: Vec<_> = (0..2)
        .map(|_| {
            let pushing = broker.push(&name("orders"), 0, batch(&large), large.only_if).unwrap();
            tokio::spawn(pushing)
        })
        .collect();
    let resetting = tokio::spawn(async move { broker.reset(&name("orders")).await });
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    disk.fail(at, fault);
    world.left = groups.unwrap_or(u64::MAX);
    let mut outcome = None;
    for _ in 0..100 {
        world.work().await;
        if resetting.is_finished() {
            outcome = Some(resetting.await.unwrap());
            break;
        }
    }
    let mut are_kept = true;
    for pushing in under_way {
        are_kept &= pushing.is_finished() && pushing.await.unwrap().is_ok();
    }
    if groups.is_some() {
        drop(world);
        world = Stepped::open_with(&disk.cut(|_| 0), &clock, settings()).await;
    }
    let epoch = all(&mut world).await.0;
    if let Some(Ok(answered)) = &outcome {
        assert_eq!(epoch, *answered, "{fault:?} at {at}");
    }
    let before = all(&mut world).await.1;
    let after = push(&mut world, "new").await;
    assert!(after > first, "{fault:?} at {at}");
    let expected: Vec<_> = before.into_iter().chain([(after, "new".to_owned())]).collect();
    let found = all(&mut world).await;
    assert_eq!(found, (epoch, expected.clone()), "{fault:?} at {at}, after {filled}, {groups:?} groups");
    let disk = disk.cut(|_| 0);
    drop(world);
    let mut world = Stepped::open_with(&disk, &clock, settings()).await;
    assert_eq!(all(&mut world).await, (epoch, expected), "{fault:?} at {at}, {groups:?}: after a start");
    matches!(outcome, Some(Ok(_))) && !are_kept
}

#[tokio::test]
async fn a_push_after_a_reset_is_seen_although_the_disk_took_back_what_was_pushed_before_it() {
    let mut stood = BTreeSet::new();
    for (fault, number) in [(Fault::Io, 0), (Fault::NoSpace, 1), (Fault::Short, 2)] {
        for (at, filled) in (0..6).flat_map(|at| [(at, 0), (at, 2), (at, 3)]) {
            if taken_back(fault, at, filled, None).await {
                stood.insert((number, filled));
            }
        }
    }
    assert!(stood.iter().any(|(fault, _)| *fault == 0), "no reset stood after an error: {stood:?}");
    assert!(stood.iter().any(|(fault, _)| *fault == 1), "no reset stood on a full disk: {stood:?}");
}

#[tokio::test]
async fn the_same_where_the_power_goes_before_the_fence_is_written_down_again() {
    for (fault, groups) in
        [Fault::Io, Fault::NoSpace].into_iter().flat_map(|fault| (0..5).map(move |groups| (fault, groups)))
    {
        for (at, filled) in (0..5).flat_map(|at| [(at, 0), (at, 3)]) {
            taken_back(fault, at, filled, Some(groups)).await;
        }
    }
}

/// Several that look after the broker at once: what was pushed when one had read a partition is not forgotten by another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_is_read_anew_once_however_many_look_after_it() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings(), clock.clone()).unwrap();
    let broker = Broker::open(journal, &recovered, clock).await.unwrap();
    broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
    let ask = |sequence: u64| {
        let push = Push { producer: Some((7, 0, sequence)), ..Push::one("orders", sequence) };
        let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if);
        async move { pushing?.await }
    };
    let (mut sequence, mut failures) = (0, 0);
    while failures < 40 {
        disk.fail(0, Fault::Io);
        // The fault may hit what the journal does by itself.
        if ask(sequence).await.is_ok() {
            sequence += 1;
            continue;
        }
        failures += 1;
        let looking: Vec<_> = (0..4)
            .map(|_| {
                let broker = broker.clone();
                tokio::spawn(async move { broker.maintain().await })
            })
            .collect();
        // As soon as one of them has read it.
        let pushed = loop {
            match ask(sequence).await {
                Ok(pushed) => break pushed,
                Err(PushError::Failed { .. }) if looking.iter().all(|own| own.is_finished()) => {
                    broker.maintain().await
                }
                Err(PushError::Failed { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        };
        for looking in looking {
            looking.await.unwrap();
        }
        let again = ask(sequence).await.unwrap();
        assert_eq!((again.base_offset, again.is_repeat), (pushed.base_offset, true), "it was forgotten");
        sequence += 1;
    }
}
