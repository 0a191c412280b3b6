//! Callers that do not follow the protocol, or do so slowly.

mod world;

use std::time::Duration;

use sidestream_client::{Client, ClientConfig, ClientError, ProducerConfig, Record};
use sidestream_event::{
    native::{
        Answer, Conditions, FRAME_BYTES_MAX, Frames, From, MAGIC, Preamble, Refusal, Request, Verdict,
        write_frame,
    },
    record::{BatchWriter, Header},
};
use sidestream_gateway::{Limits, NO_REQUEST};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};
use world::{World, world};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

/// A connection that is let in, byte by byte in the hands of the test.
struct Raw(UnixStream, Frames);

impl Raw {
    async fn open(world: &World) -> (Raw, Verdict) {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        stream.write_all(&Preamble { oldest: 1, newest: 1 }.write()).await.unwrap();
        let mut verdict = [0; 12];
        stream.read_exact(&mut verdict).await.unwrap();
        (Raw(stream, Frames::default()), Verdict::read(&verdict).unwrap())
    }

    /// The same, with a request right behind the preamble.
    async fn open_and_ask(world: &World, request: &Request) -> Raw {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        let mut out = Preamble { oldest: 1, newest: 1 }.write().to_vec();
        write_frame(1, request, 0, &mut out).unwrap();
        stream.write_all(&out).await.unwrap();
        let mut verdict = [0; 12];
        stream.read_exact(&mut verdict).await.unwrap();
        Raw(stream, Frames::default())
    }

    async fn ask(&mut self, number: u32, request: &Request, tail: &[u8]) {
        let mut out = Vec::new();
        write_frame(number, request, tail.len(), &mut out).unwrap();
        self.0.write_all(&out).await.unwrap();
        self.0.write_all(tail).await.unwrap();
    }

    async fn answer(&mut self) -> (u32, Answer) {
        let mut frames = Frames::default();
        loop {
            if let Some(frame) = frames.next_frame().unwrap() {
                return (frame.request, frame.read().unwrap());
            }
            assert!(self.0.read_buf(frames.buffer()).await.unwrap() > 0, "it was closed");
        }
    }

    /// The next answer, with others behind it in what was read.
    async fn answer_behind(&mut self) -> Answer {
        loop {
            if let Some(frame) = self.1.next_frame().unwrap() {
                return frame.read().unwrap();
            }
            assert!(self.0.read_buf(self.1.buffer()).await.unwrap() > 0, "it was closed");
        }
    }

    /// Waits until the other end closes it.
    async fn closed(&mut self) -> bool {
        let mut sink = [0; 4096];
        let ended = async {
            loop {
                match self.0.read(&mut sink).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        timeout(LONG, ended).await.is_ok()
    }
}

async fn is_well(world: &World) {
    let producer = world.local().producer("shop/notes", ProducerConfig::default()).await.unwrap();
    producer.push(Record::new("well")).await.unwrap().await.unwrap();
}

/// Records of half a megabyte each.
async fn push_large(world: &World, count: usize) {
    let producer = world.local().producer("shop/notes", ProducerConfig::default()).await.unwrap();
    for _ in 0..count {
        drop(producer.push(Record::new(vec![7; 500_000])).await.unwrap());
    }
    producer.flush().await.unwrap();
}

fn pull_everything() -> Request {
    Request::Pull {
        dnpipe: "shop/notes".parse().unwrap(),
        partition: 0,
        from: From::First(0),
        max_bytes: u32::MAX,
        max_records: u32::MAX,
        wait_millis: 0,
    }
}

fn batch(value: &str) -> Vec<u8> {
    let mut writer = BatchWriter::new();
    writer.push(0, None, &[] as &[(&str, &str)], value.as_bytes()).unwrap();
    writer.finish(Header::default()).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_no_frame_has_is_refused_and_ends_the_connection_and_no_other() {
    let world = world(Limits::default()).await;
    let max = FRAME_BYTES_MAX as u32 - 4;
    for (length, head) in [(0, 0), (7, 0), (max + 1, 0), (u32::MAX, 0), (9, 2), (max, u32::MAX)] {
        let is_large = length > max;
        let whole: Vec<u8> = [length, 5, head].into_iter().flat_map(u32::to_le_bytes).collect();
        let told = if is_large || length < 8 { [4, 12].as_slice() } else { &[12] };
        for count in told {
            let (mut raw, _) = Raw::open(&world).await;
            raw.0.write_all(&whole[..*count]).await.unwrap();
            let (number, answer) = raw.answer().await;
            assert_eq!(number, if *count == 4 { NO_REQUEST } else { 5 }, "{length}, {head}");
            match answer {
                Answer::Refused(Refusal::TooLarge { bytes, max: most }) if is_large => {
                    assert_eq!((bytes, most), (length.into(), max.into()));
                }
                Answer::Refused(Refusal::Bad { reason }) if !is_large => {
                    let claimed = if head > 0 { head } else { length };
                    assert!(reason.contains(&claimed.to_string()), "{reason}");
                }
                other => panic!("{length}, {head}: {other:?}"),
            }
            assert!(raw.closed().await, "{length}, {head}");
        }
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_something_else_is_not_answered() {
    let world = world(Limits::default()).await;
    for words in [
        &b"EHLO here.example\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00",
        b"dnpipe\n\n\x01\0\x01\0",
    ] {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        stream.write_all(words).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty());
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_not_spoken_is_answered_with_the_newest_that_is() {
    let world = world(Limits::default()).await;
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    stream.write_all(&[&MAGIC[..], &[2, 0, 9, 0]].concat()).await.unwrap();
    let mut verdict = [0; 12];
    stream.read_exact(&mut verdict).await.unwrap();
    assert_eq!(Verdict::read(&verdict), Ok(Verdict::Version { newest: 1 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_and_what_is_no_batch_is_refused_and_the_connection_goes_on() {
    let world = world(Limits::default()).await;
    let (mut raw, _) = Raw::open(&world).await;
    // A head of a byte that no request begins with.
    raw.0.write_all(&[9, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 99]).await.unwrap();
    let (number, answer) = raw.answer().await;
    assert!(
        number == 1 && matches!(&answer, Answer::Refused(refusal) if refusal.code() == "bad-request"),
        "{answer:?}"
    );
    let push =
        Request::Push { dnpipe: "shop/notes".parse().unwrap(), partition: 0, only_if: Conditions::default() };
    let good = batch("good");
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [&b"nonsense"[..], &good[..20], &flipped, &[good.clone(), vec![0]].concat()] {
        raw.ask(2, &push, bad).await;
        let (_, answer) = raw.answer().await;
        assert!(matches!(&answer, Answer::Refused(refusal) if refusal.code() == "bad-batch"), "{answer:?}");
    }
    raw.ask(3, &push, &good).await;
    assert_eq!(raw.answer().await, (3, Answer::Pushed { base_offset: 0, epoch: 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_pushes_keep_their_order() {
    let world = world(Limits::default()).await;
    let (raw, _) = Raw::open(&world).await;
    let push =
        Request::Push { dnpipe: "shop/notes".parse().unwrap(), partition: 0, only_if: Conditions::default() };
    let mut out = Vec::new();
    for number in 0..500u32 {
        let batch = batch(&number.to_string());
        write_frame(number, &push, batch.len(), &mut out).unwrap();
        out.extend_from_slice(&batch);
    }
    let (mut read, mut write) = raw.0.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(&out).await.unwrap();
        write
    });
    let (mut frames, mut answered) = (Frames::default(), 0);
    while answered < 500 {
        while let Some(frame) = frames.next_frame().unwrap() {
            let expected = Answer::Pushed { base_offset: u64::from(frame.request), epoch: 0 };
            assert_eq!(frame.read::<Answer>().unwrap(), expected);
            answered += 1;
        }
        if answered < 500 {
            assert!(read.read_buf(frames.buffer()).await.unwrap() > 0);
        }
    }
    drop(writing.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_told_so_and_gets_in_when_another_leaves() {
    let world = world(Limits { connections_max: 3, ..Limits::default() }).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (raw, verdict) = Raw::open(&world).await;
        assert_eq!(verdict, Verdict::Welcome { version: 1 });
        open.push(raw);
    }
    assert_eq!(Raw::open(&world).await.1, Verdict::Busy);
    assert_eq!(world.gateway.connections(), 3);
    let client = Client::new(
        sidestream_client::Address::Local(world.socket()),
        ClientConfig { patience: Duration::ZERO, ..ClientConfig::default() },
    );
    assert_eq!(client.list().await.err(), Some(ClientError::TurnedAway(Verdict::Busy)));
    open.pop();
    // A client goes on trying.
    assert_eq!(world.local().list().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sockets_that_say_nothing_keep_nobody_out() {
    let world = world(Limits { connections_max: 64, ..Limits::default() }).await;
    let mut idle = Vec::new();
    for _ in 0..2000 {
        match UnixStream::connect(world.socket()).await {
            Ok(stream) => idle.push(stream),
            // The backlog of the kernel is full of them.
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
    let begun = world.clock().now();
    let client = Client::new(
        sidestream_client::Address::Local(world.socket()),
        ClientConfig { patience: Duration::from_secs(60), ..ClientConfig::default() },
    );
    assert_eq!(client.list().await.unwrap().len(), 2);
    assert!(world.clock().now().since(begun) < Duration::from_secs(30));
    assert!(world.gateway.connections() <= 64);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_does_not_come_whole_and_a_connection_that_asks_nothing_are_ended() {
    let limits =
        Limits { idle: Duration::from_millis(300), frame: Duration::from_millis(150), ..Limits::default() };
    let world = world(limits).await;
    let (mut raw, _) = Raw::open(&world).await;
    raw.0.write_all(&[100, 0, 0, 0, 1]).await.unwrap();
    assert!(raw.closed().await);
    let mut raw = Raw::open_and_ask(&world, &Request::Ping).await;
    assert_eq!(raw.answer().await, (1, Answer::Pong));
    assert!(raw.closed().await);
    // Who waits for records asks something.
    let pull = Request::Pull {
        dnpipe: "shop/notes".parse().unwrap(),
        partition: 0,
        from: From::Last(0),
        max_bytes: 1,
        max_records: 1,
        wait_millis: 900,
    };
    let mut raw = Raw::open_and_ask(&world, &pull).await;
    assert!(matches!(raw.answer().await, (1, Answer::Pulled { from: 0, next: 0, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_its_answers_is_ended_and_others_do_not_notice() {
    let world = world(Limits { silence: Duration::from_millis(300), ..Limits::default() }).await;
    push_large(&world, 16).await;
    let (mut raw, _) = Raw::open(&world).await;
    let pull = pull_everything();
    for number in 0..100 {
        raw.ask(number, &pull, b"").await;
    }
    is_well(&world).await;
    let ended = async {
        while world.gateway.connections() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, ended).await.expect("it is ended");
    assert!(raw.closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_lets_nobody_in_and_answers_what_was_asked() {
    let world = world(Limits::default()).await;
    let (mut raw, _) = Raw::open(&world).await;
    let pull = Request::Pull {
        dnpipe: "shop/notes".parse().unwrap(),
        partition: 0,
        from: From::Last(0),
        max_bytes: 1,
        max_records: 1,
        wait_millis: 30_000,
    };
    raw.ask(1, &pull, b"").await;
    // What was asked before is begun when this is answered.
    raw.ask(2, &Request::Ping, b"").await;
    assert_eq!(raw.answer().await, (2, Answer::Pong));
    let answering = async {
        let name = "shop/notes".parse().unwrap();
        let pushing = world.broker.push(&name, 0, batch("last").into(), Conditions::default()).unwrap();
        pushing.await.unwrap();
    };
    tokio::join!(world.gateway.close(LONG), answering);
    assert!(matches!(raw.answer().await, (1, Answer::Pulled { next: 1, .. })));
    assert!(raw.closed().await);
    assert!(UnixStream::connect(world.socket()).await.is_err(), "the socket is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_answers_are_not_read_keeps_nobody_from_the_disk() {
    let world = world(Limits::default()).await;
    push_large(&world, 8).await;
    let (mut raw, _) = Raw::open(&world).await;
    let pull = pull_everything();
    // In one piece: a server that reads no more for a while is not to hold up the test, which reads nothing yet.
    let mut asked = Vec::new();
    for number in 0..400 {
        write_frame(number, &pull, 0, &mut asked).unwrap();
    }
    raw.0.write_all(&asked).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let mut reader = world
        .local()
        .reader("shop/notes", From::First(0), sidestream_client::ReaderConfig::default())
        .await
        .unwrap();
    let read = async {
        for _ in 0..8 {
            reader.next().await.unwrap().unwrap();
        }
    };
    timeout(LONG, read).await.expect("the disk is kept from others");
    // Whoever reads in the end gets all of them.
    for _ in 0..400 {
        assert!(matches!(raw.answer_behind().await, Answer::Pulled { from: 0, .. }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_take_all_connections_do_not_keep_the_local_socket_busy() {
    let world = world(Limits { connections_max: 1, ..Limits::default() }).await;
    let address = world.listen().await;
    let stranger = world.peer(address, "shop", "till");
    stranger.list().await.unwrap();
    assert_eq!(world.gateway.connections(), 1);
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksums_are_compared_for_one_caller_at_a_time() {
    let world = world(Limits::default()).await;
    let going_on = world.verifying.write().await;
    let (mut first, mut second) = (Raw::open(&world).await.0, Raw::open(&world).await.0);
    let verify = Request::Verify { dnpipe: None };
    first.ask(1, &verify, b"").await;
    first.ask(2, &Request::Ping, b"").await;
    assert_eq!(first.answer().await, (2, Answer::Pong));
    second.ask(1, &verify, b"").await;
    assert_eq!(second.answer().await, (1, Answer::Refused(sidestream_event::native::Refusal::Busy)));
    // It goes on where the caller has left, and keeps its place.
    drop(first);
    while world.gateway.connections() > 1 {
        sleep(Duration::from_millis(5)).await;
    }
    second.ask(2, &verify, b"").await;
    assert!(matches!(second.answer().await, (2, Answer::Refused(_))));
    drop(going_on);
    let mut number = 3;
    loop {
        second.ask(number, &verify, b"").await;
        match second.answer().await.1 {
            Answer::Verified(_) => break,
            answer => assert_eq!(answer, Answer::Refused(sidestream_event::native::Refusal::Busy)),
        }
        number += 1;
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_socket_is_this_users_alone() {
    use std::os::unix::fs::PermissionsExt;

    let world = world(Limits::default()).await;
    let mode = std::fs::metadata(world.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
