//! Dnpipes behind the doors of a gateway, used by clients over its local socket: the backend that the behaviours run against.
//! Clients speak the native protocol, or [gRPC](grpc).

pub(crate) mod grpc;

use std::{
    future::Future, marker::PhantomData, ops::Range, path::PathBuf, pin::Pin, sync::Arc, time::Duration,
};

use sidestream_broker::{Broker, DnpipeSpec, GroupSpec};
use sidestream_client::{
    Address, Batch, Client, ClientConfig, ClientError, Delivery, GroupConfig, GroupReader, Numbers, Record,
    Refusal,
};
use sidestream_conformance as suite;
use sidestream_conformance::{Dnpipe, From, Given, Push, Pushed, Refused, Service};
use sidestream_event::{
    native::{DiskView, DnpipeName, Verified},
    record::MESSAGE_ID,
};
use sidestream_gateway::{Gateway, Limits, Storage};
use sidestream_host::{
    Clock, Random,
    disk::{self, Choice, Disk, SimDisk},
};
use sidestream_log::{Journal, Settings};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

/// What a journal is on.
enum Ground {
    /// A simulated disk: a crash is a power cut that leaves what it likes of what was not flushed.
    Sim(SimDisk, Random),
    /// A directory: a crash leaves what was written.
    Directory(Choice),
}

/// Who uses dnpipes over a socket.
pub(crate) trait Speaks: suite::Client {
    /// One with a connection of its own.
    fn at(socket: PathBuf) -> impl Future<Output = Self> + Send;
}

/// A server that can crash, whose clients speak like `P`.
pub(crate) struct Doors<P = Participant> {
    ground: Ground,
    folder: tempfile::TempDir,
    /// How often it crashed.
    round: u32,
    journal: Journal,
    broker: Broker,
    gateway: Gateway,
    running: JoinHandle<()>,
    clients: PhantomData<fn() -> P>,
}

impl<P: Speaks> Doors<P> {
    pub(crate) async fn simulated(seed: u64) -> Self {
        Self::start(Ground::Sim(SimDisk::new(), Random::seeded(seed)), tempfile::tempdir().unwrap(), 0).await
    }

    pub(crate) async fn on_disk(choice: Choice) -> Self {
        Self::start(Ground::Directory(choice), tempfile::tempdir().unwrap(), 0).await
    }

    async fn start(ground: Ground, folder: tempfile::TempDir, round: u32) -> Self {
        let disk: Arc<dyn Disk> = match &ground {
            Ground::Sim(disk, _) => Arc::new(disk.clone()),
            Ground::Directory(choice) => disk::open(&directory(&folder, round), *choice).unwrap(),
        };
        let settings = Settings { segment_bytes: 512 << 10, reserve_bytes: 512 << 10, ..Settings::default() };
        let clock = Clock::machine();
        let (journal, recovered) = Journal::open(disk, settings, clock.clone()).unwrap();
        assert_eq!(recovered.damage, [], "a crash damages nothing");
        println!("on {}", journal.driver());
        let broker = Broker::open(journal.clone(), &recovered, clock).await.unwrap();
        let looked_after = broker.clone();
        let running = tokio::spawn(async move { looked_after.run().await });
        let gateway = Gateway::new(broker.clone(), Arc::new(Nothing), Limits::default());
        gateway.open_local(&socket(&folder, round)).unwrap();
        Self { ground, folder, round, journal, broker, gateway, running, clients: PhantomData }
    }
}

fn directory(folder: &tempfile::TempDir, round: u32) -> PathBuf {
    folder.path().join(format!("journal-{round}"))
}

fn socket(folder: &tempfile::TempDir, round: u32) -> PathBuf {
    folder.path().join(format!("socket-{round}"))
}

fn name(dnpipe: &str) -> DnpipeName {
    DnpipeName::new("test", dnpipe).unwrap()
}

struct Nothing;

impl Storage for Nothing {
    fn disk(&self) -> DiskView {
        DiskView::default()
    }

    fn wall_nanos(&self) -> i64 {
        Clock::machine().wall_nanos()
    }

    fn verify(&self) -> Pin<Box<dyn Future<Output = Result<Verified, Refusal>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(Verified::default())))
    }
}

impl<P: Speaks> Service for Doors<P> {
    type Client = P;

    async fn create(&self, dnpipe: Dnpipe) {
        let group = |(group, max, dead): &(&str, u32, &str)| GroupSpec {
            max_deliveries: Some(*max),
            dead_letter: Some(name(dead)),
            backoff: Duration::from_millis(20),
            ..GroupSpec::new(group)
        };
        let spec = DnpipeSpec {
            partitions: dnpipe.partitions,
            dedupe_window: dnpipe.dedupe_window,
            groups: dnpipe.groups.iter().map(group).collect(),
            ..DnpipeSpec::new(name(dnpipe.name))
        };
        self.broker.apply(spec).await.unwrap();
    }

    async fn client(&self) -> P {
        P::at(socket(&self.folder, self.round)).await
    }

    async fn crash(self) -> Self {
        let Self { ground, folder, round, journal, broker, gateway, running, .. } = self;
        running.abort();
        // Nobody hears an answer any more.
        gateway.close(Duration::ZERO).await;
        while gateway.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ground = match ground {
            Ground::Sim(disk, mut random) => Ground::Sim(disk.cut(|states| random.below(states)), random),
            Ground::Directory(choice) => {
                // What was on its way gets there.
                journal.close().await;
                let (from, to) = (directory(&folder, round), directory(&folder, round + 1));
                std::fs::create_dir(&to).unwrap();
                for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
                    std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
                Ground::Directory(choice)
            }
        };
        drop((gateway, broker, journal));
        Self::start(ground, folder, round + 1).await
    }
}

type Pushing = (Push, oneshot::Sender<Result<Pushed, Refused>>);

/// Somebody who uses the dnpipes over a connection of his own.
#[derive(Clone)]
pub(crate) struct Participant {
    client: Client,
    /// Pushes, to be sent in this order.
    pushes: mpsc::Sender<Pushing>,
}

impl Speaks for Participant {
    async fn at(socket: PathBuf) -> Self {
        let client = Client::new(Address::Local(socket), ClientConfig::default());
        let (pushes, queue) = mpsc::channel(1024);
        tokio::spawn(send(client.clone(), queue));
        Self { client, pushes }
    }
}

/// Sends pushes in the order in which they were asked for; they are answered as they are.
async fn send(client: Client, mut queue: mpsc::Receiver<Pushing>) {
    while let Some((push, told)) = queue.recv().await {
        let sent = client.push_together(&full(&push.dnpipe), push.partition, &batch(&push)).await;
        tokio::spawn(async move {
            let answer = match sent {
                Ok(receipts) => receipts.await,
                Err(error) => Err(error),
            };
            let pushed =
                answer.map(|receipts| Pushed { offset: receipts[0].offset, epoch: receipts[0].epoch });
            // Who does not wait any more need not be told.
            let _ = told.send(pushed.map_err(refused));
        });
    }
}

fn batch(push: &Push) -> Batch {
    let record = |(at, value): (usize, &String)| {
        let record = Record { time: Some(1_000 + at as i64), ..Record::new(value.clone()) };
        match push.message_id.as_ref().filter(|_| at == 0) {
            Some(id) => record.header(MESSAGE_ID, id.clone()),
            None => record,
        }
    };
    let numbers = push.producer.map(|(producer, epoch, first)| Numbers { producer, epoch, first });
    Batch { records: push.values.iter().enumerate().map(record).collect(), numbers, only_if: push.only_if }
}

fn full(dnpipe: &str) -> String {
    name(dnpipe).to_string()
}

impl suite::Client for Participant {
    type Member = GroupMember;

    fn push(&self, push: Push) -> impl Future<Output = Result<Pushed, Refused>> + Send + 'static {
        let (told, answer) = oneshot::channel();
        // It has its place when this returns.
        let queued = self.pushes.try_send((push, told)).map_err(|error| Refused::Other(error.to_string()));
        async move {
            queued?;
            answer.await.unwrap_or_else(|error| Err(Refused::Other(error.to_string())))
        }
    }

    async fn pull(
        &self,
        dnpipe: &str,
        partition: u32,
        from: From,
        records_max: u64,
        wait: Duration,
    ) -> Result<suite::Pulled, Refused> {
        let records_max = u32::try_from(records_max).unwrap_or(u32::MAX);
        let page =
            self.client.pull(&full(dnpipe), partition, from, records_max, wait).await.map_err(refused)?;
        let records = page.records.iter().map(|record| (record.offset, text(&record.value))).collect();
        Ok(suite::Pulled { records, next: page.next, epoch: page.epoch })
    }

    async fn reset(&self, dnpipe: &str) -> Result<u32, Refused> {
        self.client.reset(&full(dnpipe)).await.map_err(refused)
    }

    async fn join(
        &self,
        dnpipe: &str,
        group: &str,
        member: &str,
        auto_ack: bool,
    ) -> Result<GroupMember, Refused> {
        let config = GroupConfig { member: Some(member.into()), auto_ack, ..GroupConfig::default() };
        let reader = self.client.join(&full(dnpipe), group, config).await.map_err(refused)?;
        Ok(GroupMember(Mutex::new(reader)))
    }

    async fn redrive(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        let (records, gone) = self.client.redrive(&full(dnpipe), group).await.map_err(refused)?;
        assert_eq!(gone, 0);
        Ok(records)
    }

    async fn seek(&self, dnpipe: &str, group: &str, to: From) -> Result<(), Refused> {
        self.client.seek(&full(dnpipe), group, None, to).await.map_err(refused)
    }

    async fn lag(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        let groups = self.client.groups(&full(dnpipe)).await.map_err(refused)?;
        let own = groups.into_iter().find(|own| own.name == group);
        own.map(|own| own.lag_records).ok_or_else(|| Refused::Other("there is no such group".into()))
    }
}

/// A member of a group.
pub(crate) struct GroupMember(Mutex<GroupReader>);

impl suite::Member for GroupMember {
    async fn next(&self, records_max: u64, wait: Duration) -> Result<Vec<Given>, Refused> {
        let mut reader = self.0.lock().await;
        reader.claim_at_most(u32::try_from(records_max).unwrap_or(u32::MAX));
        let mut next = reader.next_within(wait.as_millis() as u32).await.map_err(refused)?;
        let mut given = Vec::new();
        while let Some(Delivery { record, attempt }) = next {
            let (partition, offset, value) = (record.partition, record.offset, text(&record.value));
            given.push(Given { partition, offset, value, delivery: attempt });
            next = match reader.ahead() {
                0 => None,
                _ => reader.next_within(0).await.map_err(refused)?,
            };
        }
        Ok(given)
    }

    async fn ack(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        self.0.lock().await.ack_range(partition, offsets).await.map_err(refused)
    }

    async fn give_back(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        let mut reader = self.0.lock().await;
        for offset in offsets {
            let record = sidestream_client::Pulled {
                partition,
                offset,
                epoch: 0,
                time: 0,
                key: None,
                headers: Vec::new(),
                value: sidestream_client::Bytes::new(),
            };
            reader.give_back(&Delivery { record, attempt: 0 }).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn leave(self) -> Result<(), Refused> {
        self.0.into_inner().leave().await.map_err(refused)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

fn refused(error: ClientError) -> Refused {
    match error {
        ClientError::Refused(refusal) => match refusal {
            Refusal::UnknownDnpipe(_) => Refused::Unknown,
            Refusal::WrongEpoch { current } => Refused::WrongEpoch(current),
            Refusal::WrongOffset { next } => Refused::WrongOffset(next),
            Refusal::OutOfRange { first, end } => Refused::OutOfRange(first, end),
            Refusal::OutOfSequence { expected } => Refused::OutOfSequence(expected),
            Refusal::Fenced => Refused::Fenced,
            Refusal::NotMember { .. } => Refused::NotMember,
            other => Refused::Other(other.to_string()),
        },
        other => Refused::Other(other.to_string()),
    }
}
