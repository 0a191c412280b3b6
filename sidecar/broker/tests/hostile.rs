//! Whatever is pushed or asked for: a typed refusal, before anything is kept of it.

mod local;

use bytes::Bytes;
use local::{Local, batch, name};
use sidestream_broker::{GroupError, JoinOptions, Limits, PullError, PushError};
use sidestream_conformance::{Dnpipe, From, Push, Service};
use sidestream_event::{
    native::Conditions,
    record::{Flags, HEADER_BYTES, Header, RecordError},
};
use sidestream_host::Random;

async fn service() -> Local {
    let service = Local::simulated(9).await;
    service.create(Dnpipe::named("orders")).await;
    service
}

fn wrap(body: &[u8], header: Header) -> Bytes {
    let mut bytes = [0; HEADER_BYTES];
    let length = (HEADER_BYTES + body.len()) as u32;
    Header { length, body_crc: crc32c::crc32c(body), ..header }.write(&mut bytes);
    [&bytes[..], body].concat().into()
}

#[tokio::test]
async fn bytes_that_are_no_batch_are_refused_and_leave_nothing() {
    let service = service().await;
    let (broker, orders) = (service.broker(), name("orders"));
    let good = batch(&Push::one("orders", "good"));
    let mut random = Random::seeded(1);
    for round in 0..2_000 {
        let mut bytes = good.to_vec();
        match round % 3 {
            0 => bytes.truncate(random.below(good.len() as u64) as usize),
            1 => bytes[random.below(good.len() as u64) as usize] ^= 1 << random.below(8),
            _ => bytes = (0..random.below(300)).map(|_| random.next_u64() as u8).collect(),
        }
        let refused = broker.push(&orders, 0, bytes.into(), Conditions::default()).err();
        assert!(matches!(refused, Some(PushError::BadBatch(_))), "{refused:?}");
    }
    assert_eq!(broker.describe(&orders).unwrap().partitions[0].next, 0);
}

#[tokio::test]
async fn a_body_that_lies_never_gets_to_those_who_pull() {
    let service = service().await;
    let (broker, orders) = (service.broker(), name("orders"));
    let one = [4, 0, 0, 0, b'v'];
    let push = |body: &[u8], header| broker.push(&orders, 0, wrap(body, header), Conditions::default());
    let two = Header { count: 2, ..Header::default() };
    let short = push(&[&one[..], &[0; 5]].concat(), two).err();
    assert!(matches!(short, Some(PushError::BadBatch(RecordError::Nonsense { .. }))), "{short:?}");
    let long = push(&one.repeat(3), two).err();
    assert_eq!(long, Some(PushError::BadBatch(RecordError::Miscounted { claimed: 2 })));
    // What is wrapped is its pusher's own business.
    let header = Header { flags: Flags::ENCRYPTED, ..two };
    assert_eq!(push(b"whatever", header).unwrap().await.unwrap().base_offset, 0);
    assert_eq!(broker.describe(&orders).unwrap().partitions[0].next, 2);
}

#[tokio::test]
async fn what_only_the_server_knows_can_not_be_made_up() {
    let service = service().await;
    let (broker, orders) = (service.broker(), name("orders"));
    let made_up = Header {
        count: 1,
        partition: 0,
        leader_epoch: 99,
        base_offset: 1 << 40,
        reset_epoch: 99,
        append_time: i64::MAX,
        place: 1,
        frontier: u32::MAX,
        chain: 7,
        ..Header::default()
    };
    let batch = wrap(&[4, 0, 0, 0, b'v'], made_up);
    assert_eq!(broker.push(&orders, 0, batch, Conditions::default()).unwrap().await.unwrap().base_offset, 0);
    let pulled = broker.pull(&orders, 0, From::First(0), Limits::default(), None).await.unwrap();
    let header = pulled.batches[0].header;
    assert_eq!((header.base_offset, header.reset_epoch, header.leader_epoch), (0, 0, 1));
    assert!(header.append_time < i64::MAX && header.place != 1, "{header:?}");
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_its_name() {
    let service = service().await;
    let (broker, orders, nothing) = (service.broker(), name("orders"), name("nothing"));
    let good = || batch(&Push::one("orders", "good"));
    let refused = broker.push(&nothing, 0, good(), Conditions::default()).err();
    assert_eq!(refused, Some(PushError::Unknown(nothing.clone())));
    let refused = broker.push(&orders, 1, good(), Conditions::default()).err();
    assert_eq!(refused, Some(PushError::UnknownPartition { partition: 1, partitions: 1 }));
    let refused = broker.pull(&orders, u32::MAX, From::First(0), Limits::default(), None).await.unwrap_err();
    assert_eq!(refused, PullError::UnknownPartition { partition: u32::MAX, partitions: 1 });
    assert!(broker.reset(&nothing).await.is_err() && broker.remove(&nothing).await.is_err());
    for group in ["", "a b", "ä", &"x".repeat(129)] {
        let refused = broker.join(&orders, group, "a", JoinOptions::default()).await.unwrap_err();
        assert!(matches!(refused, GroupError::Name { .. }), "{refused:?}");
    }
    let refused = broker.redrive(&orders, "nobody").await.unwrap_err();
    assert_eq!(refused, GroupError::UnknownGroup { group: "nobody".into() });
    broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let refused = broker.redrive(&orders, "billing").await.unwrap_err();
    assert_eq!(refused, GroupError::NoDeadLetter { group: "billing".into() });
    let before = JoinOptions { from: From::Offset(7), ..JoinOptions::default() };
    let refused = broker.join(&orders, "other", "a", before).await.unwrap_err();
    assert_eq!(refused, GroupError::Pull(PullError::OutOfRange { first: 0, end: 0 }));
}

#[tokio::test]
async fn limits_that_allow_nothing_and_everything_are_both_answered() {
    let service = service().await;
    let (broker, orders) = (service.broker(), name("orders"));
    for n in 0..3 {
        broker
            .push(&orders, 0, batch(&Push::one("orders", n)), Conditions::default())
            .unwrap()
            .await
            .unwrap();
    }
    let pull = |max_bytes, max_records| {
        broker.pull(&orders, 0, From::First(0), Limits { max_bytes, max_records }, None)
    };
    assert_eq!(pull(0, 0).await.unwrap().next, 0);
    assert_eq!(pull(0, 9).await.unwrap().next, 1, "one batch comes however large it is");
    assert_eq!(pull(usize::MAX, u64::MAX).await.unwrap().next, 3);
    assert_eq!(pull(usize::MAX, 2).await.unwrap().next, 2);
    let member = broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let none = Limits { max_bytes: 0, max_records: 0 };
    assert!(broker.next(&member, none, None).await.unwrap().deliveries.is_empty());
    // Acknowledging what was never handed out changes nothing, whatever the numbers.
    for range in [0..u64::MAX, u64::MAX..u64::MAX, std::ops::Range { start: 5, end: 2 }] {
        broker.ack(&member, 0, std::slice::from_ref(&range)).await.unwrap();
        broker.give_back(&member, 0, std::slice::from_ref(&range)).await.unwrap();
    }
    assert_eq!(broker.group(&orders, "billing").await.unwrap().lag_records, 3);
    let all =
        broker.next(&member, Limits { max_bytes: usize::MAX, max_records: u64::MAX }, None).await.unwrap();
    assert_eq!(all.deliveries[0].ranges, [(0, 3, 1)]);
}
