//! Sinks with peers that fail: tried again, given up, and mended by a reload, with nothing lost.

mod world;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value as Json, json};
use sidestream_plan::Plan;
use world::{custom, ended, generator, plan, seen, sidecar, start, with};

/// An HTTP server that answers its first requests with an error and then takes what comes.
struct Peer {
    url: String,
    taken: Arc<Mutex<Vec<i64>>>,
}

impl Peer {
    fn failing(first: usize) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("a bound port"));
        let taken: Arc<Mutex<Vec<i64>>> = Arc::default();
        let kept = taken.clone();
        thread::spawn(move || {
            for (index, stream) in listener.incoming().flatten().enumerate() {
                let mut reader = BufReader::new(stream);
                let Some(body) = read_body(&mut reader) else { continue };
                let status = if index < first { "503 Service Unavailable" } else { "200 OK" };
                if index >= first {
                    let numbers =
                        body.as_array().into_iter().flatten().filter_map(|event| event["sequence"].as_i64());
                    kept.lock().expect("nobody panics with it").extend(numbers);
                }
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = reader.get_mut().write_all(answer.as_bytes());
            }
        });
        Peer { url, taken }
    }

    fn taken(&self) -> Vec<i64> {
        self.taken.lock().expect("nobody panics with it").clone()
    }
}

fn read_body(reader: &mut impl BufRead) -> Option<Json> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    Read::read_exact(reader, &mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

fn to_webhook(url: &str, count: u64, on_error: Json) -> Plan {
    plan(
        &[
            ("tick", &[], generator(json!({"count": count}))),
            ("send", &[0], with(json!({"sink": {"webhook": {"url": url}}}), "onError", on_error)),
            ("letters", &[], custom("seen")),
        ],
        &[&[0], &[1], &[2]],
    )
}

#[test]
fn a_peer_that_fails_at_first_gets_every_event_once_it_answers() {
    let sidecar = sidecar();
    let peer = Peer::failing(2);
    let (mut registry, letters) = seen();
    let plan = to_webhook(&peer.url, 1500, json!({"retry": {"initial": "10ms"}}));
    let pipeline = start(&sidecar, plan, &mut registry);
    ended(&sidecar, &pipeline);
    assert_eq!(peer.taken(), (0..1500).collect::<Vec<_>>());
    assert_eq!(letters.events().len(), 0);
    let send = &pipeline.stages()[1].stats;
    assert_eq!((send.events_out.get(), send.retries.get(), send.errors.get()), (1500, 2, 0));
    assert_eq!(pipeline.ledger().completed, 1500);
}

#[test]
fn when_the_tries_run_out_the_events_go_to_the_dead_letter_stage_with_the_reason() {
    let sidecar = sidecar();
    let peer = Peer::failing(usize::MAX);
    let (mut registry, letters) = seen();
    let on_error = json!({"retry": {"limit": 1, "initial": "5ms"}, "deadLetter": "letters"});
    let pipeline = start(&sidecar, to_webhook(&peer.url, 100, on_error), &mut registry);
    ended(&sidecar, &pipeline);
    let events = letters.events();
    assert_eq!(events.len(), 100);
    assert_eq!(events[0].meta.header("sidestream-stage"), Some("send"));
    assert!(
        events[0].meta.header("sidestream-error").is_some_and(|reason| reason.contains("503")),
        "{:?}",
        events[0]
    );
    let ledger = pipeline.ledger();
    assert_eq!((ledger.completed, ledger.dead_lettered, ledger.is_balanced()), (0, 100, true));
}

#[test]
fn a_reload_that_mends_an_address_sends_there_what_was_waiting() {
    let sidecar = sidecar();
    let (broken, good) = (Peer::failing(usize::MAX), Peer::failing(0));
    let mut registry = Default::default();
    let forever = json!({"retry": {"initial": "20ms"}});
    let to = |url: &str| {
        let send = with(json!({"sink": {"webhook": {"url": url}}}), "onError", forever.clone());
        plan(&[("tick", &[], generator(json!({"count": 3000}))), ("send", &[0], send)], &[&[0], &[1]])
    };
    let pipeline = start(&sidecar, to(&broken.url), &mut registry);
    thread::sleep(Duration::from_millis(100));
    let reloaded = pipeline.reload(to(&good.url), &mut registry).expect("a good plan");
    assert_eq!(reloaded.replaced, ["send"]);
    ended(&sidecar, &pipeline);
    assert_eq!(good.taken(), (0..3000).collect::<Vec<_>>());
    assert_eq!(broken.taken().len(), 0);
    assert_eq!(pipeline.ledger().completed, 3000);
}

#[test]
fn a_sink_that_a_reload_keeps_still_sends_its_errors_to_the_dead_letter_stage() {
    let sidecar = sidecar();
    let peer = Peer::failing(usize::MAX);
    let (mut registry, letters) = seen();
    let door = registry.door("push");
    let of = |keep: &str| {
        let on_error = json!({"retry": {"limit": 1, "initial": "5ms"}, "deadLetter": "letters"});
        plan(
            &[
                ("push", &[], json!({"source": {"push": {}}})),
                ("keep", &[0], world::filter(keep)),
                ("send", &[1], with(json!({"sink": {"webhook": {"url": peer.url}}}), "onError", on_error)),
                ("letters", &[], custom("seen")),
            ],
            &[&[0, 1], &[2], &[3]],
        )
    };
    let pipeline = start(&sidecar, of("true"), &mut registry);
    for round in 1..=3 {
        let pushed =
            sidecar.world().sockets().block_on(door.push(sidestream_event::Event::new(round as i64)));
        assert!(pushed.is_ok(), "{pushed:?}");
        assert_eq!(letters.events().len(), round, "the letter of round {round}");
        let reloaded = pipeline.reload(of(&format!("{round} > 0")), &mut registry).expect("a good plan");
        assert!(reloaded.kept.contains(&"send".to_owned()), "{reloaded:?}");
    }
    assert_eq!(pipeline.stages()[2].stats.dropped(), vec![]);
    assert_eq!(pipeline.ledger().dead_lettered, 3);
    // Before and after, the way of the errors is shown, once.
    let ways: Vec<_> = pipeline.rings().into_iter().filter(|ring| ring.to == "letters").collect();
    assert_eq!(ways.len(), 1);
    assert_eq!(ways[0].from, "send (errors)");
    pipeline.drain(Duration::from_secs(5));
}

#[test]
fn a_sink_that_has_outlived_plans_hands_its_rings_to_whoever_takes_its_name() {
    let sidecar = sidecar();
    let peer = Peer::failing(0);
    let mut registry = sidestream_sidecar::Registry::default();
    let door = registry.door("push");
    let push = ("push", &[] as &[usize], json!({"source": {"push": {}}}));
    let send = json!({"sink": {"webhook": {"url": peer.url}}});
    let other = ("other", &[] as &[usize], generator(json!({"rate": 10})));
    let drop = ("drop", &[0usize] as &[usize], json!({"sink": {"blackhole": {}}}));
    let first = plan(&[push.clone(), ("send", &[0], send.clone())], &[&[0], &[1]]);
    let later = |kind: Json| {
        plan(&[other.clone(), drop.clone(), push.clone(), ("send", &[2], kind)], &[&[0, 1], &[2], &[3]])
    };
    let pipeline = start(&sidecar, first, &mut registry);
    pipeline.reload(later(send), &mut registry).expect("a good plan");
    pipeline.reload(later(json!({"sink": {"blackhole": {}}})), &mut registry).expect("a good plan");
    let pushed = sidecar.world().sockets().block_on(door.push(sidestream_event::Event::new(1)));
    assert!(pushed.is_ok(), "{pushed:?}");
    assert_eq!(pipeline.stages()[3].stats.dropped(), vec![]);
    pipeline.drain(Duration::from_secs(5));
}

#[test]
fn an_address_is_mended_also_where_the_source_itself_is_held_up() {
    let sidecar = sidecar();
    let (broken, good) = (Peer::failing(usize::MAX), Peer::failing(0));
    let mut registry = sidestream_sidecar::Registry::default();
    let door = registry.door("push");
    let to = |url: &str| {
        let send = with(
            json!({"sink": {"webhook": {"url": url}}}),
            "onError",
            json!({"retry": {"initial": "20ms"}}),
        );
        plan(&[("push", &[], json!({"source": {"push": {}}})), ("send", &[0], send)], &[&[0], &[1]])
    };
    let pipeline = start(&sidecar, to(&broken.url), &mut registry);
    let mut pushed = 0;
    loop {
        let body: sidestream_event::Value = [("sequence", pushed)].into_iter().collect();
        match door.try_push(sidestream_event::Event::new(body)) {
            Ok(_) => pushed += 1,
            Err(sidestream_sidecar::PushError::Full(_)) if pushed > 3000 => break,
            Err(sidestream_sidecar::PushError::Full(_)) => thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
        if pushed >= 20_000 {
            break;
        }
        // The rings are full of single events: nothing moves until the peer does.
        if pipeline.rings().iter().all(|ring| ring.gauge.depth() >= 1000) {
            break;
        }
    }
    pipeline.reload(to(&good.url), &mut registry).expect("the sink can be replaced while it is held up");
    let drained = pipeline.drain(Duration::from_secs(20));
    assert!(drained.is_complete(), "{drained:?}");
    assert_eq!(good.taken(), (0..pushed).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_that_may_drop_drops_what_its_rule_says_and_never_slows_the_other_branch() {
    for (overflow, kept) in [("DropNewest", 0), ("DropOldest", 49_999)] {
        let sidecar = sidecar();
        let stuck = Peer::failing(usize::MAX);
        let (mut registry, other) = seen();
        let small = json!({"capacity": 100, "overflow": overflow});
        let send = with(json!({"sink": {"webhook": {"url": stuck.url}}}), "input", small);
        let send = with(
            send,
            "onError",
            json!({"retry": {"limit": 2, "initial": "200ms"}, "deadLetter": "letters"}),
        );
        let letters = world::Seen::default();
        registry.processor("letters", Box::new(letters.clone()));
        let plan = plan(
            &[
                ("tick", &[], generator(json!({"count": 50_000}))),
                ("send", &[0], send),
                ("other", &[0], custom("seen")),
                ("letters", &[], custom("letters")),
            ],
            &[&[0], &[1], &[2], &[3]],
        );
        let pipeline = start(&sidecar, plan, &mut registry);
        ended(&sidecar, &pipeline);
        assert_eq!(other.events().len(), 50_000, "{overflow}: the other branch has them all");
        let dropped: u64 = pipeline.stages()[1].stats.dropped().iter().map(|(_, events)| events).sum();
        let lettered = letters.numbers("sequence");
        assert_eq!(dropped + lettered.len() as u64, 50_000, "{overflow}");
        assert!(dropped > 40_000, "{overflow}: {dropped}");
        assert!(lettered.contains(&kept), "{overflow}: {} events kept", lettered.len());
        assert!(pipeline.ledger().is_balanced());
    }
}
