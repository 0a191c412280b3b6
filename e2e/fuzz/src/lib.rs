//! Hostile bytes for every parser that strangers can reach; those of a gateway's doors are in `e2e/fuzz-doors`.
//!
//! ```text
//!   seeds, which are sound ─┐
//!   found/TARGET, kept  ────┼─▶ bytes, changed ─▶ TARGET::run ─▶ parsed, and asserted of: what is written again is the same,
//!   corpus, that grew   ────┘    by libFuzzer              what was made for it is no more than came, it ends
//!                                or `mutate`
//! ```
//!
//! A target is a module with `seeds` and `run`, and a line in `tests/`. With the feature `libfuzzer` (`make prove PROOF=fuzz-frame
//! N=10000000`) that is a program of libFuzzer's, which sees the ways that bytes take and looks for new ones. Else it is an
//! ordinary test: all seeds, all that was found before, and a few thousand random changes.
//!
//! A run keeps nothing from one input to the next that could change what comes of it.

pub mod batch;
pub mod frame;
pub mod index;
mod mutate;
pub mod native;

use std::{
    alloc::System,
    fs,
    path::{Path, PathBuf},
};

use sidestream_host::Random;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The program of a target: libFuzzer's, or a test that tries `$few` random changes.
#[macro_export]
macro_rules! target {
    ($room:ident::$name:ident, $few:literal) => {
        #[cfg(feature = "libfuzzer")]
        libfuzzer_sys::fuzz_target!(init: $crate::plant(stringify!($name), $room::$name::seeds()), |bytes: &[u8]| {
            $room::$name::run(bytes)
        });

        #[cfg(not(feature = "libfuzzer"))]
        fn main() {
            $crate::sample(stringify!($name), &$room::$name::seeds(), $room::$name::run, $few);
        }
    };
}

/// Puts the seeds, and what was found before, into the folder of inputs that libFuzzer was told of first.
///
/// # Panics
/// Where that can't be written.
pub fn plant(name: &str, seeds: Vec<Vec<u8>>) {
    let Some(folder) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else { return };
    fs::create_dir_all(&folder).expect("a folder for the corpus");
    for (number, seed) in seeds.iter().chain(&found(name)).enumerate() {
        fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).expect("a seed is written");
    }
}

/// Tries the seeds, what was found before, and `few` changes of these, or as many as `SIDESTREAM_PROVE_N` says, from
/// `SIDESTREAM_PROVE_SEED` on.
///
/// # Panics
/// Where a target does; then it says with which bytes.
pub fn sample(name: &str, seeds: &[Vec<u8>], run: fn(&[u8]), few: u64) {
    // As the harness of other tests does with a filter.
    if std::env::args().skip(1).any(|argument| !argument.starts_with('-') && !name.contains(&argument)) {
        return;
    }
    let found = found(name);
    for bytes in seeds.iter().chain(&found) {
        attempt(name, bytes, run);
    }
    let (count, seed) = (setting("SIDESTREAM_PROVE_N", few), setting("SIDESTREAM_PROVE_SEED", 1));
    let inputs: Vec<&Vec<u8>> = seeds.iter().chain(&found).collect();
    for number in 0..count {
        let mut random = Random::seeded(seed << 32 | number);
        attempt(name, &mutate::changed(&inputs, &mut random), run);
    }
    println!("{name}: {} seeds, {} found before, {count} changes of them", seeds.len(), found.len());
}

/// What `work` gives, and asserts that it made `most` bytes of memory at most, all it freed again included.
///
/// # Panics
/// Where it made more.
pub fn bounded<T>(most: usize, work: impl FnOnce() -> T) -> T {
    let (done, made) = counted(work);
    assert!(made <= most, "{made} bytes were made, where {most} are the most");
    done
}

/// What `work` gives, and how many bytes of memory it made, all it freed again included.
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(COUNTED);
    let done = work();
    (done, region.change().bytes_allocated)
}

fn attempt(name: &str, bytes: &[u8], run: fn(&[u8])) {
    if let Err(cause) = std::panic::catch_unwind(|| run(bytes)) {
        let path = std::env::temp_dir().join(format!("found-{name}-{:08x}", crc32c::crc32c(bytes)));
        let kept = fs::write(&path, bytes).map(|()| path.display().to_string());
        eprintln!(
            "{name} fails; move {} to e2e/fuzz/found/{name}/",
            kept.unwrap_or_else(|_| format!("{bytes:02x?}"))
        );
        std::panic::resume_unwind(cause);
    }
}

/// Inputs that a target failed on once, in the order of their names.
fn found(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("found").join(name);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a folder that can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("an input that can be read")).collect()
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .filter(|value| *value > 0)
        .unwrap_or(otherwise)
}
