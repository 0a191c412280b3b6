//! The disk by plain system calls: `pwritev2` with `RWF_DSYNC`, past the page cache where the file system allows.
//!
//! Durable writes and reads go by a descriptor with `O_DIRECT`; what only the kernel is to keep goes by a buffered one of
//! the same file, and a barrier covers both. Where `O_DIRECT` is refused everything is buffered, where `RWF_DSYNC` is
//! unknown a write is followed by `fdatasync`: slower, with the same promise.

use std::{
    fs::{self, OpenOptions},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, FallocateFlags, FlockOperation, OFlags, StatxFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{Aligned, Barrier, Disk, DiskFile, Driver, OpenError, SECTOR};

/// The file whose lock says that the directory is in use. Never removed: two processes could then hold two of them.
const LOCK: &str = "lock";
/// How often, and after how long, a directory that is in use is asked for again.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(10);
const PROBE: &str = "probe";
/// Zeros are written in pieces of this many bytes.
const ZEROS: usize = 256 << 10;

/// A directory, by plain system calls.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    found: Found,
    why: String,
    /// Locked for as long as this is open.
    _lock: fs::File,
}

/// What the probe found that this file system can do.
#[derive(Clone, Copy, Debug)]
struct Found {
    direct: bool,
    dsync: bool,
    block: usize,
}

impl FileDisk {
    /// Opens `directory`, making it where it is missing, and locks it.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another process has it.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let io =
            |doing| move |source: io::Error| OpenError::Io { directory: directory.to_owned(), doing, source };
        fs::create_dir_all(directory).map_err(io("making the directory"))?;
        let lock = lock(directory)?;
        let found = probe(directory).map_err(io("writing a probe"))?;
        let why = match (found.dsync, found.direct) {
            (true, true) => format!("pwritev2 with RWF_DSYNC and O_DIRECT in blocks of {}", found.block),
            (true, false) => "pwritev2 with RWF_DSYNC; this file system refuses O_DIRECT".to_owned(),
            (false, true) => format!("pwrite and fdatasync with O_DIRECT in blocks of {}", found.block),
            (false, false) => {
                "pwrite and fdatasync; this file system refuses O_DIRECT and RWF_DSYNC".to_owned()
            }
        };
        Ok(Self { directory: directory.to_owned(), found, why, _lock: lock })
    }

    /// The same, with the reason why it is this one.
    pub(super) fn because(mut self, reason: &str) -> Self {
        self.why = format!("{reason}; {}", self.why);
        self
    }

    pub(super) fn open_file(&self, name: &str, new: bool) -> io::Result<PlainFile> {
        let path = self.directory.join(name);
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            options
        };
        let buffered = options().create_new(new).open(&path)?;
        let direct = if self.found.direct {
            Some(options().custom_flags(OFlags::DIRECT.bits() as i32).open(&path)?)
        } else {
            None
        };
        Ok(PlainFile { buffered, direct, found: self.found })
    }
}

impl Disk for FileDisk {
    fn driver(&self) -> Driver {
        Driver { name: "file", why: self.why.clone() }
    }

    fn block(&self) -> usize {
        self.found.block
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.filter(|name| !matches!(name.as_deref(), Ok(LOCK | PROBE))).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.open_file(name, true)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.open_file(name, false)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_names(&self, _barrier: Barrier) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }
}

/// One file, open twice.
#[derive(Debug)]
pub(super) struct PlainFile {
    pub(super) buffered: fs::File,
    direct: Option<fs::File>,
    found: Found,
}

impl PlainFile {
    /// The descriptor past the page cache, where there is one.
    pub(super) fn quick(&self) -> &fs::File {
        self.direct.as_ref().unwrap_or(&self.buffered)
    }

    /// The smallest range of whole blocks around this one.
    fn widen(&self, at: u64, length: usize) -> (u64, usize) {
        let block = self.found.block as u64;
        let begin = at / block * block;
        let end = (at + length as u64).next_multiple_of(block);
        (begin, (end - begin) as usize)
    }
}

impl DiskFile for PlainFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.buffered.metadata()?.len())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.buffered, FallocateFlags::empty(), 0, length) {
            // Some file systems have no such call; the file is then sparse, and a full device is met when writing.
            Err(Errno::OPNOTSUPP) => self.buffered.set_len(length),
            done => Ok(done?),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.buffered.set_len(length)
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Aligned> {
        let (begin, wide) = self.widen(at, length);
        let mut bytes = Aligned::zeroed(wide);
        let read = read_all(self.quick(), begin, &mut bytes)?;
        Ok(narrow(bytes, read, (at - begin) as usize, length))
    }

    fn write(&self, at: u64, data: &Aligned) -> io::Result<()> {
        write_all(&self.buffered, at, data, ReadWriteFlags::empty())
    }

    fn write_durable(&self, at: u64, data: &Aligned, barrier: Barrier) -> io::Result<()> {
        if self.found.dsync {
            return write_all(self.quick(), at, data, ReadWriteFlags::DSYNC);
        }
        write_all(self.quick(), at, data, ReadWriteFlags::empty())?;
        self.barrier(barrier)
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        let zeros = Aligned::zeroed(ZEROS.min(length as usize));
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(zeros.len() as u64) as usize;
            write_all(self.quick(), at + done, &zeros[..piece], ReadWriteFlags::empty())?;
            done += piece as u64;
        }
        Ok(())
    }

    fn barrier(&self, _barrier: Barrier) -> io::Result<()> {
        self.buffered.sync_data()
    }
}

/// What was asked for, of the blocks around it that were read.
fn narrow(mut bytes: Aligned, read: usize, skip: usize, length: usize) -> Aligned {
    bytes.truncate(read);
    if skip == 0 {
        bytes.truncate(length.min(read));
        return bytes;
    }
    let from = skip.min(read);
    Aligned::of(&bytes[from..(skip + length).min(read).max(from)])
}

fn read_all(file: &fs::File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let mut rest = [IoSliceMut::new(&mut buffer[done..])];
        match rustix::io::preadv2(file, &mut rest, at + done as u64, ReadWriteFlags::empty()) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            // Past a short read the end of the file is near, and not at a block's end.
            Err(Errno::INVAL) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// A short write is gone on with, not an error: only the whole is promised.
pub(super) fn write_all(file: &fs::File, at: u64, data: &[u8], flags: ReadWriteFlags) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwritev2(file.as_fd(), &[IoSlice::new(&data[done..])], at + done as u64, flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<fs::File, OpenError> {
    let io =
        |source| OpenError::Io { directory: directory.to_owned(), doing: "locking the lock file", source };
    let path = directory.join(LOCK);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
    let mut tries = 0;
    let locked = loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A process that is just ending, or a child of it that has not called exec yet.
            Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                tries += 1;
                thread::sleep(LOCK_WAIT);
            }
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(OpenError::InUse {
                directory: directory.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        Err(error) => return Err(io(error.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// Tries each way of writing on a file of its own.
fn probe(directory: &Path) -> io::Result<Found> {
    let path = directory.join(PROBE);
    let plain = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    let block = Aligned::zeroed(4096);
    let dsync = write_all(&plain, 0, &block, ReadWriteFlags::DSYNC).is_ok();
    let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&path);
    let direct = direct.and_then(|file| write_all(&file, 0, &block, ReadWriteFlags::empty()).map(|()| file));
    let found = match direct {
        Ok(file) => Found { direct: true, dsync, block: direct_block(&file) },
        Err(_) => Found { direct: false, dsync, block: SECTOR },
    };
    fs::remove_file(&path)?;
    Ok(found)
}

/// What the file system says direct writes must be multiples of; a page where it does not say.
fn direct_block(file: &fs::File) -> usize {
    let asked = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
    let said =
        rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, asked).map_or(0, |stat| stat.stx_dio_offset_align);
    match said as usize {
        said if said.is_power_of_two() => said.clamp(SECTOR, 4096),
        _ => 4096,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_at_any_place_and_length() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path()).unwrap();
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
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = FileDisk::open(directory.path()).unwrap();
        let refused = FileDisk::open(directory.path()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::InUse { holder, .. } if *holder == std::process::id().to_string())
        );
        assert!(refused.to_string().contains("stop the other"), "{refused}");
        drop(first);
        FileDisk::open(directory.path()).unwrap();
    }
}
