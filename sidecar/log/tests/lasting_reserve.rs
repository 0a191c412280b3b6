//! On a full disk the reserve lasts: however much state is written, trimmed and written anew, and however often the journal is
//! opened meanwhile, pushes are refused and everything else goes on.

mod common;

use std::time::Duration;

use common::{World, all, small};
use sidestream_host::disk::{Disk, SimDisk, sim::Fault};
use sidestream_log::{AppendError, Durability, PartitionId, Settings};

const RESERVE: u64 = 64 << 10;

fn settings(capacity_bytes: Option<u64>) -> Settings {
    Settings { segment_bytes: 64 << 10, capacity_bytes, reserve_bytes: RESERVE, ..small() }
}

fn keep(world: &mut World) {
    while world.steps().keep() {}
}

/// One batch of a dnpipe; whether it was kept. Nothing but a full disk may refuse it.
fn push(world: &mut World, partition: PartitionId) -> bool {
    let acked = world.acked;
    match world.append(partition, 2000, Durability::Device) {
        Err(AppendError::Full { .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => {
            world.commit();
            let is_told = world.acked > acked || matches!(world.told, Some(AppendError::Full { .. }));
            assert!(is_told, "{:?}", world.told);
        }
    }
    keep(world);
    world.acked > acked
}

fn fill(world: &mut World, partition: PartitionId) {
    let mut refused = 0;
    while refused < 10 {
        refused += u32::from(!push(world, partition));
    }
}

/// One change of state, which is kept however full the disk is.
fn note(world: &mut World, what: &dyn std::fmt::Display) {
    let acked = world.acked;
    let appended = world.append(PartitionId::STATE, 150, Durability::Device);
    assert!(appended.is_ok(), "{what}: {appended:?}, {:?}", world.journal.usage());
    world.commit();
    assert_eq!(world.acked, acked + 1, "{what}: {:?}, {:?}", world.told, world.journal.usage());
}

/// Every byte of the disk is known, and none is beyond the capacity.
fn check_usage(world: &World) {
    let names = world.disk.list().unwrap();
    let bytes: usize = names.iter().map(|name| world.disk.bytes(name).unwrap().len()).sum();
    let usage = world.journal.usage();
    assert_eq!(usage.used, bytes as u64, "{names:?}");
    assert!(usage.capacity.is_none_or(|capacity| usage.used <= capacity), "{usage:?}");
}

fn lasts(mut world: World) {
    let partition = world.create();
    keep(&mut world);
    fill(&mut world, partition);
    // As much as fits into the reserve many times over.
    for round in 0..6000_u64 {
        note(&mut world, &format_args!("round {round}"));
        check_usage(&world);
        // As a broker does: when there is little left it writes what is true anew, and lets go of the rest.
        if world.journal.is_reserve_low() {
            let before = world.journal.bounds(PartitionId::STATE).unwrap().next;
            for part in 0..5 {
                note(&mut world, &format_args!("snapshot {part} in round {round}"));
            }
            world.trim(PartitionId::STATE, before);
            keep(&mut world);
        }
        if round % 500 == 250 {
            // Kept where there was a little room after all: never at the cost of the reserve.
            let left = world.journal.usage().reserve_left;
            push(&mut world, partition);
            assert!(world.journal.usage().reserve_left >= left);
        }
        match round % 194 {
            0 => drop(world.cut()),
            97 => drop(world.kill()),
            _ => {}
        }
    }
    // Starts alone, as of a process that dies as soon as it has written that it is there.
    for start in 0..40 {
        world.kill();
        note(&mut world, &format_args!("start {start}"));
        if world.journal.is_reserve_low() {
            let bounds = world.journal.bounds(PartitionId::STATE).unwrap();
            world.trim(PartitionId::STATE, bounds.next - 1);
        }
    }
    // Room that comes back is the reserve's first, and then the pushes'.
    let bounds = world.journal.bounds(partition).unwrap();
    world.trim(partition, bounds.next);
    keep(&mut world);
    let kept = (0..30).filter(|_| push(&mut world, partition)).count();
    assert!(kept > 10, "{kept}: {:?}", world.journal.usage());
    assert_eq!(world.journal.usage().reserve_left, RESERVE);
    check_usage(&world);
    world.cut();
}

#[test]
fn on_a_full_disk() {
    lasts(World::on(SimDisk::new().with_capacity(400 << 10), 2, settings(None)));
}

#[test]
fn on_a_disk_with_room_for_nothing_but_the_reserve() {
    lasts(World::on(SimDisk::new().with_capacity(230 << 10), 3, settings(None)));
}

#[test]
fn within_a_capacity() {
    lasts(World::new(2, settings(Some(400 << 10))));
}

/// As somebody who never lets go of anything; how much is kept.
fn use_up(world: &mut World) {
    let before = world.acked;
    for _ in 0..1000 {
        let acked = world.acked;
        if world.append(PartitionId::STATE, 150, Durability::Device).is_ok() {
            world.commit();
        }
        if world.acked == acked {
            return assert!(acked - before > 50, "{}", acked - before);
        }
    }
    panic!("more than there is room for");
}

#[test]
fn what_is_used_up_all_the_same_is_refused_and_comes_back_with_the_room() {
    let mut world = World::on(SimDisk::new().with_capacity(400 << 10), 4, settings(None));
    let partition = world.create();
    keep(&mut world);
    fill(&mut world, partition);
    // Somebody who never lets go of anything.
    use_up(&mut world);
    assert_eq!(all(&world.journal, PartitionId::STATE).1, []);
    // Who comes to see it can let go.
    let bounds = world.journal.bounds(PartitionId::STATE).unwrap();
    world.trim(PartitionId::STATE, bounds.next);
    keep(&mut world);
    use_up(&mut world);
    // Who gives a disk more room is not asked to start anything anew.
    drop(world.disk.clone().with_capacity(2 << 20));
    assert!(!push(&mut world, partition), "nobody has looked yet");
    world.hand.advance(Duration::from_secs(10));
    keep(&mut world);
    assert_eq!(world.journal.usage().reserve_left, RESERVE);
    assert!(push(&mut world, partition));
    note(&mut world, &"with more room");
}

#[test]
fn what_is_mostly_dead_is_cleaned_on_a_disk_without_room_for_a_copy() {
    let mut world = World::on(SimDisk::new().with_capacity(600 << 10), 5, settings(None));
    let (dead, living) = (world.create(), world.create());
    keep(&mut world);
    let mut refused = 0;
    while refused < 10 {
        for _ in 0..3 {
            push(&mut world, dead);
        }
        refused += u32::from(!push(&mut world, living));
    }
    let bounds = world.journal.bounds(dead).unwrap();
    world.trim(dead, bounds.next);
    keep(&mut world);
    check_usage(&world);
    assert!(world.journal.counts().cleaned > 0);
    let kept = (0..60).filter(|_| push(&mut world, living)).count();
    assert!(kept > 40, "{kept}: {:?}", world.journal.usage());
    assert_eq!(world.journal.usage().reserve_left, RESERVE);
    world.cut();
}

/// Whatever it was about to do, in a piece of the reserve or elsewhere.
#[test]
fn the_power_goes_at_any_operation_of_a_full_disk() {
    let mut turns = 0;
    for seed in 0..60 {
        let mut world = World::on(SimDisk::new().with_capacity(400 << 10), seed, settings(None));
        let partition = world.create();
        keep(&mut world);
        fill(&mut world, partition);
        for _ in 0..6 {
            let after = world.random.below(120);
            let end = world.disk.operations() + after;
            world.fail(after, Fault::PowerCut);
            while world.disk.operations() <= end {
                // Mostly state, as on a full disk.
                if world.random.below(3) == 0 {
                    world.act();
                } else if world.append(PartitionId::STATE, 150, Durability::Device).is_ok() {
                    world.commit();
                }
                let bounds = world.journal.bounds(PartitionId::STATE).unwrap();
                if world.journal.is_reserve_low() && bounds.first < bounds.next {
                    world.trim(PartitionId::STATE, bounds.next);
                }
                turns += 1;
            }
            world.cut();
            keep(&mut world);
            check_usage(&world);
        }
        let bounds = world.journal.bounds(PartitionId::STATE).unwrap();
        world.trim(PartitionId::STATE, bounds.next);
        keep(&mut world);
        note(&mut world, &format_args!("seed {seed}"));
    }
    assert!(turns > 10_000, "{turns}");
}

/// The same on a file system that is really full, with all threads.
#[cfg(target_os = "linux")]
mod on_ext4 {
    use std::{path::Path, time::Duration};

    use sidestream_host::{Clock, disk};
    use sidestream_log::{AppendError, Durability, Journal, PartitionId, Receipt, Settings};

    use super::common::{body, device::Device, header};

    const RESERVE: u64 = 1 << 20;
    const PUSHED: PartitionId = PartitionId(1);

    fn open(directory: &Path) -> Journal {
        let settings = Settings { segment_bytes: 1 << 20, reserve_bytes: RESERVE, ..Settings::default() };
        let disk = disk::open(directory, disk::Choice::Auto).unwrap();
        Journal::open(disk, settings, Clock::machine()).unwrap().0
    }

    async fn append(journal: &Journal, partition: PartitionId, id: u64) -> Result<Receipt, AppendError> {
        let body = body(id, 30_000);
        journal.resume(partition);
        journal.append(partition, header(&body, 1, 0), &body, Durability::Device)?.await
    }

    /// Waits until it is so: the keeper has threads of its own.
    async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        for _ in 0..6_000 {
            if is_so().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within a minute: {what}");
    }

    #[tokio::test]
    async fn a_real_file_system_that_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let Some(device) = Device::new(folder.path(), 16 << 20) else {
            println!("no root, loop device or mkfs.ext4 here: not tested");
            return;
        };
        let mut journal = open(&device.journal());
        journal.create(PUSHED).await.unwrap();
        until("the reserve is there", async || device.journal().join("reserve").exists()).await;
        let (mut refused, mut pushed) = (0, 0);
        while refused < 10 {
            match append(&journal, PUSHED, pushed).await {
                Ok(_) => pushed += 1,
                Err(AppendError::Full { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(pushed > 100, "{pushed}");
        // Some six times the reserve, by processes that end now and then.
        for change in 0..200_u64 {
            let written = append(&journal, PartitionId::STATE, change).await;
            assert!(written.is_ok(), "{change}: {written:?}, {:?}", journal.usage());
            if journal.is_reserve_low() {
                let before = journal.bounds(PartitionId::STATE).unwrap().next;
                append(&journal, PartitionId::STATE, change).await.unwrap();
                journal.trim(PartitionId::STATE, before).await.unwrap();
                until("the reserve has room back", async || !journal.is_reserve_low()).await;
            }
            if change % 50 == 49 {
                journal.close().await;
                drop(journal);
                journal = open(&device.journal());
            }
        }
        let bounds = journal.bounds(PUSHED).unwrap();
        assert_eq!(bounds.next - bounds.first, pushed);
        journal.trim(PUSHED, bounds.next).await.unwrap();
        until("pushes go on", async || append(&journal, PUSHED, 0).await.is_ok()).await;
        until("the reserve is whole", async || journal.usage().reserve_left == RESERVE).await;
        journal.close().await;
    }
}
