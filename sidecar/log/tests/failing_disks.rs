//! A disk that fails costs what was under way, never what was acknowledged; a full one refuses and says so.

mod common;

use common::{World, all, now, small};
use sidestream_event::record::Header;
use sidestream_host::disk::{Disk, SimDisk, sim::Fault};
use sidestream_log::{AppendError, Durability, PartitionId, Settings};

#[test]
fn an_error_at_any_operation_is_told_and_costs_nothing_that_was_acknowledged() {
    for fault in [Fault::Io, Fault::NoSpace, Fault::NoQuota, Fault::Short] {
        let mut failed = 0;
        for operation in (0..240).step_by(3) {
            let mut world = World::new(operation + 17, small());
            world.create();
            world.fail(operation, fault);
            let begun = world.disk.operations();
            while world.disk.operations() < begun + operation + 30 {
                world.act();
            }
            failed += world.journal.counts().failed;
            // It goes on by itself.
            for _ in 0..3 {
                if world.append(PartitionId::STATE, 50, Durability::Device).is_ok() {
                    world.commit();
                }
            }
            let acked = world.acked;
            world.append(PartitionId::STATE, 50, Durability::Device).expect("the disk works again");
            world.commit();
            assert_eq!(world.acked, acked + 1, "{fault:?} at {operation}: {:?}", world.told);
            // Nothing is left of what it could not begin; a footer may be there in part.
            let names = world.disk.list().unwrap();
            let sizes: Vec<_> =
                names.iter().map(|name| world.disk.bytes(name).unwrap().len() as u64).collect();
            let used = world.journal.usage().used;
            let lost = sizes.iter().sum::<u64>().abs_diff(used);
            assert!(lost < 4096, "{fault:?} at {operation}: {used} used of {names:?} {sizes:?}");
            if operation.is_multiple_of(2) {
                world.cut();
            } else {
                world.kill();
            }
        }
        assert!(failed > 20 || matches!(fault, Fault::NoSpace | Fault::NoQuota), "{fault:?}: {failed}");
    }
}

#[test]
fn a_barrier_that_failed_is_not_tried_again() {
    let mut world = World::new(5, small());
    let partition = world.create();
    world.append(partition, 100, Durability::Device).unwrap();
    world.commit();
    world.append(partition, 100, Durability::Device).unwrap();
    world.fail(0, Fault::Io);
    world.commit();
    assert_eq!((world.acked, world.journal.counts().failed), (1, 1));
    // The next one gets the offset, in a segment of its own, and the one that failed never comes back.
    let offset = world.append(partition, 100, Durability::Device).unwrap();
    world.commit();
    assert_eq!((world.acked, world.journal.counts().segments), (2, 2));
    world.cut_with(|states| states - 1);
    let (batches, _) = all(&world.journal, partition);
    assert_eq!(batches.last().unwrap().header.base_offset, offset);
}

/// What a failed barrier was for is not to be believed, whatever the error was.
#[test]
fn a_barrier_for_which_there_was_no_room_is_not_tried_again_either() {
    for after in 0..12 {
        let mut world = World::new(5, small());
        let partition = world.create();
        world.append(partition, 100, Durability::PageCache).unwrap();
        world.commit();
        world.fail(after, Fault::NoSpace);
        // Another segment begins, for which this one has to be durable.
        for _ in 0..6 {
            let _ = world.append(partition, 11_000, Durability::PageCache);
            world.commit();
        }
        world.cut_with(|states| states - 1);
    }
}

/// A partition whose creation was not kept is not there: what is appended to it would be nobody's at the next start.
#[test]
fn a_partition_that_could_not_be_made_takes_nothing() {
    let mut world = World::new(7, small());
    world.append(PartitionId::STATE, 100, Durability::Device).unwrap();
    world.commit();
    let (partition, body) = (PartitionId(9), [1; 20]);
    let journal = world.journal.clone();
    let append = || journal.append(partition, common::header(&body, 2, 0), &body, Durability::Device);
    world.fail(0, Fault::Io);
    let made = journal.create(partition);
    world.commit();
    assert!(matches!(now(made), Some(Err(AppendError::Failed { .. }))));
    assert!(matches!(append(), Err(AppendError::Unknown { .. })));
    assert_eq!(journal.partitions(), [PartitionId::STATE]);
    let made = journal.create(partition);
    let appended = append().unwrap();
    world.commit();
    assert_eq!((now(made), now(appended).map(|receipt| receipt.is_ok())), (Some(Ok(())), Some(true)));
}

#[test]
fn who_appends_after_a_failure_has_to_look_where_it_stands_first() {
    let mut world = World::new(6, small());
    let journal = world.journal.clone();
    let body = [1; 20];
    let append =
        || journal.append(PartitionId::STATE, common::header(&body, 2, 0), &body, Durability::Device);
    let (first, second) = (append().unwrap(), append().unwrap());
    world.fail(0, Fault::Io);
    world.commit();
    assert!(matches!(now(first), Some(Err(AppendError::Failed { .. }))));
    assert!(matches!(now(second), Some(Err(AppendError::Failed { .. }))));
    assert!(matches!(append(), Err(AppendError::Failed { .. })));
    assert_eq!(journal.resume(PartitionId::STATE).unwrap().next, 0);
    let third = append().unwrap();
    assert_eq!(third.base_offset, 0);
    world.commit();
    assert!(matches!(now(third), Some(Ok(_))));
}

#[test]
fn a_full_journal_refuses_pushes_and_goes_on_with_everything_else() {
    let settings = Settings {
        segment_bytes: 32 << 10,
        capacity_bytes: Some(256 << 10),
        reserve_bytes: 32 << 10,
        ..small()
    };
    full(World::new(2, settings));
}

#[test]
fn a_full_disk_refuses_pushes_and_goes_on_with_everything_else() {
    let settings = Settings { segment_bytes: 32 << 10, reserve_bytes: 32 << 10, ..small() };
    full(World::on(SimDisk::new().with_capacity(300 << 10), 2, settings.clone()));
    full(World::on(SimDisk::new().with_quota(300 << 10), 2, settings));
}

fn full(mut world: World) {
    let partition = world.create();
    while world.steps().keep() {}
    let fill = |world: &mut World| {
        let mut refused = 0;
        while refused < 20 {
            match world.append(partition, 2000, Durability::Device) {
                Err(AppendError::Full { .. }) => refused += 1,
                other => drop(other.unwrap()),
            }
            world.commit();
            while world.steps().keep() {}
        }
    };
    fill(&mut world);
    let kept = world.acked;
    assert!(kept > 50, "{kept}");
    // Small state and reads still work.
    for _ in 0..20 {
        world.append(PartitionId::STATE, 200, Durability::Device).unwrap();
        world.commit();
    }
    assert_eq!(world.acked, kept + 20);
    let (batches, lost) = all(&world.journal, partition);
    assert_eq!((batches.len() as u64, lost), (kept, vec![]));
    // A trim gives room back, also through a power cut.
    let bounds = world.journal.bounds(partition).unwrap();
    world.trim(partition, (bounds.first + bounds.next) / 2);
    while world.steps().keep() {}
    world.cut();
    while world.steps().keep() {}
    let before = world.acked;
    fill(&mut world);
    assert!(world.acked - before > 10, "{}", world.acked - before);
    world.cut();
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_kept() {
    let world = World::new(1, small());
    let journal = &world.journal;
    let append = |partition, header, body: &[u8]| {
        journal.append(partition, header, body, Durability::Device).map(|appending| appending.base_offset)
    };
    let body = [7; 30];
    let header = common::header(&body, 1, 0);
    let unknown = PartitionId(77);
    assert_eq!(append(unknown, header, &body), Err(AppendError::Unknown { partition: unknown }));
    assert_eq!(append(PartitionId::STATE, header, &body[1..]), Err(AppendError::Malformed));
    assert_eq!(append(PartitionId(u32::MAX), header, &body), Err(AppendError::Malformed));
    // A start would take it for damage.
    let many = Header { count: 30, ..header };
    assert_eq!(append(PartitionId::STATE, many, &body), Err(AppendError::Malformed));
    let large = vec![0; 40 << 10];
    let refused = append(PartitionId::STATE, common::header(&large, 1, 0), &large);
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
    assert!(now(journal.read(unknown, 0, 10)).unwrap().is_err());
    assert!(now(journal.read(PartitionId::STATE, 1, 10)).unwrap().is_err());
    assert_eq!(journal.bounds(PartitionId::STATE).unwrap().next, 0);
}
