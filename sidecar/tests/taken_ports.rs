//! A port that somebody else has: the plan that wants it is refused before anything of it runs, and on a reload what was
//! running goes on. A port that the plan itself gives up passes to the stage that wants it.

mod world;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value as Json, json};
use sidestream_plan::{Plan, Run, Stage};
use sidestream_sidecar::{AssembleError, Fleet, Pipeline, ReloadError, Sidecar, observe::Observed};
use world::{custom, generator, plan, seen, sidecar, start};

const GRACE: Duration = Duration::from_secs(5);

fn http(listen: &str, path: &str) -> Json {
    json!({"source": {"http": {"listen": listen, "path": path}}})
}

fn of(name: &str, source: Json) -> Plan {
    plan(&[(name, &[], source), ("seen", &[0], custom("seen"))], &[&[0], &[1]])
}

/// A port that is taken for as long as the listener lives.
fn taken() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// The status of a request to `path`, tried until somebody answers.
fn post(address: &str, path: &str) -> String {
    for _ in 0..1_000 {
        let Ok(mut stream) = TcpStream::connect(address) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let sent = write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx"
        );
        let mut answer = String::new();
        if sent.is_ok() && stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
            return answer.split(' ').nth(1).unwrap_or_default().to_owned();
        }
    }
    panic!("nobody answers at {address}");
}

#[test]
fn a_plan_whose_port_is_taken_is_refused_and_runs_as_soon_as_it_is_free() {
    let sidecar = sidecar();
    let (listener, address) = taken();
    let (mut registry, _) = seen();
    let refused = Pipeline::start(of("hook", http(&address, "/")), sidecar.world(), &mut registry);
    let Err(AssembleError::Stage { stage, reason }) = refused else { panic!("it was started") };
    assert_eq!(stage, "hook");
    assert!(
        reason.contains(&address) && reason.contains("stop it, or write another in `listen`"),
        "{reason}"
    );
    drop(listener);
    let (mut registry, events) = seen();
    let pipeline = start(&sidecar, of("hook", http(&address, "/")), &mut registry);
    assert_eq!(post(&address, "/"), "202");
    assert_eq!(events.events().len(), 1);
    assert!(pipeline.drain(Duration::from_secs(5)).is_complete());
}

#[test]
fn a_reload_whose_port_is_taken_leaves_the_old_plan_running() {
    let sidecar = sidecar();
    let (_listener, address) = taken();
    let (mut registry, events) = seen();
    let pipeline = start(&sidecar, of("tick", generator(json!({"rate": 1000}))), &mut registry);
    let refused = pipeline.reload(of("hook", http(&address, "/")), &mut registry);
    assert!(matches!(refused, Err(ReloadError::Assemble(AssembleError::Stage { .. }))), "{refused:?}");
    assert_eq!(pipeline.plan().stages[0].name, "tick");
    let before = events.events().len();
    while events.events().len() < before + 100 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(pipeline.drain(Duration::from_secs(5)).is_complete());
}

#[test]
fn a_port_passes_from_a_source_to_the_one_that_replaces_it() {
    let sidecar = sidecar();
    let (listener, address) = taken();
    drop(listener);
    let (mut registry, _) = seen();
    let pipeline = start(&sidecar, of("hook", http(&address, "/old")), &mut registry);
    assert_eq!(post(&address, "/old"), "202");
    let any = format!("0.0.0.0:{}", address.rsplit(':').next().unwrap());
    for (name, listen) in [("hook", &address), ("other", &address), ("other", &any)] {
        pipeline.reload(of(name, http(listen, "/new")), &mut registry).expect("the port is its own");
        assert_eq!(post(&address, "/new"), "202");
        assert_eq!(post(&address, "/old"), "404");
    }
    assert!(pipeline.drain(Duration::from_secs(5)).is_complete());
}

/// A pipeline that takes what is posted to `path` at `listen`, and lets it go.
fn takes(name: &str, listen: &str, path: &str) -> Plan {
    let gone = json!({"sink": {"blackhole": {}}});
    Plan {
        pipeline: format!("test/{name}"),
        ..plan(&[("hook", &[], http(listen, path)), ("gone", &[0], gone)], &[&[0, 1]])
    }
}

/// A free port each for as many pipelines, `a` first.
fn fleet<const N: usize>(sidecar: &Sidecar, names: [&str; N]) -> (Fleet, [String; N]) {
    let mut fleet = Fleet::new(sidecar.world(), &Observed::new(sidecar.world()));
    let listeners = names.map(|_| taken());
    let addresses = listeners.each_ref().map(|(_, address)| address.clone());
    drop(listeners);
    for (name, address) in names.iter().zip(&addresses) {
        fleet.start(takes(name, address, &format!("/{name}"))).expect("a free port");
    }
    (fleet, addresses)
}

#[test]
fn pipelines_take_what_others_of_the_process_give_up_in_a_chain_and_in_a_circle() {
    let sidecar = sidecar();
    let (mut fleet, [one, two, three]) = fleet(&sidecar, ["a", "b", "c"]);
    // In whatever order they are told: `a` wants what `b` has, which moves to a port that is free.
    let (listener, free) = taken();
    drop(listener);
    let plans = vec![takes("a", &two, "/a"), takes("b", &free, "/b"), takes("c", &three, "/c")];
    let outcomes = fleet.change_to(plans, GRACE);
    assert!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((post(&two, "/a"), post(&free, "/b")), ("202".into(), "202".into()));
    // All around.
    let plans = vec![takes("a", &free, "/a"), takes("b", &three, "/b"), takes("c", &two, "/c")];
    let outcomes = fleet.change_to(plans, GRACE);
    assert!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
    assert_eq!([post(&free, "/a"), post(&three, "/b"), post(&two, "/c")], ["202", "202", "202"]);
    assert!(TcpStream::connect(one).is_err(), "nobody wants it any more");
    assert!(fleet.drain(GRACE));
}

#[test]
fn where_one_of_a_circle_is_refused_all_stay_as_they_were() {
    let sidecar = sidecar();
    let (mut fleet, [one, two]) = fleet(&sidecar, ["a", "b"]);
    let (_listener, taken) = taken();
    let mut refused = takes("b", &one, "/b");
    let other = takes("b", &taken, "/other").stages.remove(0);
    refused.stages.push(Stage { name: "other".into(), ..other });
    refused.runs = vec![Run { stages: vec![0, 1] }, Run { stages: vec![2] }];
    let outcomes = fleet.change_to(vec![takes("a", &two, "/a"), refused], GRACE);
    assert!(outcomes["test/b"].as_ref().is_err_and(|error| error.contains(&taken)), "{outcomes:?}");
    assert!(outcomes["test/a"].as_ref().is_err_and(|error| error.contains("old plan")), "{outcomes:?}");
    assert_eq!((post(&one, "/a"), post(&two, "/b")), ("202".into(), "202".into()));
    assert!(fleet.drain(GRACE));
}
