//! A source that a reload replaces: every event is delivered once, whatever was on its way, and a file's position is
//! remembered as if nothing had happened.

mod world;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value as Json, json};
use sidestream_event::Batch;
use sidestream_plan::Plan;
use sidestream_sidecar::{Flow, Output, Pipeline, Processor, Registry};
use tempfile::TempDir;
use world::{Seen, custom, plan, sidecar, start};

/// Lets nothing pass until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<bool>>);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
    }
}

impl Processor for Gate {
    fn process(&mut self, _: &mut Batch, out: &mut Output) -> Flow {
        if *self.0.lock().unwrap() {
            Flow::Continue
        } else {
            Flow::Hold(out.now() + Duration::from_millis(5))
        }
    }
}

struct Logs(TempDir);

impl Logs {
    fn new() -> Self {
        Logs(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn append(&self, name: &str, lines: &[String]) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    }

    /// A file source that reads `app.log`, with these settings beside.
    fn source(&self, settings: Json) -> Json {
        let mut file = json!({"paths": [self.path("app.log")]});
        for (key, value) in settings.as_object().unwrap() {
            file[key] = value.clone();
        }
        json!({"source": {"file": file}})
    }

    fn checkpoint(&self) -> Json {
        json!(self.path("checkpoint"))
    }
}

fn lines(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("line {number:05}")).collect()
}

fn bodies(seen: &Seen) -> Vec<String> {
    seen.events().iter().map(|event| event.body.as_text().unwrap_or_default().to_owned()).collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("waited 20 s for this: {what}");
}

fn gated(source: Json) -> Plan {
    named("lines", source)
}

fn named(name: &str, source: Json) -> Plan {
    plan(
        &[(name, &[], source), ("gate", &[0], custom("gate")), ("seen", &[1], custom("seen"))],
        &[&[0, 1, 2]],
    )
}

fn registry() -> (Registry, Gate, Seen) {
    let (mut registry, seen) = world::seen();
    let gate = Gate::default();
    registry.processor("gate", Box::new(gate.clone()));
    (registry, gate, seen)
}

/// Appends what follows `before`, opens the gate, and expects each line once and in order, now and after a restart.
fn expect_each_once(logs: &Logs, pipeline: &Pipeline, gate: &Gate, seen: &Seen, before: usize) {
    logs.append("app.log", &lines(before..before + 10));
    gate.open();
    until("every line", || seen.events().len() >= before + 10);
    // What would come twice comes soon.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(bodies(seen), lines(0..before + 10));
    let drained = pipeline.drain(Duration::from_secs(10));
    assert!(drained.is_complete() && drained.ledger.is_balanced(), "{drained:?}");
    assert_eq!((drained.ledger.accepted, drained.ledger.dropped), (before as u64 + 10, 0));
}

fn expect_a_restart_to_go_on(logs: &Logs, before: usize) {
    let sidecar = sidecar();
    let (mut registry, gate, seen) = registry();
    gate.open();
    logs.append("app.log", &lines(before..before + 1));
    let source = logs.source(json!({"checkpoint": logs.checkpoint()}));
    let pipeline = start(&sidecar, gated(source), &mut registry);
    until("the line after", || !seen.events().is_empty());
    assert_eq!(bodies(&seen), lines(before..before + 1));
    pipeline.drain(Duration::from_secs(10));
}

#[test]
fn lines_on_their_way_while_the_source_is_replaced_come_once() {
    // In one batch, which the gate holds; and in many, of which most are still in the source's ring.
    for count in [10, 5_000] {
        let (logs, sidecar) = (Logs::new(), sidecar());
        let (mut registry, gate, seen) = registry();
        logs.append("app.log", &lines(0..count));
        let source = |max: &str| logs.source(json!({"checkpoint": logs.checkpoint(), "maxLine": max}));
        let pipeline = start(&sidecar, gated(source("1Mi")), &mut registry);
        until("all lines taken in", || pipeline.ledger().accepted == count as u64);
        let reloaded = pipeline.reload(gated(source("2Mi")), &mut registry).unwrap();
        assert_eq!(reloaded.replaced, ["lines"]);
        expect_each_once(&logs, &pipeline, &gate, &seen, count);
        expect_a_restart_to_go_on(&logs, count + 10);
    }
}

#[test]
fn a_source_that_was_renamed_goes_on_by_its_checkpoint() {
    let (logs, sidecar) = (Logs::new(), sidecar());
    let (mut registry, gate, seen) = registry();
    logs.append("app.log", &lines(0..10));
    let source = || logs.source(json!({"checkpoint": logs.checkpoint()}));
    let pipeline = start(&sidecar, named("lines", source()), &mut registry);
    until("all lines taken in", || pipeline.ledger().accepted == 10);
    let reloaded = pipeline.reload(named("log", source()), &mut registry).unwrap();
    assert_eq!((reloaded.removed, reloaded.added), (vec!["lines".to_owned()], vec!["log".to_owned()]));
    expect_each_once(&logs, &pipeline, &gate, &seen, 10);
    assert_eq!(seen.events()[19].meta.source.as_str(), "log");
    expect_a_restart_to_go_on(&logs, 20);
}

#[test]
fn a_source_that_remembered_nothing_goes_on_all_the_same_and_may_begin_to_remember() {
    let (logs, sidecar) = (Logs::new(), sidecar());
    let (mut registry, gate, seen) = registry();
    logs.append("app.log", &lines(0..10));
    let pipeline = start(&sidecar, gated(logs.source(json!({}))), &mut registry);
    until("all lines taken in", || pipeline.ledger().accepted == 10);
    pipeline.reload(gated(logs.source(json!({"maxLine": "2Mi"}))), &mut registry).unwrap();
    pipeline.reload(gated(logs.source(json!({"checkpoint": logs.checkpoint()}))), &mut registry).unwrap();
    expect_each_once(&logs, &pipeline, &gate, &seen, 10);
    expect_a_restart_to_go_on(&logs, 20);
}

#[test]
fn a_source_that_remembered_nothing_goes_on_also_where_nothing_of_it_was_on_its_way() {
    let (logs, sidecar) = (Logs::new(), sidecar());
    let (mut registry, gate, seen) = registry();
    gate.open();
    logs.append("app.log", &lines(0..10));
    let pipeline = start(&sidecar, gated(logs.source(json!({}))), &mut registry);
    until("all lines delivered", || pipeline.ledger().completed == 10);
    for max in ["2Mi", "3Mi", "4Mi"] {
        pipeline.reload(gated(logs.source(json!({"maxLine": max}))), &mut registry).unwrap();
    }
    expect_each_once(&logs, &pipeline, &gate, &seen, 10);
}

#[test]
fn however_often_a_busy_source_is_replaced_each_line_comes_once_and_in_order() {
    let (logs, sidecar) = (Logs::new(), sidecar());
    let (mut registry, gate, seen) = registry();
    gate.open();
    let source = |turn: usize| {
        let settings = json!({"checkpoint": logs.checkpoint(), "maxLine": format!("{}", 1_000_000 + turn)});
        named(["lines", "log"][turn / 3 % 2], logs.source(settings))
    };
    let pipeline = start(&sidecar, source(0), &mut registry);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for hundred in 0..300 {
                logs.append("app.log", &lines(hundred * 100..(hundred + 1) * 100));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let mut turn = 0;
        while !writer.is_finished() {
            turn += 1;
            pipeline.reload(source(turn), &mut registry).unwrap();
        }
        assert!(turn > 10, "{turn} reloads");
    });
    expect_each_once(&logs, &pipeline, &gate, &seen, 30_000);
    expect_a_restart_to_go_on(&logs, 30_010);
}

#[test]
fn a_window_that_stays_counts_each_line_once_although_its_source_was_replaced() {
    let (logs, sidecar) = (Logs::new(), sidecar());
    let (mut registry, totals) = world::seen();
    logs.append("app.log", &lines(0..10));
    let of = |max: &str| {
        plan(
            &[
                ("lines", &[], logs.source(json!({"checkpoint": logs.checkpoint(), "maxLine": max}))),
                (
                    "window",
                    &[0],
                    json!({"process": {"window": {"tumbling": "1h", "emit": {"count": "true"}}}}),
                ),
                ("totals", &[1], custom("seen")),
            ],
            &[&[0, 1, 2]],
        )
    };
    let pipeline = start(&sidecar, of("1Mi"), &mut registry);
    until("all lines counted", || pipeline.ledger().completed == 10);
    for max in ["2Mi", "3Mi", "4Mi"] {
        pipeline.reload(of(max), &mut registry).unwrap();
    }
    logs.append("app.log", &lines(10..15));
    until("the last lines counted", || pipeline.ledger().completed >= 15);
    thread::sleep(Duration::from_millis(100));
    let begun = sidecar.world().clock().now();
    let drained = pipeline.drain(Duration::from_secs(10));
    assert!(drained.is_complete(), "{drained:?}");
    assert!(sidecar.world().clock().now().since(begun) < Duration::from_secs(5), "the source has closed");
    assert_eq!(totals.numbers("count").iter().sum::<i64>(), 15);
    assert_eq!(pipeline.stages()[0].ledger.expect("of a source").committed, 15);
    expect_a_restart_to_go_on(&logs, 15);
}

#[test]
fn what_is_left_in_the_ring_of_a_source_comes_before_what_the_one_of_its_name_brings() {
    let sidecar = sidecar();
    let (mut registry, gate, seen) = registry();
    let door = registry.door("lines");
    let pipeline = start(&sidecar, gated(json!({"source": {"push": {}}})), &mut registry);
    for number in 0..500 {
        let body: sidestream_event::Value = [("sequence", number)].into_iter().collect();
        assert!(door.try_push(sidestream_event::Event::new(body)).is_ok());
    }
    let count = |count: u64| gated(json!({"source": {"generator": {"count": count}}}));
    let reloaded = pipeline.reload(count(7), &mut registry).unwrap();
    assert_eq!(reloaded.replaced, ["lines"]);
    // Once more before anything has moved: there are two rings, and a source that is called.
    pipeline.reload(count(8), &mut registry).unwrap();
    gate.open();
    world::ended(&sidecar, &pipeline);
    assert_eq!(seen.numbers("sequence"), (0..500).chain(0..8).collect::<Vec<_>>());
    let ledger = pipeline.ledger();
    assert!(ledger.is_balanced() && ledger.completed == 508, "{ledger:?}");
}

#[test]
fn two_pipelines_with_one_checkpoint_take_turns_and_say_so() {
    let (logs, sidecar) = (Logs::new(), sidecar());
    let (mut registry, gate, seen) = registry();
    gate.open();
    logs.append("app.log", &lines(0..10));
    let source = || logs.source(json!({"checkpoint": logs.checkpoint()}));
    let first = start(&sidecar, gated(source()), &mut registry);
    until("all lines", || seen.events().len() == 10);
    let (mut registry, gate, other) = self::registry();
    gate.open();
    let second = start(&sidecar, gated(source()), &mut registry);
    until("a word about it", || second.stages()[0].stats.retries.get() > 0);
    assert_eq!(other.events().len(), 0);
    first.drain(Duration::from_secs(10));
    logs.append("app.log", &lines(10..12));
    until("the lines after", || other.events().len() >= 2);
    assert_eq!(bodies(&other), lines(10..12));
    second.drain(Duration::from_secs(10));
    assert!(fs::metadata(logs.path("checkpoint")).is_ok());
}
