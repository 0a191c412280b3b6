//! How many `u64` per second pass from one pinned thread to another, one at a time and 64 at a time.
//!
//! `cargo bench -p sidestream-ring --bench throughput [-- rounds]`. Rounds are interleaved (every contender once, then
//! again), so that a noisy minute hurts all alike; the figure is the median round.
#![cfg(not(any(loom, shuttle)))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench measures real time, on any queue"
)]

mod common;

use std::{
    hint::{black_box, spin_loop},
    sync::{Arc, Barrier},
    thread,
    time::Instant,
};

use common::{Contender, contenders::*, median, nanos, pin, report, rounds, table, wanted};

const SLOTS: usize = 1024;
const BATCH: usize = 64;
/// Per round and contender; whole batches.
const ITEMS: u64 = 64 * 60_000;

/// Million items per second, one at a time.
fn single<C: Contender>() -> f64 {
    race::<C>(
        |tx| {
            for item in 0..ITEMS {
                while !C::send(tx, item) {
                    spin_loop();
                }
            }
        },
        |rx| {
            let mut sum = 0u64;
            for _ in 0..ITEMS {
                sum = sum.wrapping_add(loop {
                    match C::recv(rx) {
                        Some(item) => break black_box(item),
                        None => spin_loop(),
                    }
                });
            }
            sum
        },
    )
}

/// Million items per second, in batches.
fn batched<C: Contender>() -> f64 {
    race::<C>(
        |tx| {
            let mut next = 0;
            while next < ITEMS {
                match C::send_batch(tx, next, BATCH.min((ITEMS - next) as usize)) {
                    0 => spin_loop(),
                    n => next += n as u64,
                }
            }
        },
        |rx| {
            let (mut sum, mut taken) = (0, 0);
            while taken < ITEMS {
                match C::recv_batch(rx, BATCH, &mut sum) {
                    0 => spin_loop(),
                    n => taken += n as u64,
                }
            }
            sum
        },
    )
}

fn race<C: Contender>(
    send: impl FnOnce(&mut C::Tx) + Send + 'static,
    receive: impl FnOnce(&mut C::Rx) -> u64 + Send + 'static,
) -> f64 {
    let (mut tx, mut rx) = C::open(SLOTS);
    let start = Arc::new(Barrier::new(2));
    let sender = {
        let start = start.clone();
        thread::spawn(move || {
            pin(0);
            start.wait();
            let begin = Instant::now();
            send(&mut tx);
            begin
        })
    };
    let receiver = thread::spawn(move || {
        pin(1);
        start.wait();
        let sum = receive(&mut rx);
        (Instant::now(), sum)
    });
    let begin = sender.join().unwrap();
    let (end, sum) = receiver.join().unwrap();
    assert_eq!(sum, ITEMS * (ITEMS - 1) / 2, "{} lost or repeated an item", C::NAME);
    ITEMS as f64 * 1e3 / nanos(end - begin)
}

fn main() {
    type Run = fn() -> f64;
    let contenders: [(&str, Run, Run); 9] = [
        (Sidestream::NAME, single::<Sidestream>, batched::<Sidestream>),
        (Rtrb::NAME, single::<Rtrb>, batched::<Rtrb>),
        (Ringbuf::NAME, single::<Ringbuf>, batched::<Ringbuf>),
        (Crossbeam::NAME, single::<Crossbeam>, batched::<Crossbeam>),
        (Kanal::NAME, single::<Kanal>, batched::<Kanal>),
        (Flume::NAME, single::<Flume>, batched::<Flume>),
        (Thingbuf::NAME, single::<Thingbuf>, batched::<Thingbuf>),
        (Disruptor::NAME, single::<Disruptor>, batched::<Disruptor>),
        (Tokio::NAME, single::<Tokio>, batched::<Tokio>),
    ];
    let contenders: Vec<_> = contenders.into_iter().filter(|(name, ..)| wanted(name)).collect();
    let mut figures = vec![(Vec::new(), Vec::new()); contenders.len()];
    for _ in 0..rounds(9) {
        for ((_, single, batched), figures) in contenders.iter().zip(&mut figures) {
            figures.0.push(single());
            figures.1.push(batched());
        }
    }
    let mut rows = Vec::new();
    for ((name, ..), (singles, batches)) in contenders.iter().zip(&mut figures) {
        let (single, batch) = (median(singles), median(batches));
        report("throughput single", name, single, "million/s");
        report("throughput batch 64", name, batch, "million/s");
        let extremes = [singles.last(), batches.last()].map(|best| *best.unwrap());
        rows.push(((*name).to_owned(), vec![single, extremes[0], batch, extremes[1]]));
    }
    table(
        &format!("u64 through {SLOTS} slots, two pinned threads, million/s"),
        &["single", "single best", "batch 64", "batch 64 best"],
        &rows,
    );
}
