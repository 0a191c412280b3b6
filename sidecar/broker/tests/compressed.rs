//! Batches that are compressed by their pusher: stored as they come, and looked into for ids of messages alone.

mod local;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use local::{compressed, name, values};
use sidestream_broker::{Broker, DnpipeSpec, GroupSpec, JoinOptions, Limits, PushError};
use sidestream_conformance::{From, Push};
use sidestream_event::{
    native::Conditions,
    record::{Flags, HEADER_BYTES, Header, RecordError, split},
};
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Journal, Settings};

async fn open(disk: &SimDisk) -> (Broker, Journal) {
    let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() };
    let clock = Clock::machine();
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
    (Broker::open(journal.clone(), &recovered, clock).await.unwrap(), journal)
}

async fn push(broker: &Broker, batch: Bytes) -> Result<u64, PushError> {
    Ok(broker.push(&name("orders"), 0, batch, Conditions::default())?.await?.base_offset)
}

fn with_id(n: u64) -> Bytes {
    compressed(&Push { message_id: Some(format!("id {n}")), ..Push::one("orders", format!("value {n}")) })
}

#[tokio::test]
async fn a_batch_is_stored_as_it_came_and_its_ids_are_known_through_a_crash() {
    let disk = SimDisk::new();
    let (broker, journal) = open(&disk).await;
    let window = Some(Duration::from_secs(3600));
    broker.apply(DnpipeSpec { dedupe_window: window, ..DnpipeSpec::new(name("orders")) }).await.unwrap();
    for n in 0..5 {
        assert_eq!(push(&broker, with_id(n)).await, Ok(n));
    }
    assert_eq!(push(&broker, with_id(2)).await, Ok(2), "it is there");
    let partition = broker.describe(&name("orders")).unwrap().partitions[0].journal;
    let stored = journal.read(partition, 3, 1).await.unwrap().batches.remove(0);
    assert_eq!((stored.header.flags, stored.body), (Flags::COMPRESSED, split(&with_id(3)).unwrap().1));
    let (broker, _journal) = open(&disk.cut(|_| 0)).await;
    assert_eq!(push(&broker, with_id(4)).await, Ok(4), "it is there");
    assert_eq!(push(&broker, with_id(5)).await, Ok(5));
    let values_of = |all: &[u64]| all.iter().map(|n| format!("value {n}")).collect::<Vec<_>>();
    let pulled = broker.pull(&name("orders"), 0, From::First(0), Limits::default(), None).await.unwrap();
    let found: Vec<_> =
        values(&pulled.batches, &[(0, 6, 0)]).into_iter().map(|(_, value, _)| value).collect();
    assert_eq!(found, values_of(&[0, 1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn what_lies_about_its_size_is_refused_where_it_is_looked_into() {
    let (broker, _journal) = open(&SimDisk::new()).await;
    let window = Some(Duration::from_secs(3600));
    broker.apply(DnpipeSpec { dedupe_window: window, ..DnpipeSpec::new(name("orders")) }).await.unwrap();
    for claimed in [u32::MAX, 4 << 20, 0] {
        let batch = with_id(0);
        let (header, body) = split(&batch).unwrap();
        let mut body = body.to_vec();
        body[..4].copy_from_slice(&claimed.to_le_bytes());
        let header = Header { body_crc: crc32c::crc32c(&body), ..header };
        let mut bytes = vec![0; HEADER_BYTES];
        header.write(bytes.first_chunk_mut().unwrap());
        bytes.extend_from_slice(&body);
        let refused = push(&broker, bytes.into()).await;
        assert_eq!(refused, Err(PushError::BadBatch(RecordError::Packed { claimed })));
    }
    assert_eq!(push(&broker, with_id(0)).await, Ok(0), "nothing was kept");
}

#[tokio::test]
async fn a_dead_letter_of_a_compressed_batch_has_its_value() {
    let (broker, _journal) = open(&SimDisk::new()).await;
    broker.apply(DnpipeSpec::new(name("letters"))).await.unwrap();
    let group = GroupSpec {
        max_deliveries: Some(1),
        dead_letter: Some(name("letters")),
        backoff: Duration::from_millis(1),
        ..GroupSpec::new("g")
    };
    broker.apply(DnpipeSpec { groups: vec![group], ..DnpipeSpec::new(name("orders")) }).await.unwrap();
    push(&broker, with_id(7)).await.unwrap();
    let join = async || broker.join(&name("orders"), "g", "m", JoinOptions::default()).await.unwrap();
    let patience = Some(Duration::from_secs(60));
    let member = join().await;
    assert_eq!(broker.next(&member, Limits::default(), patience).await.unwrap().deliveries.len(), 1);
    broker.leave(member).await.unwrap();
    let member = join().await;
    let none = broker.next(&member, Limits::default(), None).await.unwrap();
    assert_eq!(none.deliveries.len(), 0);
    let letters =
        broker.pull(&name("letters"), 0, From::Offset(0), Limits::default(), patience).await.unwrap();
    assert_eq!(values(&letters.batches, &[(0, 1, 0)])[0].1, "value 7");
}
