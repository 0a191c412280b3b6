//! Whatever the power leaves of a disk, what was promised is there: acknowledged batches can be read, in order, without
//! gaps, and no offset ever has other bytes.
//!
//! `SIDESTREAM_PROVE_N` says how many seeds (40 by default), `SIDESTREAM_PROVE_SEED` the first: `make prove
//! PROOF=journal-seeds`.

mod common;

use common::{World, all, setting, small};
use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::disk::{Aligned, Barrier, Disk, SECTOR, SimDisk, sim::Fault};
use sidestream_log::{Durability, PartitionId};

#[test]
fn many_lives_of_a_journal_end_by_a_cut_or_a_kill_at_any_operation() {
    let (seeds, first) = (setting("SIDESTREAM_PROVE_N", 40), setting("SIDESTREAM_PROVE_SEED", 1));
    let (mut acked, mut crashes) = (0, 0);
    for seed in first * 1_000_000..first * 1_000_000 + seeds {
        let world = std::panic::catch_unwind(|| live(seed));
        let world = world.unwrap_or_else(|cause| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause)
        });
        acked += world.acked;
        crashes += world.crashes;
    }
    println!("{seeds} seeds, {crashes} crashes, {acked} acknowledged");
    assert!(acked > seeds && crashes > seeds);
}

fn live(seed: u64) -> World {
    let mut world = World::new(seed, small());
    if seed.is_multiple_of(3) {
        world = World::on(SimDisk::new().with_block(4096), seed, small());
    }
    for _ in 0..8 {
        let operations = world.random.below(120);
        world.fail(operations, Fault::PowerCut);
        for _ in 0..1 + world.random.below(150) {
            world.act();
        }
        if world.random.below(3) == 0 {
            world.kill();
        } else {
            world.cut();
        }
    }
    world
}

#[test]
fn every_state_a_short_life_can_be_cut_to_is_legal() {
    // Each operation of it in turn is the last, and of what was not flushed every combination that fits 2^10 is tried.
    let life = |world: &mut World| {
        let partition = PartitionId::STATE;
        for (length, durability) in [
            (300, Durability::Device),
            (1800, Durability::PageCache),
            (40, Durability::Memory),
            (1500, Durability::Device),
        ] {
            let _ = world.append(partition, length, durability);
            world.commit();
        }
        world.trim(partition, 2);
        let _ = world.append(partition, 3000, Durability::Device);
        let _ = world.append(partition, 100, Durability::Device);
        world.commit();
    };
    let operations = {
        let mut world = World::new(1, small());
        let before = world.disk.operations();
        life(&mut world);
        world.disk.operations() - before
    };
    let mut states = 0_u64;
    for operation in 0..operations {
        let mut combination = 0_u64;
        loop {
            let mut world = World::new(1, small());
            world.fail(operation, Fault::PowerCut);
            life(&mut world);
            let mut rest = combination;
            world.cut_with(|choices| {
                let choice = rest % choices;
                rest /= choices;
                choice
            });
            states += 1;
            combination += 1;
            // All choices were made and none is left over: the next combination is a new one only while it is not.
            if rest > 0 || combination == 1 << 10 {
                break;
            }
        }
    }
    println!("{operations} operations, {states} states");
    assert!(operations > 8 && states > 300);
}

#[test]
fn what_is_trimmed_and_not_durably_so_is_not_cleaned_away() {
    let mut world = World::new(3, small());
    let (dead, trimmed, living) = (world.create(), world.create(), world.create());
    while world.journal.counts().segments < 8 {
        for (partition, length) in [(dead, 3000), (trimmed, 200), (living, 200)] {
            world.append(partition, length, Durability::Device).unwrap();
        }
        world.commit();
    }
    world.trim(dead, world.journal.bounds(dead).unwrap().next);
    // On its way, and the process is killed before it is written.
    let trimming = world.journal.trim(trimmed, world.journal.bounds(trimmed).unwrap().next);
    while world.steps().keep() {}
    assert!(world.journal.counts().cleaned > 0);
    drop(trimming);
    world.kill();
    assert_eq!(all(&world.journal, trimmed).1, []);
}

#[test]
fn what_a_killed_process_left_in_the_kernel_is_durable_once_it_was_served() {
    let mut world = World::new(9, small());
    let partition = world.create();
    world.append(partition, 3000, Durability::Memory).unwrap();
    world.commit();
    world.kill();
    assert_eq!(
        world.journal.bounds(partition).unwrap().readable,
        world.journal.bounds(partition).unwrap().next
    );
    assert!(world.journal.bounds(partition).unwrap().readable > 0);
    world.cut_with(|_| 0);
}

#[test]
fn a_segment_whose_removal_the_power_took_back_has_no_damage_to_tell_of() {
    let mut world = World::new(5, small());
    let dead = world.create();
    while world.journal.counts().segments < 5 {
        world.append(dead, 2000, Durability::Device).unwrap();
        world.commit();
    }
    // No footer says where it ends, and the next one, whose head does, goes with it. Its end was torn once.
    let name = "00000002.0000.segment";
    let mut bytes = world.disk.bytes(name).unwrap();
    let body = (SECTOR..bytes.len()).find(|at| Header::read(&bytes[*at..]).is_ok()).unwrap() + HEADER_BYTES;
    bytes[body] ^= 1;
    world.trim(dead, world.journal.bounds(dead).unwrap().next);
    while world.steps().keep() {}
    assert_eq!(world.disk.bytes(name), None);
    let again = world.disk.create(name).unwrap();
    again.write_durable(0, &Aligned::of(&bytes), Barrier::Batches).unwrap();
    let recovered = world.kill();
    assert_eq!((recovered.damage, recovered.torn), (Vec::new(), None));
    while world.steps().keep() {}
    assert_eq!(world.disk.bytes(name), None, "it goes for good");
}
