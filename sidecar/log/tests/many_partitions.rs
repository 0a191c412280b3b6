//! A partition that nobody uses costs next to nothing.

use std::{
    alloc::System,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use sidestream_host::{Clock, disk::FileDisk};
use sidestream_log::{Journal, PartitionId, Settings};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn ten_thousand_idle_partitions_cost_less_than_a_kibibyte_each() {
    const PARTITIONS: u32 = 10_000;
    let settings = Settings { reserve_bytes: 0, segment_bytes: 4 << 20, ..Settings::default() };
    let (clock, _) = Clock::simulated(0);
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FileDisk::open(directory.path()).unwrap());
    let (journal, mut steps, _) =
        Journal::open_stepped(disk.clone(), settings.clone(), clock.clone()).unwrap();
    for partition in 1..=PARTITIONS {
        drop(journal.create(PartitionId(partition)));
    }
    let mut done = pin!(journal.create(PartitionId(PARTITIONS)));
    steps.commit();
    let told = done.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(told, Poll::Ready(Ok(())));
    while steps.keep() {}
    drop((journal, steps));
    // As a process has them that was started since.
    let region = Region::new(COUNTED);
    let (journal, _steps, recovered) = Journal::open_stepped(disk, settings, clock).unwrap();
    assert_eq!(journal.partitions().len(), PARTITIONS as usize + 1);
    drop(recovered);
    let change = region.change();
    let each = (change.bytes_allocated - change.bytes_deallocated) / PARTITIONS as usize;
    println!("{each} bytes for each idle partition");
    assert!(each < 1024, "{each} bytes");
}
