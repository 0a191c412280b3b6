//! The power goes: of what was pushed at `PageCache` all is there that was acknowledged longer ago than `flush` says, whether
//! more was pushed meanwhile or nothing happened at all.

mod common;

use std::time::Duration;

use common::{World, small};
use sidestream_host::disk::sim::Fault;
use sidestream_log::{AppendError, Durability, PartitionId, Settings};

/// What the storage thread may be late.
const STEP: Duration = Duration::from_millis(10);

/// Time goes on, and the storage thread does what is due; where it is busy, it never comes to rest.
fn pass(world: &mut World, span: Duration, is_busy: bool, is_kept: bool) {
    let mut left = span;
    while !left.is_zero() {
        let step = left.min(STEP);
        world.hand.advance(step);
        left -= step;
        if is_busy {
            world.append(PartitionId::STATE, 10, Durability::Memory).unwrap();
            world.commit();
        } else {
            world.steps().settle();
        }
        if is_kept {
            world.steps().keep();
        }
    }
}

#[test]
fn what_was_acknowledged_before_the_bound_is_there_and_what_is_younger_may_be() {
    let flush = Settings::default().flush;
    let (mut older, mut lost) = (0, 0);
    for seed in 0..200 {
        // Large segments: one that ends is flushed, whatever its age.
        let mut world = World::new(seed, Settings { segment_bytes: 4 << 20, ..small() });
        let partitions = [PartitionId::STATE, world.create(), world.create()];
        // When each was acknowledged, and where it ends.
        let mut acked: Vec<(Duration, PartitionId, u64)> = Vec::new();
        let mut passed = Duration::ZERO;
        for _ in 0..world.random.below(60) {
            for _ in 0..1 + world.random.below(3) {
                let partition = partitions[world.random.below(3) as usize];
                // Now and then something that promises less, and, seldom, more.
                let durability = match world.random.below(20) {
                    0 => Durability::Device,
                    1..=5 => Durability::Memory,
                    _ => Durability::PageCache,
                };
                let length = world.random.below(4000) as usize;
                world.append(partition, length, durability).unwrap();
                world.commit();
                let end = world.journal.bounds(partition).unwrap().readable;
                if durability != Durability::Memory {
                    acked.push((passed, partition, end));
                }
            }
            let span = match world.random.below(8) {
                0 => world.random.below(3000),
                _ => world.random.below(120),
            };
            let is_busy = world.random.below(3) == 0;
            // The keeper may be late, and then has its turn.
            let is_kept = world.random.below(3) > 0;
            pass(&mut world, Duration::from_millis(span), is_busy, is_kept);
            passed += Duration::from_millis(span);
        }
        // Nothing that was not flushed is there.
        world.cut_with(|_| 0);
        for (at, partition, end) in acked {
            let is_there = world.journal.bounds(partition).unwrap().readable >= end;
            let is_old = at + flush + STEP <= passed;
            assert!(is_there || !is_old, "seed {seed}: {partition} to {end}, at {at:?} of {passed:?}");
            older += u64::from(is_old);
            lost += u64::from(!is_there);
        }
    }
    // Else this would prove nothing.
    assert!(older > 1000 && lost > 100, "{older} were old enough, {lost} younger ones were lost");
}

/// The end of what is there after another batch.
fn push(world: &mut World, partition: PartitionId) -> u64 {
    world.append(partition, 100, Durability::PageCache).unwrap();
    assert!(world.commit());
    world.journal.bounds(partition).unwrap().readable
}

#[test]
fn the_keeper_has_the_barrier_while_more_is_pushed() {
    let mut world = World::new(1, small());
    let partition = world.create();
    let barriers = world.journal.counts().barriers;
    push(&mut world, partition);
    world.hand.advance(Settings::default().flush / 2);
    assert!(world.steps().settle(), "the keeper is asked");
    let before = push(&mut world, partition);
    assert_eq!(world.journal.counts().barriers, barriers, "who pushes waits for none");
    assert!(world.steps().keep());
    let after = push(&mut world, partition);
    assert_eq!(world.journal.counts().barriers, barriers + 1);
    world.cut_with(|_| 0);
    let there = world.journal.bounds(partition).unwrap().readable;
    assert!(before <= there && there < after, "{there}, flushed to {before}, pushed to {after}");
}

#[test]
fn much_is_flushed_however_young_it_is() {
    let mut world = World::new(1, Settings { segment_bytes: 16 << 20, ..small() });
    let partition = world.create();
    for _ in 0..5 {
        world.append(partition, 1 << 20, Durability::PageCache).unwrap();
        world.commit();
    }
    let pushed = world.journal.bounds(partition).unwrap().readable;
    while world.steps().keep() {}
    world.cut_with(|_| 0);
    assert_eq!(world.journal.bounds(partition).unwrap().readable, pushed);
}

#[test]
fn a_barrier_that_fails_ends_the_segment_whoever_had_it() {
    let mut world = World::new(1, small());
    let partition = world.create();
    push(&mut world, partition);
    world.hand.advance(Settings::default().flush / 2);
    world.steps().settle();
    world.fail(0, Fault::Io);
    world.steps().keep();
    let (failed, segments) = (world.journal.counts().failed, world.journal.counts().segments);
    world.append(partition, 100, Durability::PageCache).unwrap();
    assert!(!world.commit(), "what gathers when the disk fails is refused");
    assert!(matches!(world.told, Some(AppendError::Failed { .. })), "{:?}", world.told);
    push(&mut world, partition);
    let counts = world.journal.counts();
    assert_eq!((counts.failed, counts.segments), (failed + 1, segments + 1));
    world.check(true);
}
