//! Groups whose members misbehave, and groups that are changed while records are on their way.

mod local;

use std::{future::Future, pin::pin, time::Duration};

use local::{Local, batch, name};
use sidestream_broker::{
    Broker, Delivery, DnpipeSpec, GroupError, GroupSpec, JoinOptions, Limits, Membership,
};
use sidestream_conformance::Push;
use sidestream_event::native::Conditions;

const HELD: JoinOptions = JoinOptions {
    auto_ack: false,
    from: sidestream_event::native::From::First(0),
    lease: Duration::MAX,
    session: Duration::from_secs(30),
};

/// `orders` with the group `billing`, which gives a record up after one delivery.
fn orders(dead_letter: Option<&str>) -> DnpipeSpec {
    let group = GroupSpec {
        max_deliveries: dead_letter.map(|_| 1),
        dead_letter: dead_letter.map(name),
        backoff: Duration::from_millis(1),
        ..GroupSpec::new("billing")
    };
    DnpipeSpec { groups: vec![group], ..DnpipeSpec::new(name("orders")) }
}

async fn push(broker: &Broker, push: Push) {
    let pushing = broker.push(&name("orders"), 0, batch(&push), Conditions::default()).unwrap();
    pushing.await.unwrap();
}

async fn join(broker: &Broker, member: &str, options: JoinOptions) -> Membership {
    broker.join(&name("orders"), "billing", member, options).await.unwrap()
}

async fn next(broker: &Broker, member: &Membership) -> Vec<Delivery> {
    broker.next(member, Limits::default(), Some(Duration::from_secs(2))).await.unwrap().deliveries
}

/// The offsets that are handed out next, given back.
async fn fail_next(broker: &Broker, member: &Membership) -> Vec<u64> {
    let mut offsets = Vec::new();
    for given in next(broker, member).await {
        let ranges: Vec<_> = given.ranges.iter().map(|(from, to, _)| *from..*to).collect();
        offsets.extend(ranges.iter().cloned().flatten());
        broker.give_back(member, given.partition, &ranges).await.unwrap();
    }
    offsets
}

/// How many letters are in a dnpipe, as soon as there are `wanted`.
async fn letters(broker: &Broker, dnpipe: &str, wanted: u64) -> u64 {
    for _ in 0..500 {
        let there = broker.describe(&name(dnpipe)).unwrap().partitions[0].next;
        if there >= wanted {
            return there;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broker.describe(&name(dnpipe)).unwrap().partitions[0].next
}

/// Where letters are taken out of a group, what waits to become one is delivered again.
#[tokio::test]
async fn what_was_to_be_buried_comes_again_where_nothing_is_buried_any_more() {
    let service = Local::simulated(1).await;
    let broker = service.broker();
    // There is no such dnpipe yet: the letter waits.
    broker.apply(orders(Some("dead"))).await.unwrap();
    push(broker, Push::one("orders", "x")).await;
    let member = join(broker, "a", JoinOptions::default()).await;
    assert_eq!(fail_next(broker, &member).await, [0]);
    let nothing = broker.next(&member, Limits::default(), Some(Duration::from_millis(100))).await.unwrap();
    assert_eq!(nothing.deliveries.len(), 0);
    broker.apply(orders(None)).await.unwrap();
    let given = next(broker, &member).await;
    assert_eq!(given[0].ranges, [(0, 1, 2)]);
}

/// How far the letters of one dnpipe were called back says nothing of those of another.
#[tokio::test]
async fn letters_of_another_dnpipe_are_called_back_from_the_first() {
    let service = Local::simulated(2).await;
    let broker = service.broker();
    broker.apply(DnpipeSpec::new(name("dead"))).await.unwrap();
    broker.apply(orders(Some("dead"))).await.unwrap();
    let redrive = async || broker.redrive(&name("orders"), "billing").await.unwrap().records;
    let member = join(broker, "a", JoinOptions::default()).await;
    for _ in 0..3 {
        push(broker, Push::one("orders", "x")).await;
        fail_next(broker, &member).await;
    }
    assert_eq!((letters(broker, "dead", 3).await, redrive().await), (3, 3));
    let given = next(broker, &member).await;
    broker.ack(&member, 0, std::slice::from_ref(&(0..3))).await.unwrap();
    assert_eq!(given.len(), 1);
    // Another name, and then another dnpipe of that name.
    broker.apply(DnpipeSpec::new(name("morgue"))).await.unwrap();
    broker.apply(orders(Some("morgue"))).await.unwrap();
    for round in 0..2 {
        if round > 0 {
            broker.remove(&name("morgue")).await.unwrap();
            broker.apply(DnpipeSpec::new(name("morgue"))).await.unwrap();
        }
        push(broker, Push::one("orders", "y")).await;
        let failed = fail_next(broker, &member).await;
        assert_eq!((letters(broker, "morgue", 1).await, redrive().await), (1, 1), "round {round}");
        assert_eq!(next(broker, &member).await[0].ranges[0].0, failed[0]);
        broker.ack(&member, 0, std::slice::from_ref(&(failed[0]..failed[0] + 1))).await.unwrap();
    }
}

/// A letter has the id of its record. Where letters are looked through for repeats, one that dies again is none.
#[tokio::test]
async fn a_record_that_dies_again_leaves_a_letter_again() {
    let service = Local::simulated(3).await;
    let broker = service.broker();
    let dedupe_window = Some(Duration::from_secs(600));
    broker.apply(DnpipeSpec { dedupe_window, ..DnpipeSpec::new(name("dead")) }).await.unwrap();
    broker.apply(orders(Some("dead"))).await.unwrap();
    push(broker, Push { message_id: Some("one".into()), ..Push::one("orders", "x") }).await;
    let member = join(broker, "a", JoinOptions::default()).await;
    for letter in 1..3 {
        assert_eq!(fail_next(broker, &member).await, [0]);
        assert_eq!(letters(broker, "dead", letter).await, letter);
        assert_eq!(broker.redrive(&name("orders"), "billing").await.unwrap().records, 1);
    }
}

/// Who holds much and acknowledges every other record makes more pieces than can be written down: told, and the state of all
/// others is still written.
#[tokio::test]
async fn a_member_can_not_make_more_pieces_than_can_be_written_down() {
    let service = Local::simulated(4).await;
    let broker = service.broker();
    broker.apply(orders(None)).await.unwrap();
    for _ in 0..40 {
        push(broker, Push { values: vec!["x".into(); 1000], ..Push::one("orders", "") }).await;
    }
    let member = join(broker, "a", HELD).await;
    let limits = Limits { max_bytes: 64 << 20, max_records: u64::MAX };
    let mut out = 0;
    while out < 40_000 {
        let given = broker.next(&member, limits, None).await.unwrap().deliveries;
        out += given.iter().flat_map(|given| &given.ranges).map(|(from, to, _)| to - from).sum::<u64>();
    }
    let each: Vec<_> = (1..40_000).step_by(2).map(|at| at..at + 1).collect();
    let mut taken = 0;
    let refused = loop {
        match broker.ack(&member, 0, &each[taken..taken + 100]).await {
            Ok(()) => taken += 100,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, GroupError::Scattered { partition: 0 });
    assert!(taken > 5_000, "{taken}");
    // What the oldest of them keep apart is one again.
    let oldest: Vec<_> = (0..2_000).step_by(2).map(|at| at..at + 1).collect();
    broker.ack(&member, 0, &oldest).await.unwrap();
    broker.ack(&member, 0, &each[taken..taken + 100]).await.unwrap();
    broker.ack(&member, 0, std::slice::from_ref(&(0..40_000))).await.unwrap();
    assert_eq!(broker.lag(&name("orders")), Some(0));
}

/// At most once: who was replaced while its records were read gets none of them, for another will.
#[tokio::test]
async fn who_is_replaced_while_its_records_are_read_is_given_none() {
    let options = JoinOptions { auto_ack: true, ..JoinOptions::default() };
    let mut twice = 0;
    for round in 0..20 {
        let service = Local::in_directory(sidestream_host::disk::Choice::File).await;
        let broker = service.broker();
        broker.apply(orders(None)).await.unwrap();
        for _ in 0..30 {
            push(broker, Push::one("orders", "x".repeat(200_000))).await;
        }
        let first = join(broker, "a", options).await;
        let mut reading = pin!(broker.next(&first, Limits { max_bytes: 8 << 20, max_records: 30 }, None));
        let waker = std::task::Waker::noop();
        let begun = reading.as_mut().poll(&mut std::task::Context::from_waker(waker));
        if begun.is_ready() {
            continue;
        }
        let second = join(broker, "a", options).await;
        let given = next(broker, &second).await;
        assert_eq!(given[0].ranges[0].0, 0, "round {round}");
        let outcome = reading.await;
        assert!(matches!(outcome, Err(GroupError::NotMember { .. })), "round {round}: {outcome:?}");
        twice += 1;
        break;
    }
    assert_eq!(twice, 1, "no read had to wait");
}
