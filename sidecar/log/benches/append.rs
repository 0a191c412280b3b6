//! How fast the journal acknowledges, beside what the disk can do at all.
//!
//! `cargo bench -p sidestream-log --bench append [-- seconds] [uring|file]`. The floor is measured on a file beside it: B, writing
//! 1 MiB after 1 MiB past the page cache with one barrier at the end, right before each cell, and L, the median of a durable
//! write of 4 KiB in place, in turn with what stands beside it.
//! Every figure stands beside its multiple of one of them. `SIDESTREAM_BENCH_DIR` names the directory, on the file system
//! to measure; the target directory otherwise.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{IoSlice, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{fs::OFlags, io::ReadWriteFlags};
use sidestream_event::record::{HEADER_BYTES, Header};
use sidestream_host::{
    Clock, Random,
    disk::{self, Aligned, Barrier, Choice, Disk, DiskFile},
};
use sidestream_log::{AppendError, Appending, Durability, Journal, PartitionId, Settings};

const MIB: usize = 1 << 20;
const RECORD: usize = 1 << 10;

fn main() {
    let seconds: f64 = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(2.0);
    let length = Duration::from_secs_f64(seconds);
    let parent = std::env::var_os("SIDESTREAM_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let only = std::env::args().skip(1).find(|arg| ["uring", "file"].contains(&arg.as_str()));
    for (name, choice) in [("uring", Choice::Uring), ("file", Choice::File)] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let directory = tempfile::tempdir_in(&parent).expect("a directory");
        let floor = Floor::new(&directory.path().join("floor"));
        let open = || {
            let disk = disk::open(&directory.path().join("journal"), choice).ok()?;
            let (journal, _) = Journal::open(disk, Settings::default(), Clock::machine()).expect("a journal");
            Some(journal)
        };
        let Some(journal) = open() else {
            eprintln!("{name}: not to be had here");
            continue;
        };
        eprintln!("{name}: {}", journal.driver());
        let mut bench = Bench { journal: &journal, name, floor: &floor, length };
        runtime.block_on(async {
            bench.bandwidth(64).await;
            bench.bandwidth(1024).await;
            bench.rate().await;
            bench.alone(Durability::Device, "batch 1, 1 in flight").await;
            bench.alone(Durability::PageCache, "batch 1, 1 in flight, PageCache").await;
            journal.close().await;
        });
        drop(journal);
        let begun = Instant::now();
        let journal = open().expect("it opened before");
        let body = body(RECORD);
        let appending = journal.append(PartitionId::STATE, header(&body), &body, Durability::Device);
        runtime.block_on(appending.expect("room")).expect("acknowledged");
        let used = journal.usage().used as f64 / (1 << 30) as f64;
        eprintln!("{name}: {used:.2} GiB of journal");
        report("journal: open and first acknowledgement", name, begun.elapsed().as_secs_f64() * 1e3, "ms");
    }
}

/// What the disk can do, measured on a file beside the journal's.
struct Floor {
    file: Arc<dyn DiskFile>,
    direct: File,
    noise: Aligned,
    /// Held, so that nobody else writes there.
    _disk: Arc<dyn Disk>,
}

impl Floor {
    const BYTES: u64 = 256 * MIB as u64;

    fn new(directory: &Path) -> Self {
        let disk = disk::open(directory, Choice::File).expect("a directory");
        let file = disk.create("floor").expect("a file");
        file.allocate(Self::BYTES).expect("room");
        file.zero(0, Self::BYTES).expect("written");
        file.barrier(Barrier::Earlier).expect("flushed");
        let path = directory.join("floor");
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(&path)
            .or_else(|_| OpenOptions::new().write(true).open(&path))
            .expect("the file");
        let mut random = Random::seeded(1);
        let noise: Vec<u8> = (0..MIB / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        Self { file, direct, noise: Aligned::of(&noise), _disk: disk }
    }

    /// B: MiB/s of 1 MiB after 1 MiB, with a barrier at the end.
    fn bandwidth(&self, length: Duration) -> f64 {
        let (mut written, begun) = (0, Instant::now());
        while begun.elapsed() < length || written == 0 {
            let at = written % Self::BYTES;
            let done =
                rustix::io::pwritev2(&self.direct, &[IoSlice::new(&self.noise)], at, ReadWriteFlags::empty());
            written += done.expect("written") as u64;
        }
        self.direct.sync_data().expect("flushed");
        written as f64 / MIB as f64 / begun.elapsed().as_secs_f64()
    }

    /// One durable write of 4 KiB in place, in microseconds.
    fn flush(&self, turn: usize) -> f64 {
        let begun = Instant::now();
        let block = Aligned::of(&self.noise[..4096]);
        self.file.write_durable(turn as u64 * 4096 % Self::BYTES, &block, Barrier::Batches).expect("written");
        begun.elapsed().as_secs_f64() * 1e6
    }
}

struct Bench<'a> {
    journal: &'a Journal,
    name: &'a str,
    floor: &'a Floor,
    length: Duration,
}

impl Bench<'_> {
    /// Batches of `records` of 1 KiB, 64 MiB of them in flight.
    async fn bandwidth(&mut self, records: usize) {
        let body = body(records * RECORD);
        let window = 64 * MIB / body.len();
        let floor = self.floor.bandwidth(self.length);
        let before = self.journal.counts();
        let (acked, seconds) = self.push(&body, window).await;
        let groups = self.journal.counts().groups - before.groups;
        eprintln!(
            "{}: {groups} groups of {:.1} MiB",
            self.name,
            (acked * body.len() / MIB) as f64 / groups as f64
        );
        let mibs = (acked * body.len()) as f64 / MIB as f64 / seconds;
        let bench = format!("journal: durable append, batches of {records} KiB");
        report(&bench, self.name, mibs, "MiB/s");
        report(&bench, &format!("{}: B", self.name), floor, "MiB/s");
        report(&bench, self.name, mibs / floor, "of B (goal 0.85)");
        self.clear().await;
    }

    /// Single records, 256 in flight.
    async fn rate(&mut self) {
        let body = body(RECORD);
        let flush = median((0..300).map(|turn| self.floor.flush(turn)).collect());
        let before = self.journal.counts();
        let (acked, seconds) = self.push(&body, 256).await;
        let barriers = self.journal.counts().barriers - before.barriers;
        let bench = "journal: durable append, batch 1, 256 in flight";
        report(bench, self.name, acked as f64 / seconds, "records/s");
        report(bench, &format!("{}: L", self.name), flush, "us");
        report(bench, self.name, acked as f64 / seconds * flush / 1e6, "per L (goal 20)");
        report(bench, self.name, barriers as f64 / acked as f64, "flushes per acknowledgement (goal 0.02)");
        self.clear().await;
    }

    /// One after the other.
    async fn alone(&mut self, durability: Durability, what: &str) {
        let body = body(RECORD);
        let (mut times, mut floors) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        while begun.elapsed() < 2 * self.length {
            // In turn, so that both meet the same disk.
            floors.push(self.floor.flush(times.len()));
            let begun = Instant::now();
            self.append(&body, durability).await.await.expect("acknowledged");
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let bench = format!("journal: {what}");
        report(&format!("{bench}, p50"), self.name, at(0.5), "us");
        report(&format!("{bench}, p99"), self.name, at(0.99), "us");
        if durability == Durability::Device {
            let floor = median(floors);
            report(&format!("{bench}, p50"), &format!("{}: L", self.name), floor, "us");
            report(&format!("{bench}, p50"), self.name, at(0.5) - floor, "us over L (goal 40)");
        }
        self.clear().await;
    }

    /// How many batches were acknowledged in how many seconds.
    async fn push(&mut self, body: &[u8], window: usize) -> (usize, f64) {
        let mut waiting: VecDeque<Appending> = VecDeque::with_capacity(window);
        let (mut acked, begun) = (0, Instant::now());
        while begun.elapsed() < self.length || !waiting.is_empty() {
            while waiting.len() < window && begun.elapsed() < self.length {
                waiting.push_back(self.append(body, Durability::Device).await);
            }
            let Some(first) = waiting.pop_front() else { break };
            first.await.expect("acknowledged");
            acked += 1;
        }
        (acked, begun.elapsed().as_secs_f64())
    }

    async fn append(&self, body: &[u8], durability: Durability) -> Appending {
        loop {
            match self.journal.append(PartitionId::STATE, header(body), body, durability) {
                Err(AppendError::Busy) => self.journal.room().await,
                appending => return appending.expect("room"),
            }
        }
    }

    async fn clear(&self) {
        let bounds = self.journal.bounds(PartitionId::STATE).expect("it is always there");
        // Half stays: a journal that is opened again has something in it.
        let before = bounds.next - (bounds.next - bounds.first) / 2;
        self.journal.trim(PartitionId::STATE, before).await.expect("trimmed");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn body(length: usize) -> Vec<u8> {
    let mut random = Random::seeded(7);
    (0..length.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes()).take(length).collect()
}

fn header(body: &[u8]) -> Header {
    let length = (HEADER_BYTES + body.len()) as u32;
    Header { length, count: 1, body_crc: crc32c::crc32c(body), ..Header::default() }
}

/// One figure for programs, on stdout.
fn report(bench: &str, who: &str, value: f64, unit: &str) {
    println!(r#"{{"bench":"{bench}","who":"{who}","value":{value:.3},"unit":"{unit}"}}"#);
    let _ = std::io::stdout().flush();
}
