//! Each barrier of the journal is there for a reason: with any one of them switched off, something promised is lost.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{World, small};
use sidestream_host::{Random, disk::Barrier};
use sidestream_log::{Durability, PartitionId, Settings};

/// A life in which this barrier is all that stands between a promise and the power cut.
fn life(barrier: Barrier, is_off: bool, dice: u64) {
    let settings = Settings { segment_bytes: 16 << 10, ..small() };
    let mut world = World::new(3, settings);
    if is_off {
        world.disk.switch_off(barrier);
    }
    let partition = PartitionId::STATE;
    match barrier {
        Barrier::Batches | Barrier::Name => {
            world.append(partition, 600, Durability::Device).unwrap();
            world.commit();
            assert_eq!(world.acked, 1);
        }
        Barrier::Head => {
            let dead = world.create();
            while world.journal.counts().segments < 3 {
                world.append(dead, 3000, Durability::Device).unwrap();
                world.commit();
            }
            let end = world.journal.bounds(dead).unwrap().next;
            world.trim(dead, end);
            while world.steps().keep() {}
            assert!(world.journal.counts().freed > 0);
        }
        Barrier::Earlier => {
            world.append(partition, 600, Durability::PageCache).unwrap();
            world.commit();
            world.append(partition, 600, Durability::Device).unwrap();
            world.commit();
            assert_eq!(world.acked, 2);
        }
        Barrier::Recovered => {
            world.append(partition, 600, Durability::Memory).unwrap();
            world.commit();
            world.kill();
        }
        Barrier::End => {
            // Many of them have something in it, so that its footer is longer than what is torn.
            let partitions: Vec<PartitionId> = (0..30).map(|_| world.create()).collect();
            for partition in &partitions {
                world.append(*partition, 40, Durability::Device).unwrap();
            }
            world.commit();
            // Of the sectors of one more batch the second is missing: it is torn, and the next segment's head says that.
            world.append(partition, 1300, Durability::Memory).unwrap();
            world.commit();
            let mut sector = 0;
            let recovered = world.cut_with(|states| {
                sector += 1;
                if sector == 2 { 0 } else { states - 1 }
            });
            assert!(recovered.torn.is_some(), "{recovered:?}");
            while world.journal.counts().segments < 2 {
                world.append(partitions[0], 3000, Durability::Device).unwrap();
                world.commit();
            }
            let end = world.journal.bounds(partitions[0]).unwrap().next;
            world.trim(partitions[0], end);
            while world.steps().keep() {}
            assert!(world.journal.counts().freed > 0, "{:?}", world.journal.counts());
        }
        Barrier::Copy | Barrier::CopyName => {
            let dead = world.create();
            for _ in 0..60 {
                world.append(partition, 100, Durability::Device).unwrap();
                world.append(dead, 3000, Durability::Device).unwrap();
                world.commit();
                while world.steps().keep() {}
            }
            world.remove(dead);
            while world.steps().keep() {}
            assert!(world.journal.counts().cleaned > 1, "{:?}", world.journal.counts());
        }
    }
    // First the worst case: nothing is there that was not flushed. Then any.
    let mut random = Random::seeded(dice);
    world.cut_with(|states| if dice == 0 { 0 } else { random.below(states) });
}

/// However much of what was not flushed is there.
fn lives(barrier: Barrier, is_off: bool) -> bool {
    (0..20).all(|dice| catch_unwind(AssertUnwindSafe(|| life(barrier, is_off, dice))).is_ok())
}

#[test]
fn with_all_barriers_every_life_keeps_its_promises() {
    for barrier in Barrier::ALL {
        assert!(lives(barrier, false), "{barrier:?}");
    }
}

#[test]
fn without_any_one_barrier_a_promise_is_broken() {
    let mut unneeded = Vec::new();
    println!("| barrier | switched off |");
    for barrier in Barrier::ALL {
        let kept = lives(barrier, true);
        println!("| {barrier:?} | {} |", if kept { "nothing is lost" } else { "red" });
        unneeded.extend(kept.then_some(barrier));
    }
    assert_eq!(unneeded, []);
}
