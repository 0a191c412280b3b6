//! What the disk can do, for figures to stand beside: B, its bandwidth, and L, the time of a flush.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    path::Path,
    time::Duration,
};

use serde::Serialize;
use sidestream_host::{
    Clock, Random,
    disk::{self, Aligned, Barrier, Choice, DiskFile},
};

/// What a disk did right before a run.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Disk {
    /// B: bytes a second of writing 1 MiB after 1 MiB past the page cache, with one flush at the end.
    pub(super) bandwidth_bytes_per_second: f64,
    /// L: the median time of a write of 4 KiB and its flush, in microseconds.
    pub(super) flush_micros: f64,
}

/// Writes in a folder of its own inside `folder`, and removes it.
pub(super) fn probe(folder: &Path) -> Result<Disk, String> {
    let place = folder.join(format!("bench-{}", std::process::id()));
    let probed = probe_in(&place);
    // A folder that could not be made need not be removed.
    let _ = fs::remove_dir_all(&place);
    probed.map_err(|reason| format!("cannot write in {}: {reason}", folder.display()))
}

fn probe_in(place: &Path) -> Result<Disk, String> {
    let disk = disk::open(place, Choice::File).map_err(|error| error.to_string())?;
    let probed = disk.create(FILE).and_then(|file| {
        // What is written over changes no metadata.
        file.allocate(FILE_BYTES)?;
        file.zero(0, FILE_BYTES)?;
        file.barrier(Barrier::Earlier)?;
        let mut random = Random::seeded(1);
        let noise: Vec<u8> = (0..BLOCK / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        let (clock, noise) = (Clock::machine(), Aligned::of(&noise));
        Ok(Disk {
            bandwidth_bytes_per_second: bandwidth(&mut direct(&place.join(FILE))?, &noise, &clock)?,
            flush_micros: flush(&*file, &noise, &clock)?,
        })
    });
    probed.map_err(|error| error.to_string())
}

fn bandwidth(file: &mut File, noise: &Aligned, clock: &Clock) -> io::Result<f64> {
    let (begun, mut written) = (clock.now(), 0);
    while written == 0 || clock.now().since(begun) < BANDWIDTH_FOR {
        if written % FILE_BYTES == 0 {
            file.rewind()?;
        }
        file.write_all(noise)?;
        written += BLOCK as u64;
    }
    file.sync_data()?;
    Ok(written as f64 / clock.now().since(begun).as_secs_f64())
}

fn flush(file: &dyn DiskFile, noise: &Aligned, clock: &Clock) -> io::Result<f64> {
    let block = Aligned::of(&noise[..FLUSH_BYTES]);
    let mut times = Vec::with_capacity(FLUSHES);
    for turn in 0..FLUSHES as u64 {
        let begun = clock.now();
        file.write_durable(turn * FLUSH_BYTES as u64 % FILE_BYTES, &block, Barrier::Batches)?;
        times.push(clock.now().since(begun));
    }
    times.sort();
    Ok(times[FLUSHES / 2].as_secs_f64() * 1e6)
}

/// Past the page cache, where the file system lets it.
#[cfg(target_os = "linux")]
fn direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let direct = OpenOptions::new().write(true).custom_flags(flags).open(path);
    direct.or_else(|_| OpenOptions::new().write(true).open(path))
}

#[cfg(not(target_os = "linux"))]
fn direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

const FILE: &str = "probe";
const FILE_BYTES: u64 = 128 << 20;
const BLOCK: usize = 1 << 20;
const BANDWIDTH_FOR: Duration = Duration::from_millis(500);
const FLUSH_BYTES: usize = 4 << 10;
const FLUSHES: usize = 301;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_finds_something_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let found = probe(folder.path()).unwrap();
        assert!(found.bandwidth_bytes_per_second > 0.0 && found.flush_micros > 0.0, "{found:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reason = probe(file.path()).unwrap_err();
        assert!(reason.contains(&file.path().display().to_string()), "{reason}");
    }
}
