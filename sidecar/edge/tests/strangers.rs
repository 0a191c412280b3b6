//! The refusal matrix: every way to be the wrong peer, at the edge listener and as the one who is dialled. Each is refused
//! with its own logged reason, and no event passes.

#[path = "../../trust/tests/world/forged.rs"]
mod forged;
#[path = "world/log.rs"]
mod log;
#[path = "../../trust/tests/world/outdated.rs"]
mod outdated;
mod world;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use forged::{Forge, GOOD, Wrong};
use log::Log;
use rustls::{ClientConfig, ServerConfig, crypto::aws_lc_rs, sign::SingleCertAndKey};
use sidestream_edge::{
    EdgeSender, Peering, Target, Transport,
    link::{Frame, Hello, Refused, Sending, Welcome},
};
use sidestream_event::frame::Writer;
use sidestream_trust::{anonymous_client_config, server_name};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use world::{Seen, Source, World, edge, id, receive, until, world};

const TRANSPORT: Transport = Transport::Tcp;
const ALPN: &[&[u8]] = &[b"sidestream-edge/1"];

// ---- at the listener

#[tokio::test]
async fn every_caller_that_is_not_believed_is_turned_away_for_its_own_reason() {
    let (log, world) = (Log::begin(), world());
    let (hub, seen) = hub_of(&world).await;
    let (mut refused, mut good) = (0, 0);
    for Wrong { case, forged, of_client, .. } in Forge::new(&world.authority, &world.clock).all() {
        let met = call(hub.address(), forged.client(ALPN), &payload()).await;
        if of_client == GOOD {
            good += 1;
            until(case, || seen.all().len() == good).await;
            continue;
        }
        assert!(met.answer.is_empty(), "{case}: it was answered {:?}", met.answer);
        let caller = format!("caller={}", met.from);
        until(case, || log.says(&[&caller, "edge refused: no trust", of_client])).await;
        refused += 1;
    }
    assert!(refused >= 40 && good == 1, "{refused} were refused, and {good} were good");
    assert_eq!((seen.all().len(), hub.edges()[0].batches), (1, 1), "an event of a stranger passed");
}

#[tokio::test]
async fn every_caller_that_speaks_otherwise_is_turned_away_for_its_own_reason() {
    let (log, world) = (Log::begin(), world());
    let (hub, seen) = hub_of(&world).await;
    let forge = Forge::new(&world.authority, &world.clock);
    let good = forge.leaf(|_| {});
    let old = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(forged::Gullible))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(good.certified())));
    let nameless =
        anonymous_client_config(&world.authority.anchors(), &id("hub"), ALPN, &world.clock).unwrap();
    let handshakes: [(&str, Arc<ClientConfig>, &str); 3] = [
        ("TLS 1.2", Arc::new(old), "peer is incompatible"),
        ("no certificate", nameless, "sent no certificates"),
        ("another protocol", good.client(&[b"h2"]), "doesn't support any known protocol"),
    ];
    for (case, config, reason) in handshakes {
        let met = call(hub.address(), config, &payload()).await;
        assert!(met.answer.is_empty(), "{case}: it was answered {:?}", met.answer);
        let caller = format!("caller={}", met.from);
        until(case, || log.says(&[&caller, "edge refused: no trust", reason])).await;
    }
    let plain: [(&str, Vec<u8>); 4] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n".to_vec()),
        ("the edge protocol without TLS", payload()),
        ("noise", vec![0xff; 4096]),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 40]),
    ];
    for (case, bytes) in plain {
        let met = say(TcpStream::connect(hub.address()).await.unwrap(), &bytes).await;
        // At most an alert comes back (RFC 8446, section 6).
        assert!(met.answer.len() <= 7, "{case}: it was answered {:?}", met.answer);
        let caller = format!("caller={}", met.from);
        until(case, || log.says(&[&caller, "edge refused: no trust"])).await;
    }
    assert!(seen.all().is_empty() && hub.edges()[0].connections == 0);
}

#[tokio::test]
async fn every_believed_caller_that_says_something_wrong_is_turned_away_for_its_own_reason() {
    let (log, world) = (Log::begin(), world());
    let (hub, seen) = hub_of(&world).await;
    let good = Forge::new(&world.authority, &world.clock).leaf(|_| {});
    let written = |frame: Frame| {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        bytes
    };
    let hello = |change: fn(&mut Hello)| {
        let Frame::Hello(mut hello) =
            Sending::<(), world::Nothing>::new(1).hello(&edge().pipeline, &edge().edge)
        else {
            unreachable!()
        };
        change(&mut hello);
        written(Frame::Hello(hello))
    };
    let batch = written(Frame::Batch { sequence: 0, events: Bytes::from_static(b"x") });
    let too_long = written(Frame::Batch { sequence: 0, events: vec![0; 3000].into() });
    let silent: [(&str, Vec<u8>, &str); 7] = [
        ("a frame of four gigabytes", vec![0xff; 64], "a frame of 4294967295 bytes"),
        ("a frame of no bytes", vec![0; 4], "a frame of 0 bytes"),
        ("a first frame that is long", too_long, "a frame of 3009 bytes"),
        ("a frame of no kind", vec![1, 0, 0, 0, 99], "a frame of kind 99"),
        ("a hello that is cut", vec![3, 0, 0, 0, 1, 1, 0], "a frame of kind 1 with a broken body"),
        ("a batch before the hello", batch, "anything but a hello must not come here"),
        ("a farewell", written(Frame::Bye), "anything but a hello must not come here"),
    ];
    for (case, bytes, reason) in silent {
        let met = call(hub.address(), good.client(ALPN), &bytes).await;
        assert!(met.answer.is_empty(), "{case}: it was answered {:?}", met.answer);
        let caller = format!("caller={}", met.from);
        until(case, || log.says(&[&caller, "edge refused:", reason])).await;
    }
    let told: [(&str, Vec<u8>, Refused); 3] = [
        ("version 0", hello(|hello| hello.version = 0), Refused::Version { oldest: 1 }),
        ("another pipeline", hello(|hello| hello.pipeline = "shop/other".into()), Refused::UnknownEdge),
        ("another edge", hello(|hello| hello.edge = "b->a".into()), Refused::UnknownEdge),
    ];
    for (case, bytes, refused) in told {
        let met = call(hub.address(), good.client(ALPN), &[bytes, payload()].concat()).await;
        assert_eq!(met.answer, written(Frame::Refuse(refused.clone())), "{case}");
        let (caller, reason) = (format!("caller={}", met.from), refused.to_string());
        until(case, || log.says(&[&caller, id("app").as_str(), "edge refused:", &reason])).await;
    }
    // The right words of another workload.
    let other = Forge::new(&world.authority, &world.clock)
        .leaf(|leaf| leaf.subject_alt_names = vec![forged::uri(id("other").as_str())]);
    let met = call(hub.address(), other.client(ALPN), &payload()).await;
    assert_eq!(met.answer, written(Frame::Refuse(Refused::NotAllowed)));
    until("the other is refused", || {
        log.says(&[id("other").as_str(), "the edge is declared for another sender"])
    })
    .await;
    assert!(seen.all().is_empty() && hub.edges()[0].connections == 0);
}

#[tokio::test]
async fn callers_that_say_nothing_are_turned_away_in_time_and_hold_up_nobody() {
    let (log, world) = (Log::begin(), world());
    let (hub, seen) = hub_of(&world).await;
    let good = Forge::new(&world.authority, &world.clock).leaf(|_| {});
    // More than handshakes are taken at once: those that wait behind them come in as soon as there is room.
    let mut mute = Vec::new();
    for _ in 0..40 {
        mute.push(TcpStream::connect(hub.address()).await.unwrap());
    }
    let shy = TcpStream::connect(hub.address()).await.unwrap();
    let _shy = TlsConnector::from(good.client(ALPN)).connect(server_name(), shy).await.unwrap();
    let met = call(hub.address(), good.client(ALPN), &payload()).await;
    assert!(!met.answer.is_empty());
    until("its event is there", || seen.all() == [0]).await;
    until("the mute are refused", || log.says(&["edge refused: no handshake in time"])).await;
    until("the shy is refused", || log.says(&["edge refused: no hello in time"])).await;
}

// ---- as the one who is dialled

#[tokio::test]
async fn every_receiver_that_is_not_believed_is_given_nothing_and_the_reason_is_logged() {
    let (log, world) = (Log::begin(), world());
    let app = world.process("hub").await;
    let mut refused = 0;
    for Wrong { case, forged, of_server, .. } in Forge::new(&world.authority, &world.clock).all() {
        let server = Impostor::shows(forged.server(ALPN), Vec::new()).await;
        let sender = send_to(&world, &app, case, server.address).await;
        if of_server == GOOD {
            until(case, || !server.heard().is_empty()).await;
        } else {
            let peer = format!("peer={}", server.address);
            until(case, || log.says(&[&peer, "not connected: no trust", of_server])).await;
            assert!(server.heard().is_empty(), "{case}: it was told {:?}", server.heard());
            refused += 1;
        }
        drop(sender);
    }
    assert!(refused >= 40, "{refused}");
}

#[tokio::test]
async fn every_receiver_that_speaks_otherwise_is_given_nothing_and_the_reason_is_logged() {
    let (log, world) = (Log::begin(), world());
    let app = world.process("hub").await;
    let good = Forge::new(&world.authority, &world.clock).leaf(|_| {});
    let shown = Arc::new(SingleCertAndKey::from(good.certified()));
    let old = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(shown);
    let other = Forge::new(&world.authority, &world.clock)
        .leaf(|leaf| leaf.subject_alt_names = vec![forged::uri(id("other").as_str())]);
    let welcome = |next, settled, version| {
        let node = String::new();
        Frame::Welcome(Welcome {
            version,
            session: 9,
            next,
            settled,
            released: settled,
            credit: 1 << 20,
            node,
        })
    };
    let written = |frame: Frame| {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        bytes
    };
    let servers: Vec<(&str, Impostor, &str)> = vec![
        ("TLS 1.2", Impostor::shows(Arc::new(old), Vec::new()).await, "no trust: received fatal alert"),
        ("another protocol", Impostor::shows(good.server(&[b"h2"]), Vec::new()).await, "no trust:"),
        (
            "another workload",
            Impostor::shows(other.server(ALPN), Vec::new()).await,
            "and `spiffe://cluster.local/ns/shop/sa/app` should be there",
        ),
        ("HTTP", Impostor::says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, "no trust: received corrupt"),
        ("noise", Impostor::says(&[0xff; 4096]).await, "no trust: received corrupt"),
        ("a plain welcome", Impostor::says(&written(welcome(0, 0, 1))).await, "no trust: received corrupt"),
    ];
    for (case, server, reason) in servers {
        let _sender = send_to(&world, &app, case, server.address).await;
        let peer = format!("peer={}", server.address);
        until(case, || log.says(&[&peer, reason])).await;
        assert!(server.heard().is_empty(), "{case}: it was told {:?}", server.heard());
    }
    // These prove who they are; they hear a hello, and no event.
    let answers: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a frame of four gigabytes", vec![0xff; 64], "a frame of 4294967295 bytes"),
        ("a frame of no kind", vec![1, 0, 0, 0, 99], "a frame of kind 99"),
        ("a farewell", written(Frame::Bye), "anything but a welcome"),
        ("a version of the future", written(welcome(0, 0, 99)), "a welcome in another version"),
        ("what was never sent", written(welcome(7, 0, 1)), "an acknowledgement of 7 batches"),
        ("more than was taken", written(welcome(0, 3, 1)), "an acknowledgement of 3 batches"),
        (
            "a refusal",
            written(Frame::Refuse(Refused::Draining)),
            "the peer refuses: the receiver is draining",
        ),
    ];
    for (case, answer, reason) in answers {
        let server = Impostor::shows(good.server(ALPN), answer).await;
        let _sender = send_to(&world, &app, case, server.address).await;
        let peer = format!("peer={}", server.address);
        until(case, || log.says(&[&peer, reason])).await;
        assert!(!server.has_heard_events(), "{case}: it was told {:?}", server.heard());
    }
}

// ---- helpers

async fn hub_of(world: &World) -> (Peering, Seen) {
    let hub = world.process("hub").await;
    let seen = Seen::default();
    // It ends with the runtime of the test.
    drop(seen.watch(receive(&hub, "app")));
    (hub, seen)
}

/// A hello and a batch of one event, 0: what a sender that is let in would say.
fn payload() -> Vec<u8> {
    let (mut bytes, mut events, mut writer) = (Vec::new(), Vec::new(), Writer::default());
    // A sender's name is its own: who comes twice under one name would be taken for one who repeats itself.
    let session = u128::from(sidestream_host::Random::from_entropy().next_u64());
    Sending::<(), world::Nothing>::new(session).hello(&edge().pipeline, &edge().edge).write(&mut bytes);
    writer.begin(&mut events);
    let batch = Arc::new(Source::default()).batch(0, 1);
    writer.write(&batch.events()[0], &mut events).unwrap();
    Frame::Batch { sequence: 0, events: events.into() }.write(&mut bytes);
    bytes
}

/// What came of a call.
struct Met {
    from: SocketAddr,
    answer: Vec<u8>,
}

/// Calls, and says `bytes` if the handshake lets it.
async fn call(address: SocketAddr, config: Arc<ClientConfig>, bytes: &[u8]) -> Met {
    let tcp = TcpStream::connect(address).await.unwrap();
    let from = tcp.local_addr().unwrap();
    match TlsConnector::from(config).connect(server_name(), tcp).await {
        Ok(stream) => Met { from, answer: talk(stream, bytes).await },
        Err(_) => Met { from, answer: Vec::new() },
    }
}

async fn say(stream: TcpStream, bytes: &[u8]) -> Met {
    Met { from: stream.local_addr().unwrap(), answer: talk(stream, bytes).await }
}

/// Says `bytes`, and hears until something has come or the other end has gone.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::with_capacity(4096);
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut answer)).await;
    answer
}

/// A sender that has a batch for whoever is at `address`.
async fn send_to(world: &World, app: &Peering, case: &str, address: SocketAddr) -> EdgeSender {
    world.dns.set(case, [address]);
    let target =
        Target { name: edge(), service: case.into(), identity: id("app"), slots: None, transport: TRANSPORT };
    let mut sender = app.send_to(target);
    let batch = Arc::new(Source::default()).batch(0, 1);
    let sent = tokio::time::timeout(Duration::from_millis(20), sender.send(&batch)).await;
    assert!(sent.is_err(), "{case}: the batch was taken");
    sender
}

/// Somebody who listens where a receiver should be, and keeps what it is told.
struct Impostor {
    address: SocketAddr,
    heard: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Impostor {
    /// With TLS: shows what `config` has, and says `answer` as soon as it hears something.
    async fn shows(config: Arc<ServerConfig>, answer: Vec<u8>) -> Impostor {
        Impostor::listen(move |stream, heard| {
            let (config, answer) = (config.clone(), answer.clone());
            async move {
                let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                let mut bytes = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut bytes).await {
                    heard.lock().unwrap().append(&mut bytes);
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.flush().await;
                }
            }
        })
        .await
    }

    /// Without TLS. What it hears then is a ClientHello, and that is no event.
    async fn says(bytes: &[u8]) -> Impostor {
        let bytes = bytes.to_vec();
        Impostor::listen(move |mut stream, _| {
            let bytes = bytes.clone();
            async move {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await
    }

    async fn listen<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream, Arc<std::sync::Mutex<Vec<u8>>>) -> F + Send + 'static,
    ) -> Impostor {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let heard: Arc<std::sync::Mutex<Vec<u8>>> = Arc::default();
        let keeps = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(serve(stream, keeps.clone()));
            }
        });
        Impostor { address, heard }
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }

    /// Whether anything but hellos came.
    fn has_heard_events(&self) -> bool {
        let mut reader = sidestream_edge::link::FrameReader::new(1 << 20);
        reader.buffer().extend_from_slice(&self.heard());
        while let Ok(Some(frame)) = reader.next_frame() {
            if !matches!(frame, Frame::Hello(_)) {
                return true;
            }
        }
        false
    }
}
