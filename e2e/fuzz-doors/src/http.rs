//! Requests of HTTP at the door of a gateway: heads, paths, queries and bodies, from the first byte of a connection to its end.
//!
//! ```text
//!   input ══▶ Gateway::serve ─▶ greeting ─▶ hyper ─▶ the routes ─▶ broker, whose dnpipe is full
//!         ◀══ answers, each of which is looked at
//! ```

use std::cell::RefCell;

use sidestream_event::native::MAGIC;
use sidestream_fuzz::counted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

/// Tries one input.
///
/// # Panics
/// Where an answer is none that the documents know.
pub fn run(bytes: &[u8]) {
    if OTHERS.iter().any(|greeting| bytes.starts_with(greeting)) {
        return;
    }
    thread_local!(static WORLD: RefCell<Option<World>> = const { RefCell::new(None) });
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        let (answers, made) = counted(|| ask(world, bytes));
        let count = check(bytes, &answers);
        // A record may have a MiB; the room for one that is only announced is not made.
        let most = (1 + count) * (400 << 10) + bytes.len() * 256;
        assert!(made <= most, "{made} bytes were made for {count} answers, where {most} are the most");
    });
}

/// A request of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        "GET /v1/dnpipes HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /v1/dnpipes/a/b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "GET /v1/dnpipes/a/b/records?from=last:2&partition=0&max=7&wait=9 HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /v1/dnpipes/a/b/records?from=time:-1 HTTP/1.0\r\n\r\n",
        "POST /v1/dnpipes/a/b/records?key=k&ifEpoch=0&ifNext=4 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nsidestream-header-a: b\r\n\r\nhello",
        "POST /v1/dnpipes/a/b/records HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /v1/dnpipes/a/b/records HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\nx",
        "GET /v1/dnpipes/a/b/events?from=1 HTTP/1.1\r\nhost: x\r\nlast-event-id: 1\r\n\r\n",
        "POST /v1/dnpipes/a/b/reset HTTP/1.1\r\nhost: x\r\n\r\n",
        "DELETE /v1/dnpipes/a/%62 HTTP/1.1\r\nhost: x\r\n\r\nHEAD /v1/dnpipes HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    requests.iter().map(|request| request.as_bytes().to_vec()).collect()
}

/// All that is answered to a caller who says this and then nothing more.
fn ask(world: &mut World, bytes: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    world.connected(|mut own| {
        let answers = &mut answers;
        async move {
            // A server that has refused reads no more.
            let _ = own.write_all(bytes).await;
            let _ = own.read_to_end(answers).await;
        }
    });
    answers
}

/// How many answers there are; each is one that the documents know.
fn check(asked: &[u8], mut answers: &[u8]) -> usize {
    // Answers to HEAD say how long what they do not have would be.
    let has_head = asked.windows(5).any(|five| five == b"HEAD ");
    let mut count = 0;
    while !answers.is_empty() {
        count += 1;
        let end = answers.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&answers[..end]).expect("a head is text").to_ascii_lowercase();
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status: u16 = line.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        assert!(line.starts_with("http/1.") && STATUSES.contains(&status), "{line}");
        answers = &answers[end + 4..];
        if status == 100 {
            continue;
        }
        let field = |name: &str| fields.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let Some(length) = field("content-length").and_then(|length| length.parse::<usize>().ok()) else {
            assert_eq!(field("content-type"), Some("text/event-stream"), "an answer of no length");
            return count;
        };
        if has_head {
            return count;
        }
        let (body, rest) = answers.split_at_checked(length).expect("a whole body");
        answers = rest;
        if length == 0 {
            // What is no request of HTTP at all is refused before it comes to us.
            assert!(matches!(status, 200 | 400 | 414 | 431 | 503), "{line} without a word");
            continue;
        }
        assert_eq!(field("content-type"), Some("application/json"), "{line}");
        let said: serde_json::Value = serde_json::from_slice(body).expect("an answer is JSON");
        let is_problem = said["code"].is_string() && said["error"].is_string();
        assert!(is_problem == (status >= 400), "{line}: {said}");
    }
    count
}

/// Who begins so is answered in another protocol, which has a target of its own.
const OTHERS: [&[u8]; 2] = [&MAGIC, b"PRI * HTTP/2"];
/// Of the table in `docs/reference/http-api.md`, and those of hyper's; no caller can make a server fail.
const STATUSES: [u16; 15] = [100, 200, 400, 403, 404, 405, 408, 409, 413, 414, 416, 421, 431, 503, 507];
