//! Dnpipes in this process, on a disk that can be taken away: the backend that the behaviours run against here.
#![allow(dead_code, reason = "each test uses some of it")]

pub(crate) mod stepped;

use std::{
    future::Future,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use sidestream_broker::{
    Broker, DnpipeSpec, GroupError, GroupSpec, JoinOptions, KeyRef, Keys, Limits, Membership, PullError,
    PushError,
};
use sidestream_conformance::{Client, Dnpipe, From, Given, Member, Pulled, Push, Pushed, Refused, Service};
use sidestream_event::{
    native::DnpipeName,
    record::{BatchWriter, HEADER_BYTES, Header, MESSAGE_ID, compress, expand, records, split},
};
use sidestream_host::{
    Clock, Random,
    disk::{self, Choice, Disk, SimDisk},
};
use sidestream_log::{Journal, Settings, StoredBatch};

/// What a journal is on.
pub(crate) enum Ground {
    /// A simulated disk: a crash is a power cut that leaves what it likes of what was not flushed.
    Sim(SimDisk, Random),
    /// A directory: a crash leaves what the kernel has.
    Directory(tempfile::TempDir, Choice, u32),
}

/// A broker that can crash.
pub(crate) struct Local {
    ground: Ground,
    journal: Journal,
    broker: Broker,
    running: tokio::task::JoinHandle<()>,
    is_dead: Arc<Mutex<bool>>,
    /// What is made is encrypted on the disk.
    is_encrypted: bool,
    /// What is pushed is compressed.
    is_compressed: bool,
}

/// The key that wraps all others here, as often as it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneKey(pub(crate) u8);

impl Keys for OneKey {
    fn get(&self, _: &KeyRef) -> Result<Vec<u8>, String> {
        Ok(vec![self.0; 32])
    }
}

pub(crate) fn key_ref() -> KeyRef {
    KeyRef { name: "wrapping".into(), key: "key".into() }
}

impl Local {
    pub(crate) async fn simulated(seed: u64) -> Self {
        Self::start(Ground::Sim(SimDisk::new(), Random::seeded(seed))).await
    }

    /// The same, of which all that is made is encrypted.
    pub(crate) async fn encrypted(seed: u64) -> Self {
        Self { is_encrypted: true, ..Self::simulated(seed).await }
    }

    /// The same, where all that is pushed is compressed.
    pub(crate) async fn compressed(seed: u64) -> Self {
        Self { is_compressed: true, ..Self::simulated(seed).await }
    }

    pub(crate) async fn in_directory(choice: Choice) -> Self {
        Self::start(Ground::Directory(tempfile::tempdir().unwrap(), choice, 0)).await
    }

    async fn start(ground: Ground) -> Self {
        let disk: Arc<dyn Disk> = match &ground {
            Ground::Sim(disk, _) => Arc::new(disk.clone()),
            Ground::Directory(directory, choice, round) => {
                disk::open(&directory.path().join(round.to_string()), *choice).unwrap()
            }
        };
        let settings = Settings { segment_bytes: 512 << 10, reserve_bytes: 512 << 10, ..Settings::default() };
        let clock = Clock::machine();
        let (journal, recovered) = Journal::open(disk, settings, clock.clone()).unwrap();
        assert_eq!(recovered.damage, [], "a crash damages nothing");
        println!("on {}", journal.driver());
        let opening = Broker::open_with(journal.clone(), &recovered, clock, Arc::new(OneKey(7)));
        let broker = opening.await.unwrap();
        let looked_after = broker.clone();
        let running = tokio::spawn(async move { looked_after.run().await });
        Self {
            ground,
            journal,
            broker,
            running,
            is_dead: Arc::default(),
            is_encrypted: false,
            is_compressed: false,
        }
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }
}

pub(crate) fn name(dnpipe: &str) -> DnpipeName {
    DnpipeName::new("test", dnpipe).unwrap()
}

impl Service for Local {
    type Client = Participant;

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
            encryption: self.is_encrypted.then(key_ref),
            groups: dnpipe.groups.iter().map(group).collect(),
            ..DnpipeSpec::new(name(dnpipe.name))
        };
        self.broker.apply(spec).await.unwrap();
    }

    async fn client(&self) -> Participant {
        let (broker, is_dead) = (self.broker.clone(), self.is_dead.clone());
        Participant { broker, is_dead, is_compressed: self.is_compressed }
    }

    async fn crash(self) -> Self {
        self.running.abort();
        let ground = match self.ground {
            Ground::Sim(disk, mut random) => {
                let disk = disk.cut(|states| random.below(states));
                Ground::Sim(disk, random)
            }
            Ground::Directory(directory, choice, round) => {
                // What is on its way gets there, what comes later is refused, and then the files are as they are.
                *self.is_dead.lock().unwrap() = true;
                self.journal.close().await;
                let from: PathBuf = directory.path().join(round.to_string());
                let to = directory.path().join((round + 1).to_string());
                std::fs::create_dir(&to).unwrap();
                for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
                    std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
                Ground::Directory(directory, choice, round + 1)
            }
        };
        let (is_encrypted, is_compressed) = (self.is_encrypted, self.is_compressed);
        Self { is_encrypted, is_compressed, ..Self::start(ground).await }
    }
}

/// Somebody who uses the dnpipes.
#[derive(Clone)]
pub(crate) struct Participant {
    pub(crate) broker: Broker,
    is_dead: Arc<Mutex<bool>>,
    is_compressed: bool,
}

impl Client for Participant {
    type Member = GroupMember;

    fn push(&self, push: Push) -> impl Future<Output = Result<Pushed, Refused>> + Send + 'static {
        let (broker, name) = (self.broker.clone(), name(&push.dnpipe));
        let batch = if self.is_compressed { compressed(&push) } else { batch(&push) };
        let is_dead = *self.is_dead.lock().unwrap();
        let mut admitted = broker.push(&name, push.partition, batch.clone(), push.only_if);
        async move {
            if is_dead {
                return Err(Refused::Other("the service is dead".into()));
            }
            loop {
                match admitted {
                    Ok(pushing) => {
                        let pushed = pushing.await.map_err(push_refused)?;
                        return Ok(Pushed { offset: pushed.base_offset, epoch: pushed.epoch });
                    }
                    Err(PushError::Busy) => {
                        broker.room().await;
                        admitted = broker.push(&name, push.partition, batch.clone(), push.only_if);
                    }
                    Err(error) => return Err(push_refused(error)),
                }
            }
        }
    }

    async fn pull(
        &self,
        dnpipe: &str,
        partition: u32,
        from: From,
        records_max: u64,
        wait: Duration,
    ) -> Result<Pulled, Refused> {
        let limits = Limits { max_bytes: 16 << 20, max_records: records_max };
        let pulled = self.broker.pull(&name(dnpipe), partition, from, limits, Some(wait)).await;
        let pulled = pulled.map_err(pull_refused)?;
        let records = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
        let records = records.into_iter().map(|(offset, value, _)| (offset, value)).collect();
        Ok(Pulled { records, next: pulled.next, epoch: pulled.epoch })
    }

    async fn reset(&self, dnpipe: &str) -> Result<u32, Refused> {
        self.broker.reset(&name(dnpipe)).await.map_err(|error| Refused::Other(error.to_string()))
    }

    async fn join(
        &self,
        dnpipe: &str,
        group: &str,
        member: &str,
        auto_ack: bool,
    ) -> Result<GroupMember, Refused> {
        let options = JoinOptions { auto_ack, ..JoinOptions::default() };
        let membership =
            self.broker.join(&name(dnpipe), group, member, options).await.map_err(group_refused)?;
        Ok(GroupMember { broker: self.broker.clone(), membership })
    }

    async fn redrive(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        let redriven = self.broker.redrive(&name(dnpipe), group).await.map_err(group_refused)?;
        assert_eq!(redriven.gone, 0);
        Ok(redriven.records)
    }

    async fn seek(&self, dnpipe: &str, group: &str, to: From) -> Result<(), Refused> {
        self.broker.seek(&name(dnpipe), group, None, to).await.map_err(group_refused)
    }

    async fn lag(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        Ok(self.broker.group(&name(dnpipe), group).await.map_err(group_refused)?.lag_records)
    }
}

/// A member of a group.
pub(crate) struct GroupMember {
    broker: Broker,
    membership: Membership,
}

impl Member for GroupMember {
    async fn next(&self, records_max: u64, wait: Duration) -> Result<Vec<Given>, Refused> {
        let limits = Limits { max_bytes: 16 << 20, max_records: records_max };
        let claimed = self.broker.next(&self.membership, limits, Some(wait)).await.map_err(group_refused)?;
        let given = claimed.deliveries.iter().flat_map(|delivery| {
            let partition = delivery.partition;
            let records = values(&delivery.batches, &delivery.ranges).into_iter();
            records.map(move |(offset, value, delivery)| Given { partition, offset, value, delivery })
        });
        Ok(given.collect())
    }

    async fn ack(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        self.broker.ack(&self.membership, partition, &[offsets]).await.map_err(group_refused)
    }

    async fn give_back(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        self.broker.give_back(&self.membership, partition, &[offsets]).await.map_err(group_refused)
    }

    async fn leave(self) -> Result<(), Refused> {
        self.broker.leave(self.membership).await.map_err(group_refused)
    }
}

/// The batch of a push.
pub(crate) fn batch(push: &Push) -> Bytes {
    let mut writer = BatchWriter::new();
    for (at, value) in push.values.iter().enumerate() {
        let id = push.message_id.as_ref().filter(|_| at == 0).map(|id| (MESSAGE_ID, id.as_bytes()));
        let headers: Vec<_> = id.into_iter().collect();
        writer.push(1_000 + at as i64, None, &headers, value.as_bytes()).unwrap();
    }
    let (producer_id, producer_epoch, first_sequence) = push.producer.unwrap_or_default();
    writer.finish(Header { producer_id, producer_epoch, first_sequence, ..Header::default() }).unwrap()
}

/// The same, compressed: each record has something that can be.
pub(crate) fn compressed(push: &Push) -> Bytes {
    let plain = batch(push);
    let (header, body) = split(&plain).unwrap();
    let mut writer = BatchWriter::new();
    for record in records(&header, &body).map(Result::unwrap) {
        let mut headers: Vec<(&str, &[u8])> = record.headers.iter().collect();
        headers.push(("much", &[b'.'; 200]));
        writer.push(record.time, record.key, &headers, record.value).unwrap();
    }
    let (header, body) = split(&writer.finish(header).unwrap()).unwrap();
    let (header, body) = compress(&header, &body).expect("it gets smaller");
    let mut bytes = vec![0; HEADER_BYTES];
    header.write(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(&body);
    bytes.into()
}

/// The records of `batches` that `ranges` mean, in the order of the ranges.
pub(crate) fn values(batches: &[StoredBatch], ranges: &[(u64, u64, u32)]) -> Vec<(u64, String, u32)> {
    let mut found = Vec::new();
    for (from, to, delivery) in ranges {
        for batch in batches {
            let (header, body) = expand(&batch.header, &batch.body).unwrap();
            for record in records(&header, &body).map(Result::unwrap) {
                if (*from..*to).contains(&record.offset) {
                    let value = String::from_utf8(record.value.to_vec()).unwrap();
                    found.push((record.offset, value, *delivery));
                }
            }
        }
    }
    found
}

fn push_refused(error: PushError) -> Refused {
    match error {
        PushError::Unknown(_) => Refused::Unknown,
        PushError::WrongEpoch { current } => Refused::WrongEpoch(current),
        PushError::WrongOffset { next } => Refused::WrongOffset(next),
        PushError::OutOfSequence { expected } => Refused::OutOfSequence(expected),
        PushError::Fenced { .. } => Refused::Fenced,
        other => Refused::Other(other.to_string()),
    }
}

fn pull_refused(error: PullError) -> Refused {
    match error {
        PullError::Unknown(_) => Refused::Unknown,
        PullError::OutOfRange { first, end } => Refused::OutOfRange(first, end),
        other => Refused::Other(other.to_string()),
    }
}

fn group_refused(error: GroupError) -> Refused {
    match error {
        GroupError::Pull(error) => pull_refused(error),
        GroupError::NotMember { .. } => Refused::NotMember,
        other => Refused::Other(other.to_string()),
    }
}
