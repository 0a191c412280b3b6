//! The disk: one directory of files, and the few promises a journal needs of it.
//!
//! ```text
//!   write          the kernel has it: survives the process, not the power
//!   write_durable  the device has it: survives the power
//!   barrier        all that was written to this file before is durable
//!   sync_names     what was created and removed in the directory is durable
//! ```
//!
//! Three implementations of the same promise: `uring`, `file` (`pwritev2` with `RWF_DSYNC`; off Linux a write and a flush)
//! and [`sim`], a device that loses, tears and reorders what was not flushed. [`open`] probes which one runs and [`Driver`]
//! says why.
//!
//! A barrier that failed must never be tried again as if nothing had happened: what it was to make durable may be gone
//! while the kernel calls it clean (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).

mod aligned;
#[cfg(target_os = "linux")]
pub mod file;
mod lock;
#[cfg(any(test, not(target_os = "linux")))]
pub mod portable;
mod room;
pub mod sim;
#[cfg(target_os = "linux")]
pub mod uring;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use aligned::Aligned;
#[cfg(target_os = "linux")]
pub use file::FileDisk;
pub use lock::make_directory;
#[cfg(not(target_os = "linux"))]
pub use portable::FileDisk;
pub use room::{Room, room};
pub use sim::SimDisk;

/// What a device writes whole or not at all, and what a write may tear at.
pub const SECTOR: usize = 512;

/// The barriers of the journal, each by its reason: a real disk names the one that failed, the simulated one can have each
/// switched off, and a test must then fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Barrier {
    /// Batches are durable before they are acknowledged.
    Batches,
    /// What was written without a barrier is durable before what comes after it is acknowledged as durable.
    Earlier,
    /// The head of a segment is durable before a batch in it is acknowledged.
    Head,
    /// The name of a segment is durable before a batch in it is acknowledged.
    Name,
    /// What a start found after the durable frontier is durable before it is served.
    Recovered,
    /// Where a segment ends is durable before the next one, whose head says so too, is removed.
    End,
    /// The copy of a segment is durable before the segment is removed.
    Copy,
    /// The name of the copy is durable before the segment is removed.
    CopyName,
}

impl Barrier {
    /// Every one of them.
    pub const ALL: [Barrier; 8] = [
        Self::Batches,
        Self::Earlier,
        Self::Head,
        Self::Name,
        Self::Recovered,
        Self::End,
        Self::Copy,
        Self::CopyName,
    ];
}

/// Which implementation runs, and why this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// `uring`, `file` or `sim`.
    pub name: &'static str,
    /// A clause for people: what the probe found.
    pub why: String,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.why)
    }
}

/// A directory of files that one process has to itself.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Which implementation this is, and why.
    fn driver(&self) -> Driver;

    /// Writes start and end at multiples of this many bytes: a power of two, at least [`SECTOR`].
    fn block(&self) -> usize;

    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new, empty file. Its name is durable after [`sync_names`](Disk::sync_names).
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// A file that exists.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Takes a name away. Open handles go on working.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes what was created and removed durable.
    fn sync_names(&self, barrier: Barrier) -> io::Result<()>;
}

/// One file. Any thread may call; writes come from one at a time.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Bytes.
    fn length(&self) -> io::Result<u64>;

    /// Lengthens the file to `length` bytes that read as zeros and for which the device has room.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Shortens the file.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// `length` bytes from `at`, or fewer where the file ends.
    fn read(&self, at: u64, length: usize) -> io::Result<Aligned>;

    /// Writes all of `data`, for the kernel to keep. `at` and the length are multiples of [`Disk::block`].
    fn write(&self, at: u64, data: &Aligned) -> io::Result<()>;

    /// Writes all of `data` and has the device keep it. `at` and the length are multiples of [`Disk::block`].
    ///
    /// Covers this range alone: an earlier [`write`](DiskFile::write) still needs a [`barrier`](DiskFile::barrier).
    fn write_durable(&self, at: u64, data: &Aligned, barrier: Barrier) -> io::Result<()>;

    /// Writes zeros ahead of what will be written, so that later small writes change no metadata. Promises nothing.
    fn zero(&self, at: u64, length: u64) -> io::Result<()>;

    /// Makes all that was written before durable.
    fn barrier(&self, barrier: Barrier) -> io::Result<()>;
}

/// Whether a read failed because the device can't read what is stored there any more: other parts of the file are as good
/// as before.
pub fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| UNREADABLE.contains(&code))
}

/// Whether there is no room: on the disk, or of what this user may have of it.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What systems say of it: EIO, ENODATA (a medium error), EBADMSG and EILSEQ (a sum that is wrong), EUCLEAN, EREMOTEIO.
#[cfg(not(windows))]
const UNREADABLE: &[i32] = &[5, 61, 74, 84, 117, 121];
/// The same: `ERROR_CRC`, `ERROR_IO_DEVICE`.
#[cfg(windows)]
const UNREADABLE: &[i32] = &[23, 1117];

/// Which implementation is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where the probe allows it, else plain system calls.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Plain system calls.
    File,
}

/// Why a directory is not open.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    InUse {
        /// The directory.
        directory: PathBuf,
        /// What the other wrote into the lock file: its process id.
        holder: String,
    },
    /// The directory or a file of the probe.
    Io {
        /// The directory.
        directory: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { directory, holder } => write!(
                f,
                "{} is in use by process {holder}; one process at a time may have a data directory: stop the other, or \
                 give this one a directory of its own",
                directory.display()
            ),
            Self::Io { directory, doing, source } => {
                write!(f, "{doing} in {}: {source}", directory.display())
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InUse { .. } => None,
            Self::Io { source, .. } => Some(source),
        }
    }
}

/// Opens `directory`, making it where it is missing, and locks it against other processes until the disk is dropped.
///
/// # Errors
/// [`OpenError::InUse`] while another process has it.
pub fn open(directory: &Path, choice: Choice) -> Result<Arc<dyn Disk>, OpenError> {
    let disk = FileDisk::open(directory)?;
    #[cfg(target_os = "linux")]
    if choice != Choice::File {
        match uring::Ring::probe() {
            Ok(ring) => return Ok(Arc::new(uring::UringDisk::new(disk, ring))),
            Err(source) if choice == Choice::Uring => {
                return Err(OpenError::Io {
                    directory: directory.to_owned(),
                    doing: "setting up io_uring",
                    source,
                });
            }
            Err(error) => return Ok(Arc::new(disk.because(&format!("io_uring is not to be had: {error}")))),
        }
    }
    #[cfg(not(target_os = "linux"))]
    if choice == Choice::Uring {
        let (directory, source) = (directory.to_owned(), io::ErrorKind::Unsupported.into());
        return Err(OpenError::Io {
            directory,
            doing: "setting up io_uring, which Linux alone has,",
            source,
        });
    }
    Ok(Arc::new(disk))
}

/// What every disk does, whatever it is made of.
#[cfg(test)]
fn keeps_what_it_is_given(disk: &dyn Disk) {
    let file = disk.create("a").unwrap();
    file.allocate(64 << 10).unwrap();
    let data: Vec<u8> = (0..8192_u32).map(|n| (n * 7) as u8).collect();
    file.write(0, &Aligned::of(&data[..4096])).unwrap();
    file.write_durable(4096, &Aligned::of(&data[4096..]), Barrier::Batches).unwrap();
    file.barrier(Barrier::Earlier).unwrap();
    disk.sync_names(Barrier::Name).unwrap();
    for (at, length) in [(0, 8192), (1, 10), (4095, 2), (511, 4000), (8000, 192)] {
        assert_eq!(&file.read(at as u64, length).unwrap()[..], &data[at..at + length], "{at} {length}");
    }
    assert!(file.read(8192, 100).unwrap().iter().all(|byte| *byte == 0), "not written reads as zeros");
    file.truncate(8192).unwrap();
    assert_eq!(file.read(8000, 1000).unwrap().len(), 192, "a read ends where the file does");
    assert_eq!(file.read(9000, 10).unwrap().len(), 0);
    assert_eq!(disk.list().unwrap(), ["a"]);
    // What follows each other goes different ways, and shares pages.
    let (file, block) = (disk.create("b").unwrap(), disk.block());
    let mut written = Vec::new();
    for (turn, length) in [block, 300 << 10, block, 3 * block, 600 << 10, block].into_iter().enumerate() {
        let data = vec![turn as u8 + 1; length];
        file.write(written.len() as u64, &Aligned::of(&data)).unwrap();
        written.extend(data);
        assert!(file.read(0, written.len()).unwrap()[..] == written, "after {} bytes", written.len());
    }
    file.barrier(Barrier::Earlier).unwrap();
    assert!(file.read(0, written.len()).unwrap()[..] == written);
}
