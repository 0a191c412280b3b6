//! What a member is handed out by single calls: a claim that is more than one answer, in part unreadable, or not its own any more.

mod dial;
mod world;

use dial::why;
use sidestream_broker::access::{Rule, Verbs};
use sidestream_event::record::{BatchWriter, Flags, HEADER_BYTES, Header, split};
use sidestream_gateway::{Limits, proto};
use tonic::Code;
use world::{World, world};

const NOTES: &str = "shop/notes";

fn push(dnpipe: &str, values: &[&str]) -> proto::PushRequest {
    let record = |value: &&str| proto::Record { value: value.to_string().into(), ..Default::default() };
    let records = values.iter().map(record).collect();
    proto::PushRequest { dnpipe: dnpipe.into(), partition: Some(0), records, ..Default::default() }
}

fn values(records: &[proto::StoredRecord]) -> Vec<String> {
    records.iter().map(|own| String::from_utf8(own.record.clone().unwrap().value.to_vec()).unwrap()).collect()
}

fn member(name: &str) -> Option<proto::Member> {
    Some(proto::Member { dnpipe: NOTES.into(), group: "billing".into(), name: name.into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_more_than_an_answer_may_have_comes_in_several() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    // One batch: it cannot be claimed in parts.
    let value = "x".repeat(400_000);
    client.push(push(NOTES, &[&*value; 9])).await.unwrap();
    client.join(proto::JoinRequest { member: member("one"), delivery: 0 }).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 9 {
        let request = proto::NextRequest { member: member("one"), wait_millis: 20_000, ..Default::default() };
        let shares = client.next(request).await.unwrap().into_inner().shares;
        let records: Vec<_> = shares.into_iter().flat_map(|share| share.records).collect();
        assert!((1..=2).contains(&records.len()), "{}", records.len());
        seen.extend(records.into_iter().map(|own| (own.offset, own.delivery)));
    }
    assert!(seen.into_iter().eq((0..9).map(|offset| (offset, 1))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_was_not_handed_before_a_reset_it_is_not_handed_after() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    let value = "x".repeat(400_000);
    client.push(push(NOTES, &[&*value; 9])).await.unwrap();
    client.join(proto::JoinRequest { member: member("one"), delivery: 0 }).await.unwrap();
    let next = |wait_millis| proto::NextRequest { member: member("one"), wait_millis, ..Default::default() };
    assert_eq!(client.next(next(20_000)).await.unwrap().into_inner().shares[0].epoch, 0);
    client.reset(proto::ResetRequest { dnpipe: NOTES.into() }).await.unwrap();
    assert_eq!(client.next(next(1)).await.unwrap().into_inner().shares, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_next_to_nothing_make_no_answer_large() {
    let world = world(Limits::default()).await;
    let mut writer = BatchWriter::new();
    for _ in 0..20 {
        writer.push(0, None, &[("", ""); 10_000], b"x").unwrap();
    }
    let batch = writer.finish(Header::default()).unwrap();
    world.broker.push(&NOTES.parse().unwrap(), 0, batch, Default::default()).unwrap().await.unwrap();
    let mut client = dial::local(world.socket()).await;
    let pulled = client
        .pull(proto::PullRequest { dnpipe: NOTES.into(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((pulled.records.len(), pulled.next), (1, 1));
    assert_eq!(pulled.records[0].record.as_ref().unwrap().headers.len(), 10_000);
    client.join(proto::JoinRequest { member: member("one"), delivery: 0 }).await.unwrap();
    for offset in 0..20 {
        let request = proto::NextRequest { member: member("one"), wait_millis: 20_000, ..Default::default() };
        let shares = client.next(request).await.unwrap().into_inner().shares;
        assert_eq!((shares.len(), shares[0].records.len(), shares[0].records[0].offset), (1, 1, offset));
        assert_eq!(shares[0].records[0].record.as_ref().unwrap().headers.len(), 10_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_read_of_a_claim_is_handed_out_before_it_is_said_that_something_cannot() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(NOTES, &["a", "b"])).await.unwrap();
    // Its pusher says that it is compressed, and it is not.
    let mut writer = BatchWriter::new();
    writer.push(0, None, &[] as &[(&str, &str)], b"secret").unwrap();
    let (header, body) = split(&writer.finish(Header::default()).unwrap()).unwrap();
    let mut head = [0; HEADER_BYTES];
    Header { flags: Flags::COMPRESSED, ..header }.write(&mut head);
    let batch = [&head[..], &body].concat().into();
    world.broker.push(&NOTES.parse().unwrap(), 0, batch, Default::default()).unwrap().await.unwrap();
    client.push(push(NOTES, &["d"])).await.unwrap();
    client.join(proto::JoinRequest { member: member("one"), delivery: 1 }).await.unwrap();
    let mut seen = Vec::new();
    let refusal = loop {
        let request = proto::NextRequest { member: member("one"), wait_millis: 20_000, ..Default::default() };
        match client.next(request).await {
            Ok(given) => {
                seen.extend(given.into_inner().shares.iter().flat_map(|share| values(&share.records)))
            }
            Err(status) => break why(&status),
        }
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "BAD_BATCH"));
    // They are handed out once: whoever loses them has lost them.
    if seen.len() < 3 {
        let request = proto::NextRequest { member: member("one"), wait_millis: 20_000, ..Default::default() };
        let shares = client.next(request).await.unwrap().into_inner().shares;
        seen.extend(shares.iter().flat_map(|share| values(&share.records)));
    }
    assert_eq!(seen, ["a", "b", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_pull_any_more_is_not_handed_what_was_claimed_for_it_before() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let rule = Rule {
        verbs: Verbs { push: true, pull: true, ..Verbs::NONE },
        namespace: Some("web".into()),
        service_account: None,
    };
    world.permit(NOTES, vec![rule]).await;
    let expected = World::id("shop", "dnpipes");
    let mut client = dial::peer(address, world.identity("web", "front"), expected).await;
    let value = "x".repeat(400_000);
    client.push(push(NOTES, &[&*value; 9])).await.unwrap();
    client.join(proto::JoinRequest { member: member("one"), delivery: 0 }).await.unwrap();
    let next = || proto::NextRequest { member: member("one"), wait_millis: 20_000, ..Default::default() };
    assert!(!client.next(next()).await.unwrap().into_inner().shares.is_empty());
    world.permit(NOTES, Vec::new()).await;
    assert_eq!(why(&client.next(next()).await.unwrap_err()).reason, "NOT_ALLOWED");
}
