//! What a connector lives in: an environment, and an intake whose other end the test holds.

use std::{sync::Arc, time::Duration};

use sidestream_connector::{
    AsyncSink, AsyncSource, Environment, Evaluate, Failure, Origin, Secrets, Sink, Source, Stop, Undelivered,
    build, intake,
};
use sidestream_event::{Batch, Event, Mark, Pool, Timestamp, Value};
use sidestream_host::Clock;
use sidestream_plan as plan;
use sidestream_ring::channel::{Receiver, channel_by};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// An environment whose expressions are paths such as `event.by`, and whose secrets are in `secrets`.
pub(crate) fn env(secrets: Secrets) -> Environment {
    let compile = |expression: &plan::Expression| {
        let path = expression.source().strip_prefix("event.").ok_or("not a path")?.to_owned();
        let evaluate = move |event: &Event| {
            event.body.at(&path).cloned().ok_or_else(|| format!("no such field: {path}"))
        };
        Ok(Box::new(evaluate) as Evaluate)
    };
    Environment {
        pipeline: "shop/watch".into(),
        clock: Clock::machine(),
        secrets,
        dnpipes: None,
        exactly_once: None,
        compile: Arc::new(compile),
    }
}

pub(crate) fn sink(kind: plan::Sink) -> Box<dyn AsyncSink> {
    match build::sink(&kind, &env(Secrets::default())) {
        Ok(Sink::Async(sink)) => sink,
        Ok(_) => panic!("the sink wants to be run in another way"),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn source(kind: plan::Source, secrets: Secrets) -> Box<dyn AsyncSource> {
    match build::source(&kind, &env(secrets)) {
        Ok(Source::Async(source)) => source,
        Ok(_) => panic!("the source wants to be run in another way"),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn batch(bodies: impl IntoIterator<Item = Value>) -> Batch {
    let mut batch = Batch::of(bodies.into_iter().map(Event::new).collect(), Mark::none());
    for (sequence, event) in batch.events_mut().iter_mut().enumerate() {
        event.meta.sequence = sequence as u64;
        event.meta.time = Timestamp::from_nanos(Clock::machine().wall_nanos());
    }
    batch
}

pub(crate) fn retried(result: Result<(), Undelivered>) -> (String, Option<Duration>) {
    match result {
        Err(Undelivered::Retry { reason, after }) => (reason, after),
        other => panic!("to be tried again, not {other:?}"),
    }
}

pub(crate) fn refused(result: Result<(), Undelivered>) -> Vec<(usize, String)> {
    match result {
        Err(Undelivered::Refused { events }) => events,
        other => panic!("refused, not {other:?}"),
    }
}

/// A source at work.
pub(crate) struct Running {
    pub(crate) batches: Receiver<Batch>,
    pub(crate) origin: Origin,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Failure>>,
}

impl Running {
    /// Runs `source` into a ring that accepts until `limit` events wait.
    pub(crate) fn new(mut source: Box<dyn AsyncSource>, limit: usize) -> Self {
        let (sender, batches) = channel_by(64, limit, Batch::len);
        let clock = Clock::machine();
        let origin = Origin::new("in", clock.clone());
        let (stop, stopped) = Stop::new();
        let mut intake = intake(sender, origin.clone(), Arc::new(Pool::new(8)), clock, stopped);
        let task = tokio::spawn(async move { source.run(&mut intake).await });
        Self { batches, origin, stop, task }
    }

    /// The next batch, waited for at most ten seconds.
    pub(crate) async fn next(&mut self) -> Batch {
        for _ in 0..2_000 {
            if let Some(batch) = self.batches.try_recv() {
                return batch;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("no batch came")
    }

    /// Asks the source to end; what it says at its end is its result.
    pub(crate) fn stop(&self) {
        self.stop.send(true).unwrap();
    }

    pub(crate) async fn ended(self) -> Result<(), Failure> {
        timeout(Duration::from_secs(10), self.task).await.expect("the source ends").unwrap()
    }
}
