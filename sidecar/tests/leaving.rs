//! An edge that a new plan does not have any more, or that leads elsewhere, delivers what it had.

mod world;

use std::time::Duration;

use serde_json::{Value as Json, json};
use sidestream_plan::Plan;
use sidestream_sidecar::{Fleet, Pipeline, Registry, Sidecar, observe::Observed};
use world::{
    Seen, custom, generator,
    peers::{address, authority, joined, until},
    plan, seen, start,
};

const GRACE: Duration = Duration::from_secs(60);

fn service(account: &str) -> String {
    format!("{account}-spl.test.svc")
}

fn sends(settings: Json, account: &str) -> Plan {
    let to = json!({"namespace": "test", "name": account});
    let sink = json!({"sink": {"edge": {"edge": "tick->show", "to": to, "service": service(account)}}});
    plan(&[("tick", &[], generator(settings)), ("tick->show", &[0], sink)], &[&[0]])
}

/// The plan that has the edge no more: what comes from now on stays here.
fn keeps(settings: Json, sink: Json) -> Plan {
    plan(&[("tick", &[], generator(settings)), ("kept", &[0], sink)], &[&[0, 1]])
}

fn receives(sidecar: &Sidecar) -> (std::sync::Arc<Pipeline>, Seen) {
    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    let (mut registry, seen) = seen();
    let plan = plan(&[("tick->show", &[], source), ("show", &[0], custom("seen"))], &[&[0, 1]]);
    (start(sidecar, plan, &mut registry), seen)
}

#[test]
fn an_edge_whose_receivers_are_away_is_taken_out_of_the_plan_at_once_and_delivers_when_they_are_back() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    // More than the rings hold, so that the stage before the edge stands still.
    let settings = json!({"count": 50_000});
    let sending = start(&app, sends(settings.clone(), "hub"), &mut Registry::default());
    until("the rings are full", || sending.ledger().accepted > 8_000);
    std::thread::sleep(Duration::from_millis(100));
    let (mut registry, kept) = seen();
    sending.reload(keeps(settings, custom("seen")), &mut registry).expect("it waits for nobody");
    assert_eq!(sending.leaving_edges(), ["tick->show"]);
    until("the rest goes the new way", || {
        std::thread::sleep(Duration::from_millis(20));
        kept.numbers("sequence").last() == Some(&49_999)
    });
    let ledger = sending.ledger();
    assert!(ledger.in_flight > 8_000 && ledger.dropped == 0, "{ledger:?}");

    let (receiving, seen) = receives(&hub);
    dns.set(&service("hub"), [address(&hub)]);
    until("it has delivered all", || sending.leaving_edges().is_empty());
    let mut numbers = seen.numbers("sequence");
    assert!(numbers.len() > 8_000, "{}", numbers.len());
    numbers.extend(kept.numbers("sequence"));
    assert!(
        numbers.into_iter().eq(0..50_000),
        "first all of the one way, then all of the other, in order and once"
    );
    let drained = sending.drain(GRACE);
    assert!(drained.is_complete(), "{drained:?}");
    assert_eq!((drained.ledger.completed, drained.ledger.dropped), (50_000, 0));
    assert!(receiving.drain(GRACE).is_complete());
}

#[test]
fn an_edge_that_leads_elsewhere_sends_the_new_receiver_nothing_before_the_old_one_has_settled() {
    let (authority, dns) = authority();
    let app = joined("app", &authority, &dns);
    let hubs = ["hub", "other"].map(|name| joined(name, &authority, &dns));
    let settings = json!({"rate": 2000});
    let sending = start(&app, sends(settings.clone(), "hub"), &mut Registry::default());
    until("some is on its way", || sending.ledger().accepted > 500);
    let (other, after) = receives(&hubs[1]);
    dns.set(&service("other"), [address(&hubs[1])]);
    sending.reload(sends(settings, "other"), &mut Registry::default()).expect("a good plan");
    std::thread::sleep(Duration::from_millis(500));
    assert!(after.events().is_empty(), "the old receiver has not had its part");

    let (hub, before) = receives(&hubs[0]);
    dns.set(&service("hub"), [address(&hubs[0])]);
    until("the new one gets what follows", || after.events().len() > 500);
    until("the old one has settled", || sending.leaving_edges().is_empty());
    assert!(sending.drain(GRACE).is_complete());
    let mut numbers = before.numbers("sequence");
    assert!(numbers.len() >= 500);
    numbers.extend(after.numbers("sequence"));
    let all: Vec<i64> = (0..sending.ledger().accepted as i64).collect();
    assert_eq!(numbers, all, "first all of the one, then all of the other");
    for receiving in [hub, other] {
        assert!(receiving.drain(GRACE).is_complete());
    }
}

#[test]
fn what_nobody_ever_takes_is_dropped_when_its_pipeline_is_taken_away_and_counted() {
    let (authority, dns) = authority();
    let app = joined("app", &authority, &dns);
    let mut fleet = Fleet::new(app.world(), &Observed::new(app.world()));
    let settings = json!({"count": 100});
    fleet.start(sends(settings.clone(), "hub")).expect("a good plan");
    std::thread::sleep(Duration::from_millis(200));
    let outcomes = fleet.change_to(vec![keeps(settings, json!({"sink": {"blackhole": {}}}))], GRACE);
    assert!(outcomes["test/test"].is_ok(), "{outcomes:?}");
    assert_eq!(fleet.leaving_edges("test/test"), ["tick->show"]);
    let drained = fleet.remove("test/test", Duration::from_millis(300)).expect("it ran");
    assert!(drained.is_complete(), "{drained:?}");
    assert_eq!((drained.ledger.dropped, drained.ledger.completed), (100, 0));
}

#[test]
fn what_goes_on_after_it_halted_sends_nothing_before_the_edge_has_settled() {
    let (authority, dns) = authority();
    let app = joined("app", &authority, &dns);
    let settings = json!({"rate": 2000});
    // It takes events, and delivers none of them.
    let stuck = joined("hub", &authority, &dns);
    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    let nobody = json!({"sink": {"webhook": {"url": "http://127.0.0.1:1/"}}});
    let stages = [("tick->show", &[][..], source), ("show", &[0][..], nobody)];
    let taking = start(&stuck, plan(&stages, &[&[0]]), &mut Registry::default());
    dns.set(&service("hub"), [address(&stuck)]);
    let sending = start(&app, sends(settings.clone(), "hub"), &mut Registry::default());
    until("some has come", || taking.ledger().accepted > 500);
    sending.halt(&[]);
    until("all that was sent has come", || taking.ledger().accepted == sending.ledger().accepted);
    // It gives up what it has as a process that dies does: nothing of it was settled.
    let before = sending.ledger().accepted;
    dns.set(&service("hub"), Vec::<std::net::SocketAddr>::new());
    drop(taking);
    drop(stuck);

    let hub = joined("hub", &authority, &dns);
    let (receiving, seen) = receives(&hub);
    sending.reload(sends(settings, "hub"), &mut Registry::default()).expect("the same plan");
    dns.set(&service("hub"), [address(&hub)]);
    until("all that comes is there", || seen.events().len() as u64 > before + 500);
    let numbers = seen.numbers("sequence");
    // A generator that goes on counts anew.
    let (first, then) = numbers.split_at(before as usize);
    assert!(first.iter().copied().eq(0..before as i64), "{first:?}");
    assert!(then.iter().copied().eq(0..then.len() as i64), "{then:?}");
    assert!(sending.drain(GRACE).is_complete());
    assert!(receiving.drain(GRACE).is_complete());
}
