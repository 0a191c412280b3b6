//! The disk by io_uring: the pieces of a large write are under way together, and the barrier after them is the same
//! system call.
//!
//! ```text
//!   write_durable, several pieces   Write ×n at once, Fsync(DATASYNC) that drains them
//!   everything else                 as `file` does it: alone, an operation only goes through one thread more here
//! ```
//!
//! The ring is small and registers nothing, so it needs no locked memory. Containers often may not have one: the default
//! seccomp profiles of containerd and Docker refuse it, so [`Ring::probe`] asks at the start.
//!
//! It must never return while the kernel may still read a buffer: a call waits for all that it has submitted.
#![allow(
    unsafe_code,
    reason = "the kernel reads from the memory an entry points at; each block says why it may"
)]

use std::{
    io,
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
};

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::io::{Errno, ReadWriteFlags};

use super::{
    Aligned, Barrier, Disk, DiskFile, Driver, FileDisk,
    file::{PlainFile, write_all},
};

/// Entries of the ring.
const ENTRIES: u32 = 32;
/// Bytes of one write: what a device likes at once.
const PIECE: usize = 512 << 10;

/// A ring that works.
pub struct Ring {
    /// None after an error that leaves it unknown what the kernel has of it.
    ring: Mutex<Option<IoUring>>,
}

impl Ring {
    /// Sets up a ring and has it do nothing once.
    ///
    /// # Errors
    /// EPERM where a seccomp profile or `kernel.io_uring_disabled` forbids it, ENOSYS where the kernel has none.
    pub fn probe() -> io::Result<Self> {
        let mut ring = build()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !(probe.is_supported(opcode::Write::CODE) && probe.is_supported(opcode::Fsync::CODE)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring can't write"));
        }
        // SAFETY: a no-op points at no memory.
        let results = unsafe { run(&mut ring, &[opcode::Nop::new().build()]) }?;
        if results != [0] {
            return Err(io::Error::other("io_uring did not do nothing"));
        }
        Ok(Self { ring: Mutex::new(Some(ring)) })
    }

    /// Has the kernel do all of `entries` and waits for them; each one's result, in their order.
    ///
    /// # Safety
    /// What the entries point at is valid until this returns.
    unsafe fn run(&self, entries: &[squeue::Entry]) -> io::Result<Vec<i32>> {
        let mut guard = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = match &mut *guard {
            Some(ring) => ring,
            // The one before failed, and nothing of it is under way: another one knows nothing of that.
            none => none.insert(build()?),
        };
        // SAFETY: as the caller promises.
        let results = unsafe { run(ring, entries) };
        if results.is_err() {
            // Entries that were not submitted go with it; those that were are done, or `run` would not have returned.
            *guard = None;
        }
        results
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

fn build() -> io::Result<IoUring> {
    IoUring::builder().setup_coop_taskrun().build(ENTRIES).or_else(|_| IoUring::new(ENTRIES))
}

/// # Safety
/// What the entries point at is valid until this returns.
unsafe fn run(ring: &mut IoUring, entries: &[squeue::Entry]) -> io::Result<Vec<i32>> {
    assert!(entries.len() <= ENTRIES as usize, "more entries than the ring has");
    for (index, entry) in entries.iter().enumerate() {
        let entry = entry.clone().user_data(index as u64);
        // SAFETY: the caller keeps the memory valid until all have completed, which is waited for below.
        unsafe { ring.submission().push(&entry) }.map_err(|_| io::Error::other("the ring is full"))?;
    }
    let mut results = vec![None; entries.len()];
    let mut left = entries.len();
    while left > 0 {
        let waited = ring.submit_and_wait(left);
        for completed in ring.completion() {
            if let Some(result) = results.get_mut(completed.user_data() as usize) {
                *result = Some(completed.result());
                left -= 1;
            }
        }
        match waited {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            // Nothing is under way: the caller may have its memory back.
            Err(error) if left == entries.len() && !ring.submission().is_empty() => return Err(error),
            // The kernel may still read the caller's memory, and there is no way to know when it does not.
            Err(_) if left > 0 => std::process::abort(),
            Err(_) => {}
        }
    }
    Ok(results.into_iter().map(|result| result.unwrap_or(-Errno::IO.raw_os_error())).collect())
}

fn is_passing(error: &io::Error) -> bool {
    [Errno::INTR, Errno::AGAIN, Errno::BUSY]
        .iter()
        .any(|passing| error.raw_os_error() == Some(passing.raw_os_error()))
}

/// A directory, by io_uring.
#[derive(Debug)]
pub struct UringDisk {
    plain: FileDisk,
    ring: Arc<Ring>,
}

impl UringDisk {
    /// `plain`, with its durable writes by `ring`.
    pub fn new(plain: FileDisk, ring: Ring) -> Self {
        Self { plain, ring: Arc::new(ring) }
    }

    fn file(&self, plain: PlainFile) -> Arc<dyn DiskFile> {
        Arc::new(UringFile { plain, ring: self.ring.clone() })
    }
}

impl Disk for UringDisk {
    fn driver(&self) -> Driver {
        Driver {
            name: "uring",
            why: format!("the probe of io_uring succeeded; else {}", self.plain.driver().why),
        }
    }

    fn block(&self) -> usize {
        self.plain.block()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.plain.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.plain.open_file(name, true)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.plain.open_file(name, false)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.plain.remove(name)
    }

    fn sync_names(&self, barrier: Barrier) -> io::Result<()> {
        self.plain.sync_names(barrier)
    }
}

#[derive(Debug)]
struct UringFile {
    plain: PlainFile,
    ring: Arc<Ring>,
}

impl UringFile {
    /// Writes up to a ring full of pieces, with the barrier behind them.
    fn write_together(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let fd = types::Fd(self.plain.quick().as_raw_fd());
        let pieces: Vec<&[u8]> = data.chunks(PIECE).collect();
        let writes = pieces.iter().enumerate().map(|(index, piece)| {
            let write = opcode::Write::new(fd, piece.as_ptr(), piece.len() as u32);
            write.offset(at + (index * PIECE) as u64).build()
        });
        let barrier = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        let entries: Vec<_> = writes.chain([barrier.flags(squeue::Flags::IO_DRAIN)]).collect();
        // SAFETY: the entries point into `data`, which is borrowed until `run` has seen all of them complete.
        let results = unsafe { self.ring.run(&entries) }?;
        let mut is_short = false;
        for (index, result) in results.iter().enumerate() {
            if *result < 0 {
                return Err(io::Error::from_raw_os_error(-result));
            }
            is_short |= pieces.get(index).is_some_and(|piece| piece.len() != *result as usize);
        }
        // A short write says nothing of the rest, and its barrier nothing of a second try: all of it again.
        if is_short {
            write_all(self.plain.quick(), at, data, ReadWriteFlags::empty())?;
            return self.plain.buffered.sync_data();
        }
        Ok(())
    }
}

impl DiskFile for UringFile {
    fn length(&self) -> io::Result<u64> {
        self.plain.length()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.plain.allocate(length)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.plain.truncate(length)
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Aligned> {
        self.plain.read(at, length)
    }

    fn write(&self, at: u64, data: &Aligned) -> io::Result<()> {
        self.plain.write(at, data)
    }

    fn write_durable(&self, at: u64, data: &Aligned, barrier: Barrier) -> io::Result<()> {
        if data.len() <= PIECE {
            return self.plain.write_durable(at, data, barrier);
        }
        let together = PIECE * (ENTRIES as usize - 1);
        for (index, part) in data.chunks(together).enumerate() {
            self.write_together(at + (index * together) as u64, part)?;
        }
        Ok(())
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        self.plain.zero(at, length)
    }

    fn barrier(&self, barrier: Barrier) -> io::Result<()> {
        self.plain.barrier(barrier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_any_size_are_read_back_whole() {
        let Ok(ring) = Ring::probe() else {
            println!("no io_uring here: not tested");
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let disk = UringDisk::new(FileDisk::open(directory.path()).unwrap(), ring);
        let file = disk.create("a").unwrap();
        let length = 20 * PIECE;
        file.allocate(length as u64).unwrap();
        for (at, length, seed) in
            [(0, 4096, 1_u8), (4096, PIECE, 2), (0, 3 * PIECE, 3), (8192, 17 * PIECE, 4)]
        {
            let data: Vec<u8> = (0..length).map(|n| (n / 512) as u8 ^ seed).collect();
            file.write_durable(at, &Aligned::of(&data), Barrier::Batches).unwrap();
            assert!(file.read(at, length).unwrap()[..] == data, "{at} {length}");
        }
        file.barrier(Barrier::Earlier).unwrap();
    }

    #[test]
    fn large_writes_go_on_after_an_error_of_the_ring() {
        let Ok(ring) = Ring::probe() else { return };
        let directory = tempfile::tempdir().unwrap();
        let disk = UringDisk::new(FileDisk::open(directory.path()).unwrap(), ring);
        let file = disk.create("a").unwrap();
        let data = Aligned::of(&vec![7; 3 * PIECE]);
        // As an error leaves it.
        *disk.ring.ring.lock().unwrap() = None;
        file.write_durable(0, &data, Barrier::Batches).unwrap();
        assert!(file.read(0, data.len()).unwrap()[..] == data[..]);
    }

    #[test]
    fn an_error_of_the_device_is_told() {
        let Ok(ring) = Ring::probe() else { return };
        let directory = tempfile::tempdir().unwrap();
        let disk = UringDisk::new(FileDisk::open(directory.path()).unwrap(), ring);
        let file = disk.create("a").unwrap();
        let far = u64::MAX / 2 / 4096 * 4096;
        assert!(file.write_durable(far, &Aligned::zeroed(4096), Barrier::Batches).is_err());
        file.write_durable(0, &Aligned::zeroed(4096), Barrier::Batches).unwrap();
    }
}
