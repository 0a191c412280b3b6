//! Bursts and stalls: memory stays flat and the ledger balances at every look.
//!
//! `SIDESTREAM_PROVE_N` sets the seconds, `SIDESTREAM_PROVE_SEED` the bursts and stalls.

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "it lasts so many real seconds")]

mod world;

use std::{
    fs,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use sidestream_event::{Batch, Event, Value};
use sidestream_host::Random;
use sidestream_sidecar::{Door, Flow, Output, Processor, PushError, Registry};
use world::{custom, plan, sidecar, start, with};

/// Stands still now and then, as a slow peer does.
struct Stalls(Arc<Mutex<Random>>);

impl Processor for Stalls {
    fn process(&mut self, _: &mut Batch, _: &mut Output) -> Flow {
        let mut random = self.0.lock().expect("nobody panics with it");
        if random.below(200) == 0 {
            thread::sleep(Duration::from_millis(1 + random.below(40)));
        }
        Flow::Continue
    }
}

#[test]
fn memory_stays_flat_and_the_ledger_balances_through_bursts_and_stalls() {
    let (seconds, seed) = (setting("SIDESTREAM_PROVE_N", 4), setting("SIDESTREAM_PROVE_SEED", 1));
    let random = Arc::new(Mutex::new(Random::seeded(seed)));
    let sidecar = sidecar();
    let mut registry = Registry::default();
    registry.processor("stalls", Box::new(Stalls(random)));
    let door = registry.door("push");
    let small = json!({"capacity": 1000, "overflow": "DropOldest"});
    let plan = plan(
        &[
            ("push", &[], json!({"source": {"push": {}}})),
            ("keep", &[0], world::filter("event.number % 10 != 0")),
            (
                "window",
                &[1],
                json!({"process": {"window": {"tumbling": "100ms", "by": "event.key", "emit": {"sum": "event.number"}}}}),
            ),
            ("slow", &[1], with(custom("stalls"), "input", small)),
            ("end", &[2, 3], json!({"sink": {"blackhole": {}}})),
        ],
        &[&[0, 1], &[2], &[3], &[4]],
    );
    let pipeline = start(&sidecar, plan, &mut registry);
    let begun = Instant::now();
    let pushing = thread::spawn(move || push_in_bursts(&door, seed, begun, seconds));
    let mut resident = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(Duration::from_millis(20));
        let ledger = pipeline.ledger();
        assert!(ledger.is_balanced(), "{ledger:?}");
        resident.push(resident_bytes());
    }
    let pushed = pushing.join().expect("the pusher ends");
    let drained = pipeline.drain(Duration::from_secs(10));
    assert!(drained.is_complete(), "{drained:?}");
    assert_eq!(drained.ledger.accepted, pushed);
    assert!(drained.ledger.is_balanced(), "{drained:?}");

    // Flat: the last quarter is no higher than the second one, but for what an allocator keeps.
    let quarter = resident.len() / 4;
    let highest = |part: &[u64]| part.iter().copied().max().unwrap_or_default();
    let (early, late) = (highest(&resident[..quarter * 2]), highest(&resident[quarter * 3..]));
    println!(
        "seed {seed}: {seconds} s, {pushed} events, {} dropped, {} looks; resident {} MiB early, {} MiB late",
        drained.ledger.dropped,
        resident.len(),
        early >> 20,
        late >> 20
    );
    assert!(late <= early + early / 10 + (8 << 20), "resident memory grew from {early} to {late} bytes");
}

/// Bursts of up to 5000 events and pauses of up to 20 ms. Gives how many events were taken.
fn push_in_bursts(door: &Door, seed: u64, begun: Instant, seconds: u64) -> u64 {
    let mut random = Random::seeded(seed ^ 0xb1257);
    let mut pushed = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..random.below(5000) {
            let key = format!("k{}", random.below(50));
            let body: Value =
                [("number", Value::Int(pushed as i64)), ("key", Value::from(key))].into_iter().collect();
            match door.try_push(Event::new(body)) {
                Ok(_) => pushed += 1,
                Err(PushError::Full(_)) => thread::sleep(Duration::from_micros(100)),
                Err(error) => panic!("{error}"),
            }
        }
        thread::sleep(Duration::from_millis(random.below(20)));
    }
    pushed
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux says");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages in memory");
    pages * 4096
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
