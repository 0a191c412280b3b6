//! What callers of gRPC say, with bytes of it changed: whatever comes of it, the server goes on, and no task of it panics.

mod dial;
mod world;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dial::Dnpipes;
use hyper_util::rt::TokioIo;
use proto::{consume_request, subscribe_request};
use sidestream_client::{ProducerConfig, Record};
use sidestream_gateway::{Limits, proto};
use sidestream_host::Random;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::UnixStream,
    time::timeout,
};
use world::{World, world};

const NOTES: &str = "shop/notes";
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(15);
const ROUNDS: u64 = 300;

/// A client, and what it says as it says it.
async fn overheard(world: &World) -> (Dnpipes, Arc<Mutex<Vec<u8>>>) {
    let (near, far) = duplex(1 << 20);
    let server = UnixStream::connect(world.socket()).await.unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(pass_on(far, server, said.clone()));
    let near = Mutex::new(Some(TokioIo::new(near)));
    let dial = tower::service_fn(move |_: tonic::transport::Uri| {
        let near = near.lock().unwrap().take();
        async move { near.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://dnpipes");
    (Dnpipes::new(endpoint.connect_with_connector(dial).await.unwrap()), said)
}

async fn pass_on(client: DuplexStream, server: UnixStream, said: Arc<Mutex<Vec<u8>>>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let asking = async {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            said.lock().unwrap().extend_from_slice(&bytes[..count]);
            if to_server.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    let answering = tokio::io::copy(&mut from_server, &mut to_client);
    let _ = tokio::join!(asking, answering);
}

/// A bit of everything that there is to say.
async fn conversation(world: &World) -> Vec<u8> {
    let (mut client, said) = overheard(world).await;
    let record = |value: &str| proto::Record {
        value: value.to_owned().into(),
        key: Some("k".into()),
        time: Some(1),
        headers: vec![proto::Header { name: "n".into(), value: "v".into() }],
    };
    let push = |value: &str| proto::PushRequest {
        dnpipe: NOTES.into(),
        records: [record(value), record("")].into_iter().collect(),
        ..Default::default()
    };
    client.list(proto::ListRequest::default()).await.unwrap();
    let producer = Some(proto::Producer { id: 7, ..Default::default() });
    client.push(proto::PushRequest { producer, ..push("first") }).await.unwrap();
    client.push(push(&"large".repeat(8000))).await.unwrap();
    client.pull(proto::PullRequest { dnpipe: NOTES.into(), ..Default::default() }).await.unwrap();
    let mut told = client.publish(tokio_stream::iter([push("a"), push("b")])).await.unwrap().into_inner();
    while told.message().await.unwrap().is_some() {}
    let credit = proto::Credit { records: Some(2), bytes: Some(100) };
    let begin = subscribe_request::Begin { dnpipe: NOTES.into(), credit: Some(credit), ..Default::default() };
    // It ends when all that is granted is sent: there is more.
    let requests = [subscribe_request::Request::Begin(begin), subscribe_request::Request::Credit(credit)];
    let requests = requests.map(|request| proto::SubscribeRequest { request: Some(request) });
    let mut told = client.subscribe(tokio_stream::iter(requests)).await.unwrap().into_inner();
    while told.message().await.unwrap().is_some() {}
    let member = proto::Member { dnpipe: NOTES.into(), group: "g".into(), name: "m".into() };
    let begin = consume_request::Begin { member: Some(member), credit: Some(credit), ..Default::default() };
    let acked = consume_request::Offsets { partition: 0, ranges: vec![proto::Range { from: 0, to: 1 }] };
    let requests = [consume_request::Request::Begin(begin), consume_request::Request::Ack(acked)];
    let requests = requests.map(|request| proto::ConsumeRequest { request: Some(request) });
    let mut told = client.consume(tokio_stream::iter(requests)).await.unwrap().into_inner();
    while told.message().await.unwrap().is_some() {}
    let said = said.lock().unwrap();
    said.clone()
}

/// As it is said by somebody who has bad luck, or means ill.
fn changed(said: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = said.to_vec();
    let below = |random: &mut Random, most: usize| random.below(most as u64) as usize;
    for _ in 0..=random.below(2) {
        // Most of what is said first is heads and prefixes; what is large is values.
        let at = below(random, bytes.len().min(4000));
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..(at + 1 + below(random, 20)).min(bytes.len()))),
            3 => {
                let again = bytes[at..(at + 1 + below(random, 60)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.truncate(at.max(24)),
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_the_server_goes_on() {
    let panics = Arc::new(Mutex::new(Vec::new()));
    let noted = panics.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        noted.lock().unwrap().push(panic.to_string());
        before(panic);
    }));
    // Who says half of something is not waited for.
    let world = world(Limits { frame: Duration::from_millis(200), ..Limits::default() }).await;
    let said = conversation(&world).await;
    assert!(said.starts_with(b"PRI * HTTP/2.0"));
    let mut random = Random::seeded(0x6e7c);
    for round in 0..ROUNDS {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        // A server that has heard enough does not take the rest.
        let _ = stream.write_all(&changed(&said, &mut random)).await;
        let mut answer = Vec::new();
        // Until it has no more to say for now: who hangs up is not heard to the end.
        while let Ok(Ok(1..)) = timeout(QUIET, stream.read_buf(&mut answer)).await {}
        let _ = stream.shutdown().await;
        let heard = timeout(LONG, stream.read_to_end(&mut answer)).await;
        assert!(heard.is_ok(), "round {round}: it is neither answered nor ended");
    }
    let producer = world.local().producer(NOTES, ProducerConfig::default()).await.unwrap();
    producer.push(Record::new("well")).await.unwrap().await.unwrap();
    assert_eq!(*panics.lock().unwrap(), [""; 0]);
}
