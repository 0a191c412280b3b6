//! Two sidecars joined both ways, `app` to `hub` and back: they stop one part after the other, so that everything on its way
//! has somewhere to go.

mod world;

use std::{sync::Arc, time::Duration};

use serde_json::{Value as Json, json};
use sidestream_edge::Fixed;
use sidestream_plan::Plan;
use sidestream_sidecar::{Pipeline, Registry, Sidecar};
use world::{
    Seen, custom, generator,
    peers::{address, authority, joined, until},
    plan, seen, start,
};

const GRACE: Duration = Duration::from_secs(10);

fn edge_to(account: &str, edge: &str) -> Json {
    let to = json!({"namespace": "test", "name": account});
    json!({"sink": {"edge": {"edge": edge, "to": to, "service": format!("{account}-spl.test.svc")}}})
}

fn edge_from(account: &str, edge: &str) -> Json {
    json!({"source": {"edge": {"edge": edge, "from": {"namespace": "test", "name": account}}}})
}

/// What counts comes back to where the events come from.
fn app(settings: Json) -> Plan {
    plan(
        &[
            ("tick", &[], generator(settings)),
            ("tick->count", &[0], edge_to("hub", "tick->count")),
            ("count->show", &[], edge_from("hub", "count->show")),
            ("show", &[2], custom("seen")),
        ],
        &[&[0], &[2, 3]],
    )
}

/// A window that closes when it is told to, and not before.
fn hub() -> Plan {
    let window = json!({"process": {"window": {"tumbling": "24h", "emit": {"count": "true"}}}});
    plan(
        &[
            ("tick->count", &[], edge_from("app", "tick->count")),
            ("count", &[0], window),
            ("count->show", &[1], edge_to("app", "count->show")),
        ],
        &[&[0, 1]],
    )
}

struct World {
    _sidecars: [Sidecar; 2],
    app: Arc<Pipeline>,
    hub: Arc<Pipeline>,
    seen: Seen,
}

fn running(settings: Json) -> World {
    let (authority, dns) = authority();
    let sidecars = ["app", "hub"].map(|name| joined(name, &authority, &dns));
    find(&dns, &sidecars);
    let (mut registry, seen) = seen();
    let app = start(&sidecars[0], app(settings), &mut registry);
    let hub = start(&sidecars[1], hub(), &mut Registry::default());
    World { _sidecars: sidecars, app, hub, seen }
}

fn find(dns: &Arc<Fixed>, sidecars: &[Sidecar; 2]) {
    for (name, sidecar) in ["app", "hub"].iter().zip(sidecars) {
        dns.set(&format!("{name}-spl.test.svc"), [address(sidecar)]);
    }
}

fn counted(seen: &Seen) -> i64 {
    seen.numbers("count").iter().sum()
}

#[test]
fn what_is_stopped_in_the_order_of_its_edges_delivers_everything_also_in_a_circle() {
    let world = running(json!({"rate": 2000}));
    let World { app, hub, seen, .. } = &world;
    until("some is on its way", || app.ledger().accepted > 500);

    app.halt(&[]);
    until("the edge out has closed", || app.open_edges().is_empty());
    let ledger = app.ledger();
    assert!(ledger.accepted == ledger.completed && !app.has_ended(), "{ledger:?}");
    // Its senders have drained: now it may stop, and what its window had comes back to the first.
    let drained = hub.drain(GRACE);
    assert!(drained.is_complete(), "{drained:?}");
    assert_eq!(counted(seen), ledger.accepted as i64);
    let drained = app.drain(GRACE);
    assert!(drained.is_complete(), "{drained:?}");
    // The source that was told to stop stayed so.
    assert_eq!(drained.ledger.accepted, ledger.accepted + drained.ledger.completed - ledger.completed);
}

#[test]
fn an_edge_is_open_until_its_receivers_have_settled_what_they_were_sent() {
    let (authority, dns) = authority();
    let sidecars = ["app", "hub"].map(|name| joined(name, &authority, &dns));
    let (mut registry, _) = seen();
    let app = start(&sidecars[0], app(json!({"rate": 2000})), &mut registry);
    until("some is on its way", || app.ledger().accepted > 100);
    app.halt(&[]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(app.open_edges(), ["tick->count"], "nobody has taken anything yet");
    let _hub = start(&sidecars[1], hub(), &mut Registry::default());
    find(&dns, &sidecars);
    until("the edge out has closed", || app.open_edges().is_empty());
}

#[test]
fn what_halts_goes_on_with_the_state_it_has() {
    let world = running(json!({"rate": 2000}));
    let World { app: pipeline, hub, seen, .. } = &world;
    until("some is on its way", || pipeline.ledger().accepted > 100);
    pipeline.halt(&[]);
    // It may still be on its way to standing still when `halt` returns.
    until("its own source stands still", || {
        let before = pipeline.ledger().accepted;
        std::thread::sleep(Duration::from_millis(100));
        pipeline.ledger().accepted == before
    });
    let before = pipeline.ledger().accepted;
    pipeline.reload(app(json!({"rate": 2000})), &mut Registry::default()).expect("the same plan");
    assert!(pipeline.halted().is_none());
    until("it goes on", || pipeline.ledger().accepted > before + 100);

    pipeline.halt(&[]);
    until("the edge out has closed", || pipeline.open_edges().is_empty());
    let given = pipeline.ledger().accepted;
    assert!(hub.drain(GRACE).is_complete());
    assert_eq!(counted(seen), given as i64, "one window has counted all");
    assert!(pipeline.drain(GRACE).is_complete());
}

#[test]
fn a_process_that_starts_while_its_pipeline_halts_takes_what_is_on_its_way_and_brings_nothing_in() {
    let (authority, dns) = authority();
    let sidecars = ["app", "hub"].map(|name| joined(name, &authority, &dns));
    find(&dns, &sidecars);
    let (mut registry, seen) = seen();
    let world = sidecars[0].world();
    let halted =
        Pipeline::start_halted(app(json!({"rate": 2000})), &[], world, &mut registry).expect("a good plan");
    until("its own edge out has closed", || halted.open_edges().is_empty());
    let sends = plan(
        &[
            ("tick", &[], generator(json!({"count": 1}))),
            ("count", &[0], json!({"process": {"window": {"tumbling": "24h", "emit": {"count": "true"}}}})),
            ("count->show", &[1], edge_to("app", "count->show")),
        ],
        &[&[0, 1]],
    );
    let hub = start(&sidecars[1], sends, &mut Registry::default());
    until("what the other sends is there", || seen.events().len() == 1);
    assert!(hub.drain(GRACE).is_complete());
    assert_eq!(halted.ledger().accepted, 1);
    halted.halt(&["count->show".into()]);
    until("all has stopped", || halted.has_ended());
}
