//! The way of `sidecar/benches/edges.rs`, from one end of two loopback hops to the other, through what others build it of.
//!
//! `versus-edges tcp|tonic|tonic-mtls|nats SECONDS CERTIFICATES [NATS-ADDRESS]`. Latency: events of 256 bytes at 20,000 a
//! second over two hops, open loop; an event that could not be handed over in time counts from when it was due.
//! Throughput: as many as go over one hop. No contender acknowledges, keeps what is on its way for a resend, or reads what
//! it carries; ours does. Prints one JSON line.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

mod grpc;
mod nats;
mod tcp;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;

const RATE: u64 = 20_000;
const WARM_UP: u64 = RATE / 2;
const PAYLOAD: usize = 256;
/// Events that are handed over together where as many go as can.
const BATCH: usize = 256;

/// What is carried: when the first of the events was due, in nanoseconds from the start, or 0 where that is not to be noted;
/// and the events.
#[derive(Clone, PartialEq, prost::Message)]
struct Frame {
    #[prost(uint64, tag = "1")]
    due: u64,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    events: Vec<Bytes>,
}

/// What happens at the far end.
type Arrive = Arc<dyn Fn(Frame) + Send + Sync>;
/// Hands a frame over; waits while the way is full.
type Push = Box<dyn FnMut(Frame)>;

/// A contender, and what it needs.
struct Contender {
    name: String,
    certificates: PathBuf,
    address: String,
}

impl Contender {
    /// A way of so many hops.
    fn start(&self, hops: usize, arrive: Arrive) -> Push {
        match self.name.as_str() {
            "tcp" => tcp::start(hops, arrive),
            "tonic" => grpc::start(hops, None, arrive),
            "tonic-mtls" => grpc::start(hops, Some(&self.certificates), arrive),
            "nats" => nats::start(hops, &self.address, &self.certificates, arrive),
            other => panic!("no contender is called `{other}`"),
        }
    }
}

fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().unwrap_or_default();
    let (name, seconds) = (next(), next().parse().expect("seconds"));
    let contender = Contender { name, certificates: next().into(), address: next() };
    let latencies = two_hops(&contender, seconds);
    let quantile = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e3;
    let lost = (RATE * seconds).saturating_sub(latencies.len());
    println!(
        "{}",
        serde_json::json!({
            "p50": quantile(0.5), "p99": quantile(0.99), "p99.9": quantile(0.999), "lost": lost,
            "rate": one_hop(&contender, seconds),
        })
    );
}

fn two_hops(contender: &Contender, seconds: u64) -> Histogram<u64> {
    let begun = Instant::now();
    let seen = Arc::new(Mutex::new(Histogram::new(3).expect("three digits")));
    let noting = seen.clone();
    let arrive = move |frame: Frame| {
        let now = begun.elapsed().as_nanos() as u64;
        if frame.due > 0 {
            noting.lock().expect("nobody panics with it").record(now - frame.due).expect("a length");
        }
    };
    let mut push = contender.start(2, Arc::new(arrive));
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    // Connecting is not part of it.
    let first = begun.elapsed();
    let total = RATE * seconds + WARM_UP;
    for sequence in 0..total {
        let due = Duration::from_nanos(sequence * 1_000_000_000 / RATE);
        while begun.elapsed() < first + due {
            // The cores are few, and the others need them.
            thread::yield_now();
        }
        let due = if sequence < WARM_UP { 0 } else { (first + due).as_nanos() as u64 };
        push(Frame { due, events: vec![payload.clone()] });
    }
    thread::sleep(Duration::from_secs(1));
    seen.lock().expect("nobody panics with it").clone()
}

fn one_hop(contender: &Contender, seconds: u64) -> f64 {
    let arrived = Arc::<Mutex<usize>>::default();
    let counting = arrived.clone();
    let arrive = move |frame: Frame| *counting.lock().expect("nobody panics with it") += frame.events.len();
    let arrived = || *arrived.lock().expect("nobody panics with it");
    let mut push = contender.start(1, Arc::new(arrive));
    let frame = Frame { due: 0, events: vec![Bytes::from(vec![b'x'; PAYLOAD]); BATCH] };
    let until = |seconds: f64| {
        let begun = Instant::now();
        move || begun.elapsed().as_secs_f64() < seconds
    };
    let is_warming = until(0.5);
    while is_warming() {
        push(frame.clone());
    }
    let (from, begun) = (arrived(), Instant::now());
    let is_measuring = until(seconds as f64);
    while is_measuring() {
        push(frame.clone());
    }
    (arrived() - from) as f64 / begun.elapsed().as_secs_f64()
}

/// What drives one of the places of the way, as a process of its own would.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads")
}
