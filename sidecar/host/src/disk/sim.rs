//! A disk in memory that keeps only what it promised to keep.
//!
//! ```text
//!   what a process sees   view  ──────────────── every write, at once
//!   what the device has   kept  ◀── barrier ──── pending: written, not flushed, in sectors of 512 bytes
//! ```
//!
//! [`SimDisk::cut`] takes the power away: each pending sector, name and length is there or not, in any combination that a
//! chooser asks for, so writes are lost, torn and reordered. [`SimDisk::spoil`] has sectors that can't be read until they are
//! written again. [`SimDisk::kill`] ends only the process: the view stays, and is
//! as pending as before. [`SimDisk::fail`] has the Nth operation fail, and a barrier that failed once never makes durable
//! what it was to flush, though later ones succeed, as kernels do. [`SimDisk::switch_off`] turns one [`Barrier`] into
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Aligned, Barrier, Disk, DiskFile, Driver, SECTOR, UNREADABLE};

/// How the Nth operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes while it is under way: it is half done, and nothing works after it.
    PowerCut,
    /// It fails with EIO; what it wrote is there in part.
    Io,
    /// It fails with ENOSPC.
    NoSpace,
    /// It fails with EDQUOT.
    NoQuota,
    /// Half of it is written, and the rest is refused.
    Short,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    device: Arc<Mutex<Device>>,
    /// The process this handle belongs to: one that was killed can't write any more.
    process: u64,
}

#[derive(Default)]
struct Device {
    names: BTreeMap<String, u64>,
    names_kept: BTreeMap<String, u64>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    process: u64,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    powered: bool,
    off: BTreeSet<Barrier>,
    capacity: Option<u64>,
    /// Who meets the capacity is told that it is a quota.
    has_quota: bool,
    block: usize,
}

/// What is in one file.
#[derive(Default)]
struct Content {
    view: Vec<u8>,
    kept: Vec<u8>,
    /// Of each sector that was written and not flushed: what it was in turn. Whether a flush may still reach it.
    pending: BTreeMap<usize, Pending>,
    lengths: Vec<usize>,
    /// Sectors that the device can't read.
    spoiled: BTreeSet<usize>,
}

#[derive(Default)]
struct Pending {
    versions: Vec<Vec<u8>>,
    /// A barrier over it has failed: the kernel calls it clean and will not write it again.
    given_up: bool,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        let device = Device { powered: true, block: SECTOR, ..Device::default() };
        Self { device: Arc::new(Mutex::new(device)), process: 0 }
    }

    /// The same disk, that has room for `bytes` in files.
    pub fn with_capacity(self, bytes: u64) -> Self {
        self.device().capacity = Some(bytes);
        self
    }

    /// The same, of which it is said that it is a quota.
    pub fn with_quota(self, bytes: u64) -> Self {
        self.device().has_quota = true;
        self.with_capacity(bytes)
    }

    /// The same disk, whose writes are multiples of `block`.
    pub fn with_block(self, block: usize) -> Self {
        self.device().block = block;
        self
    }

    /// From now on this barrier promises nothing.
    pub fn switch_off(&self, barrier: Barrier) {
        self.device().off.insert(barrier);
    }

    /// Has the operation after `after` more of them go wrong.
    pub fn fail(&self, after: u64, fault: Fault) {
        let mut device = self.device();
        let at = device.operations + after;
        device.faults.insert(at, fault);
    }

    /// How many operations there have been that change something or read.
    pub fn operations(&self) -> u64 {
        self.device().operations
    }

    /// Ends the process and keeps the machine: every open handle is dead, what it had written is in the kernel.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut device = self.device();
        device.process += 1;
        device.powered = true;
        device.faults.clear();
        let process = device.process;
        drop(device);
        Self { device: self.device.clone(), process }
    }

    /// Takes the power away and gives it back. `choose` is asked, of everything that was not flushed, which of so many
    /// states it is found in; 0 is the oldest.
    #[must_use]
    pub fn cut(&self, mut choose: impl FnMut(u64) -> u64) -> Self {
        {
            let mut device = self.device();
            let device = &mut *device;
            for (name, file) in device.names.clone() {
                if device.names_kept.get(&name) != Some(&file) && choose(2) == 1 {
                    device.names_kept.insert(name, file);
                }
            }
            for name in device.names_kept.clone().into_keys() {
                if !device.names.contains_key(&name) && choose(2) == 1 {
                    device.names_kept.remove(&name);
                }
            }
            device.names = device.names_kept.clone();
            let named: BTreeSet<u64> = device.names.values().copied().collect();
            device.files.retain(|file, _| named.contains(file));
            device.files.values_mut().for_each(|content| content.settle(&mut choose));
        }
        self.kill()
    }

    /// The bytes of a file as a process sees them.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let device = self.device();
        let file = device.names.get(name)?;
        Some(device.files[file].view.clone())
    }

    /// Changes what is stored, as decay does.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn corrupt(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut device = self.device();
        let file = device.names[name];
        let content = device.files.get_mut(&file).expect("a name has a file");
        change(&mut content.view);
        content.kept = content.view.clone();
        content.pending.clear();
        content.lengths.clear();
    }

    /// From now on these sectors can't be read, until they are written again.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn spoil(&self, name: &str, sectors: Range<usize>) {
        let mut device = self.device();
        let file = device.names[name];
        device.files.get_mut(&file).expect("a name has a file").spoiled.extend(sectors);
    }

    /// Everything can be read again.
    pub fn restore(&self) {
        self.device().files.values_mut().for_each(|content| content.spoiled.clear());
    }

    /// How many sectors are written and not flushed.
    pub fn pending(&self) -> usize {
        self.device().files.values().map(|content| content.pending.len()).sum()
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation; what goes wrong with it.
    fn operate(&self) -> io::Result<(MutexGuard<'_, Device>, Option<Fault>)> {
        let mut device = self.device();
        if !device.powered || device.process != self.process {
            return Err(io::Error::other("the power is off"));
        }
        let number = device.operations;
        device.operations += 1;
        let fault = device.faults.remove(&number);
        device.powered = fault != Some(Fault::PowerCut);
        Ok((device, fault))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({:?})", self.device().names.keys())
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::PowerCut => io::Error::other("the power went"),
        Fault::Io => io::Error::from_raw_os_error(UNREADABLE[0]),
        Fault::NoSpace => io::ErrorKind::StorageFull.into(),
        Fault::NoQuota => io::ErrorKind::QuotaExceeded.into(),
        Fault::Short => io::ErrorKind::WriteZero.into(),
    }
}

impl Disk for SimDisk {
    fn driver(&self) -> Driver {
        Driver { name: "sim", why: "a simulation asked for it".to_owned() }
    }

    fn block(&self) -> usize {
        self.device().block
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let (device, fault) = self.operate()?;
        fault.map_or_else(|| Ok(device.names.keys().cloned().collect()), |fault| Err(error(fault)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (mut device, fault) = self.operate()?;
        // A create that fails is not done; one under way when the power goes is pending.
        if let Some(fault) = fault.filter(|fault| *fault != Fault::PowerCut) {
            return Err(error(fault));
        }
        if device.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = device.next_file;
        device.next_file += 1;
        device.names.insert(name.to_owned(), file);
        device.files.insert(file, Content::default());
        drop(device);
        fault.map_or_else(|| Ok(self.file(file)), |fault| Err(error(fault)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (device, fault) = self.operate()?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        let file = device.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        drop(device);
        Ok(self.file(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut device, fault) = self.operate()?;
        if let Some(fault) = fault.filter(|fault| *fault != Fault::PowerCut) {
            return Err(error(fault));
        }
        device.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        fault.map_or(Ok(()), |fault| Err(error(fault)))
    }

    fn sync_names(&self, barrier: Barrier) -> io::Result<()> {
        let (mut device, fault) = self.operate()?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        if !device.off.contains(&barrier) {
            device.names_kept = device.names.clone();
        }
        Ok(())
    }
}

impl SimDisk {
    fn file(&self, file: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), file })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl SimFile {
    /// One operation on the content, with the fault that befalls it.
    fn change<T>(
        &self,
        act: impl FnOnce(&mut Content, Option<Fault>, &Limits) -> io::Result<T>,
    ) -> io::Result<T> {
        let (mut device, fault) = self.disk.operate()?;
        let others = device.names.values().filter(|file| **file != self.file);
        let used: usize =
            others.filter_map(|file| device.files.get(file)).map(|content| content.view.len()).sum();
        let left = device.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used as u64));
        let when_full = if device.has_quota { Fault::NoQuota } else { Fault::NoSpace };
        let limits = Limits { off: device.off.clone(), left, when_full, block: device.block };
        // A file whose name is gone lives on for who has it open.
        let content = device.files.entry(self.file).or_default();
        act(content, fault, &limits)
    }

    fn put(&self, at: u64, data: &Aligned, barrier: Option<Barrier>) -> io::Result<()> {
        self.change(|content, fault, limits| {
            assert!(
                (at as usize).is_multiple_of(limits.block) && data.len().is_multiple_of(limits.block),
                "{at}+{} are not whole blocks",
                data.len()
            );
            if content.lacks_room(at + data.len() as u64, limits) {
                return Err(error(limits.when_full));
            }
            let whole = data.len() / SECTOR;
            let reached = match fault {
                None | Some(Fault::PowerCut | Fault::Io) => whole,
                Some(Fault::Short) => whole / 2,
                Some(Fault::NoSpace | Fault::NoQuota) => 0,
            };
            content.write(at as usize / SECTOR, &data[..reached * SECTOR]);
            if let Some(fault) = fault {
                content.give_up(fault);
                return Err(error(fault));
            }
            if barrier.is_some_and(|barrier| !limits.off.contains(&barrier)) {
                content.flush(at as usize / SECTOR, whole);
            }
            Ok(())
        })
    }
}

struct Limits {
    off: BTreeSet<Barrier>,
    left: u64,
    /// What who has no room is told.
    when_full: Fault,
    block: usize,
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        self.change(|content, fault, _| {
            fault.map_or(Ok(content.view.len() as u64), |fault| Err(error(fault)))
        })
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.change(|content, fault, limits| {
            if content.lacks_room(length, limits) {
                return Err(error(limits.when_full));
            }
            if fault.is_none_or(|fault| fault == Fault::PowerCut) {
                content.set_length((length as usize).max(content.view.len()));
            }
            fault.map_or(Ok(()), |fault| Err(error(fault)))
        })
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.change(|content, fault, _| {
            if fault.is_none_or(|fault| fault == Fault::PowerCut) {
                content.set_length(length as usize);
            }
            fault.map_or(Ok(()), |fault| Err(error(fault)))
        })
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Aligned> {
        self.change(|content, fault, _| {
            if let Some(fault) = fault {
                return Err(error(fault));
            }
            let from = (at as usize).min(content.view.len());
            let to = (at as usize + length).min(content.view.len());
            if content.spoiled.range(from / SECTOR..to.div_ceil(SECTOR).max(from / SECTOR)).next().is_some() {
                return Err(error(Fault::Io));
            }
            Ok(Aligned::of(&content.view[from..to]))
        })
    }

    fn write(&self, at: u64, data: &Aligned) -> io::Result<()> {
        self.put(at, data, None)
    }

    fn write_durable(&self, at: u64, data: &Aligned, barrier: Barrier) -> io::Result<()> {
        self.put(at, data, Some(barrier))
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        self.put(at, &Aligned::zeroed(length as usize), None)
    }

    fn barrier(&self, barrier: Barrier) -> io::Result<()> {
        self.change(|content, fault, limits| {
            if let Some(fault) = fault {
                content.give_up(fault);
                return Err(error(fault));
            }
            if !limits.off.contains(&barrier) {
                content.flush(0, usize::MAX / SECTOR);
            }
            Ok(())
        })
    }
}

impl Content {
    /// Whether it can't be as long as this. What it has it keeps, also on a disk that is fuller than full because a cut gave
    /// back what was removed.
    fn lacks_room(&self, length: u64, limits: &Limits) -> bool {
        length > self.view.len() as u64 && length > limits.left
    }

    fn write(&mut self, first: usize, data: &[u8]) {
        let end = first * SECTOR + data.len();
        if end > self.view.len() {
            self.set_length(end);
        }
        self.view[first * SECTOR..end].copy_from_slice(data);
        for (index, sector) in data.chunks(SECTOR).enumerate() {
            self.spoiled.remove(&(first + index));
            let pending = self.pending.entry(first + index).or_default();
            pending.versions.push(sector.to_vec());
            pending.given_up = false;
        }
    }

    fn set_length(&mut self, length: usize) {
        self.view.resize(length, 0);
        self.lengths.push(length);
        self.pending.retain(|sector, _| sector * SECTOR < length);
    }

    /// The device has what was written to `count` sectors from `first`, and how long the file is.
    fn flush(&mut self, first: usize, count: usize) {
        self.lengths.clear();
        self.kept.resize(self.view.len(), 0);
        let sectors: Vec<usize> =
            self.pending.range(first..first.saturating_add(count)).map(|(sector, _)| *sector).collect();
        for sector in sectors {
            if self.pending[&sector].given_up {
                continue;
            }
            let versions = self.pending.remove(&sector).map(|pending| pending.versions).unwrap_or_default();
            if let Some(last) = versions.last() {
                put_sector(&mut self.kept, sector, last);
            }
        }
    }

    /// After an error of the device no flush reaches what was pending.
    fn give_up(&mut self, fault: Fault) {
        if fault != Fault::PowerCut {
            self.pending.values_mut().for_each(|pending| pending.given_up = true);
        }
    }

    /// What is found after the power was gone.
    fn settle(&mut self, choose: &mut impl FnMut(u64) -> u64) {
        let lengths = std::mem::take(&mut self.lengths);
        if !lengths.is_empty() {
            let chosen = choose(lengths.len() as u64 + 1);
            if let Some(length) = chosen.checked_sub(1).map(|chosen| lengths[chosen as usize]) {
                self.kept.resize(length, 0);
            }
        }
        for (sector, pending) in std::mem::take(&mut self.pending) {
            let chosen = choose(pending.versions.len() as u64 + 1);
            if let Some(version) = chosen.checked_sub(1).map(|chosen| &pending.versions[chosen as usize]) {
                put_sector(&mut self.kept, sector, version);
            }
        }
        self.view = self.kept.clone();
    }
}

/// Where the file is too short for it, the sector is lost with its length.
fn put_sector(bytes: &mut [u8], sector: usize, data: &[u8]) {
    if let Some(place) = bytes.get_mut(sector * SECTOR..sector * SECTOR + data.len()) {
        place.copy_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sectors(of: u8, count: usize) -> Aligned {
        Aligned::of(&vec![of; count * SECTOR])
    }

    /// A disk with a file of four sectors, all of it durable.
    fn ready() -> (SimDisk, Arc<dyn DiskFile>) {
        let disk = SimDisk::new();
        let file = disk.create("a").unwrap();
        file.write_durable(0, &sectors(1, 4), Barrier::Batches).unwrap();
        disk.sync_names(Barrier::Name).unwrap();
        (disk, file)
    }

    #[test]
    fn what_was_not_flushed_may_be_lost_in_any_part() {
        let (disk, file) = ready();
        file.write(0, &sectors(2, 4)).unwrap();
        let mut turn = 0;
        let disk = disk.cut(|_| {
            turn += 1;
            turn % 2
        });
        let bytes = disk.bytes("a").unwrap();
        assert_eq!([bytes[0], bytes[512], bytes[1024], bytes[1536]], [2, 1, 2, 1]);
    }

    #[test]
    fn a_kill_keeps_what_was_written_and_leaves_it_as_pending_as_it_was() {
        let (disk, file) = ready();
        file.write(0, &sectors(2, 1)).unwrap();
        let disk = disk.kill();
        assert!(file.write(0, &sectors(3, 1)).is_err(), "the process is dead");
        assert_eq!(disk.bytes("a").unwrap()[0], 2);
        assert_eq!(disk.cut(|_| 0).bytes("a").unwrap()[0], 1);
    }

    #[test]
    fn a_barrier_keeps_and_one_that_is_switched_off_does_not() {
        for off in [false, true] {
            let (disk, file) = ready();
            if off {
                disk.switch_off(Barrier::Earlier);
            }
            file.write(512, &sectors(2, 1)).unwrap();
            file.barrier(Barrier::Earlier).unwrap();
            assert_eq!(disk.cut(|_| 0).bytes("a").unwrap()[512], if off { 1 } else { 2 });
        }
    }

    #[test]
    fn what_a_failed_barrier_was_to_flush_is_never_durable() {
        let (disk, file) = ready();
        file.write(0, &sectors(2, 1)).unwrap();
        disk.fail(0, Fault::Io);
        assert!(file.barrier(Barrier::Earlier).is_err());
        file.barrier(Barrier::Earlier).unwrap();
        assert_eq!(disk.bytes("a").unwrap()[0], 2, "the kernel still shows it");
        assert_eq!(disk.cut(|_| 0).bytes("a").unwrap()[0], 1);
    }

    #[test]
    fn names_are_kept_only_once_they_are_synced() {
        let (disk, _) = ready();
        disk.create("b").unwrap();
        disk.remove("a").unwrap();
        let disk = disk.cut(|_| 0);
        assert_eq!(disk.list().unwrap(), ["a"]);
    }

    #[test]
    fn the_power_goes_in_the_middle_of_an_operation() {
        let (disk, file) = ready();
        disk.fail(1, Fault::PowerCut);
        file.write(0, &sectors(2, 1)).unwrap();
        assert!(file.write_durable(512, &sectors(3, 1), Barrier::Batches).is_err());
        assert!(file.read(0, 1).is_err());
        let disk = disk.cut(|states| states - 1);
        assert_eq!((disk.bytes("a").unwrap()[0], disk.bytes("a").unwrap()[512]), (2, 3));
    }
}
