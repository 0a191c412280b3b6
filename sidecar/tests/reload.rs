//! Reloads under load: whatever changes, nothing is lost, repeated, or reordered per key, and kept windows keep counting.
//!
//! `SIDESTREAM_PROVE_N` sets how many reloads, `SIDESTREAM_PROVE_SEED` which ones.

mod world;

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use serde_json::{Value as Json, json};
use sidestream_event::Value;
use sidestream_host::Random;
use sidestream_plan::Plan;
use sidestream_sidecar::{Pipeline, Registry};
use world::{Seen, compiled, sidecar};

/// What the pipeline looks like now; a reload changes one of these.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    /// How many pass-through stages stand between the source and the counting stage.
    extra: usize,
    /// Which of two equal expressions the first filter has.
    expression: bool,
    /// Whether `seen` takes from `second` or from `first`.
    rewired: bool,
    /// The capacity of the ring before `seen`.
    capacity: u32,
    /// The window's length in milliseconds.
    window: u32,
}

const CHANGES: [&str; 6] = ["add", "remove", "replace", "rewire", "resize", "window"];

impl Shape {
    fn change(&mut self, kind: &str, random: &mut Random) {
        match kind {
            "add" => self.extra += 1,
            "remove" => self.extra -= 1,
            "replace" => self.expression = !self.expression,
            "rewire" => self.rewired = !self.rewired,
            "resize" => self.capacity = 512 + (self.capacity + random.below(4000) as u32) % 8000,
            _ => self.window = 20 + (self.window + 1 + random.below(50) as u32) % 100,
        }
    }

    fn allows(&self, kind: &str) -> bool {
        match kind {
            "add" => self.extra < 6,
            "remove" => self.extra > 0,
            _ => true,
        }
    }

    fn plan(&self) -> Plan {
        let keep = if self.expression { "event.sequence >= 0" } else { "true" };
        let mut stages = vec![
            json!({"name": "tick", "source": {"generator": {"rate": 100_000, "keys": 16}}}),
            json!({"name": "first", "process": {"filter": {"keep": keep}}}),
        ];
        for extra in 0..self.extra {
            stages.push(json!({"name": format!("extra-{extra}"), "process": {"filter": {"keep": "true"}}}));
        }
        let seen_from = if self.rewired { "first" } else { "second" };
        stages.extend([
            json!({"name": "second", "process": {"merge": {}}}),
            json!({
                "name": "window", "from": ["second"],
                "process": {"window": {"tumbling": format!("{}ms", self.window), "by": "event.key", "emit": {"count": "true"}}},
            }),
            json!({"name": "totals", "process": {"custom": {"processor": "totals"}}}),
            json!({
                "name": "seen", "from": [seen_from], "input": {"capacity": self.capacity},
                "process": {"custom": {"processor": "seen"}},
            }),
            json!({"name": "end", "from": ["seen", "totals"], "sink": {"blackhole": {}}}),
        ]);
        compiled("reloaded", &stages)
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn reloads_at_100_000_events_a_second_lose_repeat_and_reorder_nothing() {
    let (reloads, seed) = (setting("SIDESTREAM_PROVE_N", 60), setting("SIDESTREAM_PROVE_SEED", 1));
    let mut random = Random::seeded(seed);
    let sidecar = sidecar();
    let (mut registry, seen) = world::seen();
    let totals = Seen::default();
    registry.processor("totals", Box::new(totals.clone()));
    let mut shape = Shape { extra: 1, expression: false, rewired: false, capacity: 4096, window: 50 };
    let pipeline = world::start(&sidecar, shape.plan(), &mut registry);

    let mut done: HashMap<&str, u32> = HashMap::new();
    let mut paused = Vec::new();
    while done.values().sum::<u32>() < reloads as u32 {
        thread::sleep(Duration::from_millis(2 + random.below(8)));
        let kind = CHANGES[random.below(6) as usize];
        if !shape.allows(kind) {
            continue;
        }
        let before = shape.clone();
        shape.change(kind, &mut random);
        assert_ne!(before, shape, "a reload that changes nothing does not count");
        let reloaded = reload(&pipeline, shape.plan(), &mut registry);
        if kind == "window" {
            assert_eq!(reloaded.replaced, ["window"]);
        } else {
            assert!(reloaded.kept.contains(&"window".to_owned()), "{kind}: {reloaded:?}");
        }
        paused.push(reloaded.paused);
        *done.entry(kind).or_default() += 1;
        let ledger = pipeline.ledger();
        assert!(ledger.is_balanced(), "{ledger:?}");
    }
    let drained = pipeline.drain(Duration::from_secs(10));
    assert!(drained.is_complete(), "{drained:?}");

    let accepted = drained.ledger.accepted;
    check_order(&seen, accepted);
    let counted: i64 = totals.numbers("count").iter().sum();
    assert_eq!(counted as u64, accepted, "the windows counted every event once");
    paused.sort();
    println!(
        "seed {seed}: {reloads} reloads {done:?} over {accepted} events: lost 0, repeated 0, reordered 0; paused median {:?}, longest {:?}",
        paused[paused.len() / 2],
        paused[paused.len() - 1]
    );
}

fn reload(pipeline: &Arc<Pipeline>, plan: Plan, registry: &mut Registry) -> sidestream_sidecar::Reloaded {
    pipeline.reload(plan, registry).unwrap_or_else(|error| panic!("{error}"))
}

/// Every sequence number once; in rising order within each key.
fn check_order(seen: &Seen, accepted: u64) {
    let mut last: HashMap<String, i64> = HashMap::new();
    let mut met = vec![false; accepted as usize];
    for event in seen.events() {
        let Some(Value::Int(sequence)) = event.body.field("sequence") else { panic!("{event:?}") };
        let key = event.meta.key.as_ref().expect("the generator gives keys").to_string();
        let before = last.insert(key.clone(), *sequence);
        assert!(before < Some(*sequence), "key {key}: {sequence} after {before:?}");
        let repeated = std::mem::replace(&mut met[*sequence as usize], true);
        assert!(!repeated, "{sequence} came twice");
    }
    let lost = met.iter().filter(|met| !**met).count();
    assert_eq!(lost, 0, "of {accepted}");
}

#[test]
fn a_plan_that_cannot_be_made_leaves_the_old_one_running() {
    let sidecar = sidecar();
    let (mut registry, seen) = world::seen();
    let source = json!({"name": "tick", "source": {"generator": {"rate": 10_000}}});
    let end = json!({"name": "seen", "process": {"custom": {"processor": "seen"}}});
    let good = || {
        compiled(
            "reloaded",
            &[source.clone(), end.clone(), json!({"name": "end", "sink": {"blackhole": {}}})],
        )
    };
    let bad = compiled(
        "reloaded",
        &[
            source.clone(),
            end.clone(),
            json!({"name": "unknown", "process": {"custom": {"processor": "nobody"}}}),
            json!({"name": "end", "sink": {"blackhole": {}}}),
        ],
    );
    let pipeline = world::start(&sidecar, good(), &mut registry);
    thread::sleep(Duration::from_millis(20));
    let error = pipeline.reload(bad, &mut registry).unwrap_err().to_string();
    assert!(error.contains("`nobody`") && error.contains("the old plan is running"), "{error}");
    let before = seen.events().len();
    thread::sleep(Duration::from_millis(50));
    assert!(seen.events().len() > before, "events flow on");
    let drained = pipeline.drain(Duration::from_secs(5));
    assert!(drained.is_complete(), "{drained:?}");
    check_order_of_one(&seen, drained.ledger.accepted);
}

fn check_order_of_one(seen: &Seen, accepted: u64) {
    assert_eq!(seen.numbers("sequence"), (0..accepted as i64).collect::<Vec<_>>());
}

#[test]
fn whoever_waits_for_the_end_hears_it_also_where_a_reload_came_between() {
    let sidecar = sidecar();
    let (mut registry, seen) = world::seen();
    let of = |settings: Json| {
        compiled(
            "reloaded",
            &[
                json!({"name": "tick", "source": {"generator": settings}}),
                json!({"name": "seen", "process": {"custom": {"processor": "seen"}}}),
                json!({"name": "end", "sink": {"blackhole": {}}}),
            ],
        )
    };
    let pipeline = world::start(&sidecar, of(json!({"rate": 1_000})), &mut registry);
    // Long enough for the watcher to wait for the runs of this plan, which never end by themselves.
    thread::sleep(Duration::from_millis(100));
    assert!(!pipeline.has_ended());
    pipeline.reload(of(json!({"count": 50, "rate": 1_000_000})), &mut registry).expect("a good plan");
    world::ended(&sidecar, &pipeline);
    assert!(seen.events().len() > 50);
}

#[test]
fn a_stage_whose_run_has_ended_is_kept_with_its_state_and_works_on_when_its_source_is_replaced() {
    let sidecar = sidecar();
    let (mut registry, seen) = world::seen();
    let of = |count: u64, rate: u64| {
        compiled(
            "reloaded",
            &[
                json!({"name": "few", "source": {"generator": {"count": count, "keys": 8}}}),
                json!({"name": "once", "process": {"dedupe": {"by": "event.key", "window": "1h"}}}),
                json!({"name": "seen", "process": {"custom": {"processor": "seen"}}}),
                json!({"name": "end", "sink": {"blackhole": {}}}),
                json!({"name": "tick", "source": {"generator": {"rate": rate}}}),
                json!({"name": "other", "from": ["tick"], "sink": {"blackhole": {}}}),
            ],
        )
    };
    let pipeline = world::start(&sidecar, of(100, 10), &mut registry);
    while pipeline.stages()[0].stats.events_out.get() < 100 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(seen.events().len(), 8);
    // A change elsewhere: the processor of the program is there only once.
    let reloaded =
        pipeline.reload(of(100, 20), &mut registry).expect("the run that has ended is no obstacle");
    assert!(reloaded.kept.contains(&"seen".to_owned()), "{reloaded:?}");
    // And its source comes again: what was seen once is remembered.
    let reloaded = pipeline.reload(of(200, 20), &mut registry).expect("a good plan");
    assert_eq!(reloaded.replaced, ["few"]);
    while pipeline.stages()[0].stats.events_out.get() < 300 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(seen.events().len(), 8, "the state was kept");
    assert_eq!(pipeline.stages()[1].stats.events_in.get(), 300);
    let drained = pipeline.drain(Duration::from_secs(5));
    assert!(drained.is_complete(), "{drained:?}");
}

/// Says at its end how many it has seen.
#[derive(Default)]
struct Sum(i64);

impl sidestream_sidecar::Processor for Sum {
    fn process(
        &mut self,
        batch: &mut sidestream_event::Batch,
        _: &mut sidestream_sidecar::Output,
    ) -> sidestream_sidecar::Flow {
        self.0 += batch.len() as i64;
        batch.clear();
        sidestream_sidecar::Flow::Continue
    }

    fn flush(&mut self, out: &mut sidestream_sidecar::Output) {
        let body: Value = [("sum", self.0)].into_iter().collect();
        let events = vec![sidestream_event::Event::new(body)];
        out.emit(sidestream_event::Batch::of(events, sidestream_event::Mark::none()));
    }
}

#[test]
fn a_stage_gives_up_what_it_holds_once_however_often_a_reload_comes_after() {
    let sidecar = sidecar();
    let (mut registry, seen) = world::seen();
    registry.processor("sum", Box::new(Sum::default()));
    let of = |rate: u64| {
        compiled(
            "reloaded",
            &[
                json!({"name": "few", "source": {"generator": {"count": 100}}}),
                json!({"name": "sum", "process": {"custom": {"processor": "sum"}}}),
                json!({"name": "seen", "process": {"custom": {"processor": "seen"}}}),
                json!({"name": "end", "sink": {"blackhole": {}}}),
                json!({"name": "tick", "source": {"generator": {"rate": rate}}}),
                json!({"name": "other", "from": ["tick"], "sink": {"blackhole": {}}}),
            ],
        )
    };
    let pipeline = world::start(&sidecar, of(10), &mut registry);
    while seen.events().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    for rate in [20, 30, 40] {
        thread::sleep(Duration::from_millis(50));
        pipeline.reload(of(rate), &mut registry).expect("a good plan");
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(seen.numbers("sum"), [100]);
    pipeline.drain(Duration::from_secs(5));
}

#[test]
fn what_a_source_that_has_ended_left_in_a_ring_comes_through_reloads_that_work_and_reloads_that_fail() {
    let sidecar = sidecar();
    let (mut registry, seen) = world::seen();
    let late = Seen::default();
    registry.processor("late", Box::new(late.clone()));
    let gate = Gate::default();
    registry.processor("gate", Box::new(gate.clone()));
    let of = |rate: u64, unknown: &str| {
        compiled(
            "reloaded",
            &[
                json!({"name": "few", "source": {"generator": {"count": 5_000}}}),
                json!({"name": "seen", "from": ["few"], "process": {"custom": {"processor": "seen"}}}),
                json!({"name": "end", "from": ["seen"], "sink": {"blackhole": {}}}),
                json!({"name": "gate", "from": ["few"], "process": {"custom": {"processor": "gate"}}}),
                json!({"name": "late", "from": ["gate"], "process": {"custom": {"processor": "late"}}}),
                json!({"name": "last", "from": ["late"], "sink": {"blackhole": {}}}),
                json!({"name": "tick", "source": {"generator": {"rate": rate}}}),
                json!({"name": "other", "from": ["tick"], "process": {"custom": {"processor": unknown}}}),
                json!({"name": "there", "from": ["other"], "sink": {"blackhole": {}}}),
            ],
        )
    };
    registry.processor("a", Box::new(Seen::default()));
    let pipeline = world::start(&sidecar, of(10, "a"), &mut registry);
    while seen.events().len() < 5_000 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
    pipeline.reload(of(10, "nobody"), &mut registry).expect_err("there is no such processor");
    for rate in [20, 30] {
        thread::sleep(Duration::from_millis(20));
        pipeline.reload(of(rate, "a"), &mut registry).expect("a good plan");
    }
    assert_eq!(late.events().len(), 0);
    gate.open();
    for _ in 0..5_000 {
        if late.events().len() < 5_000 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(late.numbers("sequence"), (0..5_000).collect::<Vec<_>>());
    assert!(pipeline.drain(Duration::from_secs(5)).is_complete());
}

/// Holds everything until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<std::sync::Mutex<bool>>);

impl Gate {
    fn open(&self) {
        *self.0.lock().expect("nobody panics with it") = true;
    }
}

impl sidestream_sidecar::Processor for Gate {
    fn process(
        &mut self,
        _: &mut sidestream_event::Batch,
        out: &mut sidestream_sidecar::Output,
    ) -> sidestream_sidecar::Flow {
        match *self.0.lock().expect("nobody panics with it") {
            true => sidestream_sidecar::Flow::Continue,
            false => sidestream_sidecar::Flow::Hold(out.now() + Duration::from_millis(1)),
        }
    }
}
