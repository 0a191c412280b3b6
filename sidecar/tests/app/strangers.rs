//! Apps that do not follow the protocol, or want more than there is.

use std::time::Duration;

use sidestream_client::{From, Refusal};
use sidestream_event::native::{Answer, FRAME_BYTES_MAX, Request, Verdict, write_frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::{
    pod::{Pod, push},
    raw::Raw,
    servers::{SOON, Servers},
};

async fn is_well(pod: &Pod) {
    push(&pod.client(SOON), "shop/notes", 0..1).await;
}

#[test]
fn who_speaks_something_else_or_says_impossible_things_is_told_and_hung_up_on_and_nobody_else_notices() {
    let mut servers = Servers::start(20, 1);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    pod.run(async {
        let mut garbage = Raw(UnixStream::connect(pod.path()).await.unwrap());
        garbage.0.write_all(b"\x16\x03\x01 is a hello of TLS").await.unwrap();
        garbage.closed().await;
        for length in [0, 7, FRAME_BYTES_MAX as u32, u32::MAX] {
            let (mut raw, verdict) = Raw::open(&pod).await;
            assert_eq!(verdict, Verdict::Welcome { version: 1 });
            let whole: Vec<u8> = [length, 5, 0].into_iter().flat_map(u32::to_le_bytes).collect();
            raw.0.write_all(&whole).await.unwrap();
            let (number, answer) = raw.answers(1).await.remove(0);
            let is_large =
                matches!(answer, Answer::Refused(Refusal::TooLarge { bytes, .. }) if bytes == u64::from(length));
            let is_bad = matches!(answer, Answer::Refused(Refusal::Bad { .. }));
            assert!(number == 5 && if length > 7 { is_large } else { is_bad }, "{length}: {answer:?}");
            raw.closed().await;
        }
        // Twice the same number, neither of them answered.
        let (mut raw, _) = Raw::open(&pod).await;
        let (dnpipe, from) = ("shop/orders".parse().unwrap(), From::Last(0));
        let (max_bytes, max_records, wait_millis) = (1, 1, 30_000);
        let pull = Request::Pull { dnpipe, partition: 0, from, max_bytes, max_records, wait_millis };
        raw.ask(7, &pull).await;
        raw.ask(7, &pull).await;
        raw.closed().await;
        // No request at all: that one is refused, and the next is answered.
        let (mut raw, _) = Raw::open(&pod).await;
        let mut out = Vec::new();
        write_frame(1, &u64::MAX, 0, &mut out).unwrap();
        write_frame(2, &Request::Ping, 0, &mut out).unwrap();
        raw.0.write_all(&out).await.unwrap();
        let answers = raw.answers(2).await;
        assert!(matches!(answers[0], (1, Answer::Refused(Refusal::Bad { .. }))), "{answers:?}");
        assert_eq!(answers[1], (2, Answer::Pong));
        is_well(&pod).await;
    });
}

/// What clients of gRPC begin with.
#[test]
fn who_speaks_http_2_is_told_to_speak_http_1() {
    let pod = Pod::start(&[]);
    pod.run(async {
        let said = loop {
            let (mut stream, mut said) = (UnixStream::connect(pod.path()).await.unwrap(), Vec::new());
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            let sent = stream.write_all(preface).await;
            stream.shutdown().await.unwrap();
            // Where the greeting took too long, there is no answer.
            if sent.is_ok() && stream.read_to_end(&mut said).await.is_ok_and(|count| count > 0) {
                break said;
            }
        };
        let (settings, goaway) = said.split_at(9);
        assert_eq!(settings, b"\0\0\0\x04\0\0\0\0\0");
        assert_eq!((goaway[2] as usize, goaway[3]), (goaway.len() - 9, 7), "a whole GOAWAY");
        // HTTP_1_1_REQUIRED, and no stream was begun.
        assert_eq!(&goaway[9..17], [0, 0, 0, 0, 0, 0, 0, 13]);
        assert!(String::from_utf8_lossy(&goaway[17..]).contains("HTTP/1.1"));
    });
}

#[test]
fn connections_that_say_nothing_and_frames_that_are_only_announced_hold_up_nobody() {
    let mut servers = Servers::start(21, 1);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    pod.run(async {
        let mut silent = Vec::new();
        for _ in 0..2000 {
            // The kernel refuses more than it lets wait.
            silent.extend(UnixStream::connect(pod.path()).await);
        }
        assert!(silent.len() > 64, "{} were let in, or wait for it", silent.len());
        is_well(&pod).await;
        drop(silent);

        let mut greedy = Vec::new();
        while greedy.len() < 60 {
            let (mut raw, verdict) = Raw::open(&pod).await;
            // Those before it may not be gone yet.
            if verdict == (Verdict::Welcome { version: 1 }) {
                raw.0.write_all(&(FRAME_BYTES_MAX as u32 - 4).to_le_bytes()).await.unwrap();
                greedy.push(raw);
            }
        }
        is_well(&pod).await;
    });
}

#[test]
fn one_connection_more_than_there_may_be_is_told_so_and_let_in_when_another_ends() {
    let pod = Pod::start(&[]);
    let welcome = Verdict::Welcome { version: 1 };
    pod.run(async {
        let mut open = Vec::new();
        for _ in 0..64 {
            let (raw, verdict) = Raw::open(&pod).await;
            assert_eq!(verdict, welcome);
            open.push(raw);
        }
        assert_eq!(Raw::open(&pod).await.1, Verdict::Busy);
        assert_eq!(pod.http_now("GET", "/v1/dnpipes", "").await.0, 503);
        open.pop();
        while Raw::open(&pod).await.1 != welcome {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
