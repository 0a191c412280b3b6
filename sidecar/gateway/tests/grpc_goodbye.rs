//! How connections of HTTP/2 end from this side: whoever is at the other end is told.

mod world;

use std::time::Duration;

use prost::Message;
use sidestream_gateway::{Limits, proto};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use world::{World, world};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Nothing may be sent on a stream before its window grows (RFC 9113, section 6.5.2).
const NO_WINDOWS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
const GOAWAY: u8 = 7;

/// A connection that has said this, and to which the server has said its settings.
async fn begun(world: &World, said: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut settings = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut settings).await.unwrap();
    stream
}

/// The kinds of the frames that come until the other end closes the connection.
async fn to_the_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = timeout(LONG, stream.read_to_end(&mut said)).await.expect("it is closed");
    let (mut rest, mut kinds) = (&said[..], Vec::new());
    while let Some([a, b, c, kind, ..]) = rest.first_chunk::<9>() {
        kinds.push(*kind);
        rest = rest.get(9 + u32::from_be_bytes([0, *a, *b, *c]) as usize..).unwrap_or_default();
    }
    kinds
}

/// A whole call of one message, as the first of a connection. Nothing of its head is compressed (RFC 7541, section 6.2.2).
fn call(method: &str, message: &[u8]) -> Vec<u8> {
    let path = format!("/sidestream.dnpipe.v1.Dnpipes/{method}");
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", &*path), (":authority", "x")];
    let mut head = Vec::new();
    for (name, value) in fields.into_iter().chain([("content-type", "application/grpc"), ("te", "trailers")])
    {
        head.extend(
            [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat(),
        );
    }
    let data = [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
    let frame = |kind: u8, flags: u8, bytes: &[u8]| {
        let [_, a, b, c] = (bytes.len() as u32).to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1], bytes].concat()
    };
    // The head is whole, and after the data there is no more.
    [frame(1, 4, &head), frame(0, 1, &data)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_asked_nothing_keeps_no_process_from_its_end() {
    for said in [PREFACE, &[PREFACE, NO_SETTINGS].concat(), &PREFACE[..12]] {
        let world = world(Limits::default()).await;
        let mut stream = begun(&world, said).await;
        timeout(LONG, world.gateway.close(2 * LONG)).await.expect("before the grace period is over");
        let told = to_the_end(&mut stream).await;
        // Who has not said whole what it speaks is told nothing.
        assert!(told.contains(&GOAWAY) || said.len() < PREFACE.len(), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_its_answers_is_told_that_the_connection_ends() {
    let world = world(Limits { silence: Duration::from_millis(300), ..Limits::default() }).await;
    let pull = proto::PullRequest { dnpipe: "shop/notes".into(), ..Default::default() }.encode_to_vec();
    let mut stream = begun(&world, &[PREFACE, NO_WINDOWS, &call("Pull", &pull)].concat()).await;
    let told = to_the_end(&mut stream).await;
    assert!(told.contains(&1), "it is answered: {told:?}");
    assert!(told.contains(&GOAWAY), "{told:?}");
}
