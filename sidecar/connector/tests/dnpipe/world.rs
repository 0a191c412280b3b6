//! A server of dnpipes that can go and come back, and stages that use it.

use std::{pin::Pin, sync::Arc, time::Duration};

use sidestream_broker::{Broker, DnpipeSpec, GroupInfo};
use sidestream_client::{
    Address, Client, DiskView, DnpipeName, From, Pulled, ReaderConfig, Record, Refusal, Verified,
};
use sidestream_connector::{
    AsyncSink, AsyncSource, Environment, ExactlyOnce, Origin, Secrets, Servers, Sink, Source, Stop,
    Undelivered, build, intake,
};
use sidestream_event::{Batch, Event, Pool, Value};
use sidestream_gateway::{Gateway, Limits, Storage};
use sidestream_host::{
    Clock,
    disk::{self, Choice},
};
use sidestream_log::{Journal, Settings};
use sidestream_plan::{
    self as plan,
    stage::{DnpipeSink, DnpipeSource},
};
use sidestream_ring::channel::{Receiver, channel_by};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// As long as something may take on a busy machine.
pub(crate) const AGES: Duration = Duration::from_secs(60);

/// The dnpipe `shop/orders`, in a folder.
pub(crate) struct World {
    folder: tempfile::TempDir,
    server: Option<Server>,
}

struct Server {
    broker: Broker,
    gateway: Gateway,
    journal: Journal,
}

struct NoStorage;

impl Storage for NoStorage {
    fn disk(&self) -> DiskView {
        DiskView::default()
    }

    fn wall_nanos(&self) -> i64 {
        Clock::machine().wall_nanos()
    }

    fn verify(&self) -> Pin<Box<dyn Future<Output = Result<Verified, Refusal>> + Send + '_>> {
        Box::pin(async { Ok(Verified::default()) })
    }
}

pub(crate) fn orders() -> DnpipeName {
    "shop/orders".parse().unwrap()
}

impl World {
    pub(crate) async fn new() -> World {
        let mut world = World { folder: tempfile::tempdir().unwrap(), server: None };
        world.serve().await;
        world.apply(DnpipeSpec::new(orders())).await;
        world
    }

    pub(crate) async fn serve(&mut self) {
        let folder = self.folder.path().join("journal");
        // What a server before was asked may still have its end of the disk.
        let disk = async {
            loop {
                match disk::open(&folder, Choice::File) {
                    Ok(disk) => return disk,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let disk = timeout(AGES, disk).await.expect("nobody else has the folder");
        let settings = Settings { segment_bytes: 16 << 20, reserve_bytes: 0, ..Settings::default() };
        let (journal, recovered) = Journal::open(disk, settings, Clock::machine()).unwrap();
        let broker = Broker::open(journal.clone(), &recovered, Clock::machine()).await.unwrap();
        let gateway = Gateway::new(broker.clone(), Arc::new(NoStorage), Limits::default());
        gateway.open_local(&self.folder.path().join("socket")).unwrap();
        self.server = Some(Server { broker, gateway, journal });
    }

    pub(crate) async fn stop_serving(&mut self) {
        let Server { broker, gateway, journal } = self.server.take().unwrap();
        gateway.close(Duration::ZERO).await;
        journal.close().await;
        drop((broker, gateway));
    }

    pub(crate) async fn apply(&self, spec: DnpipeSpec) {
        self.server.as_ref().unwrap().broker.apply(spec).await.unwrap();
    }

    pub(crate) async fn remove(&self, name: &DnpipeName) {
        self.server.as_ref().unwrap().broker.remove(name).await.unwrap();
    }

    fn address(&self) -> Address {
        Address::Local(self.folder.path().join("socket"))
    }

    fn servers(&self) -> Arc<Servers> {
        let address = self.address();
        Arc::new(move |_, _| Ok(address.clone()))
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address(), Default::default())
    }

    pub(crate) async fn push(&self, values: impl IntoIterator<Item = String>) {
        let producer = self.client().producer("shop/orders", Default::default()).await.unwrap();
        let mut promises = Vec::new();
        for value in values {
            promises.push(producer.push(Record::new(value)).await.unwrap());
        }
        for promise in promises {
            promise.await.unwrap();
        }
    }

    /// Everything that is in `shop/orders`.
    pub(crate) async fn pulled(&self) -> Vec<Pulled> {
        self.pulled_from("shop/orders").await
    }

    pub(crate) async fn pulled_from(&self, dnpipe: &str) -> Vec<Pulled> {
        let mut reader = self.client().reader(dnpipe, From::First(0), ReaderConfig::default()).await.unwrap();
        let mut found = Vec::new();
        while let Some(record) = reader.next().await.unwrap() {
            found.push(record);
        }
        found
    }

    pub(crate) async fn group(&self) -> GroupInfo {
        self.server.as_ref().unwrap().broker.group(&orders(), "billing").await.unwrap()
    }

    /// Waits until the group is as it should be.
    pub(crate) async fn until_group(&self, is_so: impl Fn(&GroupInfo) -> bool) {
        let wait = async {
            while !is_so(&self.group().await) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(AGES, wait).await.is_err() {
            panic!("{:?}", self.group().await);
        }
    }

    fn env(&self, exactly_once: Option<ExactlyOnce>) -> Environment {
        let compile = |expression: &plan::Expression| {
            let path = expression.source().strip_prefix("event.").ok_or("not a path")?.to_owned();
            let evaluate =
                move |event: &Event| event.body.at(&path).cloned().ok_or_else(|| format!("no {path}"));
            Ok(Box::new(evaluate) as sidestream_connector::Evaluate)
        };
        Environment {
            pipeline: "shop/watch".into(),
            clock: Clock::machine(),
            secrets: Secrets::default(),
            dnpipes: Some(self.servers()),
            exactly_once,
            compile: Arc::new(compile),
        }
    }

    /// A sink to `shop/orders`.
    pub(crate) fn sink(&self, key: Option<&str>) -> Box<dyn AsyncSink> {
        self.sink_to("orders", key, None)
    }

    /// A sink to `shop/bills` of a pipeline that delivers exactly once.
    pub(crate) fn sink_once(&self, once: &ExactlyOnce) -> Box<dyn AsyncSink> {
        self.sink_to("bills", None, Some(once.of("bills")))
    }

    fn sink_to(&self, name: &str, key: Option<&str>, once: Option<ExactlyOnce>) -> Box<dyn AsyncSink> {
        let stage = DnpipeSink { name: name.into(), namespace: None, pool: None, key: key.map(Into::into) };
        match build::sink(&plan::Sink::Dnpipe(stage), &self.env(once)) {
            Ok(Sink::Async(sink)) => sink,
            Ok(_) => panic!("the sink wants to be run in another way"),
            Err(error) => panic!("{error}"),
        }
    }

    /// A source of the group `billing`, at work.
    pub(crate) fn source(&self) -> Running {
        Running::new(self.source_in("billing", None))
    }

    /// The same in a pipeline that delivers exactly once.
    pub(crate) fn source_once(&self, once: &ExactlyOnce) -> Running {
        Running::new(self.source_in("billing", Some(once.of("in"))))
    }

    fn source_in(&self, group: &str, once: Option<ExactlyOnce>) -> Box<dyn AsyncSource> {
        let stage = DnpipeSource { name: "orders".into(), namespace: None, pool: None, group: group.into() };
        match build::source(&plan::Source::Dnpipe(stage), &self.env(once)) {
            Ok(Source::Async(source)) => source,
            Ok(_) => panic!("the source wants to be run in another way"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Delivers a batch, trying again for as long as it should be; says how often it was to be.
pub(crate) async fn deliver(sink: &mut dyn AsyncSink, batch: &Batch) -> Result<usize, Vec<(usize, String)>> {
    for tries in 0..600 {
        match sink.deliver(batch).await {
            Ok(()) => return Ok(tries),
            Err(Undelivered::Refused { events }) => return Err(events),
            Err(Undelivered::Retry { .. }) => sleep(Duration::from_millis(100)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it was never delivered")
}

/// A source that is run again when it fails, and after its end until it is drained.
pub(crate) struct Running {
    pub(crate) batches: Receiver<Batch>,
    pub(crate) origin: Origin,
    failed: watch::Receiver<String>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn new(mut source: Box<dyn AsyncSource>) -> Running {
        let (sender, batches) = channel_by(64, 100_000, Batch::len);
        let clock = Clock::machine();
        let origin = Origin::new("in", clock.clone());
        let (stop, stopped) = Stop::new();
        let mut intake = intake(sender, origin.clone(), Arc::new(Pool::new(8)), clock, stopped);
        let (says, failed) = watch::channel(String::new());
        let task = tokio::spawn(async move {
            while let Err(failure) = source.run(&mut intake).await {
                says.send_replace(failure.to_string());
                sleep(Duration::from_millis(10)).await;
            }
            drop(intake);
            source.drained(Box::pin(std::future::pending())).await;
        });
        Running { batches, origin, failed, stop, task }
    }

    /// Waits until it fails for such a reason.
    pub(crate) async fn until_it_fails(&mut self, reason: &str) {
        let failed = timeout(AGES, self.failed.wait_for(|said| said.contains(reason))).await;
        failed.expect("it fails").expect("it is run");
    }

    /// That many events, in batches.
    pub(crate) async fn next(&mut self, events: usize) -> Vec<Batch> {
        let (mut found, mut count) = (Vec::new(), 0);
        let gather = async {
            while count < events {
                match self.batches.try_recv() {
                    Some(batch) => {
                        count += batch.len();
                        found.push(batch);
                    }
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        if timeout(AGES, gather).await.is_err() {
            panic!("{count} of {events} came");
        }
        found
    }

    /// Asks it to end.
    pub(crate) fn stop(&self) {
        self.stop.send(true).unwrap();
    }

    /// Waits until it has drained.
    pub(crate) async fn drained(self) {
        timeout(AGES, self.task).await.expect("it drains").unwrap();
    }

    /// Ends it as a crash would.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// What the events of batches say.
pub(crate) fn texts(batches: &[Batch]) -> Vec<String> {
    let events = batches.iter().flat_map(Batch::events);
    events.map(|event| event.body.as_text().expect("text").to_owned()).collect()
}

/// Numbers as texts.
pub(crate) fn numbers(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|n| n.to_string())
}

pub(crate) fn batch(bodies: impl IntoIterator<Item = Value>) -> Batch {
    Batch::of(bodies.into_iter().map(Event::new).collect(), sidestream_event::Mark::none())
}
