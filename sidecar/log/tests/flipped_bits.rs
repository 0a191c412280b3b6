//! A flipped bit anywhere in a segment is found, named, and costs at most the batch it is in.
//!
//! `SIDESTREAM_PROVE_N` says how many bits (3,000 by default), spread evenly over a segment of 64 KiB: 524,288 are all of
//! them. `make prove PROOF=journal-bits`.

mod common;

use std::collections::BTreeMap;

use common::{World, all, now, open, setting, small};
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Durability, PartitionId, Settings};

const SEGMENT: u64 = 64 << 10;

fn settings() -> Settings {
    Settings { segment_bytes: SEGMENT as u32, ..small() }
}

/// A journal whose first segment is full, and where `is_finished` another one has begun; and what is in it.
fn built(is_finished: bool) -> (SimDisk, BTreeMap<(PartitionId, u64), Vec<u8>>) {
    let mut world = World::new(4, settings());
    let partitions = [PartitionId::STATE, world.create(), world.create()];
    let wanted = if is_finished { 2 } else { 1 };
    let mut turn = 0;
    while world.journal.counts().segments <= wanted
        && !(wanted == 1 && world.journal.counts().written_bytes > SEGMENT - 5000)
    {
        turn += 1;
        for _ in 0..1 + world.random.below(3) {
            let length = world.random.below(900) as usize;
            world.append(partitions[turn % 3], length, Durability::Device).unwrap();
        }
        world.commit();
        if is_finished && world.journal.counts().segments == 2 {
            break;
        }
    }
    while world.steps().keep() {}
    world.steps.take().unwrap().close();
    let mut kept = BTreeMap::new();
    for partition in partitions {
        for batch in all(&world.journal, partition).0 {
            kept.insert((partition, batch.header.base_offset), batch.body.to_vec());
        }
    }
    assert!(kept.len() > 40, "{}", kept.len());
    (world.disk.clone(), kept)
}

fn flip(is_finished: bool) {
    let (disk, kept) = built(is_finished);
    let name = "00000001.0000.segment";
    let bits = disk.bytes(name).unwrap().len() as u64 * 8;
    let count = setting("SIDESTREAM_PROVE_N", 3000).min(bits);
    let offset = setting("SIDESTREAM_PROVE_SEED", 1);
    let (mut named, mut lost_batches) = (0, 0);
    let (clock, _) = Clock::simulated(0);
    let original = disk.bytes(name).unwrap();
    for index in 0..count {
        // Evenly spread, each of the eight bits of a byte as often as the others.
        let bit = (index * bits / count + offset * 7919) % bits;
        let disk = disk.kill();
        disk.corrupt(name, |bytes| bytes[bit as usize / 8] ^= 1 << (bit % 8));
        let (journal, steps, recovered) = open(&disk, &settings(), &clock);
        let mut missing = 0;
        let mut found = 0;
        for partition in journal.partitions() {
            let (batches, lost) = all(&journal, partition);
            for batch in &batches {
                let key = (partition, batch.header.base_offset);
                assert_eq!(
                    Some(&batch.body[..]),
                    kept.get(&key).map(|body| &body[..]),
                    "bit {bit}: other bytes"
                );
            }
            found += batches.len();
            missing += lost.len();
        }
        assert!(
            found + 1 >= kept.len() && found + missing >= kept.len(),
            "bit {bit}: {found} of {} found",
            kept.len()
        );
        let verified = now(journal.verify()).unwrap().unwrap();
        let is_named =
            !verified.damage.is_empty() || !recovered.damage.is_empty() || recovered.torn.is_some();
        assert!(is_named || found == kept.len(), "bit {bit} is silent");
        named += u64::from(is_named);
        lost_batches += missing;
        drop((journal, steps));
        disk.corrupt(name, |bytes| bytes.copy_from_slice(&original));
    }
    println!(
        "{count} of {bits} bits: {named} named, {lost_batches} batches lost, 0 silent, 0 wider than a batch"
    );
    assert!(lost_batches > 0 && named > count / 2);
}

#[test]
fn in_a_finished_segment() {
    flip(true);
}

#[test]
fn in_the_segment_that_was_written_last() {
    flip(false);
}
