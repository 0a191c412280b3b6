//! What a stage costs by being a stage: nanoseconds of one core per event and stage, over and above the stage's own work.
//!
//! `cargo bench -p sidestream-graph --bench stages`. Runs of 1 and of 9 stages that do nothing are stepped by hand; the
//! difference over 8 is the price of a stage. Fused, they are one run; queued, each has a ring before it. Rounds are
//! interleaved and the median is printed, as a JSON line.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a bench measures real time")]

use std::{hint::black_box, sync::Arc, time::Instant};

use sidestream_event::{Batch, Pool, Timestamp};
use sidestream_graph::{
    Fed, Feed, Flow, Inlet, Input, Operator, Outlet, Output, Processor, Route, Run, Stage,
};
use sidestream_host::{Clock, Moment};
use sidestream_ring::channel::channel_by;
use sidestream_scheduler::{Scheduler, Step, Worker};

const ROUNDS: usize = 9;
const EVENTS: usize = 1_000_000;

fn main() {
    for batch in [64, 1] {
        for (who, stand) in [("fused", fused as fn(usize, usize) -> Stand), ("queued", queued)] {
            let mut costs: Vec<f64> = (0..ROUNDS)
                .map(|_| (nanos_per_event(stand(9, batch)) - nanos_per_event(stand(1, batch))) / 8.0)
                .collect();
            costs.sort_by(f64::total_cmp);
            let median = costs[ROUNDS / 2];
            println!(
                r#"{{"bench":"stage overhead, batch {batch}","who":"{who}","value":{median:.2},"unit":"ns/event"}}"#
            );
            eprintln!(
                "stage overhead, batch {batch:>2}, {who:>6}: {median:>6.2} ns/event ({:.2} to {:.2})",
                costs[0],
                costs[ROUNDS - 1]
            );
        }
    }
}

/// Runs that are ready to be stepped.
struct Stand {
    worker: Worker,
}

fn nanos_per_event(mut stand: Stand) -> f64 {
    let begun = Instant::now();
    while stand.worker.step() == Step::Ran {}
    begun.elapsed().as_nanos() as f64 / EVENTS as f64
}

fn fused(stages: usize, batch: usize) -> Stand {
    let (scheduler, pool) = (Scheduler::new(1, Clock::machine()), Arc::new(Pool::new(256)));
    let feed = Inlet::feed(Box::new(Source::new(batch, &pool)));
    start(&scheduler.0, feed, (0..stages).map(nothing).collect(), Vec::new(), &pool);
    Stand { worker: scheduler.1.into_iter().next().expect("one worker") }
}

fn queued(stages: usize, batch: usize) -> Stand {
    let (scheduler, pool) = (Scheduler::new(1, Clock::machine()), Arc::new(Pool::new(256)));
    let mut inlet = Inlet::feed(Box::new(Source::new(batch, &pool)));
    for index in 0..stages {
        let mut routes = Vec::new();
        let mut next = Inlet::default();
        if index + 1 < stages {
            let (sender, receiver) = channel_by(1024, 8192, Batch::len);
            let to = Stage { stage: index + 1, name: "nothing".into(), stats: Arc::default() };
            routes.push(Route::new(to, sender));
            next = Inlet::inputs(vec![Input::new("nothing", receiver)]);
        }
        start(&scheduler.0, std::mem::replace(&mut inlet, next), vec![nothing(index)], routes, &pool);
    }
    Stand { worker: scheduler.1.into_iter().next().expect("one worker") }
}

fn start(
    scheduler: &Scheduler,
    inlet: Inlet,
    operators: Vec<Operator>,
    routes: Vec<Route>,
    pool: &Arc<Pool>,
) {
    let mut run = Run::new(inlet, operators, Outlet::new(routes), pool.clone(), scheduler.clock().clone());
    let task = scheduler.task("bench", Default::default());
    run.set_waker(&task.waker());
    task.start(Box::new(run));
}

fn nothing(stage: usize) -> Operator {
    Operator {
        stage,
        name: "nothing".into(),
        processor: Box::new(Nothing),
        when: None,
        stats: Arc::default(),
        is_sink: false,
        is_flushed: false,
    }
}

struct Nothing;

impl Processor for Nothing {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        black_box(batch.events());
        Flow::Continue
    }
}

struct Source {
    batch: usize,
    left: usize,
    pool: Arc<Pool>,
}

impl Source {
    fn new(batch: usize, pool: &Arc<Pool>) -> Self {
        Source { batch, left: EVENTS, pool: pool.clone() }
    }
}

impl Feed for Source {
    fn next(&mut self, _: usize, _: Moment, _: Timestamp) -> Fed {
        if self.left < self.batch {
            return Fed::End;
        }
        self.left -= self.batch;
        let mut batch = self.pool.take();
        for _ in 0..self.batch {
            batch.next();
        }
        Fed::Batch(batch)
    }
}
