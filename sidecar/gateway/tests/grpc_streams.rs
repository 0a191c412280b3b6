//! Streams of gRPC: pushes, records and members, as fast as their callers are and no faster.

mod dial;
mod member;
mod world;

use std::time::Duration;

use dial::{Dnpipes, why};
use member::Member;
use proto::{consume_request, publish_response::Outcome, subscribe_request};
use sidestream_event::{
    native::HANDED_OUT_WITHIN,
    record::{BatchWriter, Header},
};
use sidestream_gateway::{Limits, proto, proto::place::At};
use sidestream_host::Clock;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use world::{World, world, world_by};

const NOTES: &str = "shop/notes";
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

fn push(values: &[&str]) -> proto::PushRequest {
    let record = |value: &&str| proto::Record { value: value.to_string().into(), ..Default::default() };
    proto::PushRequest {
        dnpipe: NOTES.into(),
        records: values.iter().map(record).collect(),
        ..Default::default()
    }
}

fn credit(records: u64, bytes: u64) -> proto::Credit {
    proto::Credit { records: Some(records), bytes: Some(bytes) }
}

fn value_of(stored: &proto::StoredRecord) -> String {
    String::from_utf8(stored.record.as_ref().unwrap().value.to_vec()).unwrap()
}

/// A subscription, and what the caller asks of it.
struct Subscription {
    asks: mpsc::Sender<proto::SubscribeRequest>,
    told: Streaming<proto::SubscribeResponse>,
}

impl Subscription {
    async fn begin(client: &mut Dnpipes, begin: subscribe_request::Begin) -> Subscription {
        let (asks, asked) = mpsc::channel(16);
        let request = Some(subscribe_request::Request::Begin(begin));
        asks.send(proto::SubscribeRequest { request }).await.unwrap();
        let told = client.subscribe(ReceiverStream::new(asked)).await.unwrap().into_inner();
        Subscription { asks, told }
    }

    async fn grant(&self, credit: proto::Credit) {
        let request = Some(subscribe_request::Request::Credit(credit));
        self.asks.send(proto::SubscribeRequest { request }).await.unwrap();
    }

    async fn next(&mut self) -> proto::SubscribeResponse {
        timeout(LONG, self.told.message()).await.expect("it comes").unwrap().expect("it goes on")
    }
}

fn from_the_oldest(credit: Option<proto::Credit>) -> subscribe_request::Begin {
    subscribe_request::Begin { dnpipe: NOTES.into(), credit, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_of_a_stream_are_answered_in_their_order_and_a_refusal_ends_nothing() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    let (pushes, stream) = mpsc::channel(16);
    let sending = tokio::spawn(async move {
        for number in 0..500u64 {
            let if_epoch = (number % 100 == 50).then_some(9);
            pushes.send(proto::PushRequest { if_epoch, ..push(&[&number.to_string()]) }).await.unwrap();
        }
    });
    let mut told = client.publish(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let mut offset = 0;
    for number in 0..500u64 {
        match told.message().await.unwrap().unwrap().outcome.unwrap() {
            Outcome::Pushed(pushed) => {
                assert_eq!(pushed.offset, offset);
                offset += 1;
            }
            Outcome::Refused(refused) => {
                assert_eq!(number % 100, 50);
                assert_eq!((refused.code, refused.reason.as_str()), (Code::Aborted as i32, "WRONG_EPOCH"));
                assert_eq!(refused.facts["current"], "0");
                assert!(refused.message.contains(';'));
            }
        }
    }
    assert!(told.message().await.unwrap().is_none(), "it ends when the caller has no more");
    assert_eq!(offset, 495);
    sending.await.unwrap();
    let mut subscription = Subscription::begin(&mut client, from_the_oldest(None)).await;
    let mut expected = (0..500u64).filter(|number| number % 100 != 50);
    let mut left = 495;
    while left > 0 {
        for stored in subscription.next().await.records {
            assert_eq!(value_of(&stored), expected.next().unwrap().to_string());
            left -= 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_on_which_nothing_is_pushed_for_long_is_ended_when_what_was_pushed_is_answered() {
    // A connection on which nothing is asked for as long is ended too.
    let world = world(Limits { idle: Duration::from_secs(3), ..Limits::default() }).await;
    let mut client = dial::local(world.socket()).await;
    let (pushes, stream) = mpsc::channel(16);
    pushes.send(push(&["x"])).await.unwrap();
    let mut told = client.publish(ReceiverStream::new(stream)).await.unwrap().into_inner();
    assert!(matches!(told.message().await.unwrap().unwrap().outcome, Some(Outcome::Pushed(_))));
    // Also before anything is pushed.
    let (_nothing, stream) = mpsc::channel(1);
    let other = client.publish(ReceiverStream::new(stream)).await.unwrap().into_inner();
    for mut told in [told, other] {
        let ended = timeout(LONG, told.message()).await.expect("it is ended").unwrap_err();
        assert_eq!((why(&ended).code, &*why(&ended).reason), (Code::DeadlineExceeded, "IDLE"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_what_became_of_its_pushes_is_not_heard_before_it_does() {
    let world = world(Limits { silence: LONG, ..Limits::default() }).await;
    let mut client = dial::narrow(world.socket()).await;
    let (pushes, stream) = mpsc::channel(1);
    let mut told = client.publish(ReceiverStream::new(stream)).await.unwrap().into_inner();
    // Windows and buffers of both ends have an end.
    let (mut sent, most) = (0u64, 200_000);
    while sent < most {
        // A server that reads on takes the next one soon.
        match timeout(Duration::from_secs(3), pushes.send(push(&["x"]))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => loop {
                told.message().await.unwrap().expect("it ended before it was done");
            },
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(sent < most, "it reads on although nobody reads its answers");
    drop(pushes);
    let mut answered = 0;
    while let Some(answer) = told.message().await.unwrap() {
        assert!(matches!(answer.outcome, Some(Outcome::Pushed(pushed)) if pushed.offset == answered));
        answered += 1;
    }
    assert_eq!(answered, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_gets_what_it_has_room_for_and_not_more() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    let value = "x".repeat(1000);
    for _ in 0..10 {
        client.push(push(&[&*value; 10])).await.unwrap();
    }
    let mut subscription = Subscription::begin(&mut client, from_the_oldest(Some(credit(7, 1 << 20)))).await;
    let mut got = Vec::new();
    while got.len() < 7 {
        got.extend(subscription.next().await.records.into_iter().map(|own| own.offset));
    }
    assert!(got.iter().copied().eq(0..7), "{got:?}");
    // One that grants nothing is answered, behind all that was sent: nothing was.
    subscription.grant(credit(0, 0)).await;
    let told = subscription.next().await;
    assert_eq!((told.records.len(), told.next, told.asked), (0, 7, 2));
    // Bytes bound it too: of records of 1000 three, and the fourth is owed.
    subscription.grant(credit(50, 0)).await;
    while got.len() < 57 {
        got.extend(subscription.next().await.records.into_iter().map(|own| own.offset));
    }
    assert!(got.iter().copied().eq(0..57), "{got:?}");
    let mut other = Subscription::begin(&mut client, from_the_oldest(Some(credit(100, 2500)))).await;
    let mut count = 0;
    while count < 3 {
        count += other.next().await.records.len();
    }
    assert_eq!(count, 3);
    other.grant(credit(0, 500)).await;
    other.grant(credit(0, 0)).await;
    let told = other.next().await;
    assert_eq!((told.records.len(), told.asked), (0, 3), "the 500 were owed");
    other.grant(credit(0, 1)).await;
    assert_eq!(other.next().await.records[0].offset, 3);
    // Who has ended its half gets what it has granted, and the end.
    let Subscription { asks, mut told } =
        Subscription::begin(&mut client, from_the_oldest(Some(credit(30, 1 << 20)))).await;
    drop(asks);
    let mut count = 0;
    while let Some(more) = timeout(LONG, told.message()).await.unwrap().unwrap() {
        count += more.records.len();
    }
    assert_eq!(count, 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_begins_where_it_says_and_hears_what_comes_later() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(&["a", "b", "c"])).await.unwrap();
    let from = Some(proto::Place { at: Some(At::Last(1)) });
    let begin = subscribe_request::Begin { from, ..from_the_oldest(None) };
    let mut subscription = Subscription::begin(&mut client, begin).await;
    let told = subscription.next().await;
    assert_eq!((told.records.len(), told.records[0].offset, told.next), (1, 2, 3));
    for number in 3..20 {
        client.push(push(&["later"])).await.unwrap();
        let told = subscription.next().await;
        assert_eq!((told.records[0].offset, told.next), (number, number + 1));
    }
    let from = Some(proto::Place { at: Some(At::Offset(99)) });
    let begin = subscribe_request::Begin { from, ..from_the_oldest(None) };
    let mut beyond = Subscription::begin(&mut client, begin).await;
    assert_eq!(why(&beyond.told.message().await.unwrap_err()).code, Code::OutOfRange);
    // What does not begin is no subscription.
    let request = proto::SubscribeRequest { request: Some(subscribe_request::Request::Credit(credit(1, 1))) };
    let refused = client.subscribe(tokio_stream::once(request)).await.err().unwrap();
    assert_eq!(why(&refused).reason, "BAD_REQUEST");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_sees_a_reset_also_where_its_place_is_gone() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(&["0", "1", "2", "3"])).await.unwrap();
    let mut behind = Subscription::begin(&mut client, from_the_oldest(Some(credit(2, 1 << 20)))).await;
    let mut got = 0;
    while got < 2 {
        let told = behind.next().await;
        assert_eq!(told.epoch, 0);
        got += told.records.len();
    }
    let mut follower = Subscription::begin(&mut client, from_the_oldest(None)).await;
    assert_eq!(follower.next().await.next, 4);
    let reset = proto::ResetRequest { dnpipe: NOTES.into() };
    assert_eq!(client.reset(reset).await.unwrap().into_inner().epoch, 1);
    client.push(push(&["after"])).await.unwrap();
    behind.grant(credit(9, 0)).await;
    for subscription in [&mut behind, &mut follower] {
        let told = loop {
            let told = subscription.next().await;
            if !told.records.is_empty() {
                break told;
            }
        };
        assert_eq!(
            (told.epoch, told.next, told.records[0].offset, value_of(&told.records[0])),
            (1, 5, 4, "after".into())
        );
    }
}

/// The rule of `docs/reference/grpc-api.md`: what is handed out is handed out soon after it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_keeps_to_the_rule_hands_out_nothing_older_than_a_reset_that_is_done() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    for epoch in 0..3 {
        client.push(push(&["old"; 20])).await.unwrap();
        let begun = Instant::now();
        let mut subscription =
            Subscription::begin(&mut client, from_the_oldest(Some(credit(20, 1 << 20)))).await;
        let told = subscription.next().await;
        assert_eq!((told.epoch, told.asked), (epoch, 1));
        // Good until then, and then only if the epoch is still the same.
        let good_until = begun + HANDED_OUT_WITHIN;
        let reset = proto::ResetRequest { dnpipe: NOTES.into() };
        assert_eq!(client.reset(reset).await.unwrap().into_inner().epoch, epoch + 1);
        assert!(Instant::now() > good_until, "a reset waits for what was given");
        subscription.grant(credit(0, 0)).await;
        let told = loop {
            let told = subscription.next().await;
            if told.asked >= 2 {
                break told;
            }
        };
        assert_eq!(told.epoch, epoch + 1, "what is left is thrown away");
    }
}

fn offsets(from: u64, to: u64) -> consume_request::Offsets {
    consume_request::Offsets { partition: 0, ranges: vec![proto::Range { from, to }] }
}

async fn lag(client: &mut Dnpipes) -> u64 {
    let request = proto::GroupsRequest { dnpipe: NOTES.into() };
    client.groups(request).await.unwrap().into_inner().groups[0].lag_records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_what_it_has_room_for_and_hears_what_it_acknowledged() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(&["x"; 10])).await.unwrap();
    let mut first = Member::begin(&mut client, "first", proto::Delivery::Held, Some(credit(4, 1000))).await;
    assert_eq!(first.take(4).await, [(0, 1), (1, 1), (2, 1), (3, 1)]);
    first.say(consume_request::Request::Credit(credit(0, 0))).await;
    let told = first.next().await;
    assert_eq!((told.shares.len(), told.asked, told.settled, &told.partitions[..]), (0, 2, 0, &[0][..]));
    first.say(consume_request::Request::Ack(offsets(0, 2))).await;
    first.say(consume_request::Request::GiveBack(offsets(2, 3))).await;
    while first.next().await.settled < 2 {}
    assert_eq!(lag(&mut client).await, 8);
    // It has no room for what it gave back; when it ends its half it leaves, and others get what it had.
    let Member { says, mut told } = first;
    drop(says);
    while timeout(LONG, told.message()).await.unwrap().unwrap().is_some() {}
    let mut second = Member::begin(&mut client, "second", proto::Delivery::Acknowledged, None).await;
    let mut taken = second.take(8).await;
    taken.sort();
    assert_eq!(taken.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (2..10).collect::<Vec<_>>());
    assert_eq!((taken[0], taken[1]), ((2, 2), (3, 2)), "they come again");
    second.say(consume_request::Request::Ack(offsets(2, 10))).await;
    while second.next().await.settled < 1 {}
    assert_eq!(lag(&mut client).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_one_for_as_long_as_its_stream_lasts_also_where_it_has_no_room() {
    let (clock, time) = Clock::simulated(1);
    let world = world_by(Limits::default(), clock).await;
    let mut client = dial::local(world.socket()).await;
    let full = Some(credit(0, 0));
    let mut first = Member::of("shop/orders", &mut client, "first", proto::Delivery::Held, full).await;
    assert_eq!(first.next().await.partitions, [0, 1, 2]);
    time.advance(Duration::from_secs(29));
    let mut second = Member::of("shop/orders", &mut client, "second", proto::Delivery::Held, full).await;
    // It hears of the other one when it shows that it is there, which it does by itself.
    assert!(first.next().await.partitions.len() < 3);
    assert!(!second.next().await.partitions.is_empty());
    time.advance(Duration::from_secs(29));
    let request = proto::GroupsRequest { dnpipe: "shop/orders".into() };
    let group = client.groups(request).await.unwrap().into_inner().groups.remove(0);
    assert_eq!(group.members.into_iter().map(|own| own.name).collect::<Vec<_>>(), ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_need_not_acknowledge_gets_its_share_after_it_has_ended_its_half() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    let value = "x".repeat(200_000);
    client.push(push(&[&*value; 10])).await.unwrap();
    let Member { says, mut told } = Member::begin(
        &mut client,
        "only",
        proto::Delivery::Automatic,
        Some(proto::Credit { records: Some(8), bytes: None }),
    )
    .await;
    drop(says);
    let mut seen = Vec::new();
    while let Some(more) = timeout(LONG, told.message()).await.unwrap().unwrap() {
        let records: Vec<_> = more.shares.into_iter().flat_map(|share| share.records).collect();
        assert!(records.len() <= 1, "a message of a stream is small");
        seen.extend(records.into_iter().map(|own| own.offset));
    }
    assert!(seen.into_iter().eq(0..8));
    assert_eq!(lag(&mut client).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_as_it_was_claimed_is_sent_before_the_end_whatever_the_credit() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    // One batch: it cannot be claimed in parts.
    client.push(push(&[&*"x".repeat(1000); 10])).await.unwrap();
    let granted = Some(proto::Credit { records: None, bytes: Some(2500) });
    let Member { says, mut told } =
        Member::begin(&mut client, "only", proto::Delivery::Automatic, granted).await;
    drop(says);
    let mut seen = Vec::new();
    while let Some(more) = timeout(LONG, told.message()).await.unwrap().unwrap() {
        let records = more.shares.into_iter().flat_map(|share| share.records);
        seen.extend(records.map(|own| own.offset));
    }
    let left = lag(&mut client).await;
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.iter().copied().eq(0..10 - left), "{seen:?} came, and {left} are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_refused_something_is_none_any_more() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(&["x"])).await.unwrap();
    let mut first = Member::begin(&mut client, "one", proto::Delivery::Held, None).await;
    assert_eq!(first.take(1).await, [(0, 1)]);
    first.say(consume_request::Request::Begin(Default::default())).await;
    let ended = loop {
        match timeout(LONG, first.told.message()).await.expect("it ends") {
            Ok(told) => assert!(told.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(why(&ended).reason, "BAD_REQUEST");
    let request = proto::GroupsRequest { dnpipe: NOTES.into() };
    assert_eq!(client.groups(request).await.unwrap().into_inner().groups[0].members, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_acknowledges_what_another_has_by_then_hears_that_it_was_late_and_goes_on() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    let full = Some(credit(0, 0));
    let mut first = Member::of("shop/orders", &mut client, "first", proto::Delivery::Held, full).await;
    let mut second = Member::of("shop/orders", &mut client, "second", proto::Delivery::Held, full).await;
    let partition = second.next().await.partitions[0];
    let ranges = vec![proto::Range { from: 0, to: 1 }];
    first.say(consume_request::Request::Ack(consume_request::Offsets { partition, ranges })).await;
    let told = loop {
        let told = first.next().await;
        if told.settled > 0 {
            break told;
        }
    };
    assert_eq!((told.settled, told.late), (1, 1));
    first.say(consume_request::Request::Credit(credit(0, 0))).await;
    while first.next().await.asked < 3 {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_place_another_takes_is_told_so() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(&["x"])).await.unwrap();
    let mut first = Member::begin(&mut client, "one", proto::Delivery::Acknowledged, None).await;
    assert_eq!(first.take(1).await, [(0, 1)]);
    let _second = Member::begin(&mut client, "one", proto::Delivery::Acknowledged, None).await;
    let ended = loop {
        match timeout(LONG, first.told.message()).await.expect("it ends") {
            Ok(told) => assert!(told.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!((why(&ended).code, &*why(&ended).reason), (Code::FailedPrecondition, "NOT_MEMBER"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_hears_of_a_reset_and_is_handed_nothing_older() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(&["x"; 5])).await.unwrap();
    let mut member = Member::begin(&mut client, "one", proto::Delivery::Held, Some(credit(2, 1 << 20))).await;
    assert_eq!(member.take(2).await.len(), 2);
    client.reset(proto::ResetRequest { dnpipe: NOTES.into() }).await.unwrap();
    client.push(push(&["after"])).await.unwrap();
    member.say(consume_request::Request::Credit(credit(9, 0))).await;
    let told = loop {
        let told = member.next().await;
        if !told.shares.is_empty() {
            break told;
        }
    };
    assert_eq!((told.epoch, told.shares[0].epoch, told.shares[0].records[0].offset), (1, 1, 5));
}

/// Of 64 MiB a slow caller's windows hold 16 KiB: the rest is not read for it before it is there to take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_subscriber_does_not_take_is_not_read_for_it() {
    let world = world(Limits { silence: LONG, ..Limits::default() }).await;
    let mut quick = dial::local(world.socket()).await;
    let value = "x".repeat(100_000);
    for _ in 0..64 {
        quick.push(push(&[&*value; 10])).await.unwrap();
    }
    let mut client = dial::narrow(world.socket()).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(Subscription::begin(&mut client, from_the_oldest(None)).await);
    }
    // Others notice nothing.
    let mut follower = Subscription::begin(&mut quick, from_the_oldest(None)).await;
    let mut got = 0;
    while got < 640 {
        got += follower.next().await.records.len();
    }
    quick.reset(proto::ResetRequest { dnpipe: NOTES.into() }).await.unwrap();
    quick.push(push(&["after"])).await.unwrap();
    // What was read for it before the reset is what is on its way: a few records of the 640.
    slow.truncate(1);
    let mut old = 0;
    let after = 'read: loop {
        let told = slow[0].next().await;
        for stored in told.records {
            if told.epoch == 1 {
                break 'read stored;
            }
            old += 1;
        }
    };
    assert_eq!((after.offset, value_of(&after)), (640, "after".into()));
    assert!(old < 20, "{old} were read ahead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_of_an_answer_for_long_is_ended() {
    let world = world(Limits { silence: Duration::from_millis(300), ..Limits::default() }).await;
    let mut writer = BatchWriter::new();
    for _ in 0..30 {
        writer.push(0, None, &[] as &[(&str, &str)], &[b'x'; 100_000]).unwrap();
    }
    let batch = writer.finish(Header::default()).unwrap();
    for _ in 0..3 {
        let pushing =
            world.broker.push(&NOTES.parse().unwrap(), 0, batch.clone(), Default::default()).unwrap();
        pushing.await.unwrap();
    }
    let mut client = dial::narrow(world.socket()).await;
    let mut deaf = Subscription::begin(&mut client, from_the_oldest(None)).await;
    // Nothing of it is read before the server has had enough of that; it answers pings all along.
    let ended = async {
        while world.gateway.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, ended).await.expect("it is ended");
    let end = async {
        while deaf.told.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    assert!(timeout(LONG, end).await.expect("it hears of it").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_over_mtls_as_they_go_over_the_local_socket() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let mut client = dial::peer(address, world.identity("shop", "clerk"), World::id("shop", "dnpipes")).await;
    let pushes = tokio_stream::iter((0..100).map(|number: u32| push(&[&number.to_string()])));
    let mut told = client.publish(pushes).await.unwrap().into_inner();
    let mut answered = 0;
    while let Some(answer) = timeout(LONG, told.message()).await.unwrap().unwrap() {
        assert!(matches!(answer.outcome, Some(Outcome::Pushed(pushed)) if pushed.offset == answered));
        answered += 1;
    }
    assert_eq!(answered, 100);
    let mut subscription =
        Subscription::begin(&mut client, from_the_oldest(Some(credit(100, 1 << 20)))).await;
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend(subscription.next().await.records.iter().map(value_of));
    }
    assert!(got.into_iter().eq((0..100).map(|number| number.to_string())));
    let mut member = Member::begin(&mut client, "one", proto::Delivery::Acknowledged, None).await;
    assert_eq!(member.take(100).await.len(), 100);
    member.say(consume_request::Request::Ack(offsets(0, 100))).await;
    while member.next().await.settled < 1 {}
    assert_eq!(lag(&mut client).await, 0);
}
