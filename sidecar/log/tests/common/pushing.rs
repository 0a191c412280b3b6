//! A child process that pushes until it is killed, what it said, and whether that is what is found.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use sidestream_host::{
    Clock, Random,
    disk::{self, Choice},
};
use sidestream_log::{AppendError, Durability, Journal, PartitionId, ReadError, Settings};

use super::{body, header};

const DIRECTORY: &str = "SIDESTREAM_JOURNAL_CHILD";
const PARTITIONS: u32 = 4;

fn settings() -> Settings {
    Settings { segment_bytes: 4 << 20, reserve_bytes: 0, ..Settings::default() }
}

/// From so many bytes on a group is written in pieces, by io_uring where that is the disk: see `disk/uring.rs`.
const LARGE: usize = 512 << 10;

/// The bytes of the batch with this number.
fn length_of(id: u64) -> usize {
    let mut random = Random::seeded(id ^ 0x5eed);
    match random.below(40) {
        0 => LARGE + random.below(1 << 20) as usize,
        1..=4 => random.below(40_000) as usize,
        _ => 8 + random.below(900) as usize,
    }
}

/// What a child said before it died.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) pushed: HashMap<u64, ()>,
    /// Partition, offset and number of the batch.
    pub(crate) acked: Vec<(u32, u64, u64)>,
}

impl Told {
    /// Of those that were acknowledged, how many were written in pieces.
    pub(crate) fn large(&self) -> usize {
        self.acked.iter().filter(|(.., id)| length_of(*id) > LARGE).count()
    }
}

/// Has a child push into `directory` for a while, then lets `stop` befall it.
pub(crate) fn run_child(
    directory: &Path,
    choice: Choice,
    run: u64,
    lives: Duration,
    stop: impl FnOnce(&mut Child),
) -> Told {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child_that_is_killed", "--nocapture"])
        .env(DIRECTORY, directory)
        .env("SIDESTREAM_JOURNAL_DISK", if choice == Choice::File { "file" } else { "uring" })
        .env("SIDESTREAM_JOURNAL_RUN", run.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The time begins when it pushes.
    for line in lines.by_ref() {
        if line.unwrap().ends_with("ready") {
            break;
        }
    }
    let reading = std::thread::spawn(move || {
        let mut told = Told::default();
        for line in lines.map_while(Result::ok) {
            let numbers: Vec<u64> = line
                .get(1..)
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect();
            match (line.as_bytes().first().copied().unwrap_or_default(), &numbers[..]) {
                (b'+', [id]) => drop(told.pushed.insert(*id, ())),
                (b'=', [partition, offset, id]) => told.acked.push((*partition as u32, *offset, *id)),
                // The line it died in.
                _ => {}
            }
        }
        told
    });
    std::thread::sleep(lives);
    stop(&mut child);
    child.wait().unwrap();
    reading.join().unwrap()
}

/// Opens what the child left and compares; `seen` is what every offset has had so far.
pub(crate) fn check(directory: &Path, choice: Choice, told: &Told, seen: &mut BTreeMap<(u32, u64), u64>) {
    for (partition, offset, id) in &told.acked {
        let before = seen.insert((*partition, *offset), *id);
        assert!(
            before.is_none_or(|before| before == *id),
            "offset {offset} of {partition} was given out twice"
        );
    }
    let disk = disk::open(directory, choice).unwrap();
    let (journal, recovered) = Journal::open(disk, settings(), Clock::machine()).unwrap();
    assert_eq!(recovered.damage, []);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for partition in 0..PARTITIONS {
        let Some(bounds) = journal.bounds(PartitionId(partition)) else { continue };
        let mut at = bounds.first;
        while at < bounds.readable {
            let read = runtime.block_on(journal.read(PartitionId(partition), at, 1 << 20));
            let read = match read {
                Err(ReadError::Damaged { from, to }) => panic!("{partition}: {from}..{to} is damaged"),
                read => read.unwrap(),
            };
            for batch in &read.batches {
                assert!(batch.header.base_offset <= at && at < batch.header.next_offset(), "dense at {at}");
                at = batch.header.next_offset();
                let id = u64::from_le_bytes(batch.body[..8].try_into().unwrap());
                assert!(batch.body == body(id, length_of(id)), "{partition} at {at}: other bytes");
                let before = seen.insert((partition, batch.header.base_offset), id);
                assert!(before.is_none_or(|before| before == id), "an offset has other bytes than it had");
            }
        }
        for (acked_in, offset, _) in &told.acked {
            assert!(*acked_in != partition || *offset < bounds.readable, "{partition} at {offset}: lost");
        }
        // Room for the next life.
        let keep = bounds.readable.saturating_sub(300).max(bounds.first);
        runtime.block_on(journal.trim(PartitionId(partition), keep)).unwrap();
    }
}

/// What the child does until it is killed; nothing where this is not one.
pub(crate) fn push_for_ever() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let choice = if std::env::var("SIDESTREAM_JOURNAL_DISK").as_deref() == Ok("file") {
        Choice::File
    } else {
        Choice::Uring
    };
    let run: u64 = std::env::var("SIDESTREAM_JOURNAL_RUN").unwrap().parse().unwrap();
    let disk = disk::open(Path::new(&directory), choice).unwrap();
    let (journal, _) = Journal::open(disk, settings(), Clock::machine()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        for partition in 1..PARTITIONS {
            journal.create(PartitionId(partition)).await.unwrap();
        }
        say("ready");
        let pushers = (0..16_u64).map(|pusher| {
            let journal = journal.clone();
            tokio::task::spawn_local(async move {
                for turn in 0.. {
                    let id = run << 40 | pusher << 32 | turn;
                    let partition = (id % u64::from(PARTITIONS)) as u32;
                    let body = body(id, length_of(id));
                    say(&format!("+{id}"));
                    let appending = loop {
                        let header = header(&body, 1, 0);
                        match journal.append(PartitionId(partition), header, &body, Durability::Device) {
                            Err(AppendError::Busy) => journal.room().await,
                            Ok(appending) => break appending,
                            // The disk is gone; the process is about to be.
                            Err(_) => return std::future::pending().await,
                        }
                    };
                    let Ok(receipt) = appending.await else { return std::future::pending().await };
                    say(&format!("={partition} {} {id}", receipt.base_offset));
                }
            })
        });
        for pusher in pushers.collect::<Vec<_>>() {
            pusher.await.unwrap();
        }
    });
}

/// A whole line at once, so that a killed child says it or not.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}
