//! The `http` source.

use std::{net::SocketAddr, time::Duration};

use sidestream_connector::{Secrets, build};
use sidestream_event::{Outcome, Value};
use sidestream_plan::{SecretKey, SecretRef, Size, Source, stage::Http};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    peer::{free_port, header, request},
    world::{Running, env, source},
};

fn stage(port: u16) -> Http {
    Http { listen: format!("127.0.0.1:{port}"), path: Some("/in".into()), max_body: None, credentials: None }
}

/// The source at work, and where.
async fn serve(change: impl FnOnce(&mut Http), limit: usize) -> (Running, SocketAddr) {
    let port = free_port();
    let mut stage = stage(port);
    change(&mut stage);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("door")).unwrap();
    std::fs::write(folder.path().join("door/token"), "s3cret").unwrap();
    let running = Running::new(source(Source::Http(stage), Secrets::at(folder.path())), limit);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..200 {
        if TcpStream::connect(address).await.is_ok() {
            return (running, address);
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("nobody listens on {address}")
}

/// POSTs on a task of its own, because the answer waits for the receipt.
fn post(address: SocketAddr, headers: &str, body: &'static str) -> tokio::task::JoinHandle<(u16, String)> {
    let head = format!("POST /in HTTP/1.1{}{headers}", if headers.is_empty() { "" } else { "\r\n" });
    tokio::spawn(async move {
        let (status, answer) = request(address, &head, body.as_bytes()).await;
        (status, answer.body)
    })
}

/// Ends a batch as a sink does that has delivered it.
fn deliver(mut batch: sidestream_event::Batch) {
    batch.finish();
}

#[tokio::test]
async fn the_answer_comes_when_the_events_have_ended_and_not_before() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let answer = post(address, "content-type: application/json", r#"{"n":1}"#);
    let batch = running.next().await;
    assert_eq!(batch.events()[0].body, [("n", 1)].into_iter().collect());
    assert_eq!(batch.events()[0].meta.source, "in");
    sleep(Duration::from_millis(100)).await;
    assert!(!answer.is_finished());
    deliver(batch);
    assert_eq!(answer.await.unwrap(), (202, String::new()));
    assert_eq!(running.origin.ledger().completed, 1);
}

#[tokio::test]
async fn the_answer_says_whether_it_is_worth_trying_again() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let unfit = "1 of 3 events could not be handled and were dropped; the log of the pipeline says which stage and why\n";
    for (outcome, expected) in [
        (Outcome::Dropped, (503, "1 of 3 events were dropped or expired; try again\n".to_owned())),
        (Outcome::Expired, (503, "1 of 3 events were dropped or expired; try again\n".to_owned())),
        (Outcome::Unfit, (422, unfit.to_owned())),
        (Outcome::DeadLettered, (202, String::new())),
    ] {
        let answer = post(address, "content-type: application/x-ndjson", "1\n2\n3\n");
        let batch = running.next().await;
        assert_eq!(batch.len(), 3);
        batch.mark().end(batch.events()[1].meta.sequence, outcome);
        deliver(batch);
        assert_eq!(answer.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn json_that_came_as_text_and_fits_no_stage_is_told_what_to_send() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let answer = post(address, "", r#"{"id":1}"#);
    let batch = running.next().await;
    batch.mark().end(batch.events()[0].meta.sequence, Outcome::Unfit);
    deliver(batch);
    let (status, text) = answer.await.unwrap();
    assert_eq!(status, 422);
    assert!(text.contains("taken as text: send `content-type: application/json`"), "{text}");
    // As curl sends it where nobody says what it is: nothing is taken at all.
    let (status, text) =
        post(address, "content-type: application/x-www-form-urlencoded", r#"{"id":1}"#).await.unwrap();
    assert_eq!(status, 415);
    assert!(text.contains("send `content-type: application/json`"), "{text}");
    assert_eq!(running.origin.ledger().accepted, 1);
}

#[tokio::test]
async fn full_stages_are_answered_429_and_nothing_is_taken() {
    let (mut running, address) = serve(|_| {}, 1).await;
    let first = post(address, "", "one");
    while running.origin.ledger().accepted == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let (status, answer) = request(address, "POST /in HTTP/1.1", b"two").await;
    assert_eq!(status, 429, "{}", answer.body);
    assert_eq!(header(&answer.head, "retry-after"), Some("1"));
    let batch = running.next().await;
    assert_eq!(batch.events()[0].body, Value::from("one"));
    deliver(batch);
    assert_eq!(first.await.unwrap().0, 202);
    assert_eq!(running.origin.ledger().accepted, 1);
}

#[tokio::test]
async fn requests_that_bring_no_events_are_told_why() {
    let (running, address) = serve(|stage| stage.max_body = Some(Size::from_bytes(10)), 8192).await;
    let said = async |head: &str, body: &str| {
        let (status, answer) = request(address, head, body.as_bytes()).await;
        (status, answer)
    };
    let (status, answer) = said("POST /in HTTP/1.1\r\ncontent-type: application/json", "{\"a\":}").await;
    assert_eq!(
        (status, answer.body.as_str()),
        (
            400,
            "the body is not JSON: expected value at line 1 column 6; send one value, or \
             `content-type: application/x-ndjson` for one a line\n"
        )
    );
    assert_eq!(said("POST /in HTTP/1.1", "12345678901").await.1.body, "a body may be at most 10\n");
    assert_eq!(said("POST /in HTTP/1.1", "12345678901").await.0, 413);
    assert_eq!(said("POST /in HTTP/1.1", &"x".repeat(1 << 20)).await.0, 413);
    assert_eq!(said("POST /out HTTP/1.1", "1").await.0, 404);
    let (status, answer) = said("GET /in HTTP/1.1", "").await;
    assert_eq!((status, header(&answer.head, "allow")), (405, Some("POST")));
    assert_eq!(said("POST /in HTTP/1.1\r\ncontent-type: application/x-ndjson", "\n\n").await.0, 202);
    assert_eq!(running.origin.ledger().accepted, 0);
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_off_at_the_limit_too() {
    let (running, address) = serve(|stage| stage.max_body = Some(Size::from_bytes(10)), 8192).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = "POST /in HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(running.origin.ledger().accepted, 0);
}

#[tokio::test]
async fn bodies_being_read_are_bounded_together() {
    let (mut running, address) = serve(|stage| stage.max_body = Some(Size::from_bytes(32 << 20)), 8192).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"POST /in HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(50)).await;
    let (status, text) = post(address, "", "x").await.unwrap();
    assert_eq!((status, text.as_str()), (429, "too many bodies are being read; try again\n"));
    first.write_all(b"1\r\na\r\n0\r\n\r\n").await.unwrap();
    deliver(running.next().await);
    let answer = post(address, "", "x");
    deliver(running.next().await);
    assert_eq!(answer.await.unwrap().0, 202);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let (_running, address) = serve(|_| {}, 8192).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /in HTTP/1.1\r\nhost: here\r\nx: {}", "x".repeat(80 << 10));
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn only_the_right_token_opens_the_door() {
    let credentials = SecretRef { secret_ref: SecretKey { name: "door".into(), key: "token".into() } };
    let (mut running, address) = serve(|stage| stage.credentials = Some(credentials), 8192).await;
    for headers in
        ["", "authorization: Bearer s3creT", "authorization: Bearer s3cret2", "authorization: Basic s3cret"]
    {
        let (status, text) = post(address, headers, "x").await.unwrap();
        assert_eq!(status, 401, "{headers}: {text}");
    }
    let answer = post(address, "authorization: Bearer s3cret", "x");
    deliver(running.next().await);
    assert_eq!(answer.await.unwrap().0, 202);
}

#[tokio::test]
async fn trace_context_travels_with_the_events_and_a_content_type_with_text() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    post(address, &format!("traceparent: {trace}\r\ncontent-type: text/csv\r\nx-other: 1"), "a,b");
    let batch = running.next().await;
    let meta = &batch.events()[0].meta;
    assert_eq!(meta.context.as_ref().unwrap().traceparent.as_deref(), Some(trace));
    assert_eq!(meta.header("content-type"), Some("text/csv"));
    assert_eq!(meta.header("x-other"), None);
    post(address, "traceparent: 00-zz\r\ncontent-type: application/json", "1");
    assert_eq!(running.next().await.events()[0].meta.context, None);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_nothing_back() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let answer = post(address, "", "kept");
    let batch = running.next().await;
    answer.abort();
    sleep(Duration::from_millis(50)).await;
    deliver(batch);
    assert_eq!(running.origin.ledger().completed, 1);
    // One that breaks off before its body is whole has brought nothing.
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"POST /in HTTP/1.1\r\nhost: here\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    drop(socket);
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"\x16\x03\x01 no HTTP at all\r\n\r\n").await.unwrap();
    drop(socket);
    let answer = post(address, "", "next");
    let batch = running.next().await;
    assert_eq!(batch.events()[0].body, Value::from("next"));
    deliver(batch);
    assert_eq!(answer.await.unwrap().0, 202);
}

#[tokio::test]
async fn one_connection_carries_request_after_request() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        socket.write_all(b"POST /in HTTP/1.1\r\nhost: here\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
        deliver(running.next().await);
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 202");
        let mut rest = [0; 512];
        timeout(Duration::from_millis(50), socket.read(&mut rest)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn asked_to_stop_it_answers_what_it_holds_and_takes_no_more() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let held = post(address, "", "held");
    let batch = running.next().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"POST /in HTTP/1.1\r\nhost: here\r\ncontent-length: 1\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(50)).await;
    running.stop();
    sleep(Duration::from_millis(50)).await;
    assert!(TcpStream::connect(address).await.is_err(), "the port is free at once");
    idle.write_all(b"x").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    deliver(batch);
    assert_eq!(held.await.unwrap().0, 202);
    assert_eq!(running.origin.ledger().accepted, 1);
    running.ended().await.unwrap();
}

#[tokio::test]
async fn a_request_still_waiting_does_not_hold_up_the_stop_and_is_answered_later() {
    let (mut running, address) = serve(|_| {}, 8192).await;
    let held = post(address, "", "held");
    let batch = running.next().await;
    running.stop();
    running.ended().await.unwrap();
    assert!(!held.is_finished());
    deliver(batch);
    assert_eq!(held.await.unwrap().0, 202);
}

#[tokio::test]
async fn a_port_in_use_is_a_failure_that_names_the_address_and_the_cure() {
    let (running, address) = serve(|_| {}, 8192).await;
    let second = Running::new(source(Source::Http(stage(address.port())), Secrets::default()), 8192);
    let failure = second.ended().await.unwrap_err().to_string();
    let opened = source(Source::Http(stage(address.port())), Secrets::default()).open();
    assert_eq!(opened.unwrap_err().to_string(), failure, "it is said before anything runs");
    assert!(failure.starts_with(&format!("cannot listen on {address}")), "{failure}");
    assert!(
        failure.contains("another program has the port: stop it, or write another in `listen`"),
        "{failure}"
    );
    drop(running);
}

#[test]
fn a_door_that_nobody_or_everybody_could_enter_is_refused() {
    let refused = |stage, secrets| match build::source(&Source::Http(stage), &env(secrets)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was built"),
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("door")).unwrap();
    std::fs::write(folder.path().join("door/token"), "\n").unwrap();
    let credentials = SecretRef { secret_ref: SecretKey { name: "door".into(), key: "token".into() } };
    let secured = Http { credentials: Some(credentials), ..stage(1) };
    assert!(refused(secured.clone(), Secrets::at(folder.path())).contains("open the door to everyone"));
    assert!(refused(secured, Secrets::default()).contains("pass --secrets DIR"));
    let lost = Http { path: Some("in".into()), ..stage(1) };
    assert_eq!(refused(lost, Secrets::default()), "`path`: `in` is no path; write `/in`");
}

#[test]
fn a_listen_address_without_a_port_is_refused() {
    for listen in ["8080", ":8080", "localhost", "localhost:99999"] {
        let stage = Http { listen: listen.into(), ..stage(1) };
        let Err(error) = build::source(&Source::Http(stage), &env(Secrets::default())) else {
            panic!("{listen}")
        };
        assert_eq!(error.field, "listen");
        assert!(error.reason.contains("127.0.0.1:8080"), "{error}");
    }
}
