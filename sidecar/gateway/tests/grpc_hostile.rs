//! Callers of gRPC that do not follow its protocol, or do so slowly.

mod dial;
mod world;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::{Request, body::Frame, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use sidestream_client::{ProducerConfig, Record};
use sidestream_gateway::{Limits, proto};
use sidestream_host::Clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tonic::{Code, Status};
use world::{World, world, world_by};

const NOTES: &str = "shop/notes";
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

async fn is_well(world: &World) {
    let producer = world.local().producer(NOTES, ProducerConfig::default()).await.unwrap();
    producer.push(Record::new("well")).await.unwrap().await.unwrap();
}

async fn connect(world: &World) -> SendRequest<Body> {
    let stream = UnixStream::connect(world.socket()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// What a call of a method says with these bytes, and then nothing more or its end.
fn call(method: &str, bytes: Vec<u8>, ends: bool) -> Request<Body> {
    let said = stream::iter([Ok(Frame::data(Bytes::from(bytes)))]);
    let body = match ends {
        true => StreamBody::new(said.boxed()),
        false => StreamBody::new(said.chain(stream::pending()).boxed()),
    };
    Request::builder()
        .method("POST")
        .uri(format!("http://x/sidestream.dnpipe.v1.Dnpipes/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(body))
        .unwrap()
}

/// The code and the message of an answer.
async fn told(sender: &mut SendRequest<Body>, request: Request<Body>) -> (Code, String) {
    let status = status(sender, request).await;
    (status.code(), status.message().to_owned())
}

/// All that an answer says of how it went.
async fn status(sender: &mut SendRequest<Body>, request: Request<Body>) -> Status {
    let answer = timeout(LONG, sender.send_request(request)).await.expect("it is answered").unwrap();
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let body = timeout(LONG, answer.into_body().collect()).await.expect("it ends").unwrap();
    Status::from_header_map(body.trailers().expect("a status at the end")).expect("a status")
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// Waits until a connection is closed from the other end.
async fn closed(stream: &mut UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = timeout(LONG, stream.read_to_end(&mut said)).await.expect("it is closed");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_protocol_ends_the_connection_and_no_other() {
    let world = world(Limits::default()).await;
    let settings_of_a_stream = [0, 0, 0, 4, 0, 0, 0, 0, 1];
    let a_frame_too_long = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let data_of_no_stream = [&[0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"x"].concat();
    let heads_of_nonsense = [&[0, 0, 4, 1, 4, 0, 0, 0, 1][..], &[0xff; 4]].concat();
    for bytes in [&settings_of_a_stream[..], &a_frame_too_long, &data_of_no_stream, &heads_of_nonsense] {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        stream.write_all(&[PREFACE, NO_SETTINGS, bytes].concat()).await.unwrap();
        closed(&mut stream).await;
    }
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await.unwrap();
    closed(&mut stream).await;
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_no_message_has_is_refused_before_the_message_comes() {
    let world = world(Limits::default()).await;
    let mut sender = connect(&world).await;
    let lengths =
        [("Push", u32::MAX), ("Push", (4 << 20) + 1), ("Publish", u32::MAX), ("Pull", (64 << 10) + 1)];
    for (method, length) in lengths {
        let prefix = [&[0][..], &length.to_be_bytes()].concat();
        let (code, message) = told(&mut sender, call(method, prefix, false)).await;
        assert_eq!(code, Code::InvalidArgument, "{method} {length}: {message}");
        assert!(message.contains(&length.to_string()), "{message}");
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_and_what_is_no_method_is_refused_and_the_connection_goes_on() {
    let world = world(Limits::default()).await;
    let mut sender = connect(&world).await;
    for method in ["Push", "Pull", "Publish", "Subscribe", "Consume", "Next", "List"] {
        let no_message = framed(&[0x0a, 0xff, 0xff]);
        let (no_prefix, cut_off) = (vec![0, 0, 0], no_message[..6].to_vec());
        // A stream of pushes may have none.
        let nothing = (method != "Publish").then(Vec::new);
        for bytes in [no_message, no_prefix, cut_off].into_iter().chain(nothing) {
            let status = status(&mut sender, call(method, bytes, true)).await;
            let why = dial::why(&status);
            assert_eq!(
                (why.code, &*why.reason),
                (Code::InvalidArgument, "BAD_REQUEST"),
                "{method}: {status}"
            );
            // What to do about it.
            assert!(status.message().contains(';') && !why.is_retried, "{method}: {status}");
        }
    }
    assert_eq!(told(&mut sender, call("Destroy", framed(&[]), true)).await.0, Code::Unimplemented);
    // Records that are none.
    let push = [&[0x0a, 10][..], NOTES.as_bytes(), &[0x1a, 3, 0x0a, 0xff, 0xff]].concat();
    let (code, message) = told(&mut sender, call("Push", framed(&push), true)).await;
    assert_eq!(code, Code::InvalidArgument, "{message}");
    let push = proto::PushRequest {
        dnpipe: NOTES.into(),
        records: [proto::Record::default()].into_iter().collect(),
        ..Default::default()
    };
    assert_eq!(told(&mut sender, call("Push", framed(&push.encode_to_vec()), true)).await.0, Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_next_to_nothing_are_refused_where_there_are_very_many() {
    let world = world(Limits::default()).await;
    let mut sender = connect(&world).await;
    let push = [&[0x0a, 10][..], NOTES.as_bytes(), &[0x1a, 0].repeat(1_000_000)].concat();
    let (code, message) = told(&mut sender, call("Push", framed(&push), true)).await;
    assert_eq!(code, Code::InvalidArgument, "{message}");
    assert!(message.contains("1000000"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_does_not_come_whole_is_told_so_and_gives_its_room_back() {
    let limits = Limits { frame: Duration::from_millis(300), frames_kib_max: 1500, ..Limits::default() };
    let world = world(limits).await;
    let mut sender = connect(&world).await;
    let cut = [&[0][..], &1_000_000u32.to_be_bytes(), b"begun"].concat();
    let slow = told(&mut sender, call("Push", cut, false));
    let mut other = connect(&world).await;
    let record = proto::Record { value: vec![b'x'; 900_000].into(), ..Default::default() };
    let push = proto::PushRequest {
        dnpipe: NOTES.into(),
        records: [record].into_iter().collect(),
        ..Default::default()
    };
    // Whichever comes first, there is room for one of them at a time.
    let large = async { told(&mut other, call("Push", framed(&push.encode_to_vec()), true)).await };
    let ((code, message), (stored, why)) = tokio::join!(slow, large);
    assert_eq!(code, Code::DeadlineExceeded, "{message}");
    // On a machine that is slow enough it is too slow as well; then it may come again.
    if stored == Code::DeadlineExceeded {
        assert!(why.contains("in time"), "{why}");
    } else {
        assert_eq!(stored, Code::Ok, "{why}");
    }
    // A caller that begins and says nothing is ended like that too.
    for method in ["Push", "Pull", "Subscribe", "Consume"] {
        let (code, message) = told(&mut sender, call(method, Vec::new(), false)).await;
        assert_eq!(code, Code::DeadlineExceeded, "{method}: {message}");
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_one_message_that_does_not_end_or_has_another_gives_its_room_back() {
    let limits = Limits { frame: Duration::from_millis(300), frames_kib_max: 1500, ..Limits::default() };
    let world = world(limits).await;
    let record = proto::Record { value: vec![b'x'; 900_000].into(), ..Default::default() };
    let records = [record].into_iter().collect();
    let push = proto::PushRequest { dnpipe: NOTES.into(), records, ..Default::default() };
    let whole = framed(&push.encode_to_vec());
    // There is room for one of them at a time: each has to give it back for the next.
    let mut endless = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (mut sender, whole) = (connect(&world).await, whole.clone());
        endless.spawn(async move { told(&mut sender, call("Push", whole, false)).await });
    }
    while let Some(told) = endless.join_next().await {
        let (code, message) = told.unwrap();
        assert_eq!(code, Code::DeadlineExceeded, "{message}");
    }
    let mut sender = connect(&world).await;
    let small = framed(&proto::PullRequest { dnpipe: NOTES.into(), ..Default::default() }.encode_to_vec());
    assert_eq!(told(&mut sender, call("Pull", small.clone(), false)).await.0, Code::DeadlineExceeded);
    // One that is slow enough to come is too slow before it is one too many.
    let too_many = [Code::InvalidArgument, Code::DeadlineExceeded];
    for (method, one) in [("Push", &whole), ("Pull", &small), ("List", &framed(&[]))] {
        for ends in [true, false] {
            let (code, message) = told(&mut sender, call(method, one.repeat(2), ends)).await;
            assert!(too_many.contains(&code), "{method}: {code} {message}");
        }
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_waits_while_others_have_the_room() {
    let world = world(Limits { frames_kib_max: 1500, frame: LONG, ..Limits::default() }).await;
    let push = |count: usize| {
        let record = proto::Record { value: vec![b'x'; count].into(), ..Default::default() };
        let records = [record].into_iter().collect();
        framed(&proto::PushRequest { dnpipe: NOTES.into(), records, ..Default::default() }.encode_to_vec())
    };
    let (begun, rest) = {
        let mut whole = push(1_000_000);
        let rest = whole.split_off(100);
        (whole, rest)
    };
    let (goes_on, going) = tokio::sync::mpsc::channel(1);
    let body = stream::iter([Ok(Frame::data(Bytes::from(begun)))])
        .chain(tokio_stream::wrappers::ReceiverStream::new(going));
    let slow = call("Push", Vec::new(), true).map(|_| Body::new(StreamBody::new(body.boxed())));
    let mut sender = connect(&world).await;
    let slow = tokio::spawn(async move { told(&mut sender, slow).await.0 });
    // Until the slow one has its room the others have theirs.
    let waiting = loop {
        let mut sender = connect(&world).await;
        let large = call("Push", push(900_000), true);
        let mut large = tokio::spawn(async move { told(&mut sender, large).await.0 });
        match timeout(Duration::from_secs(1), &mut large).await {
            Ok(code) => assert_eq!(code.unwrap(), Code::Ok),
            Err(_) => break large,
        }
    };
    // What is small needs none.
    let mut sender = connect(&world).await;
    assert_eq!(told(&mut sender, call("Push", push(1000), true)).await.0, Code::Ok);
    goes_on.send(Ok(Frame::data(Bytes::from(rest)))).await.unwrap();
    drop(goes_on);
    assert_eq!((slow.await.unwrap(), waiting.await.unwrap()), (Code::Ok, Code::Ok));
}

/// What comes of a message meanwhile is kept, as far as its stream's window goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_large_messages_than_there_is_room_to_wait_for_are_refused() {
    let world = world(Limits { frames_kib_max: 1500, frame: LONG, ..Limits::default() }).await;
    let push = {
        let record = proto::Record { value: vec![b'x'; 1_000_000].into(), ..Default::default() };
        let records = [record].into_iter().collect();
        framed(&proto::PushRequest { dnpipe: NOTES.into(), records, ..Default::default() }.encode_to_vec())
    };
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let sender = connect(&world).await;
        for _ in 0..10 {
            // One of them has the room, and the others wait for it: none of them comes to its end.
            let (mut sender, begun) = (sender.clone(), call("Push", push[..100].to_vec(), false));
            waiting.spawn(async move { status(&mut sender, begun).await });
        }
    }
    // As many as have a window of 128 KiB in 1500 KiB.
    for _ in 0..30 - 1 - 11 {
        let refused = timeout(LONG / 2, waiting.join_next()).await.expect("it is answered").unwrap().unwrap();
        let why = dial::why(&refused);
        assert_eq!((why.code, &*why.reason, why.is_retried), (Code::Unavailable, "BUSY", true), "{refused}");
    }
    drop(waiting);
    // Their room is there again when the server has heard that they are gone.
    let mut sender = connect(&world).await;
    let taken = async {
        while told(&mut sender, call("Push", push.clone(), true)).await.0 != Code::Ok {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG / 2, taken).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_read_are_few_and_the_others_come_when_they_are() {
    let world = world(Limits { silence: LONG, ..Limits::default() }).await;
    let mut client = dial::local(world.socket()).await;
    for _ in 0..4 {
        let record = proto::Record { value: vec![b'x'; 250_000].into(), ..Default::default() };
        let records = [record].into_iter().collect();
        client
            .push(proto::PushRequest { dnpipe: NOTES.into(), records, ..Default::default() })
            .await
            .unwrap();
    }
    let stream = UnixStream::connect(world.socket()).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let (heads, mut answered) = tokio::sync::mpsc::channel(64);
    for _ in 0..40 {
        let (mut sender, heads) = (sender.clone(), heads.clone());
        let pull = proto::PullRequest { dnpipe: NOTES.into(), ..Default::default() };
        let request = call("Pull", framed(&pull.encode_to_vec()), true);
        tokio::spawn(async move { heads.send(sender.send_request(request).await.unwrap()).await });
    }
    let mut unread = Vec::new();
    while unread.len() < 16 {
        unread.push(timeout(LONG, answered.recv()).await.expect("sixteen come").unwrap());
    }
    let more = timeout(Duration::from_millis(500), answered.recv()).await;
    assert!(more.is_err(), "more are in memory than may be");
    let mut count = 0;
    while count < 40 {
        let answer = match unread.pop() {
            Some(answer) => answer,
            None => timeout(LONG, answered.recv()).await.expect("the others come").unwrap(),
        };
        let body = timeout(LONG, answer.into_body().collect()).await.expect("it comes whole").unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert!(body.to_bytes().len() > 1_000_000);
        count += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_too_long_and_streams_that_are_too_many_hold_nobody_up() {
    let world = world(Limits::default()).await;
    let mut sender = connect(&world).await;
    let mut long = call("Pull", framed(&[]), true);
    long.headers_mut().insert("x-long", "x".repeat(40_000).parse().unwrap());
    match sender.send_request(long).await {
        // 431: the head is too long (RFC 6585, section 5).
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(!error.is_user(), "{error}"),
    }
    let mut sender = connect(&world).await;
    // With its answer the caller knows how many may be.
    assert_eq!(told(&mut sender, call("List", framed(&[]), true)).await.0, Code::Ok);
    let mut waiting = tokio::task::JoinSet::new();
    // More than that: those wait at the caller's end, for others to be over.
    for _ in 0..200 {
        let from = Some(proto::Place { at: Some(proto::place::At::Last(0)) });
        let pull = proto::PullRequest { dnpipe: NOTES.into(), from, wait_millis: 300, ..Default::default() };
        let mut sender = sender.clone();
        waiting.spawn(
            async move { told(&mut sender, call("Pull", framed(&pull.encode_to_vec()), true)).await.0 },
        );
    }
    is_well(&world).await;
    while let Some(code) = waiting.join_next().await {
        assert_eq!(code.unwrap(), Code::Ok);
    }
    assert_eq!(told(&mut sender, call("List", framed(&[]), true)).await.0, Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_room_for_an_answer_at_all_is_ended() {
    let world = world(Limits { silence: Duration::from_millis(300), ..Limits::default() }).await;
    is_well(&world).await;
    let stream = UnixStream::connect(world.socket()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let ended = tokio::spawn(connection);
    let pull = proto::PullRequest { dnpipe: NOTES.into(), ..Default::default() };
    let _unread = sender.send_request(call("Pull", framed(&pull.encode_to_vec()), true)).await;
    timeout(LONG, ended).await.expect("it is ended").unwrap().ok();
}

/// A cancelled call has records nobody has got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_did_not_wait_for_comes_with_its_next_call() {
    // By a clock that stands still nothing comes again for being late.
    let (clock, _time) = Clock::simulated(1);
    let world = world_by(Limits { silence: LONG, ..Limits::default() }, clock).await;
    let stream = UnixStream::connect(world.socket()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let record = proto::Record { value: vec![b'x'; 200_000].into(), ..Default::default() };
    let records = [record].into_iter().collect();
    let push = proto::PushRequest { dnpipe: NOTES.into(), records, ..Default::default() };
    assert_eq!(told(&mut sender, call("Push", framed(&push.encode_to_vec()), true)).await.0, Code::Ok);
    let member = Some(proto::Member { dnpipe: NOTES.into(), group: "billing".into(), name: "one".into() });
    let join = proto::JoinRequest { member: member.clone(), delivery: 0 };
    assert_eq!(told(&mut sender, call("Join", framed(&join.encode_to_vec()), true)).await.0, Code::Ok);
    let next = proto::NextRequest { member, wait_millis: 200, ..Default::default() };
    let next = || call("Next", framed(&next.encode_to_vec()), true);
    // It is answered, in more than its caller has room for, and its caller is gone.
    drop(timeout(LONG, sender.send_request(next())).await.expect("it is answered").unwrap());
    let again = async {
        loop {
            let body = sender.send_request(next()).await.unwrap().into_body().collect().await.unwrap();
            let told = proto::NextResponse::decode(&body.to_bytes()[5..]).unwrap();
            if let Some(share) = told.shares.into_iter().next() {
                break share.records.into_iter().map(|own| (own.offset, own.delivery)).collect::<Vec<_>>();
            }
        }
    };
    assert_eq!(timeout(LONG, again).await.expect("it comes"), [(0, 1)]);
}

/// Each in a piece of its own, to a server that reads no more of them before its answers are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_pushes_that_wait_to_be_read_are_no_attack() {
    let world = world(Limits { silence: LONG, ..Limits::default() }).await;
    let stream = UnixStream::connect(world.socket()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16 << 10)
        .initial_connection_window_size(16 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let (pushes, pushed) = tokio::sync::mpsc::channel(1);
    let body = tokio_stream::wrappers::ReceiverStream::new(pushed);
    let request = call("Publish", Vec::new(), true).map(|_| Body::new(StreamBody::new(body.boxed())));
    let answer = sender.send_request(request);
    let push = proto::PushRequest {
        dnpipe: NOTES.into(),
        records: [proto::Record::default()].into_iter().collect(),
        ..Default::default()
    };
    let push = Bytes::from(framed(&push.encode_to_vec()));
    let (mut sent, most) = (0, 200_000);
    while sent < most {
        match timeout(Duration::from_secs(3), pushes.send(Ok(Frame::data(push.clone())))).await {
            Ok(outcome) => outcome.expect("the stream goes on"),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(sent < most, "it reads on although nobody reads its answers");
    drop(pushes);
    let mut body = timeout(LONG, answer).await.expect("it is answered").unwrap().into_body();
    let (mut bytes, mut status) = (Vec::new(), None);
    while let Some(frame) = timeout(LONG, body.frame()).await.expect("it comes") {
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend(data),
            Err(trailers) => status = trailers.into_trailers().unwrap().get("grpc-status").cloned(),
        }
    }
    assert_eq!(status.unwrap(), "0");
    let (mut rest, mut answered) = (&bytes[..], 0);
    while let Some([0, a, b, c, d]) = rest.first_chunk() {
        rest = &rest[5 + u32::from_be_bytes([*a, *b, *c, *d]) as usize..];
        answered += 1;
    }
    assert_eq!((answered, rest.len()), (sent, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_told_to_come_again() {
    let world = world(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = connect(&world).await;
    assert_eq!(told(&mut first, call("List", framed(&[]), true)).await.0, Code::Ok);
    let mut second = UnixStream::connect(world.socket()).await.unwrap();
    second.write_all(&[PREFACE, NO_SETTINGS].concat()).await.unwrap();
    let said = closed(&mut second).await;
    assert_eq!(&said[..9], NO_SETTINGS);
    // GOAWAY: no stream was begun, and the caller is to be calm.
    assert_eq!((said[12], &said[18..26]), (7, &[0, 0, 0, 0, 0, 0, 0, 11][..]));
    assert!(said.ends_with(b"try again"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_nothing_and_who_does_not_answer_a_ping_is_ended() {
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let quiet = world(limits).await;
    for bytes in [&b"PRI * HTTP/2"[..], PREFACE, &[PREFACE, NO_SETTINGS].concat()] {
        let mut stream = UnixStream::connect(quiet.socket()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        closed(&mut stream).await;
    }
    let deaf = world(Limits { ping: Duration::from_millis(200), ..Limits::default() }).await;
    let mut stream = UnixStream::connect(deaf.socket()).await.unwrap();
    stream.write_all(&[PREFACE, NO_SETTINGS].concat()).await.unwrap();
    closed(&mut stream).await;
    let given_back = async {
        while deaf.gateway.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, given_back).await.expect("its place is free");
}
