//! The disk by plain system calls: `pwritev2` with `RWF_DSYNC`, past the page cache where the file system allows.
//!
//! Durable writes, large ones and reads go by a descriptor with `O_DIRECT`; what else only the kernel is to keep goes by a
//! buffered one of the same file, and a barrier covers both. Where `O_DIRECT` is refused everything is buffered, where
//! `RWF_DSYNC` is unknown a write is followed by `fdatasync`: slower, with the same promise.

use std::{
    fs::{self, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FallocateFlags, OFlags, StatxFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{
    Aligned, Barrier, Disk, DiskFile, Driver, OpenError, SECTOR,
    lock::{LOCK, lock, make_directory, private},
};

const PROBE: &str = "probe";
/// From so many bytes on the kernel's copy costs more than the device does.
const LARGE: usize = 256 << 10;
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
        make_directory(directory).map_err(io("making the directory"))?;
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
            let mut options = private();
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
        let file = if data.len() < LARGE { &self.buffered } else { self.quick() };
        write_all(file, at, data, ReadWriteFlags::empty())
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

/// Tries each way of writing on a file of its own.
fn probe(directory: &Path) -> io::Result<Found> {
    let path = directory.join(PROBE);
    let plain = private().read(true).write(true).create(true).truncate(true).open(&path)?;
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
        crate::disk::keeps_what_it_is_given(&FileDisk::open(directory.path()).unwrap());
    }
}
