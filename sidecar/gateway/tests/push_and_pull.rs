//! What a client pushes through a door, clients pull through it.

mod world;

use std::{collections::BTreeMap, time::Duration};

use sidestream_client::{
    ClientError, DataKey, From, GroupConfig, Incarnation, ProducerConfig, Pulled, ReaderConfig, Record,
    Refusal,
};
use sidestream_event::record::{BatchWriter, Header};
use sidestream_gateway::Limits;
use sidestream_host::Clock;
use tokio::time::timeout;
use world::{world, world_by};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

async fn all(reader: &mut sidestream_client::Reader) -> Vec<Pulled> {
    let mut found = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        found.push(record);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_is_pulled_with_key_headers_and_time_in_the_order_of_its_partition() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let producer = client.producer("shop/orders", ProducerConfig::default()).await.unwrap();
    let mut promises = Vec::new();
    for number in 0..3000 {
        let mut record =
            Record::new(format!("value {number}")).key(format!("key {}", number % 17)).header("n", "1");
        record.time = Some(number);
        promises.push(producer.push(record).await.unwrap());
    }
    let mut offsets = BTreeMap::<u32, Vec<u64>>::new();
    for promise in promises {
        let receipt = promise.await.unwrap();
        offsets.entry(receipt.partition).or_default().push(receipt.offset);
    }
    assert_eq!(offsets.len(), 3);
    for (partition, offsets) in &offsets {
        assert_eq!(*offsets, (0..offsets.len() as u64).collect::<Vec<_>>(), "{partition}");
    }
    let mut reader = client.reader("shop/orders", From::First(0), ReaderConfig::default()).await.unwrap();
    let found = all(&mut reader).await;
    assert_eq!(found.len(), 3000);
    let mut last = BTreeMap::new();
    for record in &found {
        let number = record.time;
        assert_eq!(record.value, format!("value {number}"));
        assert_eq!(record.headers, [("n".to_owned(), "1".into())]);
        let key = record.key.clone().unwrap();
        assert!(
            last.insert(key, number).is_none_or(|before| before < number),
            "records of a key keep their order"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_an_offset_an_end_or_a_count_from_an_end() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    for number in 0..20 {
        producer.push(Record::new(number.to_string())).await.unwrap().await.unwrap();
    }
    let firsts = [
        (From::First(0), Some(0)),
        (From::First(3), Some(3)),
        (From::Last(2), Some(18)),
        (From::Last(0), None),
        (From::Offset(7), Some(7)),
        (From::Time(0), Some(0)),
    ];
    for (from, first) in firsts {
        let mut reader = client.reader("shop/notes", from, ReaderConfig::default()).await.unwrap();
        let found = all(&mut reader).await;
        assert_eq!(found.first().map(|record| record.offset), first, "{from:?}");
        assert_eq!(found.len() as u64, first.map_or(0, |first| 20 - first), "{from:?}");
    }
    let behind = Refusal::OutOfRange { first: 0, end: 20 };
    let refused = client.reader("shop/notes", From::Offset(99), ReaderConfig::default()).await.err();
    assert_eq!(refused, Some(ClientError::Refused(behind)));
    // Of several partitions one may end before it.
    for partition in [0, 0, 0, 2] {
        push_to(&client, partition).await;
    }
    let mut reader = client.reader("shop/orders", From::Offset(2), ReaderConfig::default()).await.unwrap();
    let found: Vec<_> = all(&mut reader).await.iter().map(|own| (own.partition, own.offset)).collect();
    assert_eq!(found, [(0, 2)]);
    let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
    let mut reader = client.reader("shop/notes", From::Offset(99), follow).await.unwrap();
    assert_eq!(reader.next().await, Err(ClientError::Refused(Refusal::OutOfRange { first: 0, end: 20 })));
}

/// Pushes a record to a partition of `orders`.
async fn push_to(client: &sidestream_client::Client, partition: u32) {
    let producer = client.producer("shop/orders", ProducerConfig::default()).await.unwrap();
    producer.push_to(partition, Record::new("x")).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_gets_what_is_pushed_later_and_goes_on_after_a_reset() {
    let world = world(Limits::default()).await;
    let (client, other) = (world.local(), world.local());
    let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
    let mut reader = client.reader("shop/notes", From::First(0), follow).await.unwrap();
    let producer = other.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    let pushed = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        producer.push(Record::new("before")).await.unwrap().await.unwrap()
    };
    let (found, receipt) = tokio::join!(reader.next(), pushed);
    assert_eq!((found.unwrap().unwrap().value, receipt.epoch), ("before".into(), 0));
    for _ in 0..5 {
        producer.push(Record::new("gone")).await.unwrap().await.unwrap();
    }
    assert_eq!(other.reset("shop/notes").await, Ok(1));
    let receipt = producer.push(Record::new("after")).await.unwrap().await.unwrap();
    assert_eq!((receipt.offset, receipt.epoch), (6, 1), "offsets go on");
    // What had come before the reset may still be handed out; what comes after it is of the new epoch.
    loop {
        let record = reader.next().await.unwrap().unwrap();
        if record.epoch == 1 {
            assert_eq!((record.value, record.offset), ("after".into(), 6));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_group_share_the_records_and_what_is_not_acknowledged_comes_again() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    for number in 0..10 {
        drop(producer.push(Record::new(number.to_string())).await.unwrap());
    }
    producer.flush().await.unwrap();
    let named = |name: &str| GroupConfig { member: Some(name.into()), ..GroupConfig::default() };
    let mut first = client.join("shop/notes", "billing", named("first")).await.unwrap();
    for number in 0..4 {
        let delivery = first.next().await.unwrap();
        assert_eq!((delivery.record.value.clone(), delivery.attempt), (number.to_string().into(), 1));
        if number < 3 {
            first.ack(&delivery).await.unwrap();
        }
    }
    let groups = client.groups("shop/notes").await.unwrap();
    assert_eq!(
        (groups[0].name.as_str(), groups[0].cursors.as_slice(), groups[0].lag_records),
        ("billing", &[3][..], 7)
    );
    first.leave().await.unwrap();
    // Another connection, another member.
    let mut second = world.local().join("shop/notes", "billing", named("second")).await.unwrap();
    for number in 3..10 {
        let delivery = second.next().await.unwrap();
        assert_eq!(delivery.record.value, number.to_string());
        second.ack(&delivery).await.unwrap();
    }
    assert_eq!(second.next_within(50).await, Ok(None));
    client.seek("shop/notes", "billing", None, From::First(8)).await.unwrap();
    assert_eq!(second.next().await.unwrap().record.value, "8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_claims_a_few_and_leaves_costs_the_others_no_delivery() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    for number in 0..5 {
        drop(producer.push(Record::new(number.to_string())).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut few = client.join("shop/notes", "billing", GroupConfig::default()).await.unwrap();
    few.claim_at_most(1);
    let delivery = few.next().await.unwrap();
    assert_eq!(delivery.record.value, "0");
    few.ack(&delivery).await.unwrap();
    few.leave().await.unwrap();
    let mut rest = world.local().join("shop/notes", "billing", GroupConfig::default()).await.unwrap();
    for number in 1..5 {
        let delivery = rest.next().await.unwrap();
        assert_eq!((delivery.record.value, delivery.attempt), (number.to_string().into(), 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_member_of_the_same_name_takes_the_place_of_the_first() {
    let world = world(Limits::default()).await;
    let named = GroupConfig { member: Some("only".into()), ..GroupConfig::default() };
    let mut first = world.local().join("shop/notes", "billing", named.clone()).await.unwrap();
    let mut second = world.local().join("shop/notes", "billing", named).await.unwrap();
    let refused = first.next_within(10).await;
    assert_eq!(refused, Err(ClientError::Refused(Refusal::NotMember { group: "billing".into() })));
    assert_eq!(second.next_within(10).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_encrypted_is_read_with_its_key_alone() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let key = DataKey::new(&[7; 32]).unwrap();
    let config = ProducerConfig { key: Some(key.clone()), ..ProducerConfig::default() };
    let producer = client.producer("shop/notes", config).await.unwrap();
    for number in 0..100 {
        drop(producer.push(Record::new(format!("secret {number}")).key("k")).await.unwrap());
    }
    producer.flush().await.unwrap();
    let with = |key| ReaderConfig { key, ..ReaderConfig::default() };
    let mut reader = client.reader("shop/notes", From::First(0), with(Some(key))).await.unwrap();
    let found = all(&mut reader).await;
    assert_eq!((found.len(), &found[99].value[..]), (100, &b"secret 99"[..]));
    let mut reader = client.reader("shop/notes", From::First(0), with(None)).await.unwrap();
    assert!(reader.next().await.unwrap_err().to_string().contains("there is no key here"));
    let other = DataKey::new(&[8; 32]).unwrap();
    let mut reader = client.reader("shop/notes", From::First(0), with(Some(other))).await.unwrap();
    assert!(reader.next().await.unwrap_err().to_string().contains("another key"));
    // Nothing of it is on the disk as it is.
    for entry in std::fs::read_dir(world.folder.path().join("journal")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
}

/// What was pushed with another key, or none, stands in nobody's way: what is before it comes, it is named, and what is behind it
/// comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_here_hides_nothing_else() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let key = DataKey::new(&[7; 32]).unwrap();
    for (round, key) in [None, Some(key), None].into_iter().enumerate() {
        let config = ProducerConfig { key, ..ProducerConfig::default() };
        let producer = client.producer("shop/notes", config).await.unwrap();
        for number in 0..3 {
            drop(producer.push(Record::new(format!("{round} {number}"))).await.unwrap());
        }
        producer.flush().await.unwrap();
    }
    let hidden = |found: Result<Option<Pulled>, ClientError>| match found {
        Err(ClientError::Unreadable { partition, offsets, reason }) => {
            assert!(reason.to_string().contains("there is no key here"), "{reason}");
            (partition, offsets)
        }
        other => panic!("{other:?}"),
    };
    let mut reader = client.reader("shop/notes", From::First(0), ReaderConfig::default()).await.unwrap();
    for offset in 0..3 {
        assert_eq!(reader.next().await.unwrap().unwrap().offset, offset);
    }
    // In as many batches as they went in.
    let mut at = 3;
    while at < 6 {
        let (partition, offsets) = hidden(reader.next().await);
        assert_eq!((partition, offsets.start), (0, at));
        at = offsets.end;
    }
    for offset in 6..9 {
        assert_eq!(reader.next().await.unwrap().unwrap().offset, offset);
    }
    assert_eq!(reader.next().await, Ok(None));

    let mut member = client.join("shop/notes", "billing", GroupConfig::default()).await.unwrap();
    for offset in [0, 1, 2, 6, 7, 8] {
        let delivery = member.next_within(1000).await.unwrap().unwrap();
        assert_eq!((delivery.record.offset, delivery.attempt), (offset, 1));
        member.ack(&delivery).await.unwrap();
    }
    // They are out with this member, and it may say what becomes of them.
    for is_again in [false, true] {
        let mut at = 3;
        while at < 6 {
            let found = member.next_within(5000).await.map(|found| found.map(|own| own.record));
            let (partition, offsets) = hidden(found);
            assert_eq!((partition, offsets.start), (0, at));
            at = offsets.end;
            match is_again {
                false => member.acknowledger().give_back(partition, offsets).await.unwrap(),
                true => member.ack_range(partition, offsets).await.unwrap(),
            }
        }
    }
    assert_eq!(member.next_within(10).await, Ok(None));
}

/// The dnpipe was made anew: what is there now begins before the reader's place, which a reader cannot know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_behind_the_end_is_told() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let push = async |value: &str| {
        let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
        producer.push(Record::new(value.to_owned())).await.unwrap().await.unwrap();
    };
    push("one").await;
    push("two").await;
    let config = ReaderConfig { follow: true, ..ReaderConfig::default() };
    let mut reader = client.reader("shop/notes", From::First(0), config).await.unwrap();
    for value in ["one", "two"] {
        assert_eq!(reader.next().await.unwrap().unwrap().value, value);
    }
    let notes = "shop/notes".parse().unwrap();
    world.broker.remove(&notes).await.unwrap();
    world.apply(sidestream_broker::DnpipeSpec::new(notes)).await;
    push("three").await;
    let told = timeout(LONG, async {
        loop {
            match reader.next().await {
                Err(ClientError::Refused(Refusal::UnknownDnpipe(_))) => {}
                told => return told,
            }
        }
    });
    let told = told.await.expect("it asks for ever");
    assert_eq!(told, Err(ClientError::Refused(Refusal::OutOfRange { first: 0, end: 1 })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_every_size_up_to_the_largest_comes_back_as_it_was() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    let sizes = [0usize, 1, 127, 128, 16 << 10, 256 << 10, (1 << 20) - 200];
    for size in sizes {
        let value: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        producer.push(Record::new(value)).await.unwrap().await.unwrap();
    }
    let mut reader = client.reader("shop/notes", From::First(0), ReaderConfig::default()).await.unwrap();
    for size in sizes {
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(record.value.len(), size);
        assert!(record.value.iter().enumerate().all(|(at, byte)| *byte == (at * 31 % 251) as u8), "{size}");
    }
    let refused = producer.push(Record::new(vec![0; 1 << 20])).await.err().unwrap();
    assert!(refused.to_string().contains("push it in parts"), "{refused}");
    // The connection is as good as before.
    assert_eq!(producer.push(Record::new("small")).await.unwrap().await.unwrap().offset, sizes.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_dnpipes_than_an_answer_holds_are_listed() {
    let world = world(Limits::default()).await;
    for number in 0..600 {
        let name = format!("shop/of-a-name-that-is-rather-long-as-names-of-clusters-are-{number:04}");
        world.apply(sidestream_broker::DnpipeSpec::new(name.parse().unwrap())).await;
    }
    let found = world.local().list().await.unwrap();
    let names: std::collections::BTreeSet<_> = found.iter().map(|own| own.name.clone()).collect();
    assert_eq!((found.len(), names.len()), (602, 602));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_names_its_own_record_although_others_of_its_batch_were_there_before() {
    let world = world(Limits::default()).await;
    let dedupe_window = Some(Duration::from_secs(600));
    let spec = sidestream_broker::DnpipeSpec::new("shop/once".parse().unwrap());
    world.apply(sidestream_broker::DnpipeSpec { dedupe_window, ..spec }).await;
    let client = world.local();
    // All that is pushed while one waits goes in one batch.
    let config = ProducerConfig { linger: Duration::from_secs(3600), ..ProducerConfig::default() };
    let producer = client.producer("shop/once", config).await.unwrap();
    let mut told = Vec::new();
    for texts in [&["a", "b", "c"][..], &["x", "b", "y", "y", "a", "z"], &["c", "new"]] {
        let mut promises = Vec::new();
        for text in texts {
            let record = Record::new(*text).header("message-id", *text);
            promises.push((*text, producer.push(record).await.unwrap()));
        }
        producer.flush().await.unwrap();
        for (text, promise) in promises {
            told.push((promise.await.unwrap().offset, text));
        }
    }
    let mut reader = client.reader("shop/once", From::First(0), ReaderConfig::default()).await.unwrap();
    let found: BTreeMap<u64, Pulled> =
        all(&mut reader).await.into_iter().map(|record| (record.offset, record)).collect();
    assert_eq!(found.len(), 7);
    for (offset, text) in told {
        assert_eq!(found[&offset].value, text, "at {offset}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_lingers_takes_in_what_comes_and_goes_by_itself_when_its_time_is_over() {
    let (world, clock) = (world(Limits::default()).await, Clock::machine());
    let linger = Duration::from_secs(1);
    let config = ProducerConfig { linger, ..ProducerConfig::default() };
    let producer = world.local().producer("shop/notes", config).await.unwrap();
    // A later batch lingers as the first one did.
    for round in 1..=2 {
        let began = clock.now();
        let mut promises = Vec::new();
        for value in ["a", "b", "c"] {
            promises.push(producer.push(Record::new(value)).await.unwrap());
        }
        for promise in promises {
            timeout(LONG, promise).await.expect("it goes without a flush").unwrap();
        }
        assert!(clock.now().since(began) >= linger, "it went before its time");
        assert_eq!(producer.batches(), round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_producer_over_hears_how_far_it_had_come_and_ends_the_one_before() {
    let world = world(Limits::default()).await;
    let (client, notes) = (world.local(), "shop/notes".parse().unwrap());
    let pushed = |own: Incarnation, value: &str, position| {
        let mut writer = BatchWriter::new();
        let none: [(&str, &[u8]); 0] = [];
        writer.push(0, None, &none, value.as_bytes()).unwrap();
        let header = Header {
            producer_id: 7,
            producer_epoch: own.epoch,
            first_sequence: own.next_sequence,
            position,
            ..Header::default()
        };
        let batch = writer.finish(header).unwrap();
        let (client, notes) = (client.clone(), &notes);
        async move { client.push_batch(notes, 0, batch).await }
    };
    let first = client.open_producer(&notes, 0, 7).await.unwrap();
    assert_eq!(first, Incarnation { epoch: 1, next_sequence: 0, position: 0 });
    assert_eq!(pushed(first, "one", 40).await.unwrap().offset, 0);
    let second = world.local().open_producer(&notes, 0, 7).await.unwrap();
    assert_eq!(second, Incarnation { epoch: 2, next_sequence: 1, position: 40 });
    assert_eq!(pushed(first, "late", 50).await, Err(ClientError::Refused(Refusal::Fenced)));
    assert_eq!(pushed(second, "two", 50).await.unwrap().offset, 1);
    let refused = client.open_producer(&notes, 1, 7).await;
    assert_eq!(refused, Err(ClientError::Refused(Refusal::UnknownPartition { partition: 1, partitions: 1 })));
    assert!(matches!(
        client.open_producer(&notes, 0, 0).await,
        Err(ClientError::Refused(Refusal::Bad { .. }))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_has_that_hangs_up_at_the_local_socket_goes_to_the_next_soon() {
    // To a server whose time stands still nobody is ever silent for too long.
    let (clock, _still) = Clock::simulated(1);
    let world = world_by(Limits::default(), clock).await;
    let client = world.local();
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    producer.push(Record::new("note")).await.unwrap().await.unwrap();
    let mut gone = world.local().join("shop/notes", "readers", GroupConfig::default()).await.unwrap();
    assert_eq!(gone.next().await.unwrap().attempt, 1);
    drop(gone);
    let mut next = client.join("shop/notes", "readers", GroupConfig::default()).await.unwrap();
    let again = tokio::time::timeout(Duration::from_secs(60), next.next()).await;
    assert_eq!(again.expect("it comes").unwrap().attempt, 2);
}
