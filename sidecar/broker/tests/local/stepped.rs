//! A broker whose journal works when its test says so: what comes before what is the test's to choose.

use std::{future::Future, sync::Arc};

use sidestream_broker::{Broker, DnpipeSpec, GroupSpec, Limits};
use sidestream_conformance::From;
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Journal, Settings, Steps};

use super::{name, values};

/// A broker whose journal works when it is told to.
pub(crate) struct Stepped {
    pub(crate) steps: Steps,
    pub(crate) broker: Broker,
    /// How many groups may still be written.
    pub(crate) left: u64,
}

impl Stepped {
    pub(crate) async fn open(disk: &SimDisk, clock: &Clock) -> Self {
        let settings = Settings { segment_bytes: 1 << 20, reserve_bytes: 1 << 20, ..Settings::default() };
        Self::open_with(disk, clock, settings).await
    }

    pub(crate) async fn open_with(disk: &SimDisk, clock: &Clock, settings: Settings) -> Self {
        let (journal, mut steps, recovered) =
            Journal::open_stepped(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
        let clock = clock.clone();
        let opening = tokio::spawn(async move { Broker::open(journal, &recovered, clock).await });
        while !opening.is_finished() {
            tokio::task::yield_now().await;
            steps.commit();
        }
        let broker = opening.await.unwrap().unwrap();
        Self { steps, broker, left: u64::MAX }
    }

    /// Has the journal work until `call` ends; none where it may work no more before.
    pub(crate) async fn until<T: Send + 'static>(
        &mut self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let running = tokio::spawn(call);
        for _ in 0..1_000 {
            if running.is_finished() {
                return running.await.ok();
            }
            self.work().await;
        }
        assert_eq!(self.left, 0, "it never ends");
        None
    }

    pub(crate) async fn work(&mut self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        if self.left > 0 && self.steps.commit() {
            self.left -= 1;
        }
    }

    pub(crate) async fn make(&mut self) {
        let group = GroupSpec {
            max_deliveries: Some(1),
            dead_letter: Some(name("dead")),
            ..GroupSpec::new("billing")
        };
        for spec in [
            DnpipeSpec::new(name("dead")),
            DnpipeSpec { groups: vec![group], ..DnpipeSpec::new(name("orders")) },
        ] {
            let broker = self.broker.clone();
            self.until(async move { broker.apply(spec).await }).await.unwrap().unwrap();
        }
    }

    pub(crate) async fn letters(&mut self) -> Vec<String> {
        let broker = self.broker.clone();
        let pull =
            async move { broker.pull(&name("dead"), 0, From::First(0), Limits::default(), None).await };
        let pulled = self.until(pull).await.unwrap().unwrap();
        values(&pulled.batches, &[(0, u64::MAX, 0)]).into_iter().map(|(_, value, _)| value).collect()
    }

    pub(crate) async fn lag(&mut self) -> u64 {
        let broker = self.broker.clone();
        let group = async move { broker.group(&name("orders"), "billing").await };
        self.until(group).await.unwrap().unwrap().lag_records
    }
}
