//! Inputs that spill, in one process: what passes, what waits on the disk, and what reloads and drains do to it.

mod world;

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value as Json, json};
use sidestream_event::Batch;
use sidestream_plan::stage::PodSpill;
use sidestream_sidecar::{
    Fleet, Flow, Output, Pipeline, Processor, Registry, Sidecar,
    observe::{self, Observed},
};
use world::{Seen, asked, compiled, peers::until, sidecar, start, tick};

/// A sidecar with a disk, as in a pod.
fn with_disk(folder: &tempfile::TempDir) -> Sidecar {
    let sidecar = sidecar();
    sidecar.world().spill_in(folder.path(), PodSpill::DEFAULT);
    sidecar
}

fn slow(capacity: u32) -> Json {
    json!({"name": "slow", "input": {"capacity": capacity, "overflow": "Spill"}, "process": {"custom": {"processor": "slow"}}})
}

fn none() -> Json {
    json!({"name": "none", "sink": {"blackhole": {}}})
}

/// Keeps what it sees while it is open, and takes its time.
struct Gate {
    seen: Seen,
    is_open: Arc<Mutex<bool>>,
    rest: Duration,
}

impl Processor for Gate {
    fn process(&mut self, batch: &mut Batch, output: &mut Output) -> Flow {
        if !*self.is_open.lock().unwrap() {
            return Flow::Hold(output.now() + Duration::from_millis(5));
        }
        std::thread::sleep(self.rest);
        self.seen.process(batch, output)
    }
}

/// The registry with a gate that is open.
fn registry(rest: Duration) -> (Registry, Seen) {
    let (registry, seen, gate) = closed(rest);
    *gate.lock().unwrap() = true;
    (registry, seen)
}

/// The same with one that is not, and what opens it.
fn closed(rest: Duration) -> (Registry, Seen, Arc<Mutex<bool>>) {
    let (mut registry, seen, gate) = (Registry::default(), Seen::default(), Arc::default());
    let processor = Gate { seen: seen.clone(), is_open: Arc::clone(&gate), rest };
    registry.processor("slow", Box::new(processor));
    (registry, seen, gate)
}

/// Events that the stage has taken.
fn taken(pipeline: &Pipeline) -> u64 {
    let stages = pipeline.stages();
    stages.iter().find(|view| view.name == "slow").map_or(0, |view| view.stats.events_in.get())
}

/// Events that the queue before `stage` was handed by its disk or may still be.
fn spilled(pipeline: &Pipeline, stage: &str) -> sidestream_sidecar::Ledger {
    let stages = pipeline.stages();
    let own = stages.iter().find(|view| view.name == format!("{stage}:spilled")).expect("there is a queue");
    own.ledger.expect("it is a source")
}

#[test]
fn a_pipeline_whose_source_ends_comes_to_its_end_when_what_it_spilled_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(&folder);
    let (mut registry, seen, gate) = closed(Duration::ZERO);
    let pipeline = start(&sidecar, compiled("spilling", &[tick(20_000), slow(2_000), none()]), &mut registry);
    until("the source is done, and the stage is not", || {
        let ledger = pipeline.ledger();
        assert!(ledger.is_balanced());
        ledger.completed == 20_000
    });
    assert!(seen.events().is_empty() && !pipeline.has_ended());
    *gate.lock().unwrap() = true;
    until("everything has ended", || pipeline.has_ended());
    assert_eq!(seen.numbers("sequence"), (0..20_000).collect::<Vec<_>>());
    assert!(seen.events().iter().all(|event| event.meta.source == "tick"));
    let queue = spilled(&pipeline, "slow");
    assert!(queue.is_balanced() && queue.completed == 20_000, "{queue:?}");
    let drained = pipeline.drain(Duration::ZERO);
    assert!(drained.is_complete() && drained.ledger.accepted == 20_000, "{drained:?}");
}

#[test]
fn reloads_that_change_the_queue_lose_repeat_and_reorder_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(&folder);
    let (mut registry, seen) = registry(Duration::from_millis(1));
    let plan = |capacity| compiled("spilling", &[tick(40_000), slow(capacity), none()]);
    let pipeline = start(&sidecar, plan(2_000), &mut registry);
    for capacity in 2_001..2_021 {
        std::thread::sleep(Duration::from_millis(10));
        pipeline.reload(plan(capacity), &mut Registry::default()).expect("a queue of another size");
    }
    until("everything has ended", || pipeline.has_ended());
    let numbers = seen.numbers("sequence");
    let wrong = numbers.iter().enumerate().find(|(place, number)| *place as i64 != **number);
    assert_eq!((wrong, numbers.len()), (None, 40_000));
    assert!(pipeline.ledger().is_balanced() && pipeline.ledger().completed == 40_000);
}

/// Nobody listens there.
fn away() -> Json {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    json!({
        "name": "tell", "input": {"capacity": 100, "overflow": "Spill"}, "sink": {"webhook": {"url": format!("http://{address}/")}}
    })
}

#[test]
fn what_a_pod_spills_never_takes_more_than_its_volume_and_then_its_source_waits() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = sidecar();
    let volume = PodSpill::new(PodSpill::MIN).unwrap();
    sidecar.world().spill_in(folder.path(), volume);
    let observed = Observed::new(sidecar.world());
    let server = observe::serve(observed.clone(), "127.0.0.1:0", sidecar.world()).expect("a free port");
    let mut fleet = Fleet::new(sidecar.world(), &observed);
    let text = "x".repeat(2_000);
    let stages = [
        json!({"name": "tick", "source": {"generator": {"rate": 100_000}}}),
        json!({"name": "long", "process": {"set": {"fields": {"text": format!("'{text}'")}}}}),
        away(),
    ];
    fleet.start(compiled("spilling", &stages)).expect("a good plan");
    let is_full = |line: &str| line.starts_with("sidestream_spill_full{") && line.ends_with(" 1");
    until("there is no room", || asked(server.address(), "/metrics").lines().any(is_full));
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let bytes: u64 = files.sum();
    assert!((PodSpill::MIN.bytes()..=volume.journal().bytes()).contains(&bytes), "{bytes} bytes of files");
}

#[test]
fn a_drain_that_its_sink_holds_up_leaves_everything_on_the_disk_and_says_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(&folder);
    let pipeline = start(&sidecar, compiled("spilling", &[tick(2_000), away()]), &mut Registry::default());
    until("it came in", || pipeline.ledger().accepted == 2_000);
    let drained = pipeline.drain(Duration::from_secs(5));
    assert!(drained.is_safe() && !drained.is_complete(), "{drained:?}");
    assert_eq!((drained.ledger.completed, drained.spilled), (2_000, 2_000));
    sidecar.world().close_spills();
    drop((pipeline, sidecar));
    // The next process has them.
    let sidecar = with_disk(&folder);
    let (mut registry, seen) = registry(Duration::ZERO);
    let tell =
        json!({"name": "tell", "input": {"overflow": "Spill"}, "process": {"custom": {"processor": "slow"}}});
    let pipeline: Arc<Pipeline> =
        start(&sidecar, compiled("spilling", &[tick(1), tell, none()]), &mut registry);
    until("all of it has come", || seen.events().len() == 2_001);
    assert_eq!(seen.numbers("sequence"), (0..2_000).chain([0]).collect::<Vec<_>>());
    assert_eq!(pipeline.ledger().accepted, 1, "the others were counted where they came in");
}

#[test]
fn a_pipeline_that_is_told_to_go_on_while_it_empties_its_queue_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(&folder);
    let (mut registry, seen, gate) = closed(Duration::ZERO);
    let plan = compiled("spilling", &[tick(10_000), slow(500), none()]);
    let pipeline = start(&sidecar, plan.clone(), &mut registry);
    until("all of it is on the disk", || pipeline.ledger().completed == 10_000);
    // The queue is told that no more comes.
    pipeline.halt(&[]);
    pipeline.reload(plan, &mut Registry::default()).expect("it goes on");
    until("all of the next is on the disk", || pipeline.ledger().completed == 20_000);
    *gate.lock().unwrap() = true;
    until("all of it has come", || taken(&pipeline) == 20_000);
    until("and was kept", || seen.events().len() == 20_000);
    assert_eq!(seen.numbers("sequence"), (0..10_000).chain(0..10_000).collect::<Vec<_>>());
    until("everything has ended", || pipeline.has_ended());
}

#[test]
fn dead_letters_for_a_sink_that_spills_come_to_it_with_their_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(&folder);
    let lost = folder.path().join("lost.jsonl");
    let stages = [
        tick(100),
        json!({"name": "half", "process": {"map": {"body": "event.sequence / 0"}}, "onError": {"deadLetter": "lost"}}),
        none(),
        json!({"name": "lost", "from": [], "input": {"overflow": "Spill"}, "sink": {"file": {"path": lost}}}),
    ];
    let pipeline = start(&sidecar, compiled("spilling", &stages), &mut Registry::default());
    until("everything has ended", || pipeline.has_ended());
    assert_eq!((pipeline.ledger().dead_lettered, pipeline.ledger().completed), (100, 0));
    let written = std::fs::read_to_string(&lost).unwrap();
    assert_eq!(written.lines().count(), 100, "{written}");
    assert!(written.lines().all(|line| line.contains("\"half\"") && line.contains("error")), "{written}");
}
