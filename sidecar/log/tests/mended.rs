//! A header with one flipped bit is mended, whoever reads it: also who throws the segment away that it stands in.

mod common;

use common::{all, now, of_eight_segments, open, small};
use sidestream_host::{Clock, disk::Disk};
use sidestream_log::Settings;

#[test]
fn by_who_cleans_after_a_start() {
    let (world, kept, dead) = of_eight_segments();
    let before: Vec<_> = all(&world.journal, kept).0.into_iter().map(|batch| batch.body).collect();
    // Of the first batch behind each head; a start does not read those of segments that are finished.
    for name in world.disk.list().unwrap() {
        world.disk.corrupt(&name, |bytes| bytes[8192 + 34] ^= 4);
    }
    let (clock, _) = Clock::simulated(0);
    let settings = Settings { segment_bytes: 24 << 10, ..small() };
    let (journal, mut steps, _) = open(&world.disk.kill(), &settings, &clock);
    let removed = journal.remove(dead);
    steps.commit();
    assert_eq!(now(removed), Some(Ok(())));
    while steps.keep() {}
    assert!(journal.counts().cleaned > 0);
    let (batches, lost) = all(&journal, kept);
    assert_eq!(lost, []);
    assert!(batches.into_iter().map(|batch| batch.body).eq(before));
}
