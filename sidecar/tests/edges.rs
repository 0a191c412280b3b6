//! Two sidecars joined by edges: what leaves one arrives in the other once, and both books balance, whatever becomes of
//! the connection.

mod world;

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use serde_json::json;
use sidestream_edge::Place;
use sidestream_event::Value;
use sidestream_plan::Plan;
use sidestream_sidecar::{Pipeline, Registry, Sidecar};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use world::{
    custom, ended, generator,
    peers::{address, authority, joined, until},
    plan, seen, sidecar, start,
};

const SERVICE: &str = "hub-spl.test.svc";
const GRACE: Duration = Duration::from_secs(10);

fn sends(settings: serde_json::Value) -> Plan {
    let to = json!({"namespace": "test", "name": "hub"});
    let sink = json!({"sink": {"edge": {"edge": "tick->show", "to": to, "service": SERVICE}}});
    plan(&[("tick", &[], generator(settings)), ("tick->show", &[0], sink)], &[&[0]])
}

fn receives(show: serde_json::Value) -> Plan {
    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    plan(&[("tick->show", &[], source), ("show", &[0], show)], &[&[0, 1]])
}

#[test]
fn events_cross_an_edge_once_and_in_order_while_it_is_cut_again_and_again() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    let proxy = Proxy::before(address(&hub), &app);
    dns.set(SERVICE, [proxy.address]);
    let (mut registry, seen) = seen();
    let receiving = start(&hub, receives(custom("seen")), &mut registry);
    let sending = start(&app, sends(json!({"count": 30_000, "rate": 15_000.0})), &mut Registry::default());
    let view = || app.world().peering().unwrap().edges().into_iter().next();
    let mut cuts = 0;
    while !sending.has_ended() && cuts < 10 {
        until("it is open", || view().is_none_or(|edge| edge.connected == 1));
        std::thread::sleep(Duration::from_millis(50));
        proxy.cut();
        cuts += 1;
        until("the sender sees the cut", || {
            view().is_none_or(|edge| edge.connected == 0 || edge.connections > cuts)
        });
    }
    ended(&app, &sending);
    let drained = receiving.drain(GRACE);
    assert!(drained.is_complete(), "{drained:?}");
    all_once(&seen.numbers("sequence"), 30_000);
    for (name, ledger) in [("app", sending.ledger()), ("hub", drained.ledger)] {
        assert!(ledger.is_balanced(), "{name}: {ledger:?}");
        assert_eq!((ledger.accepted, ledger.completed), (30_000, 30_000), "{name}: {ledger:?}");
    }
    assert!(cuts >= 3, "it was cut {cuts} times only");
    let there = hub.world().peering().unwrap().edges().remove(0);
    assert_eq!((there.repeats, there.unsettled_batches), (0, 0), "{there:?}");
}

#[test]
fn events_keep_the_name_of_their_source_their_key_and_their_time() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    dns.set(SERVICE, [address(&hub)]);
    let (mut registry, seen) = seen();
    let receiving = start(&hub, receives(custom("seen")), &mut registry);
    let sending = start(&app, sends(json!({"count": 10, "keys": 2})), &mut Registry::default());
    ended(&app, &sending);
    assert!(receiving.drain(GRACE).is_complete());
    let events = seen.events();
    assert_eq!(events.len(), 10);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event.meta.source, "tick");
        assert_eq!(event.meta.key.as_deref(), Some(["k0", "k1"][number % 2]));
        assert!(event.meta.time.as_seconds() > 1.7e9);
        assert_eq!(event.body.field("sequence"), Some(&Value::Int(number as i64)));
    }
}

#[test]
fn a_sender_waits_for_a_receiver_that_comes_late_and_one_that_drains_hands_nothing_on_twice() {
    let (authority, dns) = authority();
    let app = joined("app", &authority, &dns);
    let settings = json!({"count": 100_000, "rate": 20_000.0});
    let sending = start(&app, sends(settings), &mut Registry::default());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sending.ledger().completed, 0);
    let (one, two) = (joined("hub", &authority, &dns), joined("hub", &authority, &dns));
    let (mut registry, first) = seen();
    let receiving = start(&one, receives(custom("seen")), &mut registry);
    dns.set(SERVICE, [address(&one), address(&two)]);
    until("some of it is there", || first.events().len() > 8_000);
    // A rolling upgrade: the next comes, the first drains and is gone.
    let (mut registry, second) = seen();
    let next = start(&two, receives(custom("seen")), &mut registry);
    until("the sender knows both", || app.world().peering().unwrap().edges()[0].connected == 2);
    let drained = receiving.drain(GRACE);
    assert!(drained.is_complete(), "{drained:?}");
    let (clock, begun) = (one.world().clock(), one.world().clock().now());
    one.world().sockets().block_on(one.world().peering().unwrap().close(GRACE));
    let took = clock.now().since(begun);
    assert!(took < Duration::from_secs(2), "it took {took:?} to tell the sender what is settled");
    dns.set(SERVICE, [address(&two)]);
    ended(&app, &sending);
    assert!(next.drain(GRACE).is_complete());
    let mut all = [first.numbers("sequence"), second.numbers("sequence")].concat();
    all.sort_unstable();
    all_once(&all, 100_000);
    assert_eq!(sending.ledger().completed, 100_000);
}

#[test]
fn a_reload_of_the_receiver_loses_and_repeats_nothing() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    dns.set(SERVICE, [address(&hub)]);
    let (mut registry, seen) = seen();
    let receiving = start(&hub, receives(custom("seen")), &mut registry);
    let settings = json!({"count": 20_000, "rate": 20_000.0});
    let sending = start(&app, sends(settings), &mut Registry::default());
    until("some is there", || seen.events().len() > 2_000);
    // Another stage before the last, and then the first plan again.
    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    let keep = world::filter("true");
    let longer = plan(
        &[("tick->show", &[], source), ("keep", &[0], keep), ("show", &[1], custom("seen"))],
        &[&[0, 1, 2]],
    );
    for plan in [longer, receives(custom("seen"))] {
        receiving.reload(plan, &mut Registry::default()).expect("a good plan");
        std::thread::sleep(Duration::from_millis(100));
    }
    ended(&app, &sending);
    assert!(receiving.drain(GRACE).is_complete());
    all_once(&seen.numbers("sequence"), 20_000);
}

#[test]
fn events_cross_an_edge_by_quic_as_they_do_by_tcp() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    dns.set(SERVICE, [address(&hub)]);
    let (mut registry, seen) = seen();
    let receiving = start(&hub, receives(custom("seen")), &mut registry);
    let to = json!({"namespace": "test", "name": "hub"});
    let edge = json!({"edge": "tick->show", "to": to, "service": SERVICE, "transport": "Quic"});
    let settings = json!({"count": 20_000, "payload": "256"});
    let sends = plan(
        &[("tick", &[], generator(settings)), ("tick->show", &[0], json!({"sink": {"edge": edge}}))],
        &[&[0]],
    );
    let sending = start(&app, sends, &mut Registry::default());
    ended(&app, &sending);
    assert!(receiving.drain(GRACE).is_complete());
    all_once(&seen.numbers("sequence"), 20_000);
    assert_eq!(sending.ledger().completed, 20_000);
}

/// A receiver that counts all events of a day in a window.
fn counts() -> Plan {
    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    let window = json!({"process": {"window": {"tumbling": "24h", "emit": {"count": "true"}}}});
    plan(
        &[("tick->show", &[], source), ("count", &[0], window), ("show", &[1], custom("seen"))],
        &[&[0, 1, 2]],
    )
}

#[test]
fn a_window_behind_an_edge_holds_the_position_of_the_source_before_it_until_it_has_delivered() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    dns.set(SERVICE, [address(&hub)]);
    let (mut registry, seen) = seen();
    let receiving = start(&hub, counts(), &mut registry);
    let sending = start(&app, sends(json!({"count": 1000})), &mut Registry::default());
    until("all are in the window", || sending.ledger().completed == 1000);
    std::thread::sleep(Duration::from_millis(100));
    let committed = || sending.stages()[0].ledger.expect("of a source").committed;
    assert_eq!((committed(), seen.events().len()), (0, 0), "the window is open");
    assert!(receiving.drain(GRACE).is_complete());
    assert_eq!(seen.numbers("count").iter().sum::<i64>(), 1000);
    until("the position has come to the end", || committed() == 1000);
}

#[test]
fn what_a_window_behind_an_edge_loses_with_its_process_comes_again_to_the_next() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    let proxy = Proxy::before(address(&hub), &app);
    dns.set(SERVICE, [proxy.address]);
    let (mut registry, first) = seen();
    let _killed = start(&hub, counts(), &mut registry);
    let sending = start(&app, sends(json!({"count": 1000})), &mut Registry::default());
    until("all are in the window", || sending.ledger().completed == 1000);
    // The process is gone from one moment to the next, as far as its peer can see.
    let next = joined("hub", &authority, &dns);
    dns.set(SERVICE, [address(&next)]);
    hub.world().sockets().block_on(hub.world().peering().unwrap().close(Duration::ZERO));
    proxy.cut();
    let (mut registry, second) = seen();
    let receiving = start(&next, counts(), &mut registry);
    until("all are in the next window", || receiving.ledger().completed == 1000);
    assert!(receiving.drain(GRACE).is_complete());
    assert_eq!(second.numbers("count").iter().sum::<i64>(), 1000);
    assert!(first.events().is_empty());
    until("the position has come to the end", || {
        sending.stages()[0].ledger.expect("of a source").committed == 1000
    });
    let ledger = sending.ledger();
    assert!(ledger.is_balanced() && ledger.completed == 1000, "{ledger:?}");
}

#[test]
fn two_pods_behind_an_edge_count_each_key_in_one_of_them() {
    let (authority, dns) = authority();
    let app = joined("app", &authority, &dns);
    let hubs = [joined("hub", &authority, &dns), joined("hub", &authority, &dns)];
    let place = |(ordinal, hub)| Place { address: address(hub), ordinal: Some(ordinal) };
    dns.set(SERVICE, (0..).zip(&hubs).map(place));
    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    let window = json!({"process": {"window":
        {"tumbling": "24h", "by": "event.sequence % 50", "emit": {"count": "true"}}}});
    let count = plan(
        &[("tick->show", &[], source), ("count", &[0], window), ("show", &[1], custom("seen"))],
        &[&[0, 1, 2]],
    );
    let started = hubs.each_ref().map(|hub| {
        let (mut registry, seen) = seen();
        (start(hub, count.clone(), &mut registry), seen)
    });
    let ordinals: Vec<u32> = (0..256).map(|slot| slot % 2).collect();
    let slots = json!({"by": "event.sequence % 50", "ordinals": ordinals});
    let to = json!({"namespace": "test", "name": "hub"});
    let sink =
        json!({"sink": {"edge": {"edge": "tick->show", "to": to, "service": SERVICE, "slots": slots}}});
    let sends =
        plan(&[("tick", &[], generator(json!({"count": 1000}))), ("tick->show", &[0], sink)], &[&[0]]);
    let sending = start(&app, sends, &mut Registry::default());
    until("all are in the windows", || sending.ledger().completed == 1000);
    let counted = started.map(|(pipeline, seen)| {
        assert!(pipeline.drain(GRACE).is_complete());
        seen.events().iter().map(|event| event.body.field("count").cloned()).collect::<Vec<_>>()
    });
    assert!(counted.iter().all(|own| own.len() > 10), "{counted:?}");
    assert_eq!(counted.concat(), vec![Some(Value::Int(20)); 50]);
}

#[test]
fn a_source_that_answers_does_so_alike_whether_its_events_fail_here_or_behind_an_edge() {
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    dns.set(SERVICE, [address(&hub)]);
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let hook = json!({"source": {"http": {"listen": listen}}});
    // Of two events one is no number, which the stage cannot handle.
    let picky = json!({"process": {"filter": {"keep": "event.amount > 10"}}});
    let gone = json!({"sink": {"blackhole": {}}});
    let post = |body: &str| {
        for _ in 0..1_000 {
            let Ok(mut stream) = std::net::TcpStream::connect(&listen) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let head = "POST / HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-type: application/json";
            write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, text) = answer.split_once("\r\n\r\n").unwrap();
            return (head.split(' ').nth(1).unwrap().to_owned(), text.to_owned());
        }
        panic!("nobody answers at {listen}");
    };
    let (good, bad) = ("{\"amount\": 11}", "{\"amount\": \"eleven\"}");

    let whole = plan(
        &[("hook", &[], hook.clone()), ("keep", &[0], picky.clone()), ("gone", &[1], gone.clone())],
        &[&[0, 1, 2]],
    );
    let near = start(&app, whole, &mut Registry::default());
    let here = [post(good), post(bad)];
    assert!(near.drain(GRACE).is_complete());
    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    let behind =
        plan(&[("tick->show", &[], source), ("keep", &[0], picky), ("gone", &[1], gone)], &[&[0, 1, 2]]);
    let receiving = start(&hub, behind, &mut Registry::default());
    let to = json!({"namespace": "test", "name": "hub"});
    let sink = json!({"sink": {"edge": {"edge": "tick->show", "to": to, "service": SERVICE}}});
    let far = start(
        &app,
        plan(&[("hook", &[], hook), ("tick->show", &[0], sink)], &[&[0]]),
        &mut Registry::default(),
    );
    let there = [post(good), post(bad)];
    assert_eq!((here[0].0.as_str(), here[1].0.as_str()), ("202", "422"));
    assert_eq!(there, here);
    for (name, pipeline) in [("app", far), ("hub", receiving)] {
        let drained = pipeline.drain(GRACE);
        let ledger = drained.ledger;
        assert!(drained.is_complete() && ledger.is_balanced(), "{name}: {drained:?}");
        assert_eq!((ledger.completed, ledger.dropped), (1, 1), "{name}: {ledger:?}");
    }
}

#[test]
fn a_plan_with_edges_is_refused_where_the_process_has_no_peers() {
    let sidecar = sidecar();
    let refused = Pipeline::start(sends(json!({})), sidecar.world(), &mut Registry::default());
    let reason = refused.err().expect("no peers").to_string();
    assert!(reason.contains("tick->show") && reason.contains("no peers"), "{reason}");
}

/// Every number from 0 once and in order; says where not.
fn all_once(numbers: &[i64], count: i64) {
    let wrong = numbers.iter().zip(0..).find(|(found, wanted)| **found != *wanted);
    assert!(wrong.is_none() && numbers.len() as i64 == count, "{wrong:?} of {} numbers", numbers.len());
}

/// A TCP proxy whose connections can be cut.
struct Proxy {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    fn before(target: SocketAddr, on: &Sidecar) -> Proxy {
        let socket = on.world().sockets().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = socket.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        on.world().sockets().spawn(async move {
            while let Ok((mut caller, _)) = socket.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut callee) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut caller, &mut callee) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Proxy { address, cuts }
    }

    /// Cuts every connection, in the middle of whatever it carries.
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
