//! Every way to be the wrong peer, over QUIC: at the listener and as the one who is dialled.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{
    ClientConfig, Endpoint, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use sidestream_edge::{
    Target, Transport,
    link::{Frame, Refused, Sending},
};

use crate::{
    delivery::world::{Nothing, SERVICE, Seen, Source, edge, id, receive, until, world},
    forged::{Forge, GOOD, Wrong},
    log::Log,
};

const ALPN: &[&[u8]] = &[b"sidestream-edge/1"];

#[tokio::test]
async fn every_caller_that_is_not_believed_is_turned_away_for_its_own_reason() {
    let (log, world) = (Log::begin(), world());
    let hub = world.process("hub").await;
    let seen = Seen::default();
    drop(seen.watch(receive(&hub, "app")));
    let (mut refused, mut good) = (0, 0);
    for Wrong { case, forged, of_client, .. } in Forge::new(&world.authority, &world.clock).all() {
        let met = call(hub.address(), forged.client(ALPN)).await;
        if of_client == GOOD {
            assert!(!met.answer.is_empty(), "{case}");
            good += 1;
            continue;
        }
        assert!(met.answer.is_empty(), "{case}: it was answered {:?}", met.answer);
        let caller = format!("caller={}", met.from);
        until(case, || log.says(&[&caller, "edge refused: no trust", of_client])).await;
        refused += 1;
    }
    assert!(refused >= 40 && good == 1, "{refused} were refused, and {good} were good");
    assert_eq!((seen.all().len(), hub.edges()[0].batches), (0, 0));
    // Another workload of the same authority proves itself, and is told.
    let other = Forge::new(&world.authority, &world.clock)
        .leaf(|leaf| leaf.subject_alt_names = vec![crate::forged::uri(id("other").as_str())]);
    let met = call(hub.address(), other.client(ALPN)).await;
    let mut told = Vec::new();
    Frame::Refuse(Refused::NotAllowed).write(&mut told);
    assert_eq!(met.answer, told);
    let nothing = call(hub.address(), other.client(&[b"h3"])).await;
    assert!(nothing.answer.is_empty());
    until("another protocol is refused", || log.says(&["edge refused: no trust", "known protocol"])).await;
}

#[tokio::test]
async fn every_receiver_that_is_not_believed_is_given_nothing_and_the_reason_is_logged() {
    let (log, world) = (Log::begin(), world());
    let app = world.process("hub").await;
    let mut refused = 0;
    for Wrong { case, forged, of_server, .. } in Forge::new(&world.authority, &world.clock).all() {
        if of_server == GOOD {
            continue;
        }
        let crypto = QuicServerConfig::try_from(forged.server(ALPN)).unwrap();
        let server =
            Endpoint::server(ServerConfig::with_crypto(Arc::new(crypto)), ([127, 0, 0, 1], 0).into())
                .unwrap();
        let address = server.local_addr().unwrap();
        let opened = tokio::spawn(async move {
            let connection = server.accept().await.unwrap().await.ok()?;
            // It opens its stream only to whom it believes.
            tokio::time::timeout(Duration::from_millis(100), connection.accept_bi()).await.ok()?.ok()
        });
        world.dns.set(case, [address]);
        let target = Target {
            name: edge(),
            service: case.into(),
            identity: id("app"),
            slots: None,
            transport: Transport::Quic,
        };
        let mut sender = app.send_to(target);
        let batch = Arc::new(Source::default()).batch(0, 1);
        let sent = tokio::time::timeout(Duration::from_millis(20), sender.send(&batch)).await;
        assert!(sent.is_err(), "{case}: the batch was taken");
        let peer = format!("peer={address}");
        until(case, || log.says(&[&peer, "not connected: no trust", of_server])).await;
        sender.abandon();
        assert!(opened.await.unwrap().is_none(), "{case}: it was called");
        refused += 1;
    }
    assert!(refused >= 40, "{refused}");
}

#[tokio::test]
async fn datagrams_that_are_no_quic_are_passed_over_and_hold_up_nobody() {
    let world = world();
    let hub = world.process("hub").await;
    world.dns.set(SERVICE, [hub.address()]);
    let seen = Seen::default();
    drop(seen.watch(receive(&hub, "app")));
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 1200], &[0xc0; 1200], &[0; 1], b"\x40short"] {
        for _ in 0..200 {
            socket.send_to(bytes, hub.address()).await.unwrap();
        }
    }
    let app = world.process("app").await;
    let (mut sender, source) = (crate::delivery::world::send(&app, "hub"), Arc::new(Source::default()));
    sender.send(&source.batch(0, 1)).await;
    sender.settled().await;
    assert_eq!(seen.all(), [0]);
    assert_eq!(hub.edges()[0].connections, 1);
}

/// What came of a call.
struct Met {
    from: SocketAddr,
    answer: Vec<u8>,
}

/// Calls, says hello, and hears until something has come or the other end has gone.
async fn call(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Met {
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let from = endpoint.local_addr().unwrap();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let answer = async {
        let connection = endpoint.connect_with(config, address, "sidestream.invalid").unwrap().await.ok()?;
        let (mut write, mut read) = connection.open_bi().await.ok()?;
        let session = u128::from(sidestream_host::Random::from_entropy().next_u64());
        let mut hello = Vec::new();
        let sending = Sending::<(), Nothing>::new(session);
        sending.hello(&edge().pipeline, &edge().edge).write(&mut hello);
        write.write_all(&hello).await.ok()?;
        let mut answer = vec![0; 4096];
        let heard = tokio::time::timeout(Duration::from_secs(5), read.read(&mut answer)).await.ok()?;
        answer.truncate(heard.ok()??);
        Some(answer)
    };
    Met { from, answer: answer.await.unwrap_or_default() }
}
