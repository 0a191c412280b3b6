//! Edges on loopback, with real certificates: how long events take over two of them, and how many go over one.
//!
//! `cargo bench -p sidestream-sidecar --bench edges [-- SECONDS [ROUNDS]]`, 2 and 5 unless said. Latency: three sidecars in
//! a row, events of 256 bytes at 20,000 a second, open loop; an event that could not be pushed in time counts from when it
//! was due. Throughput: as many events of 256 bytes as go, in full batches. The median of the rounds. Prints JSON lines.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a bench measures real time")]

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::ClockStage;
use hdrhistogram::Histogram;
use serde_json::json;
use sidestream_edge::{Fixed, Peering, PeeringConfig};
use sidestream_event::{Event, Value};
use sidestream_host::Clock;
use sidestream_plan::Plan;
use sidestream_sidecar::{Pipeline, PushError, Registry, Sidecar, SidecarConfig};
use sidestream_trust::{Authority, Identity, SpiffeId};

const RATE: u64 = 20_000;
const WARM_UP: u64 = RATE / 2;
const PAYLOAD: usize = 256;
const GRACE: Duration = Duration::from_secs(10);

fn main() {
    let mut numbers = std::env::args().filter_map(|text| text.parse::<u64>().ok());
    let (seconds, rounds) = (numbers.next().unwrap_or(2), numbers.next().unwrap_or(5));
    let mut latencies = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..rounds {
        latencies.push(two_edges(seconds));
        rates.push(one_edge(seconds));
    }
    for quantile in [0.5, 0.99, 0.999] {
        let mut values: Vec<u64> = latencies.iter().map(|round| round.value_at_quantile(quantile)).collect();
        values.sort_unstable();
        let (value, percent) = (values[values.len() / 2] as f64 / 1e3, quantile * 100.0);
        say(&format!("three sidecars over two mTLS edges at 20k/s, p{percent}"), value, "us");
        eprintln!("two edges, p{percent}: {value:.1} us (rounds: {values:?} ns)");
    }
    rates.sort_by(f64::total_cmp);
    say("one mTLS edge, 256 B, batched", rates[rates.len() / 2], "events/s");
    eprintln!("one edge: {:.0} events/s (rounds: {rates:.0?})", rates[rates.len() / 2]);
}

fn say(bench: &str, value: f64, unit: &str) {
    println!("{}", json!({"bench": bench, "who": "sidestream", "value": value, "unit": unit}));
}

fn two_edges(seconds: u64) -> Histogram<u64> {
    let peers = Peers::new();
    let (first, middle, last) = (peers.sidecar("first"), peers.sidecar("middle"), peers.sidecar("last"));
    peers.at("middle", &middle);
    peers.at("last", &last);
    let begun = Instant::now();
    let seen = Arc::new(Mutex::new(Histogram::new(3).expect("three digits")));
    let mut registry = Registry::default();
    registry.processor("clock", Box::new(ClockStage { begun, seen: seen.clone() }));
    let clock = json!({"process": {"custom": {"processor": "clock"}}});
    let ends =
        start(&last, plan(&[receives("b", "middle"), ("clock".to_owned(), clock)], &[0, 1]), &mut registry);
    let relays = plan(&[receives("a", "first"), sends("b", "last")], &[0]);
    let relays = start(&middle, relays, &mut Registry::default());
    let mut registry = Registry::default();
    let door = registry.door("push");
    let push = ("push".to_owned(), json!({"source": {"push": {}}}));
    let begins = start(&first, plan(&[push, sends("a", "middle")], &[0]), &mut registry);
    let payload = Value::from("x".repeat(PAYLOAD));
    for sequence in 0..RATE * seconds + WARM_UP {
        let due = Duration::from_nanos(sequence * 1_000_000_000 / RATE);
        while begun.elapsed() < due {
            // The cores are few, and the sidecars need them.
            std::thread::yield_now();
        }
        let counted = sequence >= WARM_UP;
        let fields = [
            ("due", Value::Int(due.as_nanos() as i64)),
            ("counted", Value::Bool(counted)),
            ("payload", payload.clone()),
        ];
        let mut event = Event::new(fields.into_iter().collect::<Value>());
        while let Err(error) = door.try_push(event) {
            match error {
                PushError::Full(back) => event = back,
                error => panic!("{error}"),
            }
        }
    }
    for pipeline in [begins, relays, ends] {
        let drained = pipeline.drain(GRACE);
        assert!(drained.is_complete(), "{drained:?}");
    }
    let seen = seen.lock().expect("nobody panics with it").clone();
    assert_eq!(seen.len(), RATE * seconds);
    seen
}

fn one_edge(seconds: u64) -> f64 {
    let peers = Peers::new();
    let (first, last) = (peers.sidecar("first"), peers.sidecar("last"));
    peers.at("last", &last);
    let hole = ("hole".to_owned(), json!({"sink": {"blackhole": {}}}));
    let ends = start(&last, plan(&[receives("a", "first"), hole], &[0, 1]), &mut Registry::default());
    let generator = json!({"source": {"generator": {"rate": 1e9, "payload": PAYLOAD.to_string()}}});
    let begins = plan(&[("tick".to_owned(), generator), sends("a", "last")], &[0]);
    let begins = start(&first, begins, &mut Registry::default());
    std::thread::sleep(Duration::from_millis(500));
    let (from, begun) = (ends.ledger().completed, Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let rate = (ends.ledger().completed - from) as f64 / begun.elapsed().as_secs_f64();
    begins.drain(GRACE);
    ends.drain(GRACE);
    rate
}

struct Peers {
    authority: Authority,
    dns: Arc<Fixed>,
    clock: Clock,
}

impl Peers {
    fn new() -> Peers {
        let clock = Clock::machine();
        let authority = Authority::create("cluster.local", &clock).expect("a good name");
        Peers { authority, dns: Arc::default(), clock }
    }

    fn sidecar(&self, name: &str) -> Sidecar {
        let config = SidecarConfig { workers: Some(1), ..SidecarConfig::default() };
        let sidecar = Sidecar::start(config).expect("threads");
        let id = SpiffeId::of_service_account("cluster.local", "bench", name).expect("a good name");
        let life = Duration::from_secs(3600);
        let config = PeeringConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity: Identity::new(self.authority.credentials(&id, &[], life).expect("signed"), &self.clock),
            resolver: self.dns.clone(),
            clock: self.clock.clone(),
            node: String::new(),
        };
        let world = sidecar.world();
        world.take_part(world.sockets().block_on(Peering::start(config)).expect("a free port"));
        sidecar
    }

    fn at(&self, name: &str, sidecar: &Sidecar) {
        self.dns.set(name, [sidecar.world().peering().expect("it takes part").address()]);
    }
}

fn start(sidecar: &Sidecar, plan: Plan, registry: &mut Registry) -> Arc<Pipeline> {
    Pipeline::start(plan, sidecar.world(), registry).expect("a good plan")
}

fn sends(edge: &str, to: &str) -> (String, serde_json::Value) {
    let to_account = json!({"namespace": "bench", "name": to});
    (format!("{edge}-out"), json!({"sink": {"edge": {"edge": edge, "to": to_account, "service": to}}}))
}

fn receives(edge: &str, from: &str) -> (String, serde_json::Value) {
    let from = json!({"namespace": "bench", "name": from});
    (format!("{edge}-in"), json!({"source": {"edge": {"edge": edge, "from": from}}}))
}

/// A plan of these stages in a row, of which `run` are fused.
fn plan(stages: &[(String, serde_json::Value)], run: &[usize]) -> Plan {
    let stage = |(index, (name, kind)): (usize, &(String, serde_json::Value))| {
        let from: Vec<usize> = index.checked_sub(1).into_iter().collect();
        json!({"name": name, "from": from, "priority": "Normal", "input": {}, "onError": {}, "kind": kind})
    };
    let stages: Vec<_> = stages.iter().enumerate().map(stage).collect();
    serde_json::from_value(json!({
        "version": 1, "pipeline": "bench/edges", "kinds": [], "latency": "Park", "stages": stages,
        "runs": [{"stages": run}],
    }))
    .expect("a plan")
}
