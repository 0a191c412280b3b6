//! What an earlier version wrote is read by this one, for ever: `fixtures/v1` was written by the first.
//!
//! `SIDESTREAM_WRITE_FIXTURES=v2 cargo test -p sidestream-log --test format` writes those of a new version, once.

mod common;

use std::{fmt::Write, fs, path::PathBuf};

use common::{World, all, now, open, small};
use sidestream_host::{
    Clock,
    disk::{Aligned, Barrier, Disk, SimDisk},
};
use sidestream_log::{Durability, PartitionId, Settings};

fn settings() -> Settings {
    Settings { segment_bytes: 16 << 10, zero_ahead_bytes: 0, ..small() }
}

fn folder(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version)
}

/// What is in a journal, a line for each batch.
fn listed(disk: &SimDisk) -> String {
    let (clock, _) = Clock::simulated(0);
    let (journal, _steps, recovered) = open(disk, &settings(), &clock);
    assert_eq!(recovered.damage, []);
    assert_eq!(now(journal.verify()).unwrap().unwrap().damage, []);
    let mut text = String::new();
    for partition in journal.partitions() {
        let bounds = journal.bounds(partition).unwrap();
        writeln!(text, "partition {partition}: {}..{}", bounds.first, bounds.readable).unwrap();
        let (batches, lost) = all(&journal, partition);
        assert_eq!(lost, []);
        for batch in batches {
            let (header, sum) = (batch.header, crc32c::crc32c(&batch.body));
            let (offset, count, time) = (header.base_offset, header.count, header.append_time);
            writeln!(text, "  {offset} +{count} at {time}: {} bytes, {sum:08x}", batch.body.len()).unwrap();
        }
    }
    text
}

#[test]
fn what_version_1_wrote_is_read_as_it_was() {
    let folder = folder("v1");
    let disk = SimDisk::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            let file = disk.create(&path.file_name().unwrap().to_string_lossy()).unwrap();
            file.write_durable(0, &Aligned::of(&fs::read(&path).unwrap()), Barrier::Batches).unwrap();
        }
    }
    disk.sync_names(Barrier::Name).unwrap();
    assert!(disk.list().unwrap().len() > 2, "a copy, a finished segment and the last one");
    assert_eq!(listed(&disk), fs::read_to_string(folder.join("expected.txt")).unwrap());
}

#[test]
fn a_segment_of_a_newer_version_is_refused_by_name() {
    let mut world = World::new(1, settings());
    world.append(PartitionId::STATE, 100, Durability::Device).unwrap();
    world.commit();
    let name = world.disk.list().unwrap().remove(0);
    let disk = world.disk.kill();
    disk.corrupt(&name, |bytes| {
        for copy in [0, 4096] {
            bytes[copy + 8] = 2;
            let sum = crc32c::crc32c_append(
                crc32c::crc32c(&bytes[copy..copy + 60]),
                &bytes[copy + 64..copy + 4096],
            );
            bytes[copy + 60..copy + 64].copy_from_slice(&sum.to_le_bytes());
        }
    });
    let (clock, _) = Clock::simulated(0);
    let disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(disk);
    let refused = sidestream_log::Journal::open_stepped(disk, settings(), clock).err().unwrap().to_string();
    assert!(refused.contains(&name) && refused.contains("version 2"), "{refused}");
}

/// Writes fixtures where it is asked to.
#[test]
fn fixtures_are_written_once_for_each_version() {
    let Ok(version) = std::env::var("SIDESTREAM_WRITE_FIXTURES") else { return };
    let mut world = World::new(11, settings());
    let (kept, dead) = (world.create(), world.create());
    for turn in 0..24 {
        world.append(kept, 60 + 10 * turn, Durability::Device).unwrap();
        world.append(dead, 1500, Durability::PageCache).unwrap();
        world.commit();
    }
    world.append(PartitionId::STATE, 40, Durability::Device).unwrap();
    let end = world.journal.bounds(dead).unwrap().next;
    world.trim(dead, end - 1);
    world.trim(kept, 3);
    while world.steps().keep() {}
    for _ in 0..9 {
        world.append(kept, 2000, Durability::Device).unwrap();
        world.append(dead, 8, Durability::Device).unwrap();
        world.commit();
        while world.steps().keep() {}
    }
    world.steps.take().unwrap().close();
    let folder = folder(&version);
    fs::create_dir_all(&folder).unwrap();
    for name in world.disk.list().unwrap() {
        fs::write(folder.join(&name), world.disk.bytes(&name).unwrap()).unwrap();
    }
    fs::write(folder.join("expected.txt"), listed(&world.disk.kill())).unwrap();
}
