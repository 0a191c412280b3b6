//! Plans written in a line or two, and a sidecar to run them.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod peers;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value as Json, json};
use sidestream_crds::{Pipeline as Resource, compile_pipeline};
use sidestream_event::{Batch, Event, Value};
use sidestream_plan::Plan;
use sidestream_sidecar::{Flow, Output, Pipeline, Processor, Registry, Sidecar, SidecarConfig};

/// A plan of these stages, each `(name, from, kind)`; `runs` says which are fused.
pub(crate) fn plan(stages: &[(&str, &[usize], Json)], runs: &[&[usize]]) -> Plan {
    let stages: Vec<Json> = stages
        .iter()
        .map(|(name, from, kind)| {
            let mut stage =
                json!({"name": name, "from": from, "priority": "Normal", "input": {}, "onError": {}, "kind": kind});
            for key in ["when", "otherwise", "priority", "input", "onError"] {
                if let Some(value) = stage["kind"].as_object_mut().and_then(|kind| kind.remove(key)) {
                    stage[key] = value;
                }
            }
            stage
        })
        .collect();
    let runs: Vec<Json> = runs.iter().map(|run| json!({"stages": run})).collect();
    let plan = json!({
        "version": 1, "pipeline": "test/test", "kinds": [], "latency": "Park", "stages": stages, "runs": runs,
    });
    serde_json::from_value(plan).expect("a plan as the compiler writes it")
}

/// The plan that the compiler makes of a pipeline of these stages.
pub(crate) fn compiled(name: &str, stages: &[Json]) -> Plan {
    let resource: Resource = serde_json::from_value(json!({
        "apiVersion": "sidestream.dev/v1alpha1", "kind": "Pipeline",
        "metadata": {"name": name, "namespace": "test"},
        "spec": {"stages": stages},
    }))
    .expect("a resource");
    let (plan, diagnostics) = compile_pipeline(&resource);
    plan.unwrap_or_else(|| panic!("{diagnostics:?}"))
}

pub(crate) fn sidecar() -> Sidecar {
    Sidecar::start(SidecarConfig { workers: Some(2), ..SidecarConfig::default() }).expect("two threads")
}

pub(crate) fn start(sidecar: &Sidecar, plan: Plan, registry: &mut Registry) -> Arc<Pipeline> {
    Pipeline::start(plan, sidecar.world(), registry).expect("a good plan")
}

/// Waits until the pipeline has ended by itself.
pub(crate) fn ended(sidecar: &Sidecar, pipeline: &Pipeline) {
    let limit = Duration::from_secs(30);
    let waited =
        sidecar.world().sockets().block_on(async { tokio::time::timeout(limit, pipeline.ended()).await });
    assert!(waited.is_ok(), "it has not ended within {limit:?}: {:?}", pipeline.ledger());
}

/// What a server of this process answers.
pub(crate) fn asked(address: SocketAddr, path: &str) -> String {
    let (mut stream, mut answer) = (TcpStream::connect(address).unwrap(), String::new());
    write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Keeps the bodies it sees, and passes nothing on.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Event>>>);

impl Seen {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    pub(crate) fn numbers(&self, field: &str) -> Vec<i64> {
        let number = |event: &Event| match event.body.field(field) {
            Some(Value::Int(number)) => *number,
            other => panic!("no whole number `{field}`: {other:?}"),
        };
        self.events().iter().map(number).collect()
    }
}

impl Processor for Seen {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        self.0.lock().expect("nobody panics with it").extend(batch.events().iter().cloned());
        batch.clear();
        Flow::Continue
    }
}

/// A registry with one processor called `seen`.
pub(crate) fn seen() -> (Registry, Seen) {
    let seen = Seen::default();
    let mut registry = Registry::default();
    registry.processor("seen", Box::new(seen.clone()));
    (registry, seen)
}

/// A stage that gives so many numbers, 100,000 a second.
pub(crate) fn tick(count: u64) -> Json {
    json!({"name": "tick", "source": {"generator": {"count": count, "rate": 100_000}}})
}

pub(crate) fn generator(settings: Json) -> Json {
    json!({"source": {"generator": settings}})
}

pub(crate) fn filter(keep: &str) -> Json {
    json!({"process": {"filter": {"keep": keep}}})
}

pub(crate) fn custom(processor: &str) -> Json {
    json!({"process": {"custom": {"processor": processor}}})
}

pub(crate) fn with(mut stage: Json, key: &str, value: Json) -> Json {
    stage[key] = value;
    stage
}
