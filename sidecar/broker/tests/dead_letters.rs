//! Dead letters: each is there once wherever a crash comes, and as many are called back at a time as a group may have.

mod local;

use std::{future::Future, sync::Arc, time::Duration};

use local::{batch, name, values};
use sidestream_broker::{Broker, DnpipeSpec, GroupSpec, JoinOptions, Limits};
use sidestream_conformance::{From, Push};
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Journal, Settings, Steps};

/// A broker whose journal works when it is told to.
struct Stepped {
    steps: Steps,
    broker: Broker,
    /// How many groups may still be written.
    left: u64,
}

impl Stepped {
    async fn open(disk: &SimDisk, clock: &Clock) -> Self {
        let settings = Settings { segment_bytes: 1 << 20, reserve_bytes: 1 << 20, ..Settings::default() };
        let (journal, mut steps, recovered) =
            Journal::open_stepped(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
        let clock = clock.clone();
        let opening = tokio::spawn(async move { Broker::open(journal, &recovered, clock).await });
        while !opening.is_finished() {
            tokio::task::yield_now().await;
            steps.commit();
        }
        let broker = opening.await.unwrap().unwrap();
        Self { steps, broker, left: u64::MAX }
    }

    /// Has the journal work until `call` ends; none where it may work no more before.
    async fn until<T: Send + 'static>(
        &mut self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let running = tokio::spawn(call);
        for _ in 0..1_000 {
            if running.is_finished() {
                return running.await.ok();
            }
            self.work().await;
        }
        assert_eq!(self.left, 0, "it never ends");
        None
    }

    async fn work(&mut self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        if self.left > 0 && self.steps.commit() {
            self.left -= 1;
        }
    }

    async fn make(&mut self) {
        let group = GroupSpec {
            max_deliveries: Some(1),
            dead_letter: Some(name("dead")),
            ..GroupSpec::new("billing")
        };
        for spec in [
            DnpipeSpec::new(name("dead")),
            DnpipeSpec { groups: vec![group], ..DnpipeSpec::new(name("orders")) },
        ] {
            let broker = self.broker.clone();
            self.until(async move { broker.apply(spec).await }).await.unwrap().unwrap();
        }
    }

    async fn letters(&mut self) -> Vec<String> {
        let broker = self.broker.clone();
        let pull =
            async move { broker.pull(&name("dead"), 0, From::First(0), Limits::default(), None).await };
        let pulled = self.until(pull).await.unwrap().unwrap();
        values(&pulled.batches, &[(0, u64::MAX, 0)]).into_iter().map(|(_, value, _)| value).collect()
    }

    async fn lag(&mut self) -> u64 {
        let broker = self.broker.clone();
        let group = async move { broker.group(&name("orders"), "billing").await };
        self.until(group).await.unwrap().unwrap().lag_records
    }
}

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
