//! The same dnpipes by gRPC: each call, over the local socket and over mTLS, and what each refusal says.

mod dial;
mod world;

use std::time::Duration;

use dial::{Dnpipes, why};
use sidestream_broker::{
    DnpipeSpec, GroupSpec,
    access::{Rule, Verbs},
};
use sidestream_client::{From, ProducerConfig, ReaderConfig, Record};
use sidestream_gateway::{Limits, proto, proto::place::At};
use tonic::{Code, Status};
use world::{World, world};

const NOTES: &str = "shop/notes";

fn record(value: &str) -> proto::Record {
    proto::Record { value: value.to_owned().into(), ..proto::Record::default() }
}

fn push(dnpipe: &str, values: &[&str]) -> proto::PushRequest {
    let records = values.iter().map(|value| record(value)).collect();
    proto::PushRequest { dnpipe: dnpipe.into(), partition: Some(0), records, ..Default::default() }
}

fn pull(dnpipe: &str) -> proto::PullRequest {
    proto::PullRequest { dnpipe: dnpipe.into(), ..Default::default() }
}

fn values(records: &[proto::StoredRecord]) -> Vec<String> {
    records.iter().map(|own| String::from_utf8(own.record.clone().unwrap().value.to_vec()).unwrap()).collect()
}

fn member(name: &str) -> Option<proto::Member> {
    Some(proto::Member { dnpipe: NOTES.into(), group: "billing".into(), name: name.into() })
}

async fn clerk(world: &World) -> Dnpipes {
    let address = world.listen().await;
    dial::peer(address, world.identity("shop", "clerk"), World::id("shop", "dnpipes")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_by_grpc_is_pulled_by_it_and_by_the_native_protocol_at_either_door() {
    let world = world(Limits::default()).await;
    for (round, mut client) in
        [dial::local(world.socket()).await, clerk(&world).await].into_iter().enumerate()
    {
        let headers = vec![proto::Header { name: "source".into(), value: "till".into() }];
        let whole = proto::Record { value: "a".into(), key: Some("k".into()), time: Some(-7), headers };
        let records = [whole.clone(), record("b")].into_iter().collect();
        let request = proto::PushRequest { dnpipe: NOTES.into(), records, ..Default::default() };
        let pushed = client.push(request).await.unwrap().into_inner();
        let first = 2 * round as u64;
        assert_eq!((pushed.partition, pushed.offset, pushed.epoch, pushed.runs.len()), (0, first, 0, 0));
        let from = Some(proto::Place { at: Some(At::Offset(first)) });
        let pulled = client.pull(proto::PullRequest { from, ..pull(NOTES) }).await.unwrap().into_inner();
        assert_eq!((pulled.next, pulled.first, pulled.end, pulled.epoch), (first + 2, 0, first + 2, 0));
        assert_eq!(pulled.records[0].offset, first);
        assert_eq!(pulled.records[0].record, Some(whole));
        assert!(pulled.records[1].record.as_ref().unwrap().time.unwrap() > 1_600_000_000_000_000_000);
    }
    let mut reader = world.local().reader(NOTES, From::First(0), ReaderConfig::default()).await.unwrap();
    let record = reader.next().await.unwrap().unwrap();
    assert_eq!((&record.value[..], record.key.as_deref(), record.time), (&b"a"[..], Some(&b"k"[..]), -7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_compressed_comes_as_it_was_and_a_pull_has_no_more_than_it_may() {
    let world = world(Limits::default()).await;
    let config = ProducerConfig { is_compressed: true, ..ProducerConfig::default() };
    let producer = world.local().producer(NOTES, config).await.unwrap();
    let value = "much of the same, ".repeat(2000);
    let mut promises = Vec::new();
    for _ in 0..100 {
        promises.push(producer.push(Record::new(value.clone())).await.unwrap());
    }
    for promise in promises {
        promise.await.unwrap();
    }
    let mut client = dial::local(world.socket()).await;
    let (mut next, mut found) = (0, 0);
    while next < 100 {
        let from = Some(proto::Place { at: Some(At::Offset(next)) });
        let max_bytes = Some(100_000);
        let request = proto::PullRequest { from, max_bytes, max_records: Some(7), ..pull(NOTES) };
        let pulled = client.pull(request).await.unwrap().into_inner();
        // Of 36000 bytes two fit.
        assert_eq!(pulled.records.len(), 2, "at {next}");
        assert!(pulled.records.iter().all(|own| own.record.as_ref().unwrap().value == value));
        assert_eq!(pulled.records[0].offset, next);
        found += pulled.records.len();
        next = pulled.next;
    }
    assert_eq!(found, 100);
    let one = proto::PullRequest { max_bytes: Some(1), ..pull(NOTES) };
    assert_eq!(
        client.pull(one).await.unwrap().into_inner().records.len(),
        1,
        "one comes however large it is"
    );
    let none = proto::PullRequest { max_records: Some(0), wait_millis: 30_000, ..pull(NOTES) };
    let asked = tokio::time::Instant::now();
    assert!(client.pull(none).await.unwrap().into_inner().records.is_empty());
    assert!(asked.elapsed() < Duration::from_secs(30), "who wants none does not wait for any");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_key_go_to_its_partition_whichever_door_they_come_by() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    let producer = world.local().producer("shop/orders", ProducerConfig::default()).await.unwrap();
    for key in ["a", "b", "c", "d", "e"] {
        let own = producer.push(Record::new("x").key(key)).await.unwrap().await.unwrap();
        let keyed = proto::Record { key: Some(key.into()), ..record("x") };
        let request = proto::PushRequest {
            partition: None,
            records: [keyed].into_iter().collect(),
            ..push("shop/orders", &[])
        };
        assert_eq!(client.push(request).await.unwrap().into_inner().partition, own.partition, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_is_listed_described_verified_and_reset() {
    let world = world(Limits::default()).await;
    let mut client = clerk(&world).await;
    client.push(push(NOTES, &["x"])).await.unwrap();
    let mut names = Vec::new();
    let mut behind = String::new();
    loop {
        let page = client.list(proto::ListRequest { behind }).await.unwrap().into_inner().dnpipes;
        let Some(last) = page.last() else { break };
        behind = last.name.clone();
        names.extend(page.into_iter().map(|own| own.name));
    }
    assert_eq!(names, [NOTES, "shop/orders"]);
    let notes = client.describe(proto::DescribeRequest { dnpipe: NOTES.into() }).await.unwrap().into_inner();
    assert_eq!((notes.name.as_str(), notes.durability.as_str(), notes.epoch), (NOTES, "Device", 0));
    assert_eq!(notes.partitions, [proto::Partition { first: 0, end: 1, owner: None }]);
    assert!(notes.used_bytes > 0 && notes.quota_bytes.is_none());
    let verified =
        client.verify(proto::VerifyRequest { dnpipe: Some(NOTES.into()) }).await.unwrap().into_inner();
    assert!(verified.damage.is_empty());
    assert_eq!(
        client.reset(proto::ResetRequest { dnpipe: NOTES.into() }).await.unwrap().into_inner().epoch,
        1
    );
    let pulled = client.pull(pull(NOTES)).await.unwrap().into_inner();
    assert_eq!((pulled.records.len(), pulled.epoch, pulled.next), (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_pushes_again_stores_once_and_one_that_takes_over_ends_the_one_before() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    let open = proto::OpenRequest { dnpipe: NOTES.into(), partition: 0, producer: 7 };
    let opened = client.open(open.clone()).await.unwrap().into_inner();
    assert_eq!((opened.epoch, opened.next_sequence, opened.position), (1, 0, 0));
    let by = |epoch, sequence, position| Some(proto::Producer { id: 7, epoch, sequence, position });
    let first = proto::PushRequest { producer: by(1, 0, 40), ..push(NOTES, &["a", "b"]) };
    for _ in 0..2 {
        assert_eq!(client.push(first.clone()).await.unwrap().into_inner().offset, 0);
    }
    let ahead = proto::PushRequest { producer: by(1, 5, 0), ..push(NOTES, &["d"]) };
    let told = why(&client.push(ahead).await.unwrap_err());
    assert_eq!(
        (told.code, told.reason.as_str(), &*told.facts["expected"]),
        (Code::Aborted, "OUT_OF_SEQUENCE", "2")
    );
    let opened = client.open(open).await.unwrap().into_inner();
    assert_eq!((opened.epoch, opened.next_sequence, opened.position), (2, 2, 40));
    let late = proto::PushRequest { producer: by(1, 2, 0), ..push(NOTES, &["c"]) };
    let told = why(&client.push(late).await.unwrap_err());
    assert_eq!((told.code, told.reason.as_str()), (Code::FailedPrecondition, "FENCED"));
    let nobody = proto::Producer::default();
    let told = why(&client.push(proto::PushRequest { producer: Some(nobody), ..first }).await.unwrap_err());
    assert_eq!((told.code, told.reason.as_str()), (Code::InvalidArgument, "BAD_REQUEST"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_names_the_place_of_each_record_although_others_of_it_were_there_before() {
    let world = world(Limits::default()).await;
    let spec = DnpipeSpec::new("shop/once".parse().unwrap());
    world.apply(DnpipeSpec { dedupe_window: Some(Duration::from_secs(600)), ..spec }).await;
    let mut client = dial::local(world.socket()).await;
    let with = |ids: &[&str]| {
        let record = |id: &&str| {
            let header = proto::Header { name: "message-id".into(), value: id.to_string().into() };
            proto::Record { headers: vec![header], ..record(id) }
        };
        proto::PushRequest { records: ids.iter().map(record).collect(), ..push("shop/once", &[]) }
    };
    assert_eq!(client.push(with(&["a", "b"])).await.unwrap().into_inner().runs, []);
    let pushed = client.push(with(&["x", "b", "y"])).await.unwrap().into_inner();
    let runs: Vec<_> = pushed.runs.iter().map(|run| (run.first, run.count)).collect();
    assert_eq!((pushed.offset, runs), (2, vec![(2, 1), (1, 1), (3, 1)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_handed_out_records_acknowledges_some_and_gives_others_back() {
    let world = world(Limits::default()).await;
    let backoff = Duration::from_millis(1);
    let groups = vec![GroupSpec { backoff, ..GroupSpec::new("billing") }];
    world.apply(DnpipeSpec { groups, ..DnpipeSpec::new(NOTES.parse().unwrap()) }).await;
    let mut client = clerk(&world).await;
    client.push(push(NOTES, &["0", "1", "2"])).await.unwrap();
    let next = |max| proto::NextRequest {
        member: member("one"),
        max_records: Some(max),
        max_bytes: None,
        wait_millis: 20_000,
    };
    let told = why(&client.next(next(1)).await.unwrap_err());
    assert_eq!((told.code, told.reason.as_str()), (Code::FailedPrecondition, "NOT_MEMBER"));
    let join = proto::JoinRequest { member: member("one"), delivery: 0 };
    assert_eq!(client.join(join).await.unwrap().into_inner().partitions, [0]);
    let given = client.next(next(2)).await.unwrap().into_inner();
    assert_eq!((given.partitions.as_slice(), given.shares.len()), (&[0][..], 1));
    assert_eq!(values(&given.shares[0].records), ["0", "1"]);
    assert_eq!(given.shares[0].records[0].delivery, 1);
    let range = |from, to| vec![proto::Range { from, to }];
    client.ack(proto::AckRequest { member: member("one"), partition: 0, ranges: range(0, 1) }).await.unwrap();
    let back = proto::GiveBackRequest { member: member("one"), partition: 0, ranges: range(1, 2) };
    client.give_back(back).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let shares = client.next(next(10)).await.unwrap().into_inner().shares;
        seen.extend(shares.into_iter().flat_map(|share| share.records).map(|own| (own.offset, own.delivery)));
    }
    seen.sort();
    assert_eq!(seen, [(1, 2), (2, 1)]);
    let request = proto::GroupsRequest { dnpipe: NOTES.into() };
    let groups = client.groups(request).await.unwrap().into_inner().groups;
    assert_eq!(
        (groups[0].name.as_str(), &groups[0].cursors[..], groups[0].lag_records),
        ("billing", &[1][..], 2)
    );
    assert_eq!(groups[0].members[0].name, "one");
    let to = Some(proto::Place { at: Some(At::First(2)) });
    let (dnpipe, group) = (NOTES.to_owned(), "billing".to_owned());
    client
        .seek(proto::SeekRequest { dnpipe: dnpipe.clone(), group: group.clone(), partition: None, to })
        .await
        .unwrap();
    let told = why(&refused(client.redrive(proto::RedriveRequest { dnpipe, group }).await));
    assert_eq!((told.code, told.reason.as_str()), (Code::InvalidArgument, "BAD_REQUEST"), "no dead letters");
    client.leave(proto::LeaveRequest { member: member("one") }).await.unwrap();
    assert_eq!(why(&client.next(next(1)).await.unwrap_err()).reason, "NOT_MEMBER");
}

fn refused<T>(outcome: Result<T, Status>) -> Status {
    outcome.err().expect("it is refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_has_a_code_a_reason_its_facts_and_a_cure() {
    let world = world(Limits::default()).await;
    let quota = DnpipeSpec { quota_bytes: Some(1000), ..DnpipeSpec::new("shop/small".parse().unwrap()) };
    world.apply(quota).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(NOTES, &["x"])).await.unwrap();
    let offset = Some(proto::Place { at: Some(At::Offset(7)) });
    let long = "x".repeat(2000);
    let larger = "x".repeat(1 << 20);
    let member =
        |group: &str| Some(proto::Member { dnpipe: NOTES.into(), group: group.into(), name: "m".into() });
    let cases = [
        (
            refused(client.pull(pull("shop/none")).await),
            Code::NotFound,
            "UNKNOWN_DNPIPE",
            vec![("dnpipe", "shop/none")],
        ),
        (
            refused(client.pull(proto::PullRequest { partition: 9, ..pull(NOTES) }).await),
            Code::NotFound,
            "UNKNOWN_PARTITION",
            vec![("partition", "9"), ("partitions", "1")],
        ),
        (
            refused(
                client
                    .seek(proto::SeekRequest {
                        dnpipe: NOTES.into(),
                        group: "none".into(),
                        partition: None,
                        to: None,
                    })
                    .await,
            ),
            Code::NotFound,
            "UNKNOWN_GROUP",
            vec![("group", "none")],
        ),
        (refused(client.pull(pull("shop/No_Name")).await), Code::InvalidArgument, "BAD_REQUEST", vec![]),
        (refused(client.push(push(NOTES, &[])).await), Code::InvalidArgument, "BAD_REQUEST", vec![]),
        (
            refused(client.push(push(NOTES, &[&larger])).await),
            Code::InvalidArgument,
            "TOO_LARGE",
            vec![("max", "1048576")],
        ),
        (
            refused(client.pull(proto::PullRequest { from: offset, ..pull(NOTES) }).await),
            Code::OutOfRange,
            "OUT_OF_RANGE",
            vec![("first", "0"), ("end", "1")],
        ),
        (
            refused(client.push(proto::PushRequest { if_epoch: Some(3), ..push(NOTES, &["x"]) }).await),
            Code::Aborted,
            "WRONG_EPOCH",
            vec![("current", "0")],
        ),
        (
            refused(client.push(proto::PushRequest { if_next: Some(0), ..push(NOTES, &["x"]) }).await),
            Code::Aborted,
            "WRONG_OFFSET",
            vec![("next", "1")],
        ),
        (
            refused(client.push(push("shop/small", &[&long])).await),
            Code::ResourceExhausted,
            "FULL",
            vec![("what", "quota"), ("limit", "1000")],
        ),
        (
            refused(client.leave(proto::LeaveRequest { member: None }).await),
            Code::InvalidArgument,
            "BAD_REQUEST",
            vec![],
        ),
        (
            refused(client.join(proto::JoinRequest { member: member("g"), delivery: 2 }).await),
            Code::InvalidArgument,
            "BAD_REQUEST",
            vec![],
        ),
        (
            refused(client.join(proto::JoinRequest { member: member("g"), delivery: 99 }).await),
            Code::InvalidArgument,
            "BAD_REQUEST",
            vec![],
        ),
    ];
    for (status, code, reason, facts) in cases {
        let told = why(&status);
        assert_eq!((told.code, told.reason.as_str()), (code, reason), "{status:?}");
        for (name, value) in facts {
            assert_eq!(told.facts[name], value, "{reason}");
        }
        assert!(status.message().contains(';'), "no cure in {:?}", status.message());
        assert!(!told.is_retried, "{reason}");
    }
    let first = client.verify(proto::VerifyRequest { dnpipe: None });
    let mut other = dial::local(world.socket()).await;
    let (one, two) = tokio::join!(first, other.verify(proto::VerifyRequest { dnpipe: None }));
    // One at a time: of two at once one is told to ask again, unless the first was over before the second came.
    for status in [one.err(), two.err()].into_iter().flatten() {
        let told = why(&status);
        assert_eq!((told.code, told.reason.as_str(), told.is_retried), (Code::Unavailable, "BUSY", true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_may_what_its_name_may() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let rule = Rule {
        verbs: Verbs { push: true, ..Verbs::NONE },
        namespace: Some("web".into()),
        service_account: None,
    };
    world.permit(NOTES, vec![rule]).await;
    let expected = World::id("shop", "dnpipes");
    let mut client = dial::peer(address, world.identity("web", "front"), expected).await;
    client.push(push(NOTES, &["x"])).await.unwrap();
    let subscribe = proto::SubscribeRequest {
        request: Some(proto::subscribe_request::Request::Begin(proto::subscribe_request::Begin {
            dnpipe: NOTES.into(),
            ..Default::default()
        })),
    };
    let mut stream = client.subscribe(tokio_stream::once(subscribe)).await.unwrap().into_inner();
    let consume = proto::ConsumeRequest {
        request: Some(proto::consume_request::Request::Begin(proto::consume_request::Begin {
            member: member("one"),
            ..Default::default()
        })),
    };
    let refusals = [
        // Whatever is wrong with it else.
        refused(client.push(push("shop/orders", &[])).await),
        refused(client.pull(pull(NOTES)).await),
        refused(client.reset(proto::ResetRequest { dnpipe: NOTES.into() }).await),
        refused(client.join(proto::JoinRequest { member: member("one"), delivery: 0 }).await),
        refused(client.groups(proto::GroupsRequest { dnpipe: NOTES.into() }).await),
        refused(client.verify(proto::VerifyRequest { dnpipe: None }).await),
        refused(stream.message().await),
        refused(client.consume(tokio_stream::once(consume)).await),
    ];
    for status in refusals {
        let told = why(&status);
        assert_eq!((told.code, told.reason.as_str()), (Code::PermissionDenied, "NOT_ALLOWED"), "{status:?}");
        assert_eq!(told.facts["who"], "spiffe://cluster.local/ns/web/sa/front");
        assert!(status.message().contains("; add a rule to `spec.access`"), "{status:?}");
    }
    let listed = client.list(proto::ListRequest::default()).await.unwrap().into_inner().dnpipes;
    assert_eq!(listed.into_iter().map(|own| own.name).collect::<Vec<_>>(), [NOTES]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dnpipe_of_another_server_is_said_to_be_there() {
    let world = world(Limits::default()).await;
    world.broker.name_servers(["here:7420".to_owned(), "there:7420".to_owned()]);
    let far = DnpipeSpec { partitions: 2, ..DnpipeSpec::new("shop/far".parse().unwrap()) };
    world.broker.place_elsewhere(&far.name, 1, 1);
    world.apply(far).await;
    let mut client = clerk(&world).await;
    let describe = proto::DescribeRequest { dnpipe: "shop/far".into() };
    let described = client.describe(describe).await.unwrap().into_inner();
    assert_eq!(described.partitions[1].owner.as_deref(), Some("there:7420"));
    let refusals = [
        refused(client.push(push("shop/far", &["x"])).await),
        refused(client.push(proto::PushRequest { partition: None, ..push("shop/far", &["x"]) }).await),
        refused(client.pull(pull("shop/far")).await),
        refused(client.reset(proto::ResetRequest { dnpipe: "shop/far".into() }).await),
    ];
    let nothing = || Some(proto::Credit { records: Some(0), bytes: Some(0) });
    let asks = [
        proto::subscribe_request::Request::Begin(proto::subscribe_request::Begin {
            dnpipe: "shop/far".into(),
            credit: nothing(),
            ..Default::default()
        }),
        proto::subscribe_request::Request::Credit(nothing().unwrap()),
    ];
    let asks = asks.map(|request| proto::SubscribeRequest { request: Some(request) });
    let mut stream = client.subscribe(tokio_stream::iter(asks)).await.unwrap().into_inner();
    let of_stream = refused(stream.message().await);
    for status in refusals.into_iter().chain([of_stream]) {
        let told = why(&status);
        assert_eq!((told.code, told.reason.as_str()), (Code::FailedPrecondition, "NOT_OWNER"), "{status:?}");
        assert_eq!(told.facts["owner"], "there:7420");
    }
    client.push(push(NOTES, &["x"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_answers_what_was_asked_and_takes_nothing_more() {
    let world = world(Limits::default()).await;
    let mut client = dial::local(world.socket()).await;
    client.push(push(NOTES, &["x"])).await.unwrap();
    // Behind what there is, by its number: what comes later is there whenever this is looked at.
    let from = Some(proto::Place { at: Some(At::Offset(1)) });
    let mut waiting = client.clone();
    let request = proto::PullRequest { from, wait_millis: 30_000, ..pull(NOTES) };
    let mut pulling = Box::pin(async move { waiting.pull(request).await });
    // It is on its way when it has begun, and what follows on this connection is behind it.
    let begun = std::future::poll_fn(|context| std::task::Poll::Ready(pulling.as_mut().poll(context))).await;
    assert!(begun.is_pending());
    let pulling = tokio::spawn(pulling);
    let begin = proto::subscribe_request::Begin { dnpipe: NOTES.into(), ..Default::default() };
    let subscribe =
        proto::SubscribeRequest { request: Some(proto::subscribe_request::Request::Begin(begin)) };
    let mut stream = client.subscribe(tokio_stream::once(subscribe)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().records.len(), 1);
    let closing = async {
        world.gateway.close(Duration::from_secs(60)).await;
    };
    let ending = async {
        let told = why(&stream.message().await.unwrap_err());
        assert_eq!((told.code, told.reason.as_str(), told.is_retried), (Code::Unavailable, "STOPPING", true));
        // What waits for more is answered by it.
        let broker = &world.broker;
        let mut writer = sidestream_event::record::BatchWriter::new();
        writer.push(0, None, &[] as &[(&str, &str)], b"y").unwrap();
        let batch = writer.finish(sidestream_event::record::Header::default()).unwrap();
        broker.push(&NOTES.parse().unwrap(), 0, batch, Default::default()).unwrap().await.unwrap();
    };
    tokio::join!(closing, ending);
    assert_eq!(values(&pulling.await.unwrap().unwrap().into_inner().records), ["y"]);
    assert_eq!(world.gateway.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_over_http_is_answered_over_its_second_version_too() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let world = world(Limits::default()).await;
    let stream = tokio::net::UnixStream::connect(world.socket()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async |method: &str, path: &str, body: &'static str| {
        let uri = format!("http://localhost/v1/dnpipes{path}");
        let request = hyper::Request::builder().method(method).uri(uri);
        let body = Full::new(bytes::Bytes::from_static(body.as_bytes()));
        let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice::<serde_json::Value>(&bytes).unwrap())
    };
    assert_eq!(ask("POST", "/shop/notes/records", "hello").await.0, 200);
    let (status, pulled) = ask("GET", "/shop/notes/records", "").await;
    assert_eq!((status, &pulled["records"][0]["value"]), (200, &"hello".into()));
    let (status, refused) = ask("GET", "/shop/none", "").await;
    assert_eq!((status, &refused["code"]), (404, &"unknown-dnpipe".into()));
}
