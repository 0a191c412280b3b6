//! A flipped bit anywhere in a segment is found, named by a range that holds it, and costs at most the batch it is in, whose
//! offsets are named. One in the index behind the batches costs nothing, because it is made anew from them.
//!
//! `SIDESTREAM_PROVE_N` says how many bits (3,000 by default), spread evenly over a segment of 64 KiB: 524,288 are all of
//! them. `make prove PROOF=journal-bits`.

mod common;

use std::collections::BTreeMap;

use common::{World, all, now, open, setting, small};
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Damage, Durability, Lost, PartitionId, Settings};

const SEGMENT: u64 = 64 << 10;
/// A copy of the head; the largest batch here, with the padding before it, is smaller.
const WIDEST: u64 = 4096;

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

/// Where the last batch of a segment ends, and what its group was padded with.
fn batches_end(disk: &SimDisk, name: &str) -> u64 {
    let disk = disk.kill();
    let bytes = disk.bytes(name).unwrap();
    let written = bytes.len() - bytes.iter().rev().position(|byte| *byte != 0).unwrap();
    // A footer says it; else nothing stands behind the batches.
    let footer = bytes.windows(8).rposition(|window| window == b"SDFOOTER");
    match footer {
        Some(at) => u64::from(u32::from_le_bytes(bytes[at + 20..at + 24].try_into().unwrap())),
        None => written.next_multiple_of(512) as u64,
    }
}

fn flip(is_finished: bool) {
    let (disk, kept) = built(is_finished);
    let name = "00000001.0000.segment";
    let bits = disk.bytes(name).unwrap().len() as u64 * 8;
    let count = setting("SIDESTREAM_PROVE_N", 3000).min(bits);
    let offset = setting("SIDESTREAM_PROVE_SEED", 1);
    let (mut named, mut derived, mut lost_batches) = (0, 0, 0);
    // Behind this there is the index of a finished segment, or what was never written.
    let batches_end = batches_end(&disk, name);
    let (clock, _) = Clock::simulated(0);
    let original = disk.bytes(name).unwrap();
    for index in 0..count {
        // Evenly spread, each of the eight bits of a byte as often as the others.
        let bit = (index * bits / count + offset * 7919) % bits;
        let disk = disk.kill();
        disk.corrupt(name, |bytes| bytes[bit as usize / 8] ^= 1 << (bit % 8));
        let (journal, steps, recovered) = open(&disk, &settings(), &clock);
        let mut missing = Vec::new();
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
            missing.extend(lost.into_iter().map(|(from, to)| Lost { partition, from, to }));
        }
        assert!(
            found + 1 >= kept.len() && found + missing.len() >= kept.len(),
            "bit {bit}: {found} of {} found",
            kept.len()
        );
        let verified = now(journal.verify()).unwrap().unwrap();
        // What was never written is left alone as a whole.
        let is_near = |damage: &Damage| damage.segment == 1 && damage.to - damage.from <= WIDEST;
        let damage: Vec<Damage> = verified.damage.into_iter().chain(recovered.damage).collect();
        assert!(damage.iter().all(is_near), "bit {bit}: {damage:?}");
        let told: Vec<Damage> = damage.into_iter().chain(recovered.torn).collect();
        let byte = bit / 8;
        let holds = |damage: &&Damage| damage.segment == 1 && (damage.from..damage.to).contains(&byte);
        let is_named = told.iter().any(|damage| holds(&damage));
        let is_derived = byte >= batches_end;
        assert!(is_named || is_derived, "byte {byte}, bit {}: silent, {told:?}", bit % 8);
        assert!(found == kept.len() || !is_derived, "byte {byte}: costs a batch, and none is there");
        for lost in &missing {
            let is_told = told.iter().filter(holds).any(|damage| damage.lost == Some(*lost));
            assert!(is_told, "byte {byte}: {lost:?} is lost, and told is {told:?}");
        }
        named += u64::from(is_named);
        derived += u64::from(!is_named);
        lost_batches += missing.len();
        drop((journal, steps));
        disk.corrupt(name, |bytes| bytes.copy_from_slice(&original));
    }
    println!(
        "{count} of {bits} bits: {named} named by range, {derived} where there is no batch, {lost_batches} batches lost, \
         0 silent, 0 wider than a batch"
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
