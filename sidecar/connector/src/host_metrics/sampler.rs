//! When figures are read: every interval, on a thread that may block.

use std::time::Duration;

use sidestream_plan::stage::{self, HostMetricsGroup};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::figures::Figures;
use crate::{AsyncSource, BoxFuture, BuildError, Failure, Intake};

pub(super) struct Sampler {
    every: Duration,
    groups: Vec<HostMetricsGroup>,
    /// None while the thread that reads has them.
    figures: Option<Figures>,
}

impl Sampler {
    pub(super) fn new(stage: &stage::HostMetrics) -> Result<Self, BuildError> {
        let every = stage.interval.map_or(EVERY, |interval| interval.get());
        if every.is_zero() {
            let reason = "0s is no interval; write how often, such as `10s`".into();
            return Err(BuildError { field: "interval", reason });
        }
        let groups = stage.groups.clone().unwrap_or_else(|| ALL_GROUPS.to_vec());
        Ok(Self { every, groups, figures: None })
    }
}

impl AsyncSource for Sampler {
    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut ticks = interval(self.every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = intake.stopped() => return Ok(()),
                }
                let mut batch = intake.batch();
                let mut figures = self.figures.take().unwrap_or_else(|| Figures::new(&self.groups));
                let read = spawn_blocking(move || {
                    figures.read(&mut batch);
                    (figures, batch)
                });
                let (figures, batch) = tokio::select! {
                    read = read => read.map_err(|error| Failure(format!("reading /proc failed: {error}")))?,
                    () = intake.stopped() => return Ok(()),
                };
                self.figures = Some(figures);
                if intake.send(batch).await.is_err() {
                    return Ok(());
                }
            }
        })
    }
}

const EVERY: Duration = Duration::from_secs(10);
const ALL_GROUPS: [HostMetricsGroup; 6] = [
    HostMetricsGroup::Load,
    HostMetricsGroup::Cpu,
    HostMetricsGroup::Memory,
    HostMetricsGroup::Disk,
    HostMetricsGroup::Filesystem,
    HostMetricsGroup::Network,
];
