//! A pass over several partitions gives what reading each of them gives.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::now;
use proptest::prelude::*;
use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Durability, Journal, PartitionId, Settings, Steps};

const PARTITIONS: u32 = 5;

#[derive(Clone, Debug)]
enum Step {
    /// So many batches of so many bytes to each of so many partitions from that one on.
    Append {
        to: u32,
        partitions: u32,
        batches: u32,
        bytes: usize,
    },
    /// So much of all there is, in percent.
    Trim(u32, u64),
    MakeAnew(u32),
    Keep,
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let of = 0..PARTITIONS;
    let append = (of.clone(), 1..=PARTITIONS, 1..40_u32, 40..9000_usize);
    let append =
        append.prop_map(|(to, partitions, batches, bytes)| Step::Append { to, partitions, batches, bytes });
    let step = prop_oneof![
        6 => append,
        1 => (of.clone(), 0..=100_u64).prop_map(|(of, percent)| Step::Trim(of, percent)),
        1 => of.prop_map(Step::MakeAnew),
        2 => Just(Step::Keep),
        1 => Just(Step::Open),
    ];
    prop::collection::vec(step, 1..25)
}

fn open(disk: &SimDisk) -> (Journal, Steps) {
    let settings = Settings { segment_bytes: 256 << 10, reserve_bytes: 0, ..Settings::default() };
    let (journal, steps, _) =
        Journal::open_stepped(Arc::new(disk.clone()), settings, Clock::simulated(0).0).unwrap();
    (journal, steps)
}

fn append(journal: &Journal, partition: PartitionId, bytes: usize) {
    let body = vec![partition.0 as u8; bytes];
    let length = (HEADER_BYTES + bytes) as u32;
    let header = Header { length, count: 3, body_crc: crc32c::crc32c(&body), ..Header::default() };
    drop(journal.append(partition, header, &body, Durability::Device).expect("room"));
}

/// The offsets of batches, and where they stand.
type Places = BTreeMap<PartitionId, Vec<(u64, u64)>>;

fn place(header: Header) -> (u64, u64) {
    (header.base_offset, header.place)
}

fn offsets(places: &Places) -> Vec<(PartitionId, Vec<u64>)> {
    places.iter().map(|(id, found)| (*id, found.iter().map(|(offset, _)| *offset).collect())).collect()
}

/// By reading each.
fn each(journal: &Journal, wanted: &BTreeMap<PartitionId, u64>) -> Places {
    let mut all = Places::new();
    for (id, from) in wanted {
        let Some(bounds) = journal.bounds(*id) else { continue };
        let (mut at, mut found) = ((*from).max(bounds.first), Vec::new());
        while at < bounds.readable {
            let (headers, next) = now(journal.headers(*id, at, 100_000)).expect("stepped").unwrap();
            found.extend(headers.into_iter().map(place));
            at = next;
        }
        if !found.is_empty() {
            all.insert(*id, found);
        }
    }
    all
}

/// `meanwhile` happens between any two steps of the pass.
fn in_one_pass(
    journal: &Journal,
    wanted: &BTreeMap<PartitionId, u64>,
    mut meanwhile: impl FnMut(),
) -> Places {
    let mut all = Places::new();
    let mut pass = journal.pass(wanted.clone());
    while let Some(headers) = now(pass.next()).expect("stepped").unwrap() {
        meanwhile();
        for header in headers {
            all.entry(PartitionId(header.partition)).or_default().push(place(header));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_pass_gives_what_reading_each_partition_gives(
        steps in steps(),
        from in prop::collection::vec(prop::option::of(0..200_u64), PARTITIONS as usize),
    ) {
        let disk = SimDisk::new();
        let (mut journal, mut hand) = open(&disk);
        let dead = PartitionId(PARTITIONS);
        (1..=PARTITIONS).for_each(|id| drop(journal.create(PartitionId(id))));
        hand.commit();
        for step in steps {
            match step {
                Step::Append { to, partitions, batches, bytes } => for batch in 0..batches * partitions {
                    append(&journal, PartitionId((to + batch % partitions) % PARTITIONS), bytes);
                    append(&journal, dead, 5000);
                    if batch % 7 == 0 {
                        hand.commit();
                    }
                },
                Step::Trim(of, percent) => {
                    let bounds = journal.bounds(PartitionId(of)).unwrap();
                    let before = bounds.first + (bounds.readable - bounds.first) * percent / 100;
                    drop(journal.trim(PartitionId(of), before));
                }
                Step::MakeAnew(of) if of > 0 => {
                    drop(journal.remove(PartitionId(of)));
                    while hand.commit() {}
                    drop(journal.create(PartitionId(of)));
                }
                Step::MakeAnew(_) => {}
                Step::Keep => while hand.keep() {},
                Step::Open => {
                    hand.close();
                    drop(journal);
                    (journal, hand) = open(&disk);
                }
            }
            while hand.commit() {}
        }
        let wanted: BTreeMap<_, _> =
            (0..).map(PartitionId).zip(&from).filter_map(|(id, from)| Some((id, (*from)?))).collect();
        prop_assert_eq!(in_one_pass(&journal, &wanted, || {}), each(&journal, &wanted));
        // What nobody wants any more may make one segment of several, of which the pass has seen some.
        drop(journal.trim(dead, u64::MAX));
        while hand.commit() {}
        let before = offsets(&each(&journal, &wanted));
        prop_assert_eq!(offsets(&in_one_pass(&journal, &wanted, || _ = hand.keep())), before);
        hand.close();
    }
}
