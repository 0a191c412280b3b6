//! Zeros that are written ahead of the end never meet what is being written there: small groups, which ask for zeros,
//! alternate with large ones, which reach far over where those would begin.

mod common;

use std::time::Duration;

use common::{body, header, setting};
use sidestream_host::{
    Clock,
    disk::{self, Choice},
};
use sidestream_log::{Durability, Journal, PartitionId, Settings};

#[test]
fn zeros_are_never_written_over_what_is_on_its_way() {
    let rounds = setting("SIDESTREAM_PROVE_N", 100);
    let directory = tempfile::tempdir().unwrap();
    let settings = || Settings { segment_bytes: 64 << 20, reserve_bytes: 0, ..Settings::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8 | 1).collect();
    let mut pushed = 0;
    while pushed < rounds {
        let disk = disk::open(directory.path(), Choice::File).unwrap();
        let (journal, recovered) = Journal::open(disk, settings(), Clock::machine()).unwrap();
        assert_eq!(recovered.damage, [], "after {pushed} rounds");
        runtime.block_on(journal.create(PartitionId(1))).unwrap();
        for round in pushed..pushed + 10 {
            // The large one is there when the small one has been written: it is taken at once.
            let bodies = [body(1, 900), large.clone()];
            let append = |body: &[u8]| {
                journal.append(PartitionId(1), header(body, 1, 0), body, Durability::Device).unwrap()
            };
            let small = append(&bodies[0]);
            std::thread::sleep(Duration::from_micros(20 * (round % 10)));
            let large = append(&bodies[1]);
            runtime.block_on(small).unwrap();
            runtime.block_on(large).unwrap();
        }
        pushed += 10;
        let read = runtime.block_on(journal.verify()).unwrap();
        assert_eq!(read.damage, [], "after {pushed} rounds");
        let next = journal.bounds(PartitionId(1)).unwrap().next;
        runtime.block_on(journal.trim(PartitionId(1), next - 2)).unwrap();
        runtime.block_on(journal.close());
    }
}
