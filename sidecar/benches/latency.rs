//! Three stages in one process at 100,000 events a second, open loop: how long from the moment an event was due to the
//! moment the last stage has it.
//!
//! `cargo bench -p sidestream-sidecar --bench latency [-- SECONDS]`. A pusher that does not wait for answers keeps to its
//! schedule; an event that it could not push in time counts from when it was due. Fused, and with every stage on its own
//! ring; in turn, the median of the rounds. Prints JSON lines.
//!
//! Beside them *the machine itself*: the same schedule between two threads that share one number and never sleep. Where
//! that is late, the machine took a core away; no scheduler of ours can be earlier.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a bench measures real time")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::ClockStage;
use hdrhistogram::Histogram;
use serde_json::json;
use sidestream_event::{Event, Value};
use sidestream_plan::{Latency, Plan};
use sidestream_ring::sync::Gauge;
use sidestream_sidecar::{Pipeline, PushError, Registry, Sidecar, SidecarConfig};

const RATE: u64 = 100_000;
const ROUNDS: usize = 9;
const WARM_UP: u64 = RATE / 2;

fn main() {
    let seconds = std::env::args().filter_map(|text| text.parse().ok()).next().unwrap_or(1);
    type Shape = (&'static str, fn(u64) -> Histogram<u64>);
    let shapes: [Shape; 3] = [
        ("fused", |seconds| measure(&[&[0, 1, 2, 3]], seconds)),
        ("own rings", |seconds| measure(&[&[0], &[1], &[2], &[3]], seconds)),
        ("the machine itself", two_bare_threads),
    ];
    let mut rounds: Vec<Vec<Histogram<u64>>> = vec![Vec::new(); shapes.len()];
    for _ in 0..ROUNDS {
        for ((_, measure), rounds) in shapes.iter().zip(&mut rounds) {
            rounds.push(measure(seconds));
        }
    }
    for ((who, _), rounds) in shapes.iter().zip(rounds) {
        for quantile in [0.5, 0.99, 0.999] {
            let mut values: Vec<u64> = rounds.iter().map(|round| round.value_at_quantile(quantile)).collect();
            values.sort_unstable();
            let (value, percent) = (values[ROUNDS / 2] as f64 / 1e3, quantile * 100.0);
            println!(
                "{}",
                json!({"bench": format!("three stages at 100k/s, p{percent}"), "who": who, "value": value, "unit": "us"})
            );
            eprintln!("three stages at 100k/s, {who:>9}, p{percent}: {value:.1} us (rounds: {values:?} ns)");
        }
    }
}

fn measure(runs: &[&[usize]], seconds: u64) -> Histogram<u64> {
    let sidecar = Sidecar::start(SidecarConfig {
        workers: Some(1),
        latency: Latency::Park,
        ..SidecarConfig::default()
    })
    .expect("threads");
    let begun = Instant::now();
    let seen = Arc::new(Mutex::new(Histogram::new(3).expect("three digits")));
    let mut registry = Registry::default();
    registry.processor("clock", Box::new(ClockStage { begun, seen: seen.clone() }));
    let door = registry.door("push");
    let pipeline = Pipeline::start(plan(runs), sidecar.world(), &mut registry).expect("a good plan");
    for sequence in 0..RATE * seconds + WARM_UP {
        let due = due(sequence);
        wait_until(due, begun);
        let counted = sequence >= WARM_UP;
        let body: Value = [("due", Value::Int(due.as_nanos() as i64)), ("counted", Value::Bool(counted))]
            .into_iter()
            .collect();
        let mut event = Event::new(body);
        while let Err(error) = door.try_push(event) {
            match error {
                PushError::Full(back) => event = back,
                error => panic!("{error}"),
            }
        }
    }
    let drained = pipeline.drain(Duration::from_secs(5));
    assert!(drained.is_complete(), "{drained:?}");
    let seen = seen.lock().expect("nobody panics with it").clone();
    assert_eq!(seen.len(), RATE * seconds);
    seen
}

fn two_bare_threads(seconds: u64) -> Histogram<u64> {
    let (begun, last) = (Instant::now(), WARM_UP + RATE * seconds);
    let pushed = Arc::new(Gauge::new());
    let receiver = std::thread::spawn({
        let pushed = pushed.clone();
        move || {
            let (mut seen, mut delays) = (0, Histogram::new(3).expect("three digits"));
            while seen < last {
                let (reached, now) = (pushed.get(), begun.elapsed());
                for sequence in (seen..reached).filter(|sequence| *sequence >= WARM_UP) {
                    let delay = now.saturating_sub(due(sequence)).as_nanos() as u64;
                    delays.record(delay.max(1)).expect("within the histogram");
                }
                seen = reached;
            }
            delays
        }
    });
    for sequence in 0..last {
        wait_until(due(sequence), begun);
        pushed.set(sequence + 1);
    }
    receiver.join().expect("it does not panic")
}

fn due(sequence: u64) -> Duration {
    Duration::from_nanos(sequence * 1_000_000_000 / RATE)
}

fn wait_until(due: Duration, begun: Instant) {
    while begun.elapsed() < due {
        std::hint::spin_loop();
    }
}

fn plan(runs: &[&[usize]]) -> Plan {
    let stage = |name: &str, from: &[usize], kind: serde_json::Value| json!({"name": name, "from": from, "priority": "Normal", "input": {}, "onError": {}, "kind": kind});
    let runs: Vec<_> = runs.iter().map(|run| json!({"stages": run})).collect();
    serde_json::from_value(json!({
        "version": 1, "pipeline": "bench/latency", "kinds": [], "latency": "Park", "runs": runs,
        "stages": [
            stage("push", &[], json!({"source": {"push": {}}})),
            stage("keep", &[0], json!({"process": {"filter": {"keep": "event.due >= 0"}}})),
            stage("set", &[1], json!({"process": {"set": {"fields": {"half": "event.due / 2"}}}})),
            stage("clock", &[2], json!({"process": {"custom": {"processor": "clock"}}})),
        ],
    }))
    .expect("a plan")
}
