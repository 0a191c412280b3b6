//! Pipelines that a program builds, runs, and pushes events into.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sidestream::{
    Batch, Delivery, Event, Flow, OnError, Output, Pipeline, Processor, PushError, Running, Sidecar,
    SidecarConfig, StartError, Value,
    stage::{
        Blackhole, Console, ConsoleFormat, DnpipeSink, DnpipeSource, FileSink, Filter, Generator, Map, Window,
    },
};

fn sidecar() -> Sidecar {
    Sidecar::start(SidecarConfig { workers: Some(2), ..SidecarConfig::default() }).unwrap()
}

fn order(total: i64) -> Event {
    Event::new([("total", total)].into_iter().collect::<Value>())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time") })
}

fn stage(running: &Running, name: &str) -> sidestream::StageView {
    running.stages().into_iter().find(|stage| stage.name == name).unwrap()
}

/// Adds up what it sees, and passes it on twice as large.
struct Double(Arc<Mutex<Vec<f64>>>);

impl Processor for Double {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        for event in batch.events_mut() {
            let total = event.body.field("total").and_then(Value::as_f64).unwrap_or_default();
            self.0.lock().unwrap().push(total);
            event.body = Value::from(total * 2.0);
        }
        Flow::Continue
    }
}

#[test]
fn a_processor_of_the_program_is_a_stage_and_a_push_resolves_when_the_sink_has_it() {
    let sidecar = sidecar();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let seen = Arc::default();
    let running = Pipeline::new("orders")
        .push("in")
        .process("big", Filter { keep: "event.total > 100".into() })
        .processor("double", Double(Arc::clone(&seen)))
        .sink("out", FileSink { path: path.display().to_string(), rotate_at: None, keep: None, sync: None })
        .start(&sidecar)
        .unwrap();
    let door = running.door("in").unwrap();
    wait(door.push(order(120))).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "240.0\n", "delivered before the push has resolved");
    // Filtered away is done, too.
    wait(door.push(order(7))).unwrap();
    wait(door.push(order(200))).unwrap();
    assert_eq!(*seen.lock().unwrap(), [120.0, 200.0]);
    let ledger = running.ledger();
    assert_eq!((ledger.accepted, ledger.completed, ledger.is_balanced()), (3, 3, true));
    assert!(running.drain(Duration::from_secs(5)).is_complete());
    assert!(matches!(wait(door.push(order(1))), Err(PushError::Closed(_))));
}

#[test]
fn a_push_that_a_policy_drops_resolves_as_an_error() {
    let sidecar = sidecar();
    let running = Pipeline::new("bad")
        .push("in")
        .process("fails", Map { body: "event.no_such_field".into() })
        .sink("out", Blackhole {})
        .start(&sidecar)
        .unwrap();
    let pushed = wait(running.door("in").unwrap().push(order(1)));
    assert!(matches!(pushed, Err(PushError::Dropped)), "{pushed:?}");
    assert_eq!(running.ledger().dropped, 1);
    running.drain(Duration::from_secs(5));
}

struct Panics;

impl Processor for Panics {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        assert!(
            batch.events().iter().all(|event| event.body.field("total") != Some(&Value::Int(13))),
            "thirteen"
        );
        Flow::Continue
    }
}

#[test]
fn a_processor_that_panics_is_contained_and_counted_and_its_events_are_kept_aside() {
    let sidecar = sidecar();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lost.jsonl");
    let lost = FileSink { path: path.display().to_string(), rotate_at: None, keep: None, sync: None };
    let running = Pipeline::new("panics")
        .push("in")
        .processor("mine", Panics)
        .on_error(OnError { dead_letter: Some("lost".into()), ..OnError::default() })
        .sink("out", Blackhole {})
        .sink("lost", lost)
        .from([])
        .start(&sidecar)
        .unwrap();
    let door = running.door("in").unwrap();
    wait(door.push(order(1))).unwrap();
    wait(door.push(order(13))).expect("a dead letter is an end as good as another");
    wait(door.push(order(2))).expect("the stage works on after a panic");
    assert_eq!(stage(&running, "mine").stats.errors.get(), 1);
    assert_eq!(running.ledger().dead_lettered, 1);
    assert!(running.drain(Duration::from_secs(5)).is_complete());
    assert!(std::fs::read_to_string(&path).unwrap().contains("13"));
}

#[test]
fn the_same_graph_in_code_and_in_a_file_has_the_same_plan() {
    let file = "
kind: Pipeline
metadata: {name: same, namespace: shop}
spec:
  stages:
  - {name: tick, source: {generator: {rate: 5, keys: 3}}}
  - {name: minute, process: {window: {tumbling: 1m, by: event.key, emit: {max: event.value}}}}
  - {name: high, when: event.max > 90.0, sink: {console: {format: JSON}}}
  - {name: rest, from: [minute], otherwise: true, sink: {blackhole: {}}}
  - {name: lost, from: [], sink: {console: {}}}
  onError: {deadLetter: lost}
";
    let compiled = sidestream_crds::compile(file.as_bytes(), "same.yaml");
    assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
    let from_file = compiled.pipelines[0].plan.clone().unwrap();
    let mut window =
        Window { tumbling: Some("1m".parse().unwrap()), by: Some("event.key".into()), ..Window::default() };
    window.emit.max = Some("event.value".into());
    let in_code = Pipeline::new("same")
        .namespace("shop")
        .source("tick", Generator { rate: Some(5.0), keys: Some(3), ..Generator::default() })
        .process("minute", window)
        .sink("high", Console { format: Some(ConsoleFormat::JSON) })
        .when("event.max > 90.0")
        .sink("rest", Blackhole {})
        .from(["minute"])
        .otherwise()
        .sink("lost", Console::default())
        .from([])
        .on_errors(OnError { dead_letter: Some("lost".into()), ..OnError::default() })
        .plan()
        .unwrap();
    assert_eq!(serde_json::to_value(in_code).unwrap(), serde_json::to_value(from_file).unwrap());
}

#[test]
fn a_graph_that_is_wrong_is_told_in_the_words_of_check() {
    let wrong = Pipeline::new("wrong").push("in").sink("out", Blackhole {}).from(["inn"]).start(&sidecar());
    let Err(StartError::Wrong(diagnostics)) = wrong else { panic!("{wrong:?}") };
    assert!(diagnostics[0].to_string().contains("unknown-stage"), "{}", diagnostics[0]);
}

#[test]
fn a_generator_that_ends_lets_the_pipeline_end_and_a_door_that_is_not_there_is_named() {
    let sidecar = sidecar();
    let running = Pipeline::new("count")
        .source("tick", Generator { count: Some(10_000), ..Generator::default() })
        .sink("out", Blackhole {})
        .start(&sidecar)
        .unwrap();
    wait(running.ended());
    assert_eq!(running.ledger().completed, 10_000);
    assert!(running.door("tick").err().unwrap().to_string().contains("add one with `.push(name)`"));
}

#[test]
fn a_running_graph_takes_another_form_and_its_door_stays_open() {
    let sidecar = sidecar();
    let seen: Arc<Mutex<Vec<f64>>> = Arc::default();
    let base = || Pipeline::new("live").push("in");
    let running = base().sink("out", Blackhole {}).start(&sidecar).unwrap();
    let door = running.door("in").unwrap();
    wait(door.push(order(1))).unwrap();
    let done = running
        .reload(base().processor("mine", Double(Arc::clone(&seen))).sink("out", Blackhole {}))
        .unwrap();
    assert_eq!((done.added, done.kept), (vec!["mine".to_owned()], vec!["in".to_owned(), "out".to_owned()]));
    wait(door.push(order(5))).unwrap();
    assert_eq!(*seen.lock().unwrap(), [5.0]);
    assert!(running.drain(Duration::from_secs(5)).is_complete());
    wait(running.ended());
}

#[test]
fn a_running_graph_does_not_become_one_that_delivers_exactly_once() {
    let sidecar = sidecar();
    let base = || Pipeline::new("live").push("in").sink("out", Blackhole {});
    let running = base().start(&sidecar).unwrap();
    let orders = DnpipeSource { name: "orders".into(), namespace: None, pool: None, group: "billing".into() };
    let bills = DnpipeSink { name: "bills".into(), namespace: None, pool: None, key: None };
    let once = Pipeline::new("live").delivery(Delivery::ExactlyOnce).source("in", orders).sink("out", bills);
    let refused = running.reload(once).unwrap_err().to_string();
    assert!(refused.contains("drain it, and start it anew"), "{refused}");
    wait(running.door("in").unwrap().push(order(1))).unwrap();
    let unproven = base().delivery(Delivery::ExactlyOnce);
    assert!(matches!(running.reload(unproven), Err(StartError::Wrong(_))));
    assert!(running.drain(Duration::from_secs(5)).is_complete());
}
