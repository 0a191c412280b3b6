//! What a start finds on a disk: heads, footers with their indexes, notes and batches of a journal's segments, in any state.
//!
//! An input is a list of changes of a sound journal, the one that the first version wrote: bytes, sectors, files, and fields of a
//! head, a footer or a batch with its sums made right afterwards, which no decay does and a hostile hand can.
//!
//! Whatever they are, a start ends, what can be read is what stands on the disk, nothing is made for what a number claims, and
//! the journal goes on: it is found the same a second time, takes a batch, keeps itself in order, and has lost nothing by it.

mod changes;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::{
    Clock,
    disk::{Aligned, Barrier, Disk, SimDisk},
};
use sidestream_log::{
    Bounds, Durability, Journal, OpenError, PartitionId, ReadError, Settings, Steps, StoredBatch,
};

use crate::bounded;
use changes::Files;

/// Tries one input.
///
/// # Panics
/// Where the journal breaks a promise.
pub fn run(bytes: &[u8]) {
    let (files, is_lie) = changes::changed(bytes);
    let disk = SimDisk::new();
    for (name, bytes) in &files {
        let file = disk.create(name).expect("a new name");
        let whole = bytes.len() / SECTOR * SECTOR;
        file.write_durable(0, &Aligned::of(&bytes[..whole]), Barrier::Batches).expect("a disk that works");
        disk.corrupt(name, |found| found.clone_from(bytes));
    }
    let on_disk: usize = files.values().map(Vec::len).sum();
    let Some((journal, steps)) = bounded(on_disk * 64 + (1 << 20), || open(&disk, &files)) else { return };
    let first = Found::of(&journal);
    first.batches().for_each(|batch| stands_there(batch, &files));
    drop((journal, steps));

    let disk = disk.kill();
    let Some((journal, mut steps)) = open(&disk, &files) else {
        // Of another version may also be a segment whose head no start had to read before.
        assert!(is_lie, "it was opened before");
        return;
    };
    let second = Found::of(&journal);
    // What has a right sum is believed, also where it says that something need not be kept.
    assert!(is_lie || first == second, "another start finds something else:\n{first:?}\n{second:?}");
    let offset = append(&journal, &mut steps);
    let _ = now(journal.verify());
    keep(&mut steps);
    drop((journal, steps));

    let disk = disk.kill();
    let Some((journal, _steps)) = open(&disk, &files) else {
        assert!(is_lie, "it was opened before");
        return;
    };
    let mut third = Found::of(&journal);
    if let Some(offset) = offset {
        let state = third.partitions.get_mut(&PartitionId::STATE).expect("it is always there");
        let last = state.batches.pop().expect("what was appended");
        assert_eq!((last.header.base_offset, &last.body[..]), (offset, BODY));
        (state.bounds.readable, state.bounds.next) = (offset, offset);
    }
    for (id, before) in second.partitions.iter().filter(|_| !is_lie) {
        let after = third.partitions.get(id).unwrap_or_else(|| panic!("partition {id} is lost by going on"));
        // What was lost may come back: zeros that were missing at the end of a file are there again when it is longer.
        let is_lost = |batch: &&StoredBatch| {
            before.lost.iter().any(|(from, to)| (*from..*to).contains(&batch.header.base_offset))
        };
        let told = |batch: &StoredBatch| (batch.header.base_offset, batch.body.clone());
        let kept = after.batches.iter().filter(|batch| !is_lost(batch)).map(told);
        assert!(
            kept.eq(before.batches.iter().map(told)),
            "partition {id}: {:?} was lost, then {:?}, by going on",
            before.lost,
            after.lost
        );
    }
}

/// Lists of changes: one of each kind, and none.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..changes::KINDS)
        .map(|kind| (0..3u8).flat_map(|n| [kind, n, 40 * n, n, 7, 0, 0, n, 1, 2, 3, 4]).collect())
        .collect();
    seeds.push(Vec::new());
    seeds
}

/// A journal without threads; none where another version wrote it, or where a file can't be what it says.
fn open(disk: &SimDisk, files: &Files) -> Option<(Journal, Steps)> {
    let (clock, _) = Clock::simulated(0);
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let settings = Settings {
        segment_bytes: 16 << 10,
        reserve_bytes: 0,
        cache_bytes: 64 << 10,
        zero_ahead_bytes: 0,
        ..Settings::default()
    };
    match Journal::open_stepped(disk, settings, clock) {
        Ok((journal, steps, _)) => Some((journal, steps)),
        Err(OpenError::Version { file, found }) => {
            let says = |bytes: &Vec<u8>| bytes.get(8..10) == Some(&found.to_le_bytes()[..]);
            assert!(
                found != 1 && files.get(&file).is_some_and(says),
                "{file} does not say that it is of version {found}"
            );
            None
        }
        Err(error) => panic!("a start needs a human: {error}"),
    }
}

/// What can be read of a partition, and what is said to be lost of it.
#[derive(Debug)]
struct Partition {
    bounds: Bounds,
    batches: Vec<StoredBatch>,
    lost: Vec<(u64, u64)>,
}

/// How many bytes there are is what an index says, which a start may know better than the one before.
impl PartialEq for Partition {
    fn eq(&self, other: &Self) -> bool {
        let batches = |own: &Self| -> Vec<_> {
            own.batches.iter().map(|batch| (batch.header, batch.body.clone())).collect()
        };
        let bounds = |own: &Self| (own.bounds.first, own.bounds.readable, own.bounds.next);
        (bounds(self), &self.lost, batches(self)) == (bounds(other), &other.lost, batches(other))
    }
}

#[derive(Debug, PartialEq)]
struct Found {
    partitions: BTreeMap<PartitionId, Partition>,
}

impl Found {
    fn of(journal: &Journal) -> Self {
        let partitions =
            journal.partitions().into_iter().map(|partition| (partition, read(journal, partition)));
        Self { partitions: partitions.collect() }
    }

    fn batches(&self) -> impl Iterator<Item = &StoredBatch> {
        self.partitions.values().flat_map(|partition| &partition.batches)
    }
}

/// Everything of a partition: every step gets on.
fn read(journal: &Journal, partition: PartitionId) -> Partition {
    let bounds = journal.bounds(partition).expect("it was listed");
    assert!(bounds.first <= bounds.readable && bounds.readable <= bounds.next, "{bounds:?}");
    let (mut batches, mut lost, mut at) = (Vec::new(), Vec::new(), bounds.first);
    while at < bounds.readable {
        match now(journal.read(partition, at, 20_000)) {
            Ok(found) => {
                assert!(found.next > at && !found.batches.is_empty(), "{partition}: nothing at {at}");
                at = found.next;
                batches.extend(found.batches);
            }
            Err(ReadError::Damaged { from, to }) => {
                assert!(from == at && to > at, "{partition}: {from}..{to} is damaged at {at}");
                match lost.last_mut().filter(|(_, end)| *end == from) {
                    Some((_, end)) => *end = to,
                    None => lost.push((from, to)),
                }
                at = to;
            }
            Err(error) => panic!("{partition} at {at}: {error}"),
        }
    }
    Partition { bounds, batches, lost }
}

/// A batch is what stands in a file at the place that it names, but for a bit of its header that may have been mended.
fn stands_there(batch: &StoredBatch, files: &Files) {
    let (segment, position) = ((batch.header.place >> 32) as u32, batch.header.place as u32 as usize);
    let is_its = |header: &[u8]| Header::read(header) == Ok(batch.header);
    let is_mended = |header: &[u8]| {
        let mut copy = header.to_vec();
        (0..HEADER_BYTES * 8).any(|bit| {
            copy[bit / 8] ^= 1 << (bit % 8);
            let is_its = is_its(&copy);
            copy[bit / 8] ^= 1 << (bit % 8);
            is_its
        })
    };
    let is_there = |bytes: &Vec<u8>| {
        let Some(found) = bytes.get(position..position + batch.header.length as usize) else { return false };
        let (header, body) = found.split_at(HEADER_BYTES);
        body == &batch.body[..] && (is_its(header) || is_mended(header))
    };
    let of_segment = format!("{segment:08x}.");
    assert!(
        files.iter().any(|(name, bytes)| name.starts_with(&of_segment) && is_there(bytes)),
        "nobody wrote what is read at {position} of segment {segment}"
    );
}

/// Takes one batch; none where there is no place left for it.
fn append(journal: &Journal, steps: &mut Steps) -> Option<u64> {
    let header = Header {
        length: (HEADER_BYTES + BODY.len()) as u32,
        count: 1,
        body_crc: crc32c::crc32c(BODY),
        ..Header::default()
    };
    let appending = journal.append(PartitionId::STATE, header, BODY, Durability::Device).ok()?;
    let offset = appending.base_offset;
    steps.commit();
    match now(appending) {
        Ok(receipt) => assert_eq!(receipt.base_offset, offset),
        Err(error) => assert!(error.to_string().contains("no number left"), "{error}"),
    }
    Some(offset)
        .filter(|offset| journal.bounds(PartitionId::STATE).is_some_and(|bounds| bounds.readable > *offset))
}

/// Chores come to an end.
fn keep(steps: &mut Steps) {
    let chores = (0..CHORES_MAX).take_while(|_| steps.keep()).count();
    assert!(chores < CHORES_MAX, "there is always one more chore");
}

/// What a future that needs nobody else comes to.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits, and nobody does anything"),
    }
}

const SECTOR: usize = sidestream_host::disk::SECTOR;
const BODY: &[u8] = &[9; 40];
/// Far more than there are segments.
const CHORES_MAX: usize = 1000;
