//! Dead letters: each is there once wherever a crash comes, and as many are called back at a time as a group may have.

mod local;

use std::{sync::Arc, time::Duration};

use local::{batch, name, stepped::Stepped};
use sidestream_broker::{DnpipeSpec, JoinOptions, Limits};
use sidestream_conformance::Push;
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::Settings;

/// The power goes after each group that a burial writes: before the intent, between it and the letter, between the letter and
/// what says that it is done, and after that.
#[tokio::test]
async fn a_letter_is_there_once_wherever_in_a_burial_the_power_goes() {
    let mut ends = std::collections::BTreeSet::new();
    for groups in 0..8 {
        let (clock, _hand) = Clock::simulated(1_000_000_000);
        let disk = SimDisk::new();
        let mut world = Stepped::open(&disk, &clock).await;
        world.make().await;
        let (broker, push) = (world.broker.clone(), Push::one("orders", "poison"));
        let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap();
        world.until(pushing).await.unwrap().unwrap();
        let member = world
            .until(async move { broker.join(&name("orders"), "billing", "a", JoinOptions::default()).await });
        let member = member.await.unwrap().unwrap();
        let broker = world.broker.clone();
        world.left = groups;
        let given = world.until(async move {
            broker.next(&member, Limits::default(), None).await.unwrap();
            broker.give_back(&member, 0, std::slice::from_ref(&(0..1))).await.map(drop)
        });
        let _ = given.await;
        for _ in 0..100 {
            world.work().await;
        }
        let left = world.left;
        drop(world);
        let disk = disk.cut(|_| 0);
        let mut world = Stepped::open(&disk, &clock).await;
        let (letters, lag) = (world.letters().await.len(), world.lag().await);
        ends.insert((letters, lag));
        // What was not written down is given and not taken once more.
        for _ in 0..20 {
            if world.lag().await == 0 {
                break;
            }
            let broker = world.broker.clone();
            let again = world.until(async move {
                broker.maintain().await;
                let orders = name("orders");
                let member = broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
                broker.next(&member, Limits::default(), None).await.unwrap();
                broker.give_back(&member, 0, std::slice::from_ref(&(0..1))).await.map(drop)
            });
            again.await.unwrap().unwrap();
            for _ in 0..50 {
                world.work().await;
            }
        }
        assert_eq!(
            (world.letters().await, world.lag().await),
            (vec!["poison".to_owned()], 0),
            "{groups}, {left}"
        );
    }
    assert!(ends.contains(&(1, 1)), "none went between a letter and what says that it is done: {ends:?}");
    assert!(ends.contains(&(0, 1)) && ends.contains(&(1, 0)), "{ends:?}");
}

#[tokio::test]
async fn as_many_letters_are_redriven_at_a_time_as_a_group_may_have_and_the_rest_with_the_next_call() {
    const LETTERS: u64 = 8_700;
    const MOST: u64 = 8 << 10;
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let mut world = Stepped::open(&disk, &clock).await;
    world.make().await;
    let broker = world.broker.clone();
    let push = Push { values: (0..LETTERS).map(|_| "x".to_owned()).collect(), ..Push::one("orders", 0) };
    for values in push.values.chunks(300) {
        let push = Push { values: values.to_vec(), ..push.clone() };
        let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap();
        world.until(pushing).await.unwrap().unwrap();
    }
    let joining = broker.clone();
    let member = world
        .until(async move { joining.join(&name("orders"), "billing", "a", JoinOptions::default()).await });
    let member = Arc::new(member.await.unwrap().unwrap());
    let handle = |is_taken: bool| {
        let (broker, member) = (broker.clone(), member.clone());
        async move {
            let limits = Limits { max_bytes: 16 << 20, max_records: u64::MAX };
            let claimed = broker.next(&member, limits, None).await.unwrap();
            let ranges = claimed.deliveries.iter().flat_map(|given| &given.ranges);
            let ranges: Vec<_> = ranges.map(|(from, to, _)| *from..*to).collect();
            if is_taken {
                broker.ack(&member, 0, &ranges).await.unwrap();
            } else {
                broker.give_back(&member, 0, &ranges).await.unwrap();
            }
        }
    };
    while world.lag().await > 0 {
        world.until(handle(false)).await.unwrap();
        for _ in 0..20 {
            world.work().await;
        }
    }
    let redrive = || {
        let broker = broker.clone();
        async move { broker.redrive(&name("orders"), "billing").await.unwrap().records }
    };
    assert_eq!(world.until(redrive()).await.unwrap(), MOST);
    assert_eq!(world.until(redrive()).await.unwrap(), 0, "none was handled yet");
    assert_eq!(world.lag().await, MOST);
    while world.lag().await > 0 {
        world.until(handle(true)).await.unwrap();
    }
    assert_eq!(world.until(redrive()).await.unwrap(), LETTERS - MOST);
    while world.lag().await > 0 {
        world.until(handle(true)).await.unwrap();
    }
    assert_eq!(world.until(redrive()).await.unwrap(), 0);
}

/// What is asked for is one frame's worth, and another partition's batch must not be put on top.
#[tokio::test]
async fn a_member_of_two_partitions_is_given_no_more_bytes_than_it_asked_for() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let mut world = Stepped::open(&SimDisk::new(), &clock).await;
    let broker = world.broker.clone();
    let spec = DnpipeSpec { partitions: 2, ..DnpipeSpec::new(name("orders")) };
    let applying = broker.clone();
    world.until(async move { applying.apply(spec).await }).await.unwrap().unwrap();
    for partition in [0, 0, 1, 1] {
        let push = Push { partition, ..Push::one("orders", "x".repeat(20 << 10)) };
        let pushing = broker.push(&name("orders"), partition, batch(&push), push.only_if).unwrap();
        world.until(pushing).await.unwrap().unwrap();
    }
    let calls = async move {
        let member = broker.join(&name("orders"), "billing", "a", JoinOptions::default()).await.unwrap();
        let limits = Limits { max_bytes: 50 << 10, max_records: 100 };
        let mut found = Vec::new();
        for _ in 0..4 {
            let claimed = broker.next(&member, limits, Some(Duration::ZERO)).await.unwrap();
            let batches = claimed.deliveries.iter().flat_map(|given| &given.batches);
            let bytes: u32 = batches.map(|batch| batch.header.length).sum();
            assert!(bytes <= 50 << 10, "{bytes} bytes");
            for given in &claimed.deliveries {
                found.extend(
                    given.ranges.iter().map(|(from, to, delivery)| (given.partition, *from, *to, *delivery)),
                );
            }
        }
        found.sort_unstable();
        found
    };
    let found = world.until(calls).await.unwrap();
    let each: Vec<_> = found
        .iter()
        .flat_map(|(own, from, to, delivery)| (*from..*to).map(|at| (*own, at, *delivery)))
        .collect();
    assert_eq!(each, [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]);
}

/// The letter is read before the reset and on its way when that comes: it is there before the reset has returned, or never.
#[tokio::test]
async fn no_letter_arrives_after_a_reset_of_its_source_has_returned() {
    for groups in 0..8 {
        let (clock, _hand) = Clock::simulated(1_000_000_000);
        let mut world = Stepped::open(&SimDisk::new(), &clock).await;
        world.make().await;
        let (broker, push) = (world.broker.clone(), Push::one("orders", "poison"));
        let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap();
        world.until(pushing).await.unwrap().unwrap();
        let joining = broker.clone();
        let member = world.until(async move {
            joining.join(&name("orders"), "billing", "a", JoinOptions::default()).await
        });
        let member = member.await.unwrap().unwrap();
        let giving = broker.clone();
        world.left = groups;
        let given = world.until(async move {
            giving.next(&member, Limits::default(), None).await.unwrap();
            giving.give_back(&member, 0, std::slice::from_ref(&(0..1))).await.map(drop)
        });
        let _ = given.await;
        // The burial has gone as far as it can without the disk, and goes on beside the reset.
        for _ in 0..20 {
            world.work().await;
        }
        world.left = u64::MAX;
        let resetting = tokio::spawn(async move { broker.reset(&name("orders")).await });
        // Nothing is written from the moment on in which it returns.
        loop {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            if resetting.is_finished() {
                break;
            }
            world.steps.commit();
        }
        assert_eq!(resetting.await.unwrap(), Ok(1));
        let before = world.letters().await;
        for _ in 0..200 {
            let broker = world.broker.clone();
            world.until(async move { broker.maintain().await }).await.unwrap();
        }
        assert_eq!(world.letters().await, before, "after {groups} groups");
    }
}

/// A batch of letters must fit into the journal that takes them.
#[tokio::test]
async fn letters_fit_into_a_journal_of_small_segments() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 0, ..Settings::default() };
    let mut world = Stepped::open_with(&SimDisk::new(), &clock, settings).await;
    world.make().await;
    let broker = world.broker.clone();
    // As large as may be pushed: with where it comes from it is too large, so that alone is the letter.
    let largest = "l".repeat((32 << 10) - 300);
    let sizes = [9_000, 9_001, 9_002, 9_003, 9_004].map(|size| "s".repeat(size));
    let all: Vec<String> = sizes.into_iter().chain([largest]).collect();
    for value in &all {
        let push = Push::one("orders", value);
        let pushing = broker.push(&name("orders"), 0, batch(&push), push.only_if).unwrap();
        world.until(pushing).await.unwrap().unwrap();
    }
    let giving = broker.clone();
    let given = world.until(async move {
        let member = giving.join(&name("orders"), "billing", "a", JoinOptions::default()).await.unwrap();
        let mut left = 6;
        while left > 0 {
            for given in giving.next(&member, Limits::default(), None).await.unwrap().deliveries {
                for (from, to, _) in given.ranges {
                    giving.give_back(&member, 0, std::slice::from_ref(&(from..to))).await.unwrap();
                    left -= to - from;
                }
            }
        }
    });
    given.await.unwrap();
    for _ in 0..300 {
        world.work().await;
    }
    assert_eq!(world.lag().await, 0, "some can't be buried");
    let letters: Vec<usize> = world.letters().await.iter().map(String::len).collect();
    assert_eq!(letters, [9_000, 9_001, 9_002, 9_003, 9_004, 0]);
}
