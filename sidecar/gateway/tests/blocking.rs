//! The client without `async`, against a server.

mod world;

use std::time::Duration;

use sidestream_broker::{DnpipeSpec, GroupSpec};
use sidestream_client::{
    Batch, ClientConfig, ClientError, From, GroupConfig, Numbers, ProducerConfig, ReaderConfig, Record,
    Refusal, blocking,
};
use sidestream_gateway::Limits;
use tokio::runtime::{Builder, Runtime};
use world::{World, world};

/// A server with a runtime of its own, and a client without one.
fn served() -> (Runtime, World, blocking::Client) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let world = runtime.block_on(world(Limits::default()));
    let client = blocking::Client::local(world.socket()).unwrap();
    (runtime, world, client)
}

fn values(reader: blocking::Reader) -> Vec<String> {
    reader.map(|record| String::from_utf8(record.unwrap().value.to_vec()).unwrap()).collect()
}

#[test]
fn what_is_pushed_is_pulled_and_a_reset_removes_it() {
    let (_runtime, _world, client) = served();
    assert_eq!(client.push("shop/notes", Record::new("one")).unwrap().offset, 0);
    let producer = client.producer("shop/notes", ProducerConfig::default()).unwrap();
    let promises: Vec<_> =
        ["two", "three"].map(|value| producer.push(Record::new(value)).unwrap()).into_iter().collect();
    producer.flush().unwrap();
    let offsets: Vec<_> = promises.into_iter().map(|promise| promise.wait().unwrap().offset).collect();
    assert_eq!(offsets, [1, 2]);
    assert!((1..=2).contains(&producer.batches()));

    let reader = || client.reader("shop/notes", From::First(0), ReaderConfig::default()).unwrap();
    assert_eq!(values(reader()), ["one", "two", "three"]);
    let mut ahead = reader();
    assert_eq!(ahead.next().unwrap().unwrap().offset, 0);
    assert_eq!(ahead.ready().unwrap().offset, 1);

    let page = client.pull("shop/notes", 0, From::Offset(1), 1, Duration::ZERO).unwrap();
    assert_eq!((&page.records[0].value[..], page.next), (&b"two"[..], 2));
    assert_eq!(client.reset("shop/notes").unwrap(), 1);
    assert!(values(reader()).is_empty());
    assert_eq!(client.push("shop/notes", Record::new("new")).unwrap().epoch, 1);
    assert_eq!(client.describe("shop/notes").unwrap().epoch, 1);
    assert_eq!(client.list().unwrap().len(), 2);
    assert!(client.verify(None).unwrap().damage.is_empty());
}

#[test]
fn a_batch_of_the_same_numbers_is_stored_once_and_goes_where_it_should() {
    let (_runtime, _world, client) = served();
    let producer = client.producer("shop/orders", ProducerConfig::default()).unwrap();
    assert_eq!(producer.push_to(2, Record::new("there")).unwrap().wait().unwrap().partition, 2);
    let records = vec![Record::new("one"), Record::new("two")];
    let numbers = Some(Numbers { producer: 7, epoch: 0, first: 0 });
    let batch = Batch { records, numbers, ..Batch::default() };
    for _ in 0..2 {
        let stored = client.push_together("shop/orders", 1, &batch).unwrap();
        assert_eq!(stored.iter().map(|receipt| receipt.offset).collect::<Vec<_>>(), [0, 1]);
    }
    let opened = client.open_producer(&"shop/orders".parse().unwrap(), 1, 7).unwrap();
    assert!(opened.epoch > 0, "{opened:?}");

    // As they are stored, into another partition.
    let name = "shop/orders".parse().unwrap();
    let page = client.pull_stored(&name, 1, 0).unwrap();
    assert_eq!((page.batches.len(), page.batches[0].count(), page.next), (1, 2, 2));
    let numbers = Numbers { producer: 8, epoch: 0, first: 0 };
    assert_eq!(client.push_stored(&name, 0, &page.batches[0], numbers).unwrap().offset, 0);
}

#[test]
fn what_a_group_did_not_handle_comes_again_and_what_it_did_does_not() {
    let (_runtime, _world, client) = served();
    for value in ["one", "two", "three"] {
        client.push("shop/notes", Record::new(value)).unwrap();
    }
    let config = GroupConfig { member: Some("ann".into()), ..GroupConfig::default() };
    let mut member = client.join("shop/notes", "billing", config).unwrap();
    assert_eq!((member.member(), member.partitions()), ("ann", &[0][..]));
    member.claim_at_most(3);
    let first = member.next_delivery().unwrap();
    assert_eq!((&first.record.value[..], first.attempt, member.ahead()), (&b"one"[..], 1, 2));
    member.ack(&first).unwrap();
    let second = member.ready().unwrap();
    member.give_back(&second).unwrap();
    let third = member.next_delivery().unwrap();
    assert_eq!(&third.record.value[..], b"three");
    member.acknowledger().ack(third.record.partition, 2..3).unwrap();
    let again = member.next_delivery().unwrap();
    assert_eq!((again.record.offset, again.attempt), (1, 2));
    member.acknowledger().stay().unwrap();
    member.ack_range(0, 1..2).unwrap();
    assert_eq!(member.next_within(0).unwrap(), None);
    let group = client.groups("shop/notes").unwrap().remove(0);
    assert_eq!((&*group.name, group.lag_records, group.members.len()), ("billing", 0, 1));
    member.leave().unwrap();

    client.seek("shop/notes", "billing", None, From::First(0)).unwrap();
    let config = GroupConfig { auto_ack: true, ..GroupConfig::default() };
    let mut member = client.join("shop/notes", "billing", config).unwrap();
    assert_eq!(member.next_delivery().unwrap().record.offset, 0);
    member.acknowledger().leave().unwrap();
}

#[test]
fn what_became_a_dead_letter_is_redriven() {
    let (runtime, world, client) = served();
    let billing = GroupSpec {
        max_deliveries: Some(1),
        dead_letter: Some("shop/notes".parse().unwrap()),
        backoff: Duration::from_millis(20),
        ..GroupSpec::new("billing")
    };
    let calls = DnpipeSpec { groups: vec![billing], ..DnpipeSpec::new("shop/calls".parse().unwrap()) };
    runtime.block_on(world.apply(calls));
    client.push("shop/calls", Record::new("poison")).unwrap();
    let mut member = client.join("shop/calls", "billing", GroupConfig::default()).unwrap();
    let poison = member.next_delivery().unwrap();
    member.acknowledger().give_back(poison.record.partition, 0..1).unwrap();
    let config = ReaderConfig { follow: true, ..ReaderConfig::default() };
    let letter = client.reader("shop/notes", From::First(0), config).unwrap().next().unwrap().unwrap();
    assert_eq!(letter.value, poison.record.value);
    assert_eq!(client.redrive("shop/calls", "billing").unwrap(), (1, 0));
    assert_eq!(member.next_delivery().unwrap().record, poison.record);
}

#[test]
fn what_is_refused_is_said_as_it_is_with_async() {
    let (_runtime, world, client) = served();
    let refused = client.push("shop/none", Record::new("x")).unwrap_err();
    assert_eq!(refused, ClientError::Refused(Refusal::UnknownDnpipe("shop/none".parse().unwrap())));
    let unknown = client.redrive("shop/notes", "none").unwrap_err();
    assert_eq!(unknown, ClientError::Refused(Refusal::UnknownGroup { group: "none".into() }));
    let nowhere = world.folder.path().join("nobody");
    let config = ClientConfig { patience: Duration::ZERO, ..ClientConfig::default() };
    let alone = blocking::Client::new(sidestream_client::Address::Local(nowhere), config).unwrap();
    assert!(matches!(alone.list(), Err(ClientError::Unreachable { .. })), "{:?}", alone.list());
}
