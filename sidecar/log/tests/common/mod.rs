//! A journal on a simulated disk, stepped by its test, beside a model that knows what was promised.
#![allow(dead_code, reason = "each test uses some of it")]

pub(crate) mod device;
pub(crate) mod pushing;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::{
    Clock, Random, SimulatedClock,
    disk::{Disk, SimDisk, sim::Fault},
};
use sidestream_log::{
    AppendError, Appending, Durability, Journal, PartitionId, ReadError, Recovered, Settings, Steps,
    StoredBatch,
};

/// A number from the environment, else `otherwise`.
pub(crate) fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .filter(|value| *value > 0)
        .unwrap_or(otherwise)
}

/// Small segments, so that a short test begins many.
pub(crate) fn small() -> Settings {
    Settings {
        segment_bytes: 48 << 10,
        reserve_bytes: 0,
        cache_bytes: 64 << 10,
        zero_ahead_bytes: 8 << 10,
        ..Settings::default()
    }
}

/// What a future that needs nobody else comes to.
pub(crate) fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A batch of `count` records with this body.
pub(crate) fn header(body: &[u8], count: u32, append_time: i64) -> Header {
    Header {
        length: (HEADER_BYTES + body.len()) as u32,
        count,
        append_time,
        body_crc: crc32c::crc32c(body),
        ..Header::default()
    }
}

/// Bytes that tell by themselves which they are: some of them mostly zeros, as payloads are.
pub(crate) fn body(id: u64, length: usize) -> Vec<u8> {
    let mut random = Random::seeded(id);
    let is_empty = random.below(4) == 0;
    let mut body: Vec<u8> =
        (0..length.max(8)).map(|_| if is_empty { 0 } else { random.next_u64() as u8 }).collect();
    body[..8].copy_from_slice(&id.to_le_bytes());
    body
}

/// All that can be read of a partition, in order; where something is damaged, what is lost.
pub(crate) fn all(journal: &Journal, partition: PartitionId) -> (Vec<StoredBatch>, Vec<(u64, u64)>) {
    let mut at = journal.bounds(partition).expect("a partition").first;
    let (mut batches, mut lost) = (Vec::new(), Vec::new());
    loop {
        match now(journal.read(partition, at, 20_000)).expect("nobody else is asked") {
            Ok(read) if read.batches.is_empty() => return (batches, lost),
            Ok(read) => {
                at = read.next;
                batches.extend(read.batches);
            }
            Err(ReadError::Damaged { from, to }) => {
                assert!(from == at && to > from, "{from} {to} at {at}");
                lost.push((from, to));
                at = to;
            }
            Err(error) => panic!("{partition} at {at}: {error}"),
        }
    }
}

/// A batch as the model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pushed {
    id: u64,
    length: usize,
    count: u32,
    durability: Durability,
}

/// What was promised of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promised {
    first: u64,
    /// What was durably trimmed.
    trimmed: u64,
    /// By their offset: acknowledged, or seen by a reader.
    kept: BTreeMap<u64, Pushed>,
    /// By their offset: may be there or not. More than one only where a failure gave an offset out again.
    unknown: BTreeMap<u64, Vec<Pushed>>,
}

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) journal: Journal,
    pub(crate) steps: Option<Steps>,
    pub(crate) hand: SimulatedClock,
    clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    pub(crate) promised: BTreeMap<PartitionId, Promised>,
    waiting: Vec<(PartitionId, u64, Pushed, Appending)>,
    next_id: u64,
    next_partition: u32,
    pub(crate) acked: u64,
    pub(crate) crashes: u64,
    /// Durably removed.
    gone: BTreeSet<PartitionId>,
    /// Whether the disk was made to fail other than by a power cut.
    has_failed: bool,
    /// The last error that was told.
    pub(crate) told: Option<AppendError>,
}

impl World {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        Self::on(SimDisk::new(), seed, settings)
    }

    pub(crate) fn on(disk: SimDisk, seed: u64, settings: Settings) -> Self {
        let (clock, hand) = Clock::simulated(1_000_000);
        let (journal, steps, _) = open(&disk, &settings, &clock);
        Self {
            disk,
            journal,
            steps: Some(steps),
            hand,
            clock,
            settings,
            random: Random::seeded(seed),
            promised: BTreeMap::from([(PartitionId::STATE, Promised::default())]),
            waiting: Vec::new(),
            next_id: 1,
            next_partition: 1,
            acked: 0,
            crashes: 0,
            gone: BTreeSet::new(),
            has_failed: false,
            told: None,
        }
    }

    pub(crate) fn steps(&mut self) -> &mut Steps {
        self.steps.as_mut().expect("it is open")
    }

    /// A new partition, durably.
    pub(crate) fn create(&mut self) -> PartitionId {
        let partition = PartitionId(self.next_partition);
        self.next_partition += 1;
        let done = self.journal.create(partition);
        self.commit();
        if now(done) == Some(Ok(())) {
            self.promised.insert(partition, Promised::default());
        }
        partition
    }

    /// Appends a batch of some length; it is not written yet.
    pub(crate) fn append(
        &mut self,
        partition: PartitionId,
        length: usize,
        durability: Durability,
    ) -> Result<u64, AppendError> {
        let id = self.next_id;
        self.next_id += 1;
        let body = body(id, length);
        let count = 1 + self.random.below(1 + body.len() as u64 / 64) as u32;
        let header = header(&body, count, id as i64);
        let appending = self.journal.append(partition, header, &body, durability)?;
        let pushed = Pushed { id, length: body.len(), count, durability };
        let offset = appending.base_offset;
        let unknown = self.promised.get_mut(&partition).expect("a partition that was promised");
        unknown.unknown.entry(offset).or_default().push(pushed.clone());
        self.waiting.push((partition, offset, pushed, appending));
        Ok(offset)
    }

    /// Writes what gathered, and hears what became of it.
    pub(crate) fn commit(&mut self) -> bool {
        let did = self.steps().commit();
        self.hear();
        did
    }

    fn hear(&mut self) {
        for (partition, offset, pushed, appending) in std::mem::take(&mut self.waiting) {
            let mut appending = Box::pin(appending);
            match now(appending.as_mut()) {
                None => self.waiting.push((partition, offset, pushed, *std::pin::Pin::into_inner(appending))),
                Some(Ok(receipt)) => {
                    assert_eq!((receipt.base_offset, receipt.count), (offset, pushed.count));
                    self.acked += 1;
                    if let Some(bounds) = self.journal.bounds(partition) {
                        assert!(
                            bounds.readable >= offset + u64::from(pushed.count),
                            "told before it can be read"
                        );
                    }
                    if let Some(promised) = self.promised.get_mut(&partition) {
                        promised.unknown.remove(&offset);
                        let before = promised.kept.insert(offset, pushed);
                        assert_eq!(before, None, "an offset was given out twice");
                    }
                }
                Some(Err(error)) => {
                    assert!(!matches!(error, AppendError::Unknown { .. }), "{error}");
                    self.journal.resume(partition);
                    self.told = Some(error);
                }
            }
        }
    }

    pub(crate) fn trim(&mut self, partition: PartitionId, before: u64) {
        let done = self.journal.trim(partition, before);
        let bounds = self.journal.bounds(partition).expect("a partition");
        assert_eq!(bounds.first, before.min(bounds.readable).max(self.promised[&partition].first));
        self.promised.get_mut(&partition).expect("promised").first = bounds.first;
        self.commit();
        // Otherwise it may have happened or not.
        if now(done) == Some(Ok(())) {
            self.promised.get_mut(&partition).expect("promised").trimmed = bounds.first;
        }
    }

    pub(crate) fn remove(&mut self, partition: PartitionId) {
        let done = self.journal.remove(partition);
        self.promised.remove(&partition);
        self.commit();
        if now(done) == Some(Ok(())) {
            self.gone.insert(partition);
        }
    }

    /// One thing out of many.
    pub(crate) fn act(&mut self) {
        let partitions: Vec<PartitionId> = self.promised.keys().copied().collect();
        let partition = partitions[self.random.below(partitions.len() as u64) as usize];
        match self.random.below(100) {
            0..=54 => {
                let length = match self.random.below(20) {
                    0 => self.random.below(12_000),
                    1..=5 => self.random.below(3000),
                    _ => self.random.below(400),
                } as usize;
                let durability = match self.random.below(10) {
                    0..=6 => Durability::Device,
                    7..=8 => Durability::PageCache,
                    _ => Durability::Memory,
                };
                match self.append(partition, length, durability) {
                    Ok(_)
                    | Err(AppendError::Busy | AppendError::Full { .. } | AppendError::Failed { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            55..=79 => drop(self.commit()),
            80..=84 => drop(self.steps().keep()),
            85..=88 => {
                self.hand.advance(Duration::from_millis(self.random.below(1500)));
                self.steps().settle();
                self.hear();
            }
            89..=91 => {
                let bounds = self.journal.bounds(partition).expect("a partition");
                let before = bounds.first + self.random.below(bounds.next - bounds.first + 1);
                self.trim(partition, before);
            }
            92..=93 if partitions.len() < 6 => drop(self.create()),
            94 if partition != PartitionId::STATE => self.remove(partition),
            _ => self.check_some(partition),
        }
    }

    /// Reads from a random place and compares.
    fn check_some(&mut self, partition: PartitionId) {
        let bounds = self.journal.bounds(partition).expect("a partition");
        let from = bounds.first + self.random.below(bounds.readable - bounds.first + 1);
        match now(self.journal.read(partition, from, 4000)).expect("nobody else is asked") {
            Ok(read) => {
                assert!(from == bounds.readable || !read.batches.is_empty());
                let mut at = from;
                for batch in read.batches {
                    assert!(batch.header.base_offset <= at && at < batch.header.next_offset(), "dense");
                    at = batch.header.next_offset();
                    self.check_batch(partition, &batch);
                }
                assert_eq!(read.next, at);
            }
            // The power is off.
            Err(ReadError::Failed { .. }) => {}
            Err(error) => panic!("{partition} at {from}: {error}"),
        }
    }

    /// That it is one that was pushed, and from now on no other.
    fn check_batch(&mut self, partition: PartitionId, batch: &StoredBatch) {
        let promised = self.promised.get_mut(&partition).expect("promised");
        let offset = batch.header.base_offset;
        let is_it = |pushed: &Pushed| {
            pushed.count == batch.header.count && batch.body == body(pushed.id, pushed.length)
        };
        if let Some(kept) = promised.kept.get(&offset) {
            assert!(is_it(kept), "{partition} at {offset}: other bytes than were promised");
            return;
        }
        let unknown =
            promised.unknown.get(&offset).into_iter().flatten().find(|pushed| is_it(pushed)).cloned();
        let Some(unknown) = unknown else {
            panic!("{partition} at {offset}: nobody pushed this ({} records)", batch.header.count)
        };
        promised.kept.insert(offset, unknown);
    }

    /// Everything is as promised; what was seen is promised from now on. `is_cut`: what was only in the kernel may be
    /// lost.
    pub(crate) fn check(&mut self, is_cut: bool) {
        let there = self.journal.partitions();
        for partition in self.promised.keys() {
            assert!(there.contains(partition), "{partition} is gone");
        }
        for partition in &there {
            assert!(!self.gone.contains(partition), "{partition} was removed, and is back");
        }
        for partition in self.promised.keys().copied().collect::<Vec<_>>() {
            let (batches, lost) = all(&self.journal, partition);
            if !self.has_failed {
                assert_eq!(lost, [], "{partition}: damage where there was none");
            }
            let bounds = self.journal.bounds(partition).expect("a partition");
            let promised = &self.promised[&partition];
            // A trim that was not durable may not have happened.
            let durable =
                promised.kept.iter().rev().find(|(_, kept)| !is_cut || kept.durability == Durability::Device);
            let end = durable.map_or(0, |(offset, kept)| offset + u64::from(kept.count));
            assert!(
                bounds.readable >= end,
                "{partition}: {end} was promised, and {} is there",
                bounds.readable
            );
            assert!(bounds.first >= promised.trimmed, "{partition}: what was trimmed is back");
            let mut at = bounds.first;
            for batch in &batches {
                // What is reported as lost was only in the kernel when the disk failed.
                while let Some((_, to)) = lost.iter().find(|(from, _)| *from == at) {
                    at = *to;
                }
                assert!(
                    batch.header.base_offset <= at && at < batch.header.next_offset(),
                    "{partition}: dense at {at}"
                );
                at = batch.header.next_offset();
                self.check_batch(partition, batch);
            }
            at = lost.last().map_or(at, |(_, to)| at.max(*to));
            let promised = &self.promised[&partition];
            for (from, to) in &lost {
                let kept = promised
                    .kept
                    .range(..to)
                    .filter(|(offset, kept)| *offset + u64::from(kept.count) > *from);
                for (offset, kept) in kept {
                    let may_be_lost = kept.durability != Durability::Device && is_cut;
                    assert!(may_be_lost, "{partition} at {offset}: lost, and it was promised");
                }
            }
            assert_eq!((at, bounds.next), (bounds.readable, bounds.readable), "{partition}");
            let promised = self.promised.get_mut(&partition).expect("promised");
            promised.first = bounds.first;
            promised.unknown.clear();
            // What is beyond the end was not durable, and its offsets are given out again.
            promised.kept.retain(|offset, _| *offset < at);
            // What was seen is durable.
            promised.kept.values_mut().for_each(|kept| kept.durability = Durability::Device);
        }
    }

    /// The power goes; what is found afterwards is as promised.
    pub(crate) fn cut(&mut self) -> Recovered {
        let mut random = self.random.clone();
        random.next_u64();
        self.cut_with(move |states| random.below(states))
    }

    pub(crate) fn cut_with(&mut self, choose: impl FnMut(u64) -> u64) -> Recovered {
        self.random.next_u64();
        self.lose_handles();
        self.disk = self.disk.cut(choose);
        self.reopen(true)
    }

    /// Only the process ends.
    pub(crate) fn kill(&mut self) -> Recovered {
        self.lose_handles();
        self.disk = self.disk.kill();
        self.reopen(false)
    }

    fn lose_handles(&mut self) {
        self.waiting.clear();
        self.steps = None;
        self.crashes += 1;
    }

    fn reopen(&mut self, is_cut: bool) -> Recovered {
        let (journal, steps, recovered) = open(&self.disk, &self.settings, &self.clock);
        if !self.has_failed {
            assert_eq!(recovered.damage, [], "damage where there was none");
        }
        (self.journal, self.steps) = (journal, Some(steps));
        // A removal that was not durable may not have happened: nobody asks for it any more.
        for partition in self.journal.partitions() {
            if !self.promised.contains_key(&partition) && !self.gone.contains(&partition) {
                let done = self.journal.remove(partition);
                self.steps().commit();
                assert_eq!(now(done), Some(Ok(())));
            }
        }
        self.check(is_cut);
        recovered
    }

    /// The next operation but `after` goes wrong.
    pub(crate) fn fail(&mut self, after: u64, fault: Fault) {
        self.has_failed |= fault != Fault::PowerCut;
        self.disk.fail(after, fault);
    }
}

/// A journal of eight small segments, most of which is of the second of its two partitions.
pub(crate) fn of_eight_segments() -> (World, PartitionId, PartitionId) {
    let mut world = World::new(8, Settings { segment_bytes: 24 << 10, ..small() });
    let (kept, dead) = (world.create(), world.create());
    while world.journal.counts().segments < 8 {
        world.append(kept, 300, Durability::Device).unwrap();
        world.append(dead, 2500, Durability::Device).unwrap();
        world.commit();
    }
    while world.steps().keep() {}
    (world, kept, dead)
}

pub(crate) fn open(disk: &SimDisk, settings: &Settings, clock: &Clock) -> (Journal, Steps, Recovered) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Journal::open_stepped(disk, settings.clone(), clock.clone()).expect("a journal always opens")
}
