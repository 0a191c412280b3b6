//! A sector that can't be read any more costs what is in it, is named by its range, and stops nobody: neither a start nor
//! who reads, appends or has it cleaned.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{World, all, now, of_eight_segments, open, small};
use sidestream_host::{
    Clock,
    disk::{Aligned, Barrier, Disk, SECTOR, SimDisk, sim::Fault},
};
use sidestream_log::{Durability, Journal, OpenError, PartitionId, Settings, Steps};

const SEGMENT: usize = 64 << 10;

fn settings() -> Settings {
    Settings { segment_bytes: SEGMENT as u32, ..small() }
}

/// Partition and offset of a batch, its place in its file, and its body.
type Kept = BTreeMap<(PartitionId, u64), (u32, (u64, u64), Vec<u8>)>;

/// A journal of two finished segments and one that is written; and what is in it.
fn built(block: usize) -> (SimDisk, Kept) {
    let mut world = World::on(SimDisk::new().with_block(block), 4, settings());
    let partitions = [PartitionId::STATE, world.create(), world.create()];
    let (mut turn, mut more) = (0, 6);
    while more > 0 {
        turn += 1;
        more -= u64::from(world.journal.counts().segments >= 3);
        for _ in 0..1 + world.random.below(3) {
            let length = world.random.below(900) as usize;
            world.append(partitions[turn % 3], length, Durability::Device).unwrap();
        }
        world.commit();
        while world.steps().keep() {}
    }
    // All of it is noted as durable, as it is when nothing has happened for a moment.
    world.steps.take().unwrap().close();
    let mut kept = Kept::new();
    for partition in partitions {
        for batch in all(&world.journal, partition).0 {
            let (segment, from) = ((batch.header.place >> 32) as u32, batch.header.place & 0xffff_ffff);
            let range = (from, from + u64::from(batch.header.length));
            kept.insert((partition, batch.header.base_offset), (segment, range, batch.body.to_vec()));
        }
    }
    assert!(kept.len() > 50, "{}", kept.len());
    (world.disk.clone(), kept)
}

/// What can be read is what was kept, and all that is missing touches a sector of these.
fn check(journal: &Journal, kept: &Kept, segment: u32, sectors: std::ops::Range<usize>, what: &str) -> usize {
    let spoiled = ((sectors.start * SECTOR) as u64, (sectors.end * SECTOR) as u64);
    let mut found = BTreeMap::new();
    for partition in journal.partitions() {
        for batch in all(journal, partition).0 {
            found.insert((partition, batch.header.base_offset), batch.body);
        }
    }
    for (key, (own, range, body)) in kept {
        let touches = *own == segment && range.0 < spoiled.1 && spoiled.0 < range.1;
        match found.get(key) {
            Some(found) => assert!(found == body, "{what}: other bytes at {key:?}"),
            None => assert!(touches, "{what}: {key:?} in {own} at {range:?} is lost"),
        }
    }
    kept.len() - found.len().min(kept.len())
}

fn append(journal: &Journal, steps: &mut Steps) -> u64 {
    let body = [9; 40];
    let appended = journal.append(PartitionId::STATE, common::header(&body, 1, 0), &body, Durability::Device);
    steps.commit();
    now(appended.unwrap()).unwrap().unwrap().base_offset
}

/// Each block of so many sectors of the segment that is `behind` others, counted from the newest.
fn spoil_each(block: usize, behind: usize, width: usize) {
    let (disk, kept) = built(block);
    let (clock, _) = Clock::simulated(0);
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".segment"));
    names.sort();
    let name = names[names.len() - 1 - behind].clone();
    let segment = u32::from_str_radix(&name[..8], 16).unwrap();
    let whole: BTreeMap<String, Vec<u8>> =
        names.iter().map(|name| (name.clone(), disk.bytes(name).unwrap())).collect();
    let sectors = whole[&name].len() / SECTOR;
    let mut lost = 0;
    let highest = kept.keys().filter(|key| key.0 == PartitionId::STATE).map(|key| key.1).max().unwrap();
    for first in (0..sectors).step_by(width) {
        let what = format!("segment {segment}, sector {first}");
        let spoiled = first..first + width;
        let disk = disk.kill();
        disk.spoil(&name, spoiled.clone());
        let (journal, mut steps, recovered) = open(&disk, &settings(), &clock);
        let missing = check(&journal, &kept, segment, spoiled.clone(), &what);
        lost += missing;
        let verified = now(journal.verify()).unwrap().unwrap();
        let named: Vec<_> = verified.damage.iter().chain(&recovered.damage).collect();
        if missing > 0 {
            let (from, to) = ((spoiled.start * SECTOR) as u64, (spoiled.end * SECTOR) as u64);
            let is_named = named.iter().any(|own| own.segment == segment && own.from < to && from < own.to);
            assert!(is_named, "{what}: {missing} lost, and {named:?}");
        }
        // It goes on, and what is acknowledged from here on is there after the next start.
        let offset = append(&journal, &mut steps);
        assert!(offset > highest, "{what}: offset {offset} is given again");
        while steps.keep() {}
        check(&journal, &kept, segment, spoiled.clone(), &what);
        steps.close();
        let disk = disk.kill();
        let (journal, mut steps, _) = open(&disk, &settings(), &clock);
        check(&journal, &kept, segment, spoiled, &what);
        let bounds = journal.bounds(PartitionId::STATE).unwrap();
        assert_eq!((bounds.next, bounds.readable), (offset + 1, offset + 1), "{what}");
        assert_eq!(append(&journal, &mut steps), offset + 1, "{what}");
        // Everything as it was.
        drop((journal, steps));
        let disk = disk.kill();
        for name in disk.list().unwrap().iter().filter(|name| !whole.contains_key(*name)) {
            disk.remove(name).unwrap();
        }
        disk.restore();
        for (name, bytes) in &whole {
            if disk.bytes(name).is_none() {
                disk.create(name).unwrap();
            }
            disk.corrupt(name, |found| *found = bytes.clone());
        }
    }
    println!("{sectors} sectors of {name}: {lost} batches lost");
    assert!(lost > 0);
}

#[test]
fn in_a_finished_segment() {
    spoil_each(512, 1, 1);
    spoil_each(4096, 1, 8);
}

#[test]
fn in_the_segment_that_was_written_last() {
    spoil_each(512, 0, 1);
    spoil_each(4096, 0, 8);
}

#[test]
fn while_it_is_open() {
    let (disk, kept) = built(512);
    let (clock, _) = Clock::simulated(0);
    for segment in 1..=3 {
        let name = format!("{segment:08x}.0000.segment");
        for first in (0..disk.bytes(&name).unwrap().len() / SECTOR).step_by(5) {
            // Nothing is in memory: what is read is read from the disk.
            let settings = Settings { cache_bytes: 0, ..settings() };
            let disk = disk.kill();
            let (journal, mut steps, _) = open(&disk, &settings, &clock);
            disk.spoil(&name, first..first + 1);
            let what = format!("segment {segment}, sector {first}");
            check(&journal, &kept, segment, first..first + 1, &what);
            while steps.keep() {}
            disk.restore();
            let missing = check(&journal, &kept, segment, 0..0, &what);
            assert_eq!(missing, 0, "{what}: it can be read again, and is not");
        }
    }
}

/// What can't be read at one start can be read at another: nothing of it is thrown away meanwhile, and none of its offsets
/// given again.
#[test]
fn at_one_start_and_not_at_the_next() {
    let (disk, kept) = built(512);
    for behind in 0..3 {
        let mut names = disk.list().unwrap();
        names.sort();
        let name = &names[names.len() - 1 - behind];
        let sectors = disk.bytes(name).unwrap().len() / SECTOR;
        let each = (0..sectors).map(|first| first..first + 1);
        let halves = [0..sectors / 2, 0..sectors, sectors / 2..sectors, 16..sectors];
        for spoiled in each.chain(halves) {
            let what = format!("sectors {spoiled:?} of {name}");
            starts_twice(&disk, &kept, &what, |disk| disk.spoil(name, spoiled.clone()));
        }
    }
}

/// The same of an error that is over by the time that anybody tries again.
#[test]
fn at_any_operation_of_one_start() {
    let (disk, kept) = built(512);
    let begun = copied(&disk);
    let before = begun.operations();
    drop(open(&begun, &settings(), &Clock::simulated(0).0));
    let operations = begun.operations() - before;
    assert!(operations > 15, "{operations}");
    for operation in 0..operations {
        starts_twice(&disk, &kept, &format!("operation {operation}"), |disk| disk.fail(operation, Fault::Io));
    }
}

/// Heads that are written later would say that there never was what the newest segment made, where nothing of it can be read.
#[test]
fn of_what_the_only_segment_made_nothing_is_forgotten() {
    let (whole, name, partition) = of_one_segment();
    let sectors = whole.bytes(&name).unwrap().len() / SECTOR;
    let (clock, _) = Clock::simulated(0);
    let open_stepped =
        |disk: &SimDisk| Journal::open_stepped(Arc::new(disk.clone()), small(), clock.clone()).map(drop);
    let mut refused = 0;
    for operation in 0..=20 {
        let disk = copied(&whole);
        if operation == 20 {
            disk.spoil(&name, 0..sectors);
        } else {
            disk.fail(operation, Fault::Io);
        }
        if let Err(error) = open_stepped(&disk) {
            refused += usize::from(matches!(&error, OpenError::Unreadable { file } if *file == name));
        }
        let disk = disk.kill();
        disk.restore();
        let (journal, _steps, _) = open(&disk, &small(), &clock);
        assert_eq!(all(&journal, partition).0.len(), 1, "operation {operation}");
    }
    assert!(refused >= 2, "{refused}");
}

/// The same of its head alone, which says what partitions there were before it.
#[test]
fn of_what_the_only_head_says_nothing_is_forgotten() {
    let (disk, name, partition) = of_one_segment();
    disk.spoil(&name, 0..16);
    let (clock, _) = Clock::simulated(0);
    let opened = Journal::open_stepped(Arc::new(disk.clone()), small(), clock.clone()).map(drop);
    assert!(matches!(&opened, Err(OpenError::Unreadable { file }) if *file == name), "{opened:?}");
    let disk = disk.kill();
    disk.restore();
    let (journal, _steps, _) = open(&disk, &small(), &clock);
    assert_eq!(all(&journal, partition).0.len(), 1);
}

/// Where somebody says that the newest segment is lost, the others are served, and none of its offsets is given again.
#[test]
fn what_is_said_to_be_lost_stops_nobody() {
    let (disk, kept) = built(512);
    let name = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".segment")).max().unwrap();
    let newest = u32::from_str_radix(&name[..8], 16).unwrap();
    let lost = copied(&disk);
    let file = lost.create(&format!("{name}.lost")).unwrap();
    file.write_durable(0, &Aligned::of(&disk.bytes(&name).unwrap()), Barrier::Batches).unwrap();
    lost.remove(&name).unwrap();
    let highest = kept.keys().filter(|key| key.0 == PartitionId::STATE).map(|key| key.1).max().unwrap();
    let (clock, _) = Clock::simulated(0);
    let mut offset = highest;
    for start in 0..3 {
        let (journal, mut steps, recovered) = open(&lost.kill(), &settings(), &clock);
        assert!(recovered.damage.iter().any(|damage| damage.segment == newest), "start {start}");
        let appended = append(&journal, &mut steps);
        assert!(appended > offset && (start == 0 || appended == offset + 1), "start {start}: {appended}");
        offset = appended;
        let sectors = disk.bytes(&name).unwrap().len() / SECTOR;
        check(&journal, &kept, newest, 0..sectors, "what is not lost");
        while steps.keep() {}
        steps.close();
    }
    assert!(lost.kill().list().unwrap().contains(&format!("{name}.lost")));
}

/// Where the newest head is damaged, the one before it is all that says what there is: it stays until there is another one,
/// though nothing else in its segment is needed.
#[test]
fn the_newest_head_that_can_be_read_is_kept_until_there_is_another_one() {
    let mut world = World::new(7, settings());
    let (idle, busy) = (world.create(), world.create());
    world.append(idle, 100, Durability::Device).unwrap();
    while world.journal.counts().segments < 3 {
        world.append(busy, 900, Durability::Device).unwrap();
        world.commit();
    }
    for partition in [idle, busy] {
        let end = world.journal.bounds(partition).unwrap().next;
        let trimmed = world.journal.trim(partition, end);
        world.commit();
        now(trimmed).unwrap().unwrap();
    }
    world.steps.take().unwrap().close();
    let disk = copied(&world.disk);
    let newest = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".segment")).max().unwrap();
    disk.corrupt(&newest, |bytes| [40, 4096 + 40].into_iter().for_each(|at| bytes[at] ^= 1));
    let (clock, _) = Clock::simulated(0);
    let bounds =
        |journal: &Journal| [idle, busy].map(|id| journal.bounds(id).map(|own| (own.first, own.next)));
    let mut found = Vec::new();
    for start in 0..3 {
        let (journal, mut steps, _) = open(&disk.kill(), &settings(), &clock);
        found.push(bounds(&journal));
        assert!(found[0] == found[start] && found[0].iter().all(Option::is_some), "start {start}: {found:?}");
        while steps.keep() {}
        steps.close();
    }
}

/// A start that `spoils` befalls, and one where all can be read again: everything is there.
fn starts_twice(whole: &SimDisk, kept: &Kept, what: &str, spoils: impl FnOnce(&SimDisk)) {
    let (clock, _) = Clock::simulated(0);
    let disk = copied(whole);
    spoils(&disk);
    let opened = Journal::open_stepped(Arc::new(disk.clone()), settings(), clock.clone());
    let mut appended = None;
    if let Ok((journal, mut steps, _)) = opened {
        appended = Some(append(&journal, &mut steps));
        while steps.keep() {}
        steps.close();
    }
    let disk = disk.kill();
    disk.restore();
    let (journal, mut steps, _) = open(&disk, &settings(), &clock);
    let missing = check(&journal, kept, 0, 0..0, what);
    assert_eq!(missing, 0, "{what}: it can be read again, and is not there");
    let next = append(&journal, &mut steps);
    assert!(appended.is_none_or(|appended| appended < next), "{what}: {next} is given again");
    while steps.keep() {}
    assert_eq!(check(&journal, kept, 0, 0..0, what), 0, "{what}: it was thrown away");
}

/// A copy beside one of the segments that it was made of, whose removal failed: it is all there is of the others, whatever
/// has become of it meanwhile.
#[test]
fn in_a_copy_of_what_is_gone_but_for_one() {
    let (mut world, partition, dead) = of_eight_segments();
    let before = copied(&world.disk);
    world.remove(dead);
    while world.steps().keep() {}
    let whole = copied(&world.disk);
    let kept = all(&world.journal, partition).0.len();
    let copies: Vec<String> =
        whole.list().unwrap().into_iter().filter(|name| !name.contains(".0000.")).collect();
    assert!(!copies.is_empty());
    let settings = Settings { segment_bytes: 24 << 10, ..small() };
    let (clock, _) = Clock::simulated(0);
    let mut lost = 0;
    for copy in &copies {
        let left: Vec<String> = (before.list().unwrap().into_iter())
            .filter(|name| whole.bytes(name).is_none() && name[..8] > copy[..8])
            .collect();
        let length = whole.bytes(copy).unwrap().len();
        let flips = (0..length).step_by(61).map(|at| at..at + 1);
        for (place, left) in flips.flat_map(|at| left.iter().take(1).map(move |left| (at.clone(), left))) {
            let disk = copied(&whole);
            let file = disk.create(left).unwrap();
            file.write_durable(0, &Aligned::of(&before.bytes(left).unwrap()), Barrier::Batches).unwrap();
            disk.corrupt(copy, |bytes| bytes[place.start] ^= 1);
            let (journal, _steps, _) = open(&disk, &settings, &clock);
            let found = all(&journal, partition).0.len();
            assert!(found + 1 >= kept, "{place:?} of {copy}, {left} is left: {found} of {kept}");
            lost += kept - found;
        }
    }
    assert!(lost > 10, "{lost}");
}

/// The same of what can't be read for the time of one start, while much is dead and is cleaned: nothing is thrown away with it.
#[test]
fn in_what_is_cleaned_around_it() {
    let (world, partition, dead) = of_eight_segments();
    let whole = copied(&world.disk);
    let kept = all(&world.journal, partition).0.len();
    let (clock, _) = Clock::simulated(0);
    let settings = Settings { segment_bytes: 24 << 10, ..small() };
    let begun = copied(&whole);
    let before = begun.operations();
    drop(open(&begun, &settings, &clock));
    let mut cleaned = 0;
    for operation in 0..begun.operations() - before {
        let disk = copied(&whole);
        disk.fail(operation, Fault::Io);
        let opened = Journal::open_stepped(Arc::new(disk.clone()), settings.clone(), clock.clone());
        if let Ok((journal, mut steps, _)) = opened {
            drop(journal.remove(dead));
            steps.commit();
            while steps.keep() {}
            cleaned += journal.counts().cleaned;
            steps.close();
        }
        let (journal, mut steps, _) = open(&disk.kill(), &settings, &clock);
        assert_eq!(all(&journal, partition).0.len(), kept, "operation {operation}");
        while steps.keep() {}
        assert_eq!(all(&journal, partition).0.len(), kept, "operation {operation}: thrown away");
    }
    assert!(cleaned > 20, "{cleaned}");
}

/// A copy that the power tore, or that is all there is, and sectors of it or of its originals that can't be read at one start.
#[test]
fn in_a_copy_or_its_originals_at_one_start() {
    let (mut world, partition, dead) = of_eight_segments();
    let before = copied(&world.disk);
    let kept = all(&world.journal, partition).0.len();
    world.remove(dead);
    while world.steps().keep() {}
    let whole = copied(&world.disk);
    let settings = Settings { segment_bytes: 24 << 10, ..small() };
    let (clock, _) = Clock::simulated(0);
    let copy = whole.list().unwrap().into_iter().find(|name| !name.contains(".0000.")).unwrap();
    let originals: Vec<String> =
        before.list().unwrap().into_iter().filter(|name| whole.bytes(name).is_none()).collect();
    for is_torn in [false, true] {
        let sectors = whole.bytes(&copy).unwrap().len() / SECTOR;
        // Of a torn one all originals are there, of another one the last.
        let left = if is_torn { &originals[..] } else { &originals[originals.len() - 1..] };
        let build = || {
            let disk = copied(if is_torn { &before } else { &whole });
            for name in left.iter().filter(|name| disk.bytes(name).is_none()) {
                let file = disk.create(name).unwrap();
                file.write_durable(0, &Aligned::of(&before.bytes(name).unwrap()), Barrier::Batches).unwrap();
            }
            if is_torn {
                let file = disk.create(&copy).unwrap();
                file.write_durable(0, &Aligned::of(&whole.bytes(&copy).unwrap()), Barrier::Batches).unwrap();
                disk.corrupt(&copy, |bytes| bytes[sectors / 2 * SECTOR..].fill(0));
            }
            disk
        };
        let spoiled = (0..sectors).map(|sector| (&copy, sector));
        let more = left.iter().flat_map(|name| (0..40).step_by(3).map(move |sector| (name, sector)));
        for (name, sector) in spoiled.chain(more) {
            let what = format!("torn {is_torn}, sector {sector} of {name}");
            let disk = build();
            disk.spoil(name, sector..sector + 1);
            let (journal, mut steps, _) = open(&disk, &settings, &clock);
            let appended = append(&journal, &mut steps);
            while steps.keep() {}
            steps.close();
            let disk = disk.kill();
            disk.restore();
            let (journal, mut steps, _) = open(&disk, &settings, &clock);
            assert_eq!(all(&journal, partition).0.len(), kept, "{what}");
            assert_eq!(append(&journal, &mut steps), appended + 1, "{what}");
            while steps.keep() {}
            assert_eq!(all(&journal, partition).0.len(), kept, "{what}: thrown away");
        }
    }
}

/// A partition is not lost with the note of its creation, which may be in a sector that can't be read.
#[test]
fn where_a_partition_was_made() {
    let mut world = World::on(SimDisk::new(), 4, settings());
    world.append(PartitionId::STATE, 100, Durability::Device).unwrap();
    world.commit();
    let partition = world.create();
    for _ in 0..20 {
        world.append(partition, 700, Durability::Device).unwrap();
        world.commit();
    }
    world.steps.take().unwrap().close();
    let whole = copied(&world.disk);
    let kept = all(&world.journal, partition).0.len();
    let (clock, _) = Clock::simulated(0);
    let name = "00000001.0000.segment";
    for sector in 0..whole.bytes(name).unwrap().len() / SECTOR {
        let disk = copied(&whole);
        disk.spoil(name, sector..sector + 1);
        let (journal, mut steps, _) = open(&disk, &settings(), &clock);
        let found = journal.bounds(partition).map_or(0, |_| all(&journal, partition).0.len());
        assert!(found + 2 >= kept, "sector {sector}: {found} of {kept}");
        append(&journal, &mut steps);
        while steps.keep() {}
        steps.close();
        let disk = disk.kill();
        disk.restore();
        let (journal, ..) = open(&disk, &settings(), &clock);
        assert_eq!(all(&journal, partition).0.len(), kept, "sector {sector}");
    }
}

/// A journal that never began a second segment: its disk, the segment's file, and a partition with one batch.
fn of_one_segment() -> (SimDisk, String, PartitionId) {
    let mut world = World::new(7, small());
    let partition = world.create();
    world.append(partition, 100, Durability::Device).unwrap();
    world.commit();
    world.steps.take().unwrap().close();
    let disk = copied(&world.disk);
    let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".segment")).unwrap();
    (disk, name, partition)
}

/// A disk of its own with the same files.
fn copied(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new();
    for name in disk.list().unwrap() {
        let file = copy.create(&name).unwrap();
        file.write_durable(0, &Aligned::of(&disk.bytes(&name).unwrap()), Barrier::Batches).unwrap();
    }
    copy.sync_names(Barrier::Name).unwrap();
    copy
}

/// Whoever asks by time, to read on from there or to let go of what is older, gets no place behind what is of that time.
#[test]
fn while_it_is_asked_for_by_time() {
    let (disk, _) = built(512);
    let (clock, _) = Clock::simulated(0);
    let settings = Settings { cache_bytes: 0, ..settings() };
    let disk = disk.kill();
    let (journal, mut steps, _) = open(&disk, &settings, &clock);
    while steps.keep() {}
    let name = "00000002.0000.segment";
    let mut told = 0;
    for first in 8..disk.bytes(name).unwrap().len() / SECTOR {
        disk.spoil(name, first..first + 1);
        for partition in journal.partitions() {
            let (batches, lost) = all(&journal, partition);
            told += lost.len();
            for pair in batches.windows(2) {
                let (older, header) = (pair[0].header, pair[1].header);
                let found = now(journal.offset_at(partition, header.append_time)).unwrap().unwrap();
                // What is lost between the two may be of that time as well.
                let after = older.next_offset()..=header.base_offset;
                assert!(after.contains(&found), "sector {first}: {found} of {partition}, not {after:?}");
            }
        }
        disk.restore();
    }
    assert!(told > 10, "{told}");
}

/// A cleaner that can't read all of a segment leaves it alone: what is in it may be read another time.
#[test]
fn while_it_is_cleaned() {
    let (mut world, kept, dead) = of_eight_segments();
    let before = all(&world.journal, kept).0.len();
    let (disk, name) = (world.disk.clone(), "00000002.0000.segment");
    disk.spoil(name, 20..21);
    world.remove(dead);
    while world.steps().keep() {}
    assert!(world.journal.counts().cleaned > 0, "the others are cleaned");
    disk.restore();
    let (batches, lost) = all(&world.journal, kept);
    assert_eq!((batches.len(), lost), (before, vec![]));
}

/// A file of which the end is missing, as a file system may leave it after it was mended: that can't be read either.
#[test]
fn behind_the_end_of_a_file_that_is_shorter_than_it_was() {
    let (disk, kept) = built(512);
    let (clock, _) = Clock::simulated(0);
    let name = "00000002.0000.segment";
    let whole = disk.bytes(name).unwrap();
    for sectors in 0..whole.len() / SECTOR {
        let what = format!("{sectors} sectors of {}", whole.len() / SECTOR);
        let disk = disk.kill();
        disk.corrupt(name, |bytes| bytes.truncate(sectors * SECTOR));
        let (journal, mut steps, recovered) = open(&disk, &settings(), &clock);
        let missing = check(&journal, &kept, 2, sectors..usize::MAX / SECTOR, &what);
        assert!(missing == 0 || !recovered.damage.is_empty(), "{what}: {missing} lost, and nobody says so");
        append(&journal, &mut steps);
        drop((journal, steps));
        let disk = disk.kill();
        for other in disk.list().unwrap().iter().filter(|other| ***other > *"00000003.0000.segment") {
            disk.remove(other).unwrap();
        }
        disk.corrupt(name, |bytes| bytes.clone_from(&whole));
    }
}

/// What the disk gave wrong once is not believed again: neither of the batch that was asked for, nor of those around it.
#[test]
fn until_the_disk_says_something_else() {
    let (world, kept, _) = of_eight_segments();
    let before = all(&world.journal, kept).0.len();
    let disk = world.disk.kill();
    let (clock, _) = Clock::simulated(0);
    // All of it has room in memory.
    let settings = Settings { segment_bytes: 24 << 10, cache_bytes: 8 << 20, ..small() };
    let (journal, _steps, _) = open(&disk, &settings, &clock);
    let name = "00000002.0000.segment";
    let flip =
        || disk.corrupt(name, |bytes| (8192 + 200..).step_by(512).take(8).for_each(|at| bytes[at] ^= 1));
    flip();
    let (batches, lost) = all(&journal, kept);
    assert!(batches.len() < before && !lost.is_empty(), "{lost:?}");
    flip();
    let (batches, lost) = all(&journal, kept);
    assert_eq!((batches.len(), lost), (before, Vec::new()));
}
