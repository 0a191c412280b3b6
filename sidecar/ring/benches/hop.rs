//! How long one item takes from one pinned thread to another: ping-pong over two queues, half a round trip each.
//!
//! `cargo bench -p sidestream-ring --bench hop [-- rounds]`. First the floor: L, the time one cache line takes from core
//! to core and back by compare-and-swap, halved (as `core-to-core-latency` measures it), in the same loop with the same
//! clock. Every figure is printed beside its multiple of L. Rounds are interleaved; figures are medians of rounds.
#![cfg(not(any(loom, shuttle)))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench measures real time, on any queue"
)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use common::{Contender, contenders::*, median, nanos, pin, report, rounds, table, wanted};
use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;

const SLOTS: usize = 1024;
const TRIPS: u64 = 100_000;
const WARM_UP: u64 = 10_000;

/// Two lines, each written by one side and watched by the other: what any queue at least does.
struct Flags;

impl Contender for Flags {
    const NAME: &'static str = "two flags";
    type Tx = Arc<CachePadded<AtomicU64>>;
    type Rx = (Arc<CachePadded<AtomicU64>>, u64);

    fn open(_slots: usize) -> (Self::Tx, Self::Rx) {
        let flag = Arc::new(CachePadded::new(AtomicU64::new(0)));
        (flag.clone(), (flag, 0))
    }

    #[inline]
    fn send(flag: &mut Self::Tx, item: u64) -> bool {
        flag.store(item + 1, Ordering::Release);
        true
    }

    #[inline]
    fn recv((flag, seen): &mut Self::Rx) -> Option<u64> {
        let now = flag.load(Ordering::Acquire);
        (now != *seen).then(|| {
            *seen = now;
            now - 1
        })
    }
}

/// Half round trips, in nanoseconds: p50 and p99.
type Hop = (f64, f64);

fn ping_pong<C: Contender>() -> Hop {
    let (mut there, mut there_end) = C::open(SLOTS);
    let (mut back, mut back_end) = C::open(SLOTS);
    let answer = |rx: &mut C::Rx| {
        loop {
            if let Some(item) = C::recv(rx) {
                return item;
            }
        }
    };
    trips(
        move |item| {
            while !C::send(&mut there, item) {}
            assert_eq!(answer(&mut back_end), item);
        },
        move || {
            let item = answer(&mut there_end);
            while !C::send(&mut back, item) {}
        },
    )
}

/// The same loop on a single line that both sides swap in turn: ping makes odd numbers of even ones, pong the reverse.
fn line() -> Hop {
    fn swap(line: &AtomicU64, from: u64) {
        while line.compare_exchange(from, from + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {}
    }
    let line = Arc::new(CachePadded::new(AtomicU64::new(0)));
    let (here, there) = (line.clone(), line);
    let mut turn = 0;
    trips(
        move |trip| {
            swap(&here, 2 * trip);
            while here.load(Ordering::Acquire) != 2 * trip + 2 {}
        },
        move || {
            swap(&there, 2 * turn + 1);
            turn += 1;
        },
    )
}

fn trips(mut ping: impl FnMut(u64) + Send + 'static, mut pong: impl FnMut() + Send + 'static) -> Hop {
    let answering = thread::spawn(move || {
        pin(1);
        (0..WARM_UP + TRIPS + 1).for_each(|_| pong());
    });
    let asking = thread::spawn(move || {
        pin(0);
        let mut times = Histogram::<u64>::new(3).expect("three digits are allowed");
        for trip in 0..WARM_UP + TRIPS {
            let begin = Instant::now();
            ping(trip);
            if trip >= WARM_UP {
                times.saturating_record(begin.elapsed().as_nanos() as u64);
            }
        }
        ping(WARM_UP + TRIPS);
        times
    });
    let times = asking.join().unwrap();
    answering.join().unwrap();
    (times.value_at_quantile(0.5) as f64 / 2.0, times.value_at_quantile(0.99) as f64 / 2.0)
}

fn main() {
    type Run = fn() -> Hop;
    let contenders: [(&str, Run); 11] = [
        ("line (swap) = L", line),
        (Flags::NAME, ping_pong::<Flags>),
        (Sidestream::NAME, ping_pong::<Sidestream>),
        (Rtrb::NAME, ping_pong::<Rtrb>),
        (Ringbuf::NAME, ping_pong::<Ringbuf>),
        (Crossbeam::NAME, ping_pong::<Crossbeam>),
        (Kanal::NAME, ping_pong::<Kanal>),
        (Flume::NAME, ping_pong::<Flume>),
        (Thingbuf::NAME, ping_pong::<Thingbuf>),
        (Disruptor::NAME, ping_pong::<Disruptor>),
        (Tokio::NAME, ping_pong::<Tokio>),
    ];
    let contenders: Vec<_> =
        contenders.into_iter().filter(|(name, _)| name.starts_with("line") || wanted(name)).collect();
    let mut figures = vec![(Vec::new(), Vec::new()); contenders.len()];
    for _ in 0..rounds(9) {
        for ((_, run), (p50s, p99s)) in contenders.iter().zip(&mut figures) {
            let (p50, p99) = run();
            p50s.push(p50);
            p99s.push(p99);
        }
    }
    let mut rows = Vec::new();
    let floor = median(&mut figures[0].0);
    for ((name, _), (p50s, p99s)) in contenders.iter().zip(&mut figures) {
        let (p50, p99) = (median(p50s), median(p99s));
        report("hop p50", name, p50, "ns");
        report("hop p99", name, p99, "ns");
        report("hop p50", name, p50 / floor, "L");
        report("hop p99", name, p99 / floor, "L");
        rows.push(((*name).to_owned(), vec![p50, p99, p50 / floor, p99 / floor]));
    }
    table(
        &format!("one u64 in flight, two pinned threads; L = {floor:.1} ns"),
        &["p50 ns", "p99 ns", "p50 / L", "p99 / L"],
        &rows,
    );
    let clock = nanos({
        let begin = Instant::now();
        (0..1000).for_each(|_| _ = std::hint::black_box(Instant::now()));
        begin.elapsed()
    }) / 1000.0;
    eprintln!("\n(reading the clock takes {clock:.0} ns, once per round trip, in every figure)");
}
