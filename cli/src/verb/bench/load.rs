//! One run: producers and consumers side by side, looked at every second, until there is nothing more to do.

use std::{pin::pin, sync::Arc, thread, time::Duration};

use sidestream_client::{Client, ClientError, DnpipeView};
use sidestream_host::{Clock, Moment};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::sleep,
};

use super::{
    Kind,
    pull::{self, Until},
    push::Pusher,
    report,
    schedule::Schedule,
    tally::{Gathered, Tally},
};
use crate::output::complain;

/// What to do.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) kind: Kind,
    pub(super) dnpipes: Vec<String>,
    pub(super) value_bytes: usize,
    /// Exactly so many records at once; none where the client makes the batches.
    pub(super) batch: Option<u32>,
    pub(super) batch_bytes: usize,
    /// Records of one producer.
    pub(super) in_flight: usize,
    /// Records a second, of all producers.
    pub(super) rate: Option<u64>,
    pub(super) length: Duration,
    pub(super) records: Option<u64>,
    pub(super) warm_up: Duration,
    pub(super) producers: usize,
    pub(super) consumers: usize,
    /// What stamps of this run begin with.
    pub(super) run: u64,
    pub(super) clock: Clock,
}

/// What came of it.
pub(super) struct Measured {
    pub(super) push: Option<Gathered>,
    pub(super) pull: Option<Gathered>,
    /// Batches that were acknowledged, of warming up too.
    pub(super) batches: u64,
    /// Records that were due and never sent.
    pub(super) unsent: u64,
    /// From when on anything was measured.
    pub(super) from: Moment,
    pub(super) was_interrupted: bool,
    /// Why it ended early.
    pub(super) failed: Option<ClientError>,
}

/// The dnpipes of the run as they are before it.
pub(super) async fn describe(client: &Client, load: &Load) -> Result<Vec<DnpipeView>, ClientError> {
    let mut found = Vec::with_capacity(load.dnpipes.len());
    for dnpipe in &load.dnpipes {
        found.push(client.describe(dnpipe).await?);
    }
    Ok(found)
}

/// Runs it to its end; what went wrong is among what it says.
pub(super) async fn run(
    load: &Arc<Load>,
    described: &[DnpipeView],
    client: impl Fn() -> Client,
    speaks: bool,
) -> Measured {
    let mut pushers = Vec::new();
    let mut failed = None;
    for _ in 0..if load.kind.pushes() { load.producers } else { 0 } {
        match Pusher::open(client(), load, described).await {
            Ok(pusher) => pushers.push(pusher),
            Err(error) => failed = Some(error),
        }
    }
    let from = load.clock.now() + load.warm_up;
    let tallies = |count: usize| (0..count).map(|_| Tally::new(from)).collect::<Vec<_>>();
    let (push_tallies, pull_tallies) = (tallies(pushers.len()), tallies(load.consumers));
    let mut run = Run {
        producing: JoinSet::new(),
        consuming: JoinSet::new(),
        until: watch::Sender::new(Until::More),
        schedule: Arc::new(Schedule::new(
            load.clock.clone(),
            load.rate,
            u64::from(load.batch.unwrap_or(1)),
            load.records,
        )),
        push: load.kind.pushes().then(|| Gathered::of(push_tallies.clone())),
        pull: load.kind.pulls().then(|| Gathered::of(pull_tallies.clone())),
        load: load.clone(),
        from,
        looked: from,
        batches: 0,
        unsent: 0,
        was_interrupted: false,
        failed,
        speaks,
    };
    if run.failed.is_none() {
        if load.kind.pulls() {
            for tally in &pull_tallies {
                let (client, until) = (client(), run.until.subscribe());
                pull::consume(&mut run.consuming, &client, load, described, tally, &until);
            }
        }
        for (pusher, tally) in pushers.into_iter().zip(push_tallies) {
            run.producing.spawn(pusher.push_all(run.schedule.clone(), tally));
        }
        let pacer = run.schedule.clone();
        let pacing = load.rate.map(|_| thread::spawn(move || pacer.pace()));
        run.go_on(described, &client()).await;
        run.end();
        // It looks whether it is over many times a second.
        let _ = pacing.map(thread::JoinHandle::join);
    }
    run.measured()
}

struct Run {
    load: Arc<Load>,
    producing: JoinSet<(u64, Result<(), ClientError>)>,
    consuming: JoinSet<Result<(), ClientError>>,
    until: watch::Sender<Until>,
    schedule: Arc<Schedule>,
    push: Option<Gathered>,
    pull: Option<Gathered>,
    from: Moment,
    looked: Moment,
    batches: u64,
    unsent: u64,
    was_interrupted: bool,
    failed: Option<ClientError>,
    speaks: bool,
}

impl Run {
    async fn go_on(&mut self, described: &[DnpipeView], client: &Client) {
        let mut tick = pin!(sleep(self.load.warm_up + TICK));
        let mut over = pin!(sleep(self.load.warm_up + self.load.length));
        let mut asked = pin!(tokio::signal::ctrl_c());
        let (mut is_over, mut is_told) = (false, false);
        loop {
            if self.producing.is_empty() && self.consuming.is_empty() {
                return;
            }
            if self.producing.is_empty() && self.load.kind.pushes() && !is_told {
                is_told = true;
                self.tell_consumers(described, client).await;
            }
            tokio::select! {
                Some(ended) = self.producing.join_next() => {
                    let (batches, outcome) = ended.unwrap_or_else(|error| (0, Err(lost(&error))));
                    self.batches += batches;
                    self.ended(outcome);
                }
                Some(ended) = self.consuming.join_next() => self.ended(ended.unwrap_or_else(|error| Err(lost(&error)))),
                () = &mut tick => {
                    tick.set(sleep(TICK));
                    self.look();
                }
                () = &mut over, if !is_over => {
                    is_over = true;
                    self.end();
                    if !self.load.kind.pushes() {
                        self.until.send_replace(Until::Now);
                    }
                }
                _ = &mut asked => {
                    asked.set(tokio::signal::ctrl_c());
                    // Who asks twice does not wait for what is on its way.
                    if self.was_interrupted {
                        return;
                    }
                    self.was_interrupted = true;
                    self.end();
                    self.until.send_replace(Until::Now);
                }
            }
        }
    }

    /// After an error the others end with what they have.
    fn ended(&mut self, outcome: Result<(), ClientError>) {
        if let Err(error) = outcome {
            self.failed.get_or_insert(error);
            self.end();
            self.until.send_replace(Until::Now);
        }
    }

    fn end(&mut self) {
        self.unsent = self.unsent.max(self.schedule.end());
    }

    /// How far to read, now that all is pushed.
    async fn tell_consumers(&mut self, described: &[DnpipeView], client: &Client) {
        if *self.until.borrow() != Until::More {
            return;
        }
        let mut ends = Vec::with_capacity(described.len());
        for dnpipe in described {
            match client.describe(&dnpipe.name.to_string()).await {
                Ok(found) => ends.push(found.partitions.iter().map(|own| own.end).collect()),
                Err(error) => return self.ended(Err(error)),
            }
        }
        self.until.send_replace(Until::Ends(ends.into()));
    }

    /// A second has passed.
    fn look(&mut self) {
        let (at, took) = self.passed();
        for side in [&mut self.push, &mut self.pull].into_iter().flatten() {
            side.gather(at, Some(took));
        }
        if self.speaks {
            let last = |side: &Option<Gathered>| side.as_ref().and_then(|own| own.seconds.last().cloned());
            complain(report::line(at, last(&self.push), last(&self.pull)));
        }
    }

    fn passed(&mut self) -> (f64, f64) {
        let now = self.load.clock.now();
        let took = now.since(self.looked).as_secs_f64().max(f64::MIN_POSITIVE);
        self.looked = now;
        (now.since(self.from).as_secs_f64(), took)
    }

    fn measured(mut self) -> Measured {
        let (at, took) = self.passed();
        for side in [&mut self.push, &mut self.pull].into_iter().flatten() {
            // What is left of a second makes a point only where it is long enough to divide by.
            let is_point = took >= POINT_SECONDS || (side.seconds.is_empty() && at > 0.0);
            side.gather(at, is_point.then_some(took));
        }
        Measured {
            push: self.push,
            pull: self.pull,
            batches: self.batches,
            unsent: self.unsent,
            from: self.from,
            was_interrupted: self.was_interrupted,
            failed: self.failed,
        }
    }
}

/// A task that ended by itself, in a panic.
fn lost(error: &JoinError) -> ClientError {
    ClientError::Lost(error.to_string())
}

const TICK: Duration = Duration::from_secs(1);
const POINT_SECONDS: f64 = 0.25;
