//! A full disk refuses pushes and nothing else, for as long as it is full, and whoever starts meanwhile.

mod local;

use std::{sync::Arc, time::Duration};

use local::{batch, name};
use sidestream_broker::{Broker, DnpipeSpec, JoinOptions, Limits, PushError};
use sidestream_conformance::{From, Push};
use sidestream_host::{Clock, SimulatedClock, disk::SimDisk};
use sidestream_log::{Journal, Settings};

const RESERVE: u64 = 256 << 10;

struct World {
    disk: SimDisk,
    journal: Journal,
    broker: Broker,
    hand: SimulatedClock,
    clock: Clock,
    reserve_bytes: u64,
}

impl World {
    async fn new(capacity: u64, reserve_bytes: u64) -> Self {
        let (clock, hand) = Clock::simulated(1_000_000_000);
        let disk = SimDisk::new().with_capacity(capacity);
        let (journal, broker) = open(&disk, &clock, reserve_bytes).await;
        broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
        Self { disk, journal, broker, hand, clock, reserve_bytes }
    }

    /// The power goes and comes back, with all that was not flushed.
    async fn crash(&mut self) {
        self.disk = self.disk.cut(|states| states - 1);
        (self.journal, self.broker) = open(&self.disk, &self.clock, self.reserve_bytes).await;
    }

    /// What a broker does each second; and then what its journal does.
    async fn maintain(&self) {
        self.broker.maintain().await;
        for _ in 0..6_000 {
            if !self.journal.is_reserve_low() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the reserve does not come back");
    }

    async fn push(&self, value: &str) -> Result<u64, PushError> {
        let push = Push::one("orders", value);
        let pushed = self.broker.push(&name("orders"), 0, batch(&push), push.only_if)?.await?;
        Ok(pushed.base_offset)
    }

    /// Pushes until nothing more is taken; how many records there are.
    async fn fill(&self) -> u64 {
        let (mut refused, mut end) = (0, 0);
        while refused < 10 {
            match self.push(&"x".repeat(8_000)).await {
                Ok(offset) => end = offset + 1,
                Err(PushError::Full { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        end
    }

    async fn end(&self) -> u64 {
        let pulled = self.broker.pull(&name("orders"), 0, From::First(0), Limits::default(), None).await;
        pulled.unwrap().end
    }
}

async fn open(disk: &SimDisk, clock: &Clock, reserve_bytes: u64) -> (Journal, Broker) {
    let settings = Settings { segment_bytes: 256 << 10, reserve_bytes, ..Settings::default() };
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
    (journal.clone(), Broker::open(journal, &recovered, clock.clone()).await.unwrap())
}

/// More than ten times what the reserve holds.
#[tokio::test]
async fn acknowledgements_and_resets_go_on_for_ever() {
    let mut world = World::new(2 << 20, RESERVE).await;
    let orders = name("orders");
    let end = world.fill().await;
    for round in 0..40_u64 {
        let member = world.broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
        let claimed = world.broker.next(&member, Limits::default(), None).await.unwrap();
        assert_eq!(claimed.deliveries.is_empty(), round == 39, "round {round}");
        for turn in 0..150 {
            let acked = world.broker.ack(&member, 0, std::slice::from_ref(&(round..round + 1))).await;
            assert!(acked.is_ok(), "round {round}: {acked:?}");
            // From half of the reserve, which a turn waits for, to the quarter that state leaves alone there are sixteen
            // blocks and what is left of a piece: less than that between two turns.
            if turn % 12 == 0 {
                world.maintain().await;
            }
        }
        if round % 3 == 2 {
            world.crash().await;
        }
        if round == 38 {
            assert_eq!(world.end().await, end, "nothing was dropped");
            assert_eq!(world.broker.reset(&orders).await, Ok(1));
        }
    }
    for epoch in 2..200 {
        assert_eq!(world.broker.reset(&orders).await, Ok(epoch));
        world.maintain().await;
    }
    // The room comes back when the journal has freed a segment, and the reserve is whole.
    for _ in 0..6_000 {
        match world.push("after").await {
            Ok(offset) => return assert_eq!(offset, end),
            Err(PushError::Full { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("a reset made no room");
}

/// Without a reserve, as of a disk that something else has filled to the last byte.
#[tokio::test]
async fn a_start_that_can_write_nothing_serves_what_there_is() {
    let mut world = World::new(2 << 20, 0).await;
    let end = world.fill().await;
    for _ in 0..3 {
        world.crash().await;
        assert_eq!(world.end().await, end);
        assert!(matches!(world.push("more").await, Err(PushError::Full { .. })));
        world.broker.maintain().await;
        assert_eq!(world.end().await, end);
    }
    drop(world.disk.clone().with_capacity(8 << 20));
    // A disk without a reserve is asked again by the next start.
    world.crash().await;
    world.hand.advance(Duration::from_secs(60));
    world.broker.maintain().await;
    assert_eq!(world.push("more").await, Ok(end));
    world.crash().await;
    assert_eq!(world.end().await, end + 1);
}

#[tokio::test]
async fn a_reset_makes_room_at_once_where_a_push_was_just_refused() {
    let world = World::new(2 << 20, RESERVE).await;
    let mut end = 0;
    let refused = loop {
        match world.push(&"x".repeat(8_000)).await {
            Ok(offset) => end = offset + 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PushError::Full { .. }), "{refused}");
    // Nobody has read the partition anew yet.
    assert!(matches!(world.push("one more").await, Err(PushError::Full { .. })));
    assert_eq!(world.broker.reset(&name("orders")).await, Ok(1));
    for _ in 0..6_000 {
        match world.push("first").await {
            Err(PushError::Full { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            pushed => return assert_eq!(pushed, Ok(end)),
        }
    }
    panic!("no room comes back");
}
