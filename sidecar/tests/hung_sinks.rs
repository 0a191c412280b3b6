//! A sink that hangs while a reload removes or replaces it: what it had is counted and named, and nobody waits for it.

#![cfg(target_os = "linux")]

mod world;

use std::{fs::File, io::Read, path::Path, process::Command, sync::Arc, thread, time::Duration};

use serde_json::json;
use sidestream_event::Event;
use sidestream_plan::Plan;
use sidestream_sidecar::{Door, Pipeline, Registry, Sidecar};
use tempfile::TempDir;
use world::{plan, sidecar, start, with};

/// A pipe that nobody reads: whoever writes to it hangs when 64 KiB are in it.
fn pipe(folder: &Path) -> String {
    let path = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo, of every Unix").success());
    path.to_str().expect("a text").to_owned()
}

/// A sidecar whose sink hangs.
struct Hung {
    folder: TempDir,
    sidecar: Sidecar,
    pipe: String,
    registry: Registry,
    door: Door,
    pipeline: Arc<Pipeline>,
    pushed: u64,
}

fn hung() -> Hung {
    let (folder, sidecar) = (tempfile::tempdir().expect("a folder"), sidecar());
    let pipe = pipe(folder.path());
    let mut registry = Registry::default();
    let door = registry.door("push");
    let pipeline = start(&sidecar, to_file(&pipe, json!({})), &mut registry);
    let pushed = push_until_it_hangs(&door, &pipeline);
    Hung { folder, sidecar, pipe, registry, door, pipeline, pushed }
}

fn to_file(path: &str, settings: serde_json::Value) -> Plan {
    let mut file = json!({"path": path});
    settings.as_object().expect("a map").iter().for_each(|(key, value)| file[key] = value.clone());
    plan(
        &[
            ("push", &[], json!({"source": {"push": {}}})),
            ("hangs", &[0], with(json!({"sink": {"file": file}}), "input", json!({"capacity": 64}))),
            ("other", &[0], json!({"sink": {"blackhole": {}}})),
        ],
        &[&[0], &[1], &[2]],
    )
}

fn without() -> Plan {
    plan(
        &[
            ("push", &[], json!({"source": {"push": {}}})),
            ("other", &[0], json!({"sink": {"blackhole": {}}})),
        ],
        &[&[0, 1]],
    )
}

/// Pushes lines of 1 KiB until the sink hangs: some are in the pipe, one in its hand, some in its ring.
fn push_until_it_hangs(door: &Door, pipeline: &Pipeline) -> u64 {
    let line = "x".repeat(1023);
    let mut pushed = 0;
    while pushed < 80 {
        if door.try_push(Event::new(line.as_str())).is_ok() {
            pushed += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    while pipeline.ledger().completed < 64 {
        thread::sleep(Duration::from_millis(1));
    }
    pushed
}

/// Reads until nothing more comes for a while.
fn read_all(path: &str) {
    let path = path.to_owned();
    thread::spawn(move || {
        let (mut file, mut text) = (File::open(path).expect("it is there"), Vec::new());
        let _ = file.read_to_end(&mut text);
    });
}

#[test]
fn what_a_removed_sink_that_hangs_had_is_named_while_it_hangs_and_counted_when_it_lets_go() {
    let Hung { folder: _folder, sidecar, pipe, mut registry, door, pipeline, pushed } = hung();
    let hangs = pipeline.stages()[1].stats.clone();
    let before = pipeline.ledger();
    assert_eq!(before.in_flight, pushed - 64, "{before:?}");

    let reloaded = pipeline.reload(without(), &mut registry).expect("a sink that hangs is no obstacle");
    assert_eq!(reloaded.removed, ["hangs"]);
    let ledger = pipeline.ledger();
    assert!(ledger.is_balanced() && ledger.in_flight == pushed - 64, "{ledger:?}");
    // Others go on meanwhile.
    assert!(sidecar.world().sockets().block_on(door.push(Event::new("after"))).is_ok());
    let drained = pipeline.drain(Duration::from_millis(300));
    assert_eq!(drained.undelivered, [("hangs".to_owned(), pushed - 64)]);
    assert!(!drained.is_complete());

    read_all(&pipe);
    while pipeline.ledger().in_flight > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    // The batch in its hand was written in the end; the rest had nowhere to go.
    let ledger = pipeline.ledger();
    assert_eq!((ledger.accepted, ledger.completed, ledger.dropped), (pushed + 1, 66, pushed - 65));
    assert!(ledger.is_balanced(), "{ledger:?}");
    assert_eq!(hangs.dropped(), [("removed", pushed - 65)]);
    // The user has taken the sink out, so that nothing waits for it any more, after a restart neither.
    assert_eq!(pipeline.stages()[0].ledger.expect("of a source").committed, pushed + 1);
}

#[test]
fn what_a_replaced_sink_that_hangs_had_is_counted_when_it_lets_go_and_its_source_would_replay_it() {
    let Hung { folder, sidecar, pipe, mut registry, door, pipeline, pushed } = hung();

    let good = folder.path().join("good");
    let mended = to_file(good.to_str().expect("a text"), json!({}));
    let reloaded = pipeline.reload(mended, &mut registry).expect("a sink that hangs is no obstacle");
    assert_eq!(reloaded.replaced, ["hangs"]);
    assert!(sidecar.world().sockets().block_on(door.push(Event::new("after"))).is_ok());
    assert_eq!(std::fs::read_to_string(&good).expect("it is there"), "after\n");

    read_all(&pipe);
    while pipeline.ledger().in_flight > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let ledger = pipeline.ledger();
    assert_eq!((ledger.completed, ledger.dropped, ledger.is_balanced()), (66, pushed - 65, true));
    assert_eq!(pipeline.stages()[1].stats.dropped(), [("hung", pushed - 65)]);
    assert_eq!(pipeline.stages()[0].ledger.expect("of a source").committed, 65);
    assert!(pipeline.drain(Duration::from_secs(5)).is_complete());
}

#[test]
fn a_drain_names_the_sink_that_hangs_with_the_last_batch_in_its_hand() {
    let Hung { folder: _folder, sidecar: _sidecar, pipe, pipeline, pushed, .. } = hung();
    let drained = pipeline.drain(Duration::from_millis(300));
    assert_eq!(drained.undelivered, [("hangs".to_owned(), pushed - 64)]);
    read_all(&pipe);
}
