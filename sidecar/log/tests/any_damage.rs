//! Whatever happened to the bytes of a journal, opening it ends, reading it ends, and no record that comes out of it is one
//! that did not go in.
//!
//! `SIDESTREAM_PROVE_N` says how many damaged journals (300 by default), `SIDESTREAM_PROVE_SEED` the first: `make prove
//! PROOF=journal-damage`.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{World, now, setting, small};
use sidestream_host::{
    Clock, Random,
    disk::{Disk, SimDisk},
};
use sidestream_log::{Durability, Journal, PartitionId, ReadError, Settings};

fn settings() -> Settings {
    Settings { segment_bytes: 24 << 10, ..small() }
}

type Kept = BTreeMap<(PartitionId, u64), Vec<u8>>;

/// A journal of several segments, one of them a copy; and what is in it.
fn built() -> (SimDisk, Kept) {
    let mut world = World::new(8, settings());
    let partitions = [PartitionId::STATE, world.create(), world.create()];
    let dead = world.create();
    while world.journal.counts().segments < 6 {
        for partition in partitions {
            let length = world.random.below(500) as usize;
            world.append(partition, length, Durability::Device).unwrap();
        }
        if world.journal.counts().segments < 4 {
            world.append(dead, 2500, Durability::Device).unwrap();
        }
        world.commit();
    }
    let mut kept = Kept::new();
    // Where no head is left that says so, not even that a partition was removed is known.
    for partition in [PartitionId::STATE, partitions[1], partitions[2], dead] {
        for batch in common::all(&world.journal, partition).0 {
            kept.insert((partition, batch.header.base_offset), batch.body.to_vec());
        }
    }
    world.remove(dead);
    while world.steps().keep() {}
    assert!(world.journal.counts().cleaned > 0);
    (world.disk.kill(), kept)
}

#[test]
fn nothing_is_made_up_of_it() {
    let (count, first) = (setting("SIDESTREAM_PROVE_N", 300), setting("SIDESTREAM_PROVE_SEED", 1));
    let (disk, kept) = built();
    let names = disk.list().unwrap();
    let whole: Vec<Vec<u8>> = names.iter().map(|name| disk.bytes(name).unwrap()).collect();
    let (mut read, mut refused) = (0, 0);
    for seed in first * 1_000_000..first * 1_000_000 + count {
        let mut random = Random::seeded(seed);
        let disk = disk.kill();
        for _ in 0..1 + random.below(3) {
            let other = &whole[random.below(whole.len() as u64) as usize];
            let name = &names[random.below(names.len() as u64) as usize];
            disk.corrupt(name, |bytes| damage(bytes, other, &mut random));
        }
        let opened = std::panic::catch_unwind(|| check(disk.clone(), &kept));
        match opened {
            Ok(Some(batches)) => read += batches,
            Ok(None) => refused += 1,
            Err(cause) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(cause);
            }
        }
        restore(&disk, &names, &whole);
    }
    println!(
        "{count} damaged journals: {read} batches read of {}, {refused} refused",
        count as usize * kept.len()
    );
    assert!(read > count as usize * kept.len() / 4 && refused < count / 10);
}

/// Something that disks, hands and file systems do.
fn damage(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let length = bytes.len() as u64;
    if length < 2048 {
        return;
    }
    let at = random.below(length - 1024) as usize;
    let sector = at / 512 * 512;
    match random.below(8) {
        0 => bytes.truncate(at / 512 * 512),
        1 => bytes.extend(vec![random.next_u64() as u8; 512 * (1 + random.below(20) as usize)]),
        2 => bytes[sector..sector + 512].fill(0),
        3 => {
            let to = random.below(length - 1024) as usize / 512 * 512;
            let (one, two) = (bytes[sector..sector + 512].to_vec(), bytes[to..to + 512].to_vec());
            bytes[to..to + 512].copy_from_slice(&one);
            bytes[sector..sector + 512].copy_from_slice(&two);
        }
        // A write that went astray: part of another segment, at the same place or not.
        4 => {
            let from = (random.below(other.len() as u64 / 512) * 512) as usize;
            let count =
                (512 * (1 + random.below(16) as usize)).min(other.len() - from).min(bytes.len() - sector);
            bytes[sector..sector + count].copy_from_slice(&other[from..from + count]);
        }
        5 => bytes
            .iter_mut()
            .skip(at)
            .take(1 + random.below(64) as usize)
            .for_each(|byte| *byte = random.next_u64() as u8),
        6 => *bytes = other.to_vec(),
        _ => bytes[at] ^= 1 << random.below(8),
    }
}

/// How many batches can be read, all of them ones that went in; none where the journal is refused.
fn check(disk: SimDisk, kept: &Kept) -> Option<usize> {
    let (clock, _) = Clock::simulated(0);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (journal, mut steps, _) = Journal::open_stepped(disk, settings(), clock).ok()?;
    let mut read = 0;
    for partition in journal.partitions() {
        let bounds = journal.bounds(partition).unwrap();
        let mut at = bounds.first;
        while at < bounds.readable {
            match now(journal.read(partition, at, 10_000)).unwrap() {
                Ok(found) => {
                    for batch in &found.batches {
                        let key = (partition, batch.header.base_offset);
                        let is_it = kept.get(&key).is_some_and(|body| *body == batch.body);
                        assert!(is_it, "{partition} at {}: this was never pushed", key.1);
                        read += 1;
                    }
                    assert!(found.next > at);
                    at = found.next;
                }
                Err(ReadError::Damaged { from, to }) => {
                    assert!(from == at && to > at, "{from}..{to} at {at}");
                    at = to;
                }
                Err(ReadError::Failed { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let _ = now(journal.verify()).unwrap();
    while steps.keep() {}
    // It can be written to, wherever it begins.
    let body = [9; 40];
    let appended = journal.append(PartitionId::STATE, common::header(&body, 1, 0), &body, Durability::Device);
    steps.commit();
    assert!(now(appended.unwrap()).unwrap().is_ok());
    Some(read)
}

fn restore(disk: &SimDisk, names: &[String], whole: &[Vec<u8>]) {
    let disk = disk.kill();
    for name in disk.list().unwrap().iter().filter(|name| !names.contains(name)) {
        disk.remove(name).unwrap();
    }
    for (name, bytes) in names.iter().zip(whole) {
        if disk.bytes(name).is_none() {
            disk.create(name).unwrap();
        }
        disk.corrupt(name, |found| *found = bytes.clone());
    }
}
