//! Who is not a declared peer, or is one no longer, is turned away before an event passes. The matrix of all who never were
//! is in `strangers.rs`.

mod world;

use std::{sync::Arc, time::Duration};

use sidestream_edge::{EdgeName, EdgeSender, Peering, Target, Transport};
use sidestream_trust::{Identity, SpiffeId};
use world::{SERVICE, Seen, Source, World, edge, id, receive, send, until, world};

/// What carries the edges; the tests for QUIC include this file and say otherwise.
#[allow(dead_code, reason = "where this file is included, the root says it")]
const TRANSPORT: Transport = Transport::Tcp;

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
    let target = Target {
        name,
        service: SERVICE.into(),
        identity: id("hub"),
        slots: None,
        transport: crate::TRANSPORT,
    };
    is_turned_away(app.send_to(target), &hub, "no plan that runs here has this edge").await;
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
