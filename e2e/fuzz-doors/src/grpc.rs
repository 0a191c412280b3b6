//! Calls of gRPC at the door of a gateway: the messages of one, from the first byte to what is answered.
//!
//! ```text
//!   input: method u8, how u8, bytes ─▶ a client of HTTP/2 ══▶ Gateway::serve ─▶ hyper ─▶ lengths ─▶ messages ─▶ broker
//!                                                         ◀══ answers, each of which is looked at
//! ```
//!
//! The bytes are one message, or the messages of a call with their lengths before them, and come in pieces as *how* says. What is
//! no HTTP/2 is another's matter: `grpc_mutated` of the gateway changes bytes of that.

use std::{cell::RefCell, convert::Infallible};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{HeaderMap, Request, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use sidestream_fuzz::counted;
use sidestream_gateway::proto::{self, consume_request, subscribe_request};
use tokio::io::DuplexStream;
use tonic::{Code, Status};

use crate::world::World;

/// Tries one input.
///
/// # Panics
/// Where an answer is none that the documents know.
pub fn run(bytes: &[u8]) {
    thread_local!(static WORLD: RefCell<Option<World>> = const { RefCell::new(None) });
    let Some((&[method, how], bytes)) = bytes.split_first_chunk() else { return };
    let method = &METHODS[usize::from(method) % METHODS.len()];
    let said = if how & 1 == 0 { framed(bytes) } else { bytes.to_vec() };
    WORLD.with_borrow_mut(|world| {
        let mut told = Told::default();
        let own = world.get_or_insert_with(World::new);
        let ((), made) = counted(|| own.connected(|stream| ask(stream, method, &said, how, &mut told)));
        if method.is_kept {
            // The next input finds nothing of it.
            *world = None;
        }
        let answers = told.check(method);
        // A push has room for as much as it says that comes, and a list in a message is many times its bytes.
        let announced = if method.name.starts_with("Pu") { 5 << 20 } else { 1 << 20 };
        let most = announced + said.len() * 1024 + answers * (16 << 10);
        assert!(made <= most, "{made} bytes were made by {} and {answers} answers", method.name);
    });
}

/// A call of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let (dnpipe, member) =
        ("a/b".to_owned(), proto::Member { dnpipe: "a/b".into(), group: "g".into(), name: "m".into() });
    let record = |value: &'static str| proto::Record {
        value: Bytes::from_static(value.as_bytes()),
        key: Some(Bytes::from_static(b"k")),
        time: Some(-7),
        headers: vec![proto::Header { name: "message-id".into(), value: Bytes::from_static(b"7") }],
    };
    let push = proto::PushRequest {
        dnpipe: dnpipe.clone(),
        partition: Some(0),
        records: [record("one"), record("")].into_iter().collect(),
        if_epoch: Some(0),
        if_next: Some(9),
        producer: Some(proto::Producer { id: 1, epoch: 1, sequence: 3, position: 4 }),
    };
    let place = Some(proto::Place { at: Some(proto::place::At::Last(2)) });
    let pull = proto::PullRequest {
        dnpipe: dnpipe.clone(),
        from: place,
        max_records: Some(3),
        max_bytes: Some(100),
        wait_millis: 5,
        ..Default::default()
    };
    let credit = Some(proto::Credit { records: Some(2), bytes: Some(50) });
    let subscribed = subscribe_request::Begin { dnpipe: dnpipe.clone(), from: place, credit, partition: 0 };
    let consumed = consume_request::Begin { member: Some(member.clone()), credit, delivery: 1 };
    let offsets = consume_request::Offsets { partition: 0, ranges: vec![proto::Range { from: 0, to: 2 }] };
    let subscribe = |request| proto::SubscribeRequest { request: Some(request) }.encode_to_vec();
    let consume = |request| proto::ConsumeRequest { request: Some(request) }.encode_to_vec();
    let (own, ranges) = (Some(member.clone()), vec![proto::Range { from: 0, to: 2 }]);
    let next = proto::NextRequest { member: own.clone(), max_records: Some(1), ..Default::default() };
    let of_one: [(&str, Vec<u8>); 15] = [
        ("List", proto::ListRequest { behind: "a/a".into() }.encode_to_vec()),
        ("Describe", proto::DescribeRequest { dnpipe: dnpipe.clone() }.encode_to_vec()),
        ("Verify", proto::VerifyRequest { dnpipe: Some(dnpipe.clone()) }.encode_to_vec()),
        ("Push", push.encode_to_vec()),
        ("Pull", pull.encode_to_vec()),
        ("Reset", proto::ResetRequest { dnpipe: dnpipe.clone() }.encode_to_vec()),
        ("Open", proto::OpenRequest { dnpipe: dnpipe.clone(), partition: 0, producer: 7 }.encode_to_vec()),
        ("Join", proto::JoinRequest { member: own.clone(), delivery: 1 }.encode_to_vec()),
        ("Next", next.encode_to_vec()),
        (
            "Ack",
            proto::AckRequest { member: own.clone(), partition: 0, ranges: ranges.clone() }.encode_to_vec(),
        ),
        ("GiveBack", proto::GiveBackRequest { member: own.clone(), partition: 0, ranges }.encode_to_vec()),
        ("Leave", proto::LeaveRequest { member: own }.encode_to_vec()),
        ("Groups", proto::GroupsRequest { dnpipe: dnpipe.clone() }.encode_to_vec()),
        ("Redrive", proto::RedriveRequest { dnpipe: dnpipe.clone(), group: "g".into() }.encode_to_vec()),
        (
            "Seek",
            proto::SeekRequest { dnpipe, group: "g".into(), partition: Some(0), to: place }.encode_to_vec(),
        ),
    ];
    let streams = [
        ("Publish", vec![push.encode_to_vec(), Vec::new(), push.encode_to_vec()]),
        (
            "Subscribe",
            vec![
                subscribe(subscribe_request::Request::Begin(subscribed)),
                subscribe(subscribe_request::Request::Credit(proto::Credit::default())),
            ],
        ),
        (
            "Consume",
            vec![
                consume(consume_request::Request::Begin(consumed)),
                consume(consume_request::Request::Ack(offsets.clone())),
                consume(consume_request::Request::GiveBack(offsets)),
                consume(consume_request::Request::Credit(proto::Credit::default())),
            ],
        ),
    ];
    let number = |name| METHODS.iter().position(|method| method.name == name).expect("a method") as u8;
    let whole = of_one.into_iter().map(|(name, message)| [&[number(name), 0], &message[..]].concat());
    let streamed = streams.into_iter().map(|(name, messages)| {
        // In pieces of three bytes.
        let messages: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        [&[number(name), 3 << 1 | 1], &messages[..]].concat()
    });
    whole.chain(streamed).collect()
}

/// A call that there is.
struct Method {
    name: &'static str,
    /// Whether something may be kept of it.
    is_kept: bool,
    is_stream: bool,
    /// Whether bytes are one of its answers.
    is_answer: fn(&[u8]) -> bool,
}

const fn method<T: Message + Default>(name: &'static str, is_kept: bool, is_stream: bool) -> Method {
    Method { name, is_kept, is_stream, is_answer: |bytes| T::decode(bytes).is_ok() }
}

const METHODS: [Method; 18] = [
    method::<proto::ListResponse>("List", false, false),
    method::<proto::Dnpipe>("Describe", false, false),
    method::<proto::VerifyResponse>("Verify", false, false),
    method::<proto::PushResponse>("Push", false, false),
    method::<proto::PullResponse>("Pull", false, false),
    method::<proto::ResetResponse>("Reset", true, false),
    method::<proto::OpenResponse>("Open", true, false),
    method::<proto::PublishResponse>("Publish", false, true),
    method::<proto::SubscribeResponse>("Subscribe", false, true),
    method::<proto::ConsumeResponse>("Consume", true, true),
    method::<proto::JoinResponse>("Join", true, false),
    method::<proto::NextResponse>("Next", true, false),
    method::<proto::AckResponse>("Ack", true, false),
    method::<proto::GiveBackResponse>("GiveBack", true, false),
    method::<proto::LeaveResponse>("Leave", true, false),
    method::<proto::GroupsResponse>("Groups", false, false),
    method::<proto::SeekResponse>("Seek", true, false),
    method::<proto::RedriveResponse>("Redrive", true, false),
];

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

/// What came of a call.
#[derive(Default)]
struct Told {
    answers: Vec<u8>,
    /// None where it goes on.
    status: Option<Status>,
}

/// Calls, and takes in all that is answered.
async fn ask(stream: DuplexStream, method: &Method, said: &[u8], how: u8, told: &mut Told) {
    let piece = match usize::from(how >> 1) {
        0 => said.len().max(1),
        bytes => bytes,
    };
    let pieces: Vec<_> = said
        .chunks(piece)
        .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://x/sidestream.dnpipe.v1.Dnpipes/{}", method.name))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(stream::iter(pieces)))
        .expect("a request");
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.expect("a server says its settings");
    let asking = async {
        let answer = sender.send_request(request).await.expect("it is answered");
        assert_eq!(answer.status(), 200);
        told.hear(answer.headers());
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            match frame.expect("an answer comes to its end").into_data() {
                Ok(bytes) => told.answers.extend(bytes),
                Err(frame) => told.hear(frame.trailers_ref().expect("data or trailers")),
            }
        }
    };
    tokio::select! {
        () = asking => {}
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

impl Told {
    fn hear(&mut self, heads: &HeaderMap) {
        self.status = Status::from_header_map(heads).or(self.status.take());
    }

    /// How many answers there are; each is one that the documents know.
    fn check(self, method: &Method) -> usize {
        let (mut rest, mut count) = (&self.answers[..], 0);
        while let Some((&[flag, a, b, c, d], more)) = rest.split_first_chunk() {
            let (message, more) =
                more.split_at_checked(u32::from_be_bytes([a, b, c, d]) as usize).expect("it is whole");
            assert!(flag == 0 && (method.is_answer)(message), "{}: {message:02x?}", method.name);
            (rest, count) = (more, count + 1);
        }
        assert!(rest.is_empty(), "{}: {rest:02x?}", method.name);
        let Some(status) = self.status else {
            assert!(method.is_stream, "{} is not answered", method.name);
            return count;
        };
        let is_ok = status.code() == Code::Ok;
        assert!(method.is_stream || is_ok == (count == 1), "{}: {count} answers, {status}", method.name);
        // The library's own: a message that says it is compressed.
        let is_ours = !status.message().contains("compress");
        if !is_ok && is_ours {
            assert!(CODES.contains(&status.code()), "{}: {status}", method.name);
            let why = status.details().windows(DOMAIN.len()).any(|own| own == DOMAIN);
            assert!(why && !status.message().is_empty(), "{}: {status}", method.name);
        }
        count
    }
}

/// Of the table in `docs/reference/grpc-api.md`; no caller can make a server fail.
const CODES: [Code; 9] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::PermissionDenied,
    Code::Aborted,
    Code::FailedPrecondition,
    Code::OutOfRange,
    Code::ResourceExhausted,
    Code::DeadlineExceeded,
    Code::Unavailable,
];
/// Of what is said of a refusal.
const DOMAIN: &[u8] = b"sidestream.dev";
