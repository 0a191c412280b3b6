//! A start that can't read what names a dnpipe: its records stay, and its offsets are not given again, whatever is asked for
//! meanwhile.

mod local;

use std::sync::Arc;

use local::{batch, name, values};
use sidestream_broker::{ApplyError, Broker, DnpipeSpec, Limits, PullError, PushError};
use sidestream_conformance::{From, Push};
use sidestream_event::{native::DnpipeName, record::split};
use sidestream_host::{
    Clock,
    disk::{Disk, SimDisk, sim::Fault},
};
use sidestream_log::{Durability, Journal, PartitionId, Settings};

const RECORDS: u64 = 3;

async fn open(disk: &SimDisk, clock: &Clock) -> Result<(Journal, Broker), String> {
    let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() };
    let opened = Journal::open(Arc::new(disk.clone()), settings, clock.clone());
    let (journal, recovered) = opened.map_err(|error| error.to_string())?;
    let broker = Broker::open(journal.clone(), &recovered, clock.clone()).await;
    Ok((journal, broker.map_err(|error| error.to_string())?))
}

async fn push(broker: &Broker, dnpipe: &str, value: u64) -> Result<u64, PushError> {
    let push = Push::one(dnpipe, value);
    Ok(broker.push(&name(dnpipe), 0, batch(&push), push.only_if)?.await?.base_offset)
}

/// What a dnpipe has, around the offsets that were passed over.
async fn all(broker: &Broker, dnpipe: &DnpipeName) -> Vec<(u64, String)> {
    let (mut all, mut from) = (Vec::new(), From::First(0));
    loop {
        match broker.pull(dnpipe, 0, from, Limits::default(), None).await {
            Ok(pulled) if pulled.batches.is_empty() => return all,
            Ok(pulled) => {
                let found = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
                all.extend(found.into_iter().map(|(offset, value, _)| (offset, value)));
                from = From::Offset(pulled.next);
            }
            Err(PullError::Damaged { to, .. }) => from = From::Offset(to),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A disk with two dnpipes that have records, as a kill leaves it: in the first of three segments stands one that was removed, in
/// the second they were made, and the third begins with what partitions there are.
async fn pushed(clock: &Clock) -> SimDisk {
    let disk = SimDisk::new();
    let (_, broker) = open(&disk, clock).await.unwrap();
    broker.apply(DnpipeSpec::new(name("orders"))).await.unwrap();
    push(&broker, "orders", 0).await.unwrap();
    drop(broker);
    let disk = disk.kill();
    let (_, broker) = open(&disk, clock).await.unwrap();
    broker.remove(&name("orders")).await.unwrap();
    for dnpipe in ["orders", "bills"] {
        broker.apply(DnpipeSpec::new(name(dnpipe))).await.unwrap();
        for n in 0..RECORDS - 1 {
            push(&broker, dnpipe, n).await.unwrap();
        }
    }
    drop(broker);
    let disk = disk.kill();
    let (_, broker) = open(&disk, clock).await.unwrap();
    push(&broker, "orders", RECORDS - 1).await.unwrap();
    push(&broker, "bills", RECORDS - 1).await.unwrap();
    drop(broker);
    disk.kill()
}

/// As its YAML has it, whatever came of the start: each dnpipe is asked for, and pushed to where it is there. How many are not
/// made, and what was acknowledged of each.
async fn serve(
    disk: &SimDisk,
    clock: &Clock,
    acknowledged: &mut [Vec<(u64, String)>; 2],
    what: &str,
) -> usize {
    let Ok((_, broker)) = open(disk, clock).await else { return 0 };
    let mut refused = 0;
    for (dnpipe, acknowledged) in ["orders", "bills"].into_iter().zip(acknowledged) {
        match broker.apply(DnpipeSpec::new(name(dnpipe))).await {
            Ok(()) => {}
            Err(ApplyError::Nameless { partitions: 1.. }) => refused += 1,
            Err(error) => assert!(matches!(error, ApplyError::Write(_)), "{error}"),
        }
        if let Ok(offset) = push(&broker, dnpipe, 100).await {
            assert!(offset >= RECORDS, "{what}: {offset} of {dnpipe} is given again");
            acknowledged.push((offset, "100".to_owned()));
        }
    }
    broker.maintain().await;
    refused
}

/// What both have to have.
fn first() -> [Vec<(u64, String)>; 2] {
    let records: Vec<_> = (0..RECORDS).map(|n| (n, n.to_string())).collect();
    [records.clone(), records]
}

/// Everything can be read again: both are there, with all that was ever acknowledged.
async fn assert_whole(disk: &SimDisk, clock: &Clock, acknowledged: &[Vec<(u64, String)>; 2], what: &str) {
    let mut again = first();
    assert_eq!(serve(&disk.kill(), clock, &mut again, what).await, 0, "{what}");
    let (_, broker) = open(&disk.kill(), clock).await.unwrap();
    for (dnpipe, acknowledged) in ["orders", "bills"].into_iter().zip(acknowledged) {
        let found = all(&broker, &name(dnpipe)).await;
        let lost: Vec<_> = acknowledged.iter().filter(|record| !found.contains(record)).collect();
        assert!(lost.is_empty(), "{what}: {dnpipe} has lost {lost:?}");
    }
}

#[tokio::test]
async fn a_sector_that_can_be_read_again_costs_nothing_though_everything_was_asked_for_meanwhile() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let mut refused = 0;
    let names = pushed(&clock).await.list().unwrap();
    for file in names.iter().filter(|file| file.ends_with(".segment")) {
        let bytes = pushed(&clock).await.bytes(file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last / 512 + 1);
        for (sector, width) in (0..used).flat_map(|sector| [(sector, 1), (sector, 16)]) {
            let disk = pushed(&clock).await;
            disk.spoil(file, sector..sector + width);
            let mut acknowledged = first();
            let what = format!("{file}, sector {sector}, {width} wide");
            refused += serve(&disk, &clock, &mut acknowledged, &what).await;
            let disk = disk.kill();
            disk.restore();
            assert_whole(&disk, &clock, &acknowledged, &what).await;
        }
    }
    assert!(refused > 0, "no sector took a name");
}

#[tokio::test]
async fn a_read_that_fails_once_costs_nothing_though_everything_was_asked_for_meanwhile() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    for operation in 0..100 {
        let disk = pushed(&clock).await;
        disk.fail(operation, Fault::Io);
        let mut acknowledged = first();
        let what = format!("operation {operation}");
        serve(&disk, &clock, &mut acknowledged, &what).await;
        assert_whole(&disk, &clock, &acknowledged, &what).await;
    }
}

/// What stood there is kept, and nothing is made in its place, however often it is tried.
#[tokio::test]
async fn what_can_never_be_named_again_is_kept() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    for hidden in [2, 3] {
        let disk = pushed(&clock).await;
        let names = disk.list().unwrap();
        let is_named = |bytes: &[u8]| {
            let mut all = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(br#"{"kind":"dnpipe"#));
            let partition = format!(r#""partitions":[{hidden}]"#);
            all.find(|at| String::from_utf8_lossy(&bytes[*at..*at + 512]).contains(&partition))
        };
        let (file, at) = names.iter().find_map(|file| Some((file, is_named(&disk.bytes(file)?)?))).unwrap();
        disk.corrupt(file, |bytes| bytes[at + 3] ^= 1);
        let mut acknowledged = first();
        for start in 0..5 {
            let what = format!("partition {hidden}, start {start}");
            assert_eq!(serve(&disk.kill(), &clock, &mut acknowledged, &what).await, 1, "{what}");
        }
        let (journal, broker) = open(&disk.kill(), &clock).await.unwrap();
        let [named] = &broker.list()[..] else { panic!("{:?}", broker.list()) };
        let bounds = journal.bounds(PartitionId(hidden)).map(|bounds| (bounds.first, bounds.next));
        assert_eq!(bounds, Some((0, RECORDS)));
        assert_eq!(all(&broker, named).await.len() as u64, RECORDS + 5);
    }
}

/// A partition that nobody ever named, as a kill leaves it that comes while a dnpipe is copied: it goes at the next whole start.
#[tokio::test]
async fn what_never_had_a_name_is_removed_once_all_can_be_read() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = pushed(&clock).await;
    let (journal, broker) = open(&disk, &clock).await.unwrap();
    let orphan = PartitionId(9);
    journal.create(orphan).await.unwrap();
    let push = Push::one("orders", 0);
    let batch = batch(&push);
    let (header, body) = split(&batch).unwrap();
    journal.append(orphan, header, &body, Durability::Device).unwrap().await.unwrap();
    drop((journal, broker));
    let disk = disk.kill();
    let names = disk.list().unwrap();
    let is_state = |bytes: &[u8]| bytes.windows(15).position(|window| window == br#"{"kind":"broker"#);
    let (file, at) = names.iter().find_map(|file| Some((file, is_state(&disk.bytes(file)?)?))).unwrap();
    disk.spoil(file, at / 512..at / 512 + 1);
    let other = DnpipeSpec::new(name("more"));
    let (_, broker) = open(&disk, &clock).await.unwrap();
    let refused = broker.apply(other.clone()).await;
    assert!(matches!(refused, Err(ApplyError::Nameless { .. })), "{refused:?}");
    drop(broker);
    let disk = disk.kill();
    disk.restore();
    let (journal, broker) = open(&disk, &clock).await.unwrap();
    broker.apply(other).await.unwrap();
    assert_eq!(journal.bounds(orphan), None);
}
