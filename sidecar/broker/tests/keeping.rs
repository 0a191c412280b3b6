//! What is kept, for how long, and what happens when there is no room.

mod local;

use std::{sync::Arc, time::Duration};

use local::{batch, name, values};
use sidestream_broker::{
    Broker, DnpipeSpec, GroupSpec, JoinOptions, Limits, PullError, PushError, Retention, Room,
};
use sidestream_conformance::{From, Push};
use sidestream_host::{Clock, SimulatedClock, disk::SimDisk};
use sidestream_log::{Journal, PartitionId, Settings};

const START: i64 = 1_763_683_200_000_000_000;

/// A broker whose time stands until it is moved.
struct World {
    disk: SimDisk,
    broker: Broker,
    journal: Journal,
    hand: SimulatedClock,
    clock: Clock,
}

async fn world() -> World {
    let (clock, hand) = Clock::simulated(START);
    open(SimDisk::new(), clock, hand).await
}

async fn open(disk: SimDisk, clock: Clock, hand: SimulatedClock) -> World {
    let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() };
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
    let broker = Broker::open(journal.clone(), &recovered, clock.clone()).await.unwrap();
    World { disk, broker, journal, hand, clock }
}

impl World {
    async fn crash(self) -> World {
        let disk = self.disk.cut(|_| 0);
        open(disk, self.clock, self.hand).await
    }

    async fn make(&self, spec: DnpipeSpec) {
        self.broker.apply(spec).await.unwrap();
    }

    async fn push(&self, value: impl ToString) -> Result<u64, PushError> {
        push(&self.broker, Push::one("orders", value)).await
    }

    async fn all(&self, dnpipe: &str) -> Vec<String> {
        let limits = Limits { max_bytes: 16 << 20, max_records: u64::MAX };
        let mut found = Vec::new();
        let mut from = From::First(0);
        loop {
            let pulled = self.broker.pull(&name(dnpipe), 0, from, limits, None).await.unwrap();
            if pulled.batches.is_empty() {
                return found;
            }
            found.extend(
                values(&pulled.batches, &[(pulled.from, pulled.next, 0)])
                    .into_iter()
                    .map(|(_, value, _)| value),
            );
            from = From::Offset(pulled.next);
        }
    }
}

async fn push(broker: &Broker, push: Push) -> Result<u64, PushError> {
    let pushing = broker.push(&name(&push.dnpipe), push.partition, batch(&push), push.only_if)?;
    Ok(pushing.await?.base_offset)
}

fn orders() -> DnpipeSpec {
    DnpipeSpec::new(name("orders"))
}

#[tokio::test]
async fn without_a_retention_nothing_goes_until_a_reset() {
    let world = world().await;
    world.make(orders()).await;
    for n in 0..30 {
        world.push(n).await.unwrap();
        world.hand.advance(Duration::from_secs(86_400 * 365));
        world.broker.maintain().await;
    }
    assert_eq!(world.all("orders").await.len(), 30);
}

#[tokio::test]
async fn what_is_older_than_the_retention_goes_and_offsets_go_on() {
    let world = world().await;
    let retention = Retention { time: Some(Duration::from_secs(60)), bytes: None };
    world.make(DnpipeSpec { retention, ..orders() }).await;
    for n in 0..10 {
        assert_eq!(world.push(n).await, Ok(n));
        world.hand.advance(Duration::from_secs(10));
    }
    world.broker.maintain().await;
    assert_eq!(world.all("orders").await, ["4", "5", "6", "7", "8", "9"]);
    let refused = world.broker.pull(&name("orders"), 0, From::Offset(3), Limits::default(), None).await;
    assert_eq!(refused.unwrap_err(), PullError::OutOfRange { first: 4, end: 10 });
    world.hand.advance(Duration::from_secs(600));
    world.broker.maintain().await;
    assert_eq!((world.all("orders").await.len(), world.push("next").await), (0, Ok(10)));
}

#[tokio::test]
async fn a_partition_keeps_no_more_bytes_than_the_retention_says() {
    let world = world().await;
    world.make(DnpipeSpec { retention: Retention { time: None, bytes: Some(10_000) }, ..orders() }).await;
    let value = "x".repeat(1_000);
    for _ in 0..40 {
        world.push(&value).await.unwrap();
    }
    world.broker.maintain().await;
    let left = world.all("orders").await.len();
    assert!((7..=9).contains(&left), "{left} records of 1,000 bytes and their headers");
    assert_eq!(world.push("next").await, Ok(40));
}

#[tokio::test]
async fn a_group_that_is_behind_the_retention_goes_on_with_what_is_left() {
    let world = world().await;
    let retention = Retention { time: Some(Duration::from_secs(60)), bytes: None };
    world.make(DnpipeSpec { retention, ..orders() }).await;
    for n in 0..5 {
        world.push(n).await.unwrap();
    }
    let orders = name("orders");
    let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let limits = Limits { max_bytes: 1 << 20, max_records: 2 };
    assert_eq!(world.broker.next(&member, limits, None).await.unwrap().deliveries[0].ranges, [(0, 2, 1)]);
    world.hand.advance(Duration::from_secs(120));
    world.push("new").await.unwrap();
    world.broker.maintain().await;
    let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let claimed = world.broker.next(&member, Limits::default(), None).await.unwrap();
    assert_eq!(claimed.deliveries[0].ranges, [(5, 6, 1)]);
    let group = world.broker.group(&orders, "billing").await.unwrap();
    assert_eq!((group.cursors, group.lag_records), (vec![5], 1));
}

#[tokio::test]
async fn a_full_quota_refuses_pushes_and_drops_nothing() {
    let world = world().await;
    world.make(DnpipeSpec { quota_bytes: Some(20_000), ..orders() }).await;
    world.make(DnpipeSpec::new(name("other"))).await;
    let value = "x".repeat(1_000);
    let mut pushed = 0;
    let refused = loop {
        match world.push(&value).await {
            Ok(_) => pushed += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, PushError::Full { what: Room::Quota, limit: 20_000 });
    assert!((15..20).contains(&pushed), "{pushed}");
    assert_eq!(world.all("orders").await.len(), pushed, "nothing was dropped");
    assert_eq!(push(&world.broker, Push::one("other", &value)).await, Ok(0), "the quota is of one dnpipe");
    // Reads, cursors and resets go on, and a reset makes room.
    let orders = name("orders");
    let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let claimed = world.broker.next(&member, Limits::default(), None).await.unwrap();
    assert_eq!(claimed.deliveries[0].ranges, [(0, pushed as u64, 1)]);
    world.broker.ack(&member, 0, std::slice::from_ref(&(0..3))).await.unwrap();
    assert_eq!(world.broker.reset(&orders).await, Ok(1));
    assert_eq!(world.push(&value).await, Ok(pushed as u64));
}

#[tokio::test]
async fn a_full_disk_refuses_pushes_and_a_reset_still_works() {
    let world = {
        let (clock, hand) = Clock::simulated(START);
        let disk = SimDisk::new();
        let (segment_bytes, reserve_bytes) = (64 << 10, 128 << 10);
        let settings =
            Settings { segment_bytes, reserve_bytes, capacity_bytes: Some(512 << 10), ..Settings::default() };
        let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
        let broker = Broker::open(journal.clone(), &recovered, clock.clone()).await.unwrap();
        World { disk, broker, journal, hand, clock }
    };
    world.make(orders()).await;
    let value = "x".repeat(8_000);
    let mut pushed = Vec::new();
    let refused = loop {
        match world.push(&value).await {
            Ok(offset) => pushed.push(offset),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, PushError::Full { what: Room::Disk, .. }), "{refused}");
    assert_eq!(world.all("orders").await.len(), pushed.len(), "nothing was dropped");
    let orders = name("orders");
    let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let claimed = world.broker.next(&member, Limits::default(), None).await.unwrap();
    assert!(!claimed.deliveries.is_empty());
    world.broker.ack(&member, 0, std::slice::from_ref(&(0..1))).await.unwrap();
    assert_eq!(world.broker.reset(&orders).await, Ok(1));
    // The room comes back when the journal has freed a segment.
    for _ in 0..500 {
        match world.push(&value).await {
            Ok(offset) => return assert_eq!(offset, pushed.len() as u64),
            Err(PushError::Full { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("a reset made no room");
}

#[tokio::test]
async fn the_state_stays_small_and_a_start_from_its_snapshot_knows_all() {
    let mut world = world().await;
    let groups = vec![GroupSpec::new("declared")];
    world.make(DnpipeSpec { partitions: 2, groups, ..orders() }).await;
    world.make(DnpipeSpec::new(name("gone"))).await;
    world.broker.remove(&name("gone")).await.unwrap();
    let orders = name("orders");
    let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    push(&world.broker, Push { producer: Some((7, 0, 0)), ..Push::one("orders", "old") }).await.unwrap();
    world.broker.reset(&orders).await.unwrap();
    for n in 1..=3 {
        push(&world.broker, Push { producer: Some((7, 0, n)), ..Push::one("orders", n) }).await.unwrap();
    }
    let claimed = world.broker.next(&member, Limits::default(), None).await.unwrap();
    assert_eq!(claimed.deliveries[0].ranges, [(1, 4, 1)]);
    // Acknowledged over and over: what was written before is of no use any more.
    for _ in 0..60_000 {
        world.broker.ack(&member, 0, std::slice::from_ref(&(2..3))).await.unwrap();
        if world.journal.bounds(PartitionId::STATE).unwrap().bytes > (8 << 20) {
            break;
        }
    }
    let before = world.journal.bounds(PartitionId::STATE).unwrap();
    assert!(before.bytes > (8 << 20), "{} bytes of state", before.bytes);
    world.broker.maintain().await;
    let after = world.journal.bounds(PartitionId::STATE).unwrap();
    assert!(after.first >= before.next && after.bytes < 64 << 10, "{} bytes of state", after.bytes);
    for _ in 0..2 {
        world = world.crash().await;
        assert_eq!(world.broker.list(), std::slice::from_ref(&orders));
        let described = world.broker.describe(&orders).unwrap();
        assert_eq!((described.epoch, described.partitions.len()), (1, 2));
        let groups = world.broker.groups(&orders).await.unwrap();
        let cursors: Vec<_> =
            groups.into_iter().map(|group| (group.spec.name, group.cursors, group.lag_records)).collect();
        assert_eq!(cursors, [("billing".into(), vec![1, 0], 2), ("declared".into(), vec![1, 0], 3)]);
        let repeat = push(&world.broker, Push { producer: Some((7, 0, 2)), ..Push::one("orders", 2) }).await;
        assert_eq!(repeat, Ok(2));
        assert_eq!(world.all("orders").await, ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn what_a_dnpipe_leaves_behind_is_not_found_by_another_of_its_name() {
    let world = world().await;
    let orders_name = name("orders");
    world.make(orders()).await;
    world.push("old").await.unwrap();
    world.broker.join(&orders_name, "billing", "a", JoinOptions::default()).await.unwrap();
    let waiting = {
        let (broker, orders) = (world.broker.clone(), orders_name.clone());
        tokio::spawn(async move {
            broker.pull(&orders, 0, From::Last(0), Limits::default(), Some(Duration::from_secs(60))).await
        })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.broker.remove(&orders_name).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err(), PullError::Unknown(orders_name.clone()));
    assert_eq!(world.push("lost").await, Err(PushError::Unknown(orders_name.clone())));
    world.make(orders()).await;
    assert_eq!((world.all("orders").await.len(), world.push("new").await), (0, Ok(0)));
    let world = world.crash().await;
    assert_eq!(world.all("orders").await, ["new"]);
    assert!(world.broker.groups(&orders_name).await.unwrap().is_empty());
    let partitions = world.journal.partitions();
    assert_eq!(partitions.len(), 2, "the state, and one partition: {partitions:?}");
}

#[tokio::test]
async fn a_dnpipe_is_changed_in_place_but_for_its_partitions() {
    let world = world().await;
    world.make(orders()).await;
    world.push("kept").await.unwrap();
    world
        .make(DnpipeSpec { quota_bytes: Some(500), groups: vec![GroupSpec::new("billing")], ..orders() })
        .await;
    assert!(matches!(world.push("x".repeat(500)).await, Err(PushError::Full { .. })));
    let refused = world.broker.apply(DnpipeSpec { partitions: 2, ..orders() }).await.unwrap_err();
    assert!(refused.to_string().contains("never changes"), "{refused}");
    let world = world.crash().await;
    assert_eq!(world.all("orders").await, ["kept"]);
    let spec = world.broker.describe(&name("orders")).unwrap().spec;
    assert_eq!((spec.quota_bytes, world.broker.groups(&spec.name).await.unwrap().len()), (Some(500), 1));
}

#[tokio::test]
async fn lag_is_told_in_records_and_in_seconds() {
    let world = world().await;
    world.make(orders()).await;
    let orders = name("orders");
    let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    for n in 0..3 {
        world.push(n).await.unwrap();
        world.hand.advance(Duration::from_secs(9));
    }
    let lag = |group: sidestream_broker::GroupInfo| (group.lag_records, group.lag_seconds);
    assert_eq!(lag(world.broker.group(&orders, "billing").await.unwrap()), (3, 27.0));
    world.broker.next(&member, Limits::default(), None).await.unwrap();
    world.broker.ack(&member, 0, std::slice::from_ref(&(0..2))).await.unwrap();
    assert_eq!(lag(world.broker.group(&orders, "billing").await.unwrap()), (1, 9.0));
    world.broker.ack(&member, 0, std::slice::from_ref(&(2..3))).await.unwrap();
    assert_eq!(lag(world.broker.group(&orders, "billing").await.unwrap()), (0, 0.0));
}

#[tokio::test]
async fn records_that_are_out_for_too_long_come_again_after_a_wait() {
    let world = world().await;
    world.make(orders()).await;
    let orders = name("orders");
    world.push("work").await.unwrap();
    let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let next = || world.broker.next(&member, Limits::default(), None);
    assert_eq!(next().await.unwrap().deliveries[0].ranges, [(0, 1, 1)]);
    world.hand.advance(Duration::from_secs(29));
    assert!(next().await.unwrap().deliveries.is_empty());
    world.hand.advance(Duration::from_secs(1));
    assert!(next().await.unwrap().deliveries.is_empty(), "late, and its wait begins");
    world.hand.advance(Duration::from_secs(1));
    assert_eq!(next().await.unwrap().deliveries[0].ranges, [(0, 1, 2)]);
}

#[tokio::test]
async fn a_member_that_waits_hears_of_what_another_members_call_set_free() {
    let world = world().await;
    world.make(DnpipeSpec { partitions: 2, ..orders() }).await;
    let orders = name("orders");
    for partition in 0..2 {
        push(&world.broker, Push { partition, ..Push::one("orders", "work") }).await.unwrap();
    }
    let first = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    assert_eq!(world.broker.next(&first, Limits::default(), None).await.unwrap().deliveries.len(), 2);
    let second = world.broker.join(&orders, "billing", "b", JoinOptions::default()).await.unwrap();
    let waiting = {
        let broker = world.broker.clone();
        let wait = Some(Duration::from_secs(60));
        tokio::spawn(async move { broker.next(&second, Limits::default(), wait).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    // Not long enough for its session: it looks in between.
    world.hand.advance(Duration::from_secs(20));
    world.broker.next(&first, Limits::default(), None).await.unwrap();
    world.hand.advance(Duration::from_secs(10));
    assert!(world.broker.next(&first, Limits::default(), None).await.unwrap().deliveries.is_empty());
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.hand.advance(Duration::from_secs(2));
    let claimed =
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it waits on").unwrap().unwrap();
    assert_eq!(claimed.deliveries[0].ranges, [(0, 1, 2)]);
}
