//! After warm-up, an event costs no allocation and its payload is never copied, fused and with every stage on its own
//! ring.

mod world;

use std::{
    alloc::System,
    collections::HashSet,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::json;
use sidestream_event::{Batch, Value};
use sidestream_plan::Plan;
use sidestream_sidecar::{Flow, Output, Processor, Registry};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use world::{custom, filter, generator, plan, sidecar, start};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Where the payloads lie in memory: a copy would lie elsewhere.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashSet<usize>>>);

impl Processor for Addresses {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        let mut addresses = self.0.lock().expect("nobody panics with it");
        for event in batch.events() {
            if let Some(Value::Text(payload)) = event.body.field("payload") {
                addresses.insert(payload.as_ptr() as usize);
            }
        }
        Flow::Continue
    }
}

fn typed(runs: &[&[usize]]) -> Plan {
    let map = "{'key': event.key, 'double': event.value * 2.0, 'payload': event.payload}";
    plan(
        &[
            ("tick", &[], generator(json!({"keys": 8, "payload": "256"}))),
            // Of every batch it keeps as many: how many a batch needs would grow, ever more rarely, to the most there was.
            ("keep", &[0], filter("event.value <= 100.0 && event.key != 'k3'")),
            ("map", &[1], json!({"process": {"map": {"body": map}}})),
            ("look", &[2], custom("addresses")),
            ("end", &[3], json!({"sink": {"blackhole": {}}})),
        ],
        runs,
    )
}

#[test]
fn a_steady_flow_allocates_nothing_and_copies_no_payload() {
    for (shape, runs) in
        [("fused", vec![&[0usize, 1, 2, 3, 4][..]]), ("own rings", vec![&[0], &[1], &[2], &[3], &[4]])]
    {
        let sidecar = sidecar();
        let mut registry = Registry::default();
        let addresses = Addresses::default();
        registry.processor("addresses", Box::new(addresses.clone()));
        let pipeline = start(&sidecar, typed(&runs), &mut registry);

        // Warm is when the rings have been as full as they get; how soon depends on who else wants the cores. A flow that
        // allocated for events would never show one quiet look, let alone three in a row.
        let mut quiet = 0;
        let mut looks = 0..100;
        while quiet < 3 && looks.next().is_some() {
            let (events, allocations) = look(&pipeline);
            println!("{shape}: {events} events, {allocations} allocations");
            quiet = if allocations == 0 && events > 1_000 { quiet + 1 } else { 0 };
        }
        assert_eq!(quiet, 3, "{shape}: it goes on allocating");
        assert_eq!(addresses.0.lock().unwrap().len(), 1, "{shape}: the one payload all events share");
        pipeline.drain(Duration::from_secs(5));
    }
}

/// Events taken in, and allocations made, in a tenth of a second.
fn look(pipeline: &sidestream_sidecar::Pipeline) -> (u64, usize) {
    let (accepted, before) = (pipeline.ledger().accepted, ALLOCATOR.stats());
    thread::sleep(Duration::from_millis(100));
    let after = ALLOCATOR.stats();
    let allocations = after.allocations - before.allocations + after.reallocations - before.reallocations;
    (pipeline.ledger().accepted - accepted, allocations)
}
