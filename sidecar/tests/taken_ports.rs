//! A port that somebody else has: the plan that wants it is refused before anything of it runs, and on a reload what was
//! running goes on. A port that the plan itself gives up passes to the stage that wants it.

mod world;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value as Json, json};
use sidestream_plan::Plan;
use sidestream_sidecar::{AssembleError, Pipeline, ReloadError};
use world::{custom, generator, plan, seen, sidecar, start};

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
