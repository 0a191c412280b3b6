//! The disk with what every system has: a write, and a flush of the whole file behind it. Where there is no Linux.
//!
//! On macOS a flush is `F_FULLFSYNC`: the device has it. On Windows a directory can't be flushed: a file that was just made
//! may be missing after a power cut, with what was acknowledged in it.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Aligned, Barrier, Disk, DiskFile, Driver, OpenError, SECTOR,
    lock::{LOCK, lock, make_directory, private},
};

/// A directory, with what every system has.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    /// Locked for as long as this is open.
    _lock: fs::File,
}

impl FileDisk {
    /// Opens `directory`, making it where it is missing, and locks it.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another process has it.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let io =
            |source| OpenError::Io { directory: directory.to_owned(), doing: "making the directory", source };
        make_directory(directory).map_err(io)?;
        Ok(Self { directory: directory.to_owned(), _lock: lock(directory)? })
    }

    fn open_file(&self, name: &str, new: bool) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.directory.join(name);
        Ok(Arc::new(PortableFile(Mutex::new(private().read(true).write(true).create_new(new).open(path)?))))
    }
}

impl Disk for FileDisk {
    fn driver(&self) -> Driver {
        let why = match cfg!(windows) {
            true => "a write and a flush of its file; names are as durable as the file system makes them",
            false => "a write and a flush of its file",
        };
        Driver { name: "file", why: why.into() }
    }

    fn block(&self) -> usize {
        SECTOR
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.filter(|name| !matches!(name.as_deref(), Ok(LOCK))).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(name, true)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(name, false)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_names(&self, _barrier: Barrier) -> io::Result<()> {
        if cfg!(windows) {
            return Ok(());
        }
        fs::File::open(&self.directory)?.sync_all()
    }
}

/// One file, and the place in it that the next call moves.
#[derive(Debug)]
struct PortableFile(Mutex<fs::File>);

impl PortableFile {
    fn file(&self) -> MutexGuard<'_, fs::File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut file = self.file();
        file.seek(SeekFrom::Start(at))?;
        file.write_all(data)
    }
}

impl DiskFile for PortableFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.len())
    }

    /// The file is sparse: a full device is met when writing.
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file().set_len(length)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file().set_len(length)
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Aligned> {
        let mut bytes = Aligned::zeroed(length);
        let mut file = self.file();
        file.seek(SeekFrom::Start(at))?;
        let mut done = 0;
        while done < length {
            match file.read(&mut bytes[done..]) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn write(&self, at: u64, data: &Aligned) -> io::Result<()> {
        self.put(at, data)
    }

    fn write_durable(&self, at: u64, data: &Aligned, barrier: Barrier) -> io::Result<()> {
        self.put(at, data)?;
        self.barrier(barrier)
    }

    /// It reads as zeros already, and later writes change metadata whatever is done here.
    fn zero(&self, _at: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn barrier(&self, _barrier: Barrier) -> io::Result<()> {
        self.file().sync_all()
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
