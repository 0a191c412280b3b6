//! Who is not a declared peer is turned away, with a reason, before an event passes.

mod world;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use sidestream_edge::{EdgeName, EdgeSender, Peering, Target};
use sidestream_trust::{Authority, Identity, SpiffeId};
use world::{DAY, SERVICE, Seen, Source, World, edge, id, receive, send, shout, until, world};

/// Sends and expects that nothing arrives, and that the listener counts a reason that holds `reason`.
async fn is_turned_away(mut sender: EdgeSender, hub: &Peering, reason: &str) {
    let source = Arc::new(Source::default());
    let sent = tokio::time::timeout(Duration::from_millis(600), sender.send(&source.batch(0, 1))).await;
    assert!(sent.is_err(), "{reason}: the batch was taken");
    assert!(sender.view().refusals > 0, "{reason}: {:?}", sender.view());
    until(reason, || hub.turned_away().iter().any(|(own, _)| own.contains(reason))).await;
    assert!(hub.edges().iter().all(|edge| edge.batches == 0 && edge.connections == 0), "{reason}");
}

async fn hub_of(world: &World) -> (Peering, Seen, tokio::task::JoinHandle<()>) {
    let hub = world.process("hub").await;
    world.dns.set(SERVICE, [hub.address()]);
    let seen = Seen::default();
    let watching = seen.watch(receive(&hub, "app"));
    (hub, seen, watching)
}

#[tokio::test]
async fn a_workload_for_which_the_edge_is_not_declared() {
    let world = world();
    let (hub, seen, _watching) = hub_of(&world).await;
    let other = world.process("other").await;
    is_turned_away(send(&other, "hub"), &hub, "declared for another sender").await;
    assert!(seen.all().is_empty());
}

#[tokio::test]
async fn an_edge_that_no_plan_declares() {
    let world = world();
    let (hub, _seen, _watching) = hub_of(&world).await;
    let app = world.process("app").await;
    let name = EdgeName { pipeline: "shop/orders".into(), edge: "x->y".into() };
    let target = Target { name, service: SERVICE.into(), identity: id("hub") };
    is_turned_away(app.send_to(target), &hub, "no plan that runs here has this edge").await;
}

#[tokio::test]
async fn a_caller_of_another_root() {
    let world = world();
    let (hub, _seen, _watching) = hub_of(&world).await;
    let foreign = Authority::create("cluster.local", &world.clock).unwrap();
    let credentials = foreign.credentials(&id("app"), &[], DAY).unwrap();
    let identity = Identity::new(credentials, &world.clock);
    // It believes the hub, so that the hub is the one to refuse.
    identity.believe(world.authority.anchors());
    let app = world.process_as(identity).await;
    is_turned_away(send(&app, "hub"), &hub, "UnknownIssuer").await;
}

#[tokio::test]
async fn a_caller_whose_certificate_has_ended() {
    let world = world();
    let (hub, _seen, _watching) = hub_of(&world).await;
    let credentials = world.authority.credentials(&id("app"), &[], Duration::ZERO).unwrap();
    let app = world.process_as(Identity::new(credentials, &world.clock)).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    is_turned_away(send(&app, "hub"), &hub, "expired").await;
}

#[tokio::test]
async fn a_receiver_that_is_somebody_else_gets_nothing() {
    let world = world();
    let (hub, seen, _watching) = hub_of(&world).await;
    let app = world.process("app").await;
    let mut sender = send(&app, "another");
    let source = Arc::new(Source::default());
    let sent = tokio::time::timeout(Duration::from_millis(600), sender.send(&source.batch(0, 1))).await;
    assert!(sent.is_err() && seen.all().is_empty());
    assert!(sender.view().refusals > 0);
    assert_eq!(hub.edges()[0].connections, 0);
}

#[tokio::test]
async fn a_certificate_that_ends_while_the_edge_is_open_closes_it() {
    let world = world();
    let (hub, seen, _watching) = hub_of(&world).await;
    let short = world.authority.credentials(&id("app"), &[], Duration::from_secs(2)).unwrap();
    let app = world.process_as(Identity::new(short, &world.clock)).await;
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    sender.send(&source.batch(0, 1)).await;
    sender.settled().await;
    until("the connection is closed", || hub.edges()[0].connected == 0).await;
    let sent = tokio::time::timeout(Duration::from_millis(500), sender.send(&source.batch(1, 1))).await;
    assert!(sent.is_err() || seen.all() == [0], "sent on a certificate that has ended");
    app.identity().replace(world.credentials("app"));
    until("it is open again", || hub.edges()[0].connected == 1).await;
}

#[tokio::test]
async fn bytes_that_are_no_tls_and_callers_without_a_certificate() {
    let world = world();
    let (hub, _seen, _watching) = hub_of(&world).await;
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\x05\0\0\0\x01hello", &[0xff; 4096]] {
        let answer = shout(hub.address(), bytes).await;
        assert!(answer.len() <= 7, "it answered {answer:?}");
    }
    until("all are counted", || hub.turned_away().iter().map(|(_, count)| count).sum::<u64>() == 3).await;
    // A client that shows no certificate.
    let nameless =
        sidestream_trust::anonymous_client_config(&world.authority.anchors(), &id("hub"), &[], &world.clock)
            .unwrap();
    assert!(!is_welcomed(hub.address(), nameless).await);
    until("the nameless is counted", || {
        hub.turned_away().iter().any(|(reason, _)| reason.contains("no certificates"))
    })
    .await;
    // A client that speaks TLS 1.2 only.
    let old = sidestream_trust::rustls::ClientConfig::builder_with_provider(Arc::new(
        sidestream_trust::rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&sidestream_trust::rustls::version::TLS12])
    .unwrap()
    .with_root_certificates(sidestream_trust::rustls::RootCertStore::empty())
    .with_no_client_auth();
    assert!(!is_welcomed(hub.address(), Arc::new(old)).await);
    until("the old one is counted", || {
        hub.turned_away().iter().any(|(reason, _)| {
            reason.contains("TLS13")
                || reason.contains("Tls13")
                || reason.contains("Tls12NotOffered")
                || reason.contains("incompatible")
        })
    })
    .await;
}

/// Whether a hello over this configuration is answered at all.
async fn is_welcomed(address: SocketAddr, config: Arc<sidestream_trust::rustls::ClientConfig>) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let Ok(mut stream) = connector.connect(sidestream_trust::server_name(), tcp).await else { return false };
    let sending = sidestream_edge::link::Sending::<()>::new(1);
    let mut hello = Vec::new();
    sending.hello(&edge().pipeline, &edge().edge).write(&mut hello);
    let _ = stream.write_all(&hello).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    !answer.is_empty()
}

#[tokio::test]
async fn a_sender_that_is_no_longer_allowed_is_cut_off() {
    let world = world();
    let hub = world.process("hub").await;
    world.dns.set(SERVICE, [hub.address()]);
    let seen = Seen::default();
    let _first = seen.watch(receive(&hub, "app"));
    let app = world.process("app").await;
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    sender.send(&source.batch(0, 1)).await;
    sender.settled().await;
    let allowed: SpiffeId = id("somebody-else");
    let _second = seen.watch(hub.receive(edge(), vec![allowed]));
    until("it is cut off", || hub.edges()[0].connected == 0).await;
    until("it is refused", || !hub.turned_away().is_empty()).await;
    assert_eq!(seen.all(), [0]);
}
