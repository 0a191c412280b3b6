//! Reading around what a device can't read any more: the rest of a file is as good as ever.
//!
//! ```text
//!   asked for   ├───────────────────────────────────────────┤     an error: halves, and halves of those that fail
//!   given       ├── as it stands ──┤ filler ├── as it stands ┤     down to the sectors that can't be read: holes
//! ```
//!
//! The filler is nothing that was ever written, so no sum over it is right: a hole is found out where flipped bits are, and
//! costs what they cost. It is not zeros, which would say that nothing was written there.

use std::io;

use sidestream_host::disk::{Aligned, DiskFile, SECTOR, is_unreadable};

/// What stands for a byte that can't be read.
const FILLER: u8 = 0xee;
/// Reads that fail, after which the rest is taken for unreadable too: each may keep a device busy for seconds.
const FAILURES_MAX: u32 = 256;

/// Bytes of a file, and where they are filler.
pub(crate) struct Around {
    pub(crate) bytes: Aligned,
    /// By their place in the file, in order.
    pub(crate) holes: Vec<(u64, u64)>,
}

/// As [`DiskFile::read`], around what can't be read.
pub(crate) fn read(file: &dyn DiskFile, at: u64, length: usize) -> io::Result<Around> {
    match file.read(at, length) {
        Ok(bytes) => Ok(Around { bytes, holes: Vec::new() }),
        Err(error) if is_unreadable(&error) => {
            let end = file.length()?.min(at + length as u64).max(at);
            let mut around = Around { bytes: Aligned::with_capacity((end - at) as usize), holes: Vec::new() };
            let mut failures = FAILURES_MAX;
            around.halves(file, at, end, &mut failures)?;
            Ok(around)
        }
        Err(error) => Err(error),
    }
}

/// All of what is asked for: where the file is shorter than it was, the end of it can't be read either.
pub(crate) fn read_whole(file: &dyn DiskFile, at: u64, length: usize) -> io::Result<Around> {
    let mut around = read(file, at, length)?;
    let missing = length - around.bytes.len();
    if missing > 0 {
        let end = at + length as u64;
        around.fill(end - missing as u64, end);
    }
    Ok(around)
}

/// The same of something that may be missing: none where it can't be read.
pub(crate) fn if_readable<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if is_unreadable(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Around {
    /// Reads `from..to`, which can't be read at once, in two.
    fn halves(&mut self, file: &dyn DiskFile, from: u64, to: u64, failures: &mut u32) -> io::Result<()> {
        let sector = SECTOR as u64;
        let half = from + (to - from) / 2;
        let begins = [half / sector * sector, half.next_multiple_of(sector)];
        let middle = begins.into_iter().find(|begin| from < *begin && *begin < to);
        let Some(middle) = middle.filter(|_| *failures > 0) else {
            self.fill(from, to);
            return Ok(());
        };
        *failures -= 1;
        for (from, to) in [(from, middle), (middle, to)] {
            match file.read(from, (to - from) as usize) {
                Ok(bytes) => {
                    self.bytes.extend(&bytes);
                    // The file has become shorter: what is missing says nothing.
                    self.bytes.extend(&vec![0; (to - from) as usize - bytes.len()]);
                }
                Err(error) if is_unreadable(&error) => self.halves(file, from, to, failures)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn fill(&mut self, from: u64, to: u64) {
        self.bytes.extend(&vec![FILLER; (to - from) as usize]);
        match self.holes.last_mut().filter(|(_, end)| *end == from) {
            Some((_, end)) => *end = to,
            None => self.holes.push((from, to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use sidestream_host::disk::{Barrier, Disk, SimDisk};

    use super::*;

    #[test]
    fn everything_but_the_sectors_that_cannot_be_read_is_read() {
        let written: Vec<u8> = (0..64 * SECTOR).map(|at| (at / SECTOR) as u8 + 1).collect();
        let cases: [&[(usize, usize)]; 4] = [&[(0, 1)], &[(63, 64)], &[(5, 6), (7, 9), (40, 41)], &[(0, 64)]];
        for spoiled in cases {
            let disk = SimDisk::new();
            let file = disk.create("a").unwrap();
            file.write_durable(0, &Aligned::of(&written), Barrier::Batches).unwrap();
            spoiled.iter().for_each(|(from, to)| disk.spoil("a", *from..*to));
            for (at, length) in [(0, written.len()), (100, 9000), (3 * SECTOR + 7, 3), (600, 1 << 20)] {
                let around = read(&*file, at as u64, length).unwrap();
                assert_eq!(around.bytes.len(), length.min(written.len() - at));
                for (index, byte) in around.bytes.iter().enumerate() {
                    let place = at + index;
                    let is_hole =
                        around.holes.iter().any(|(from, to)| (*from as usize..*to as usize).contains(&place));
                    let is_spoiled =
                        spoiled.iter().any(|(from, to)| (*from..*to).contains(&(place / SECTOR)));
                    assert_eq!(*byte, if is_hole { FILLER } else { written[place] });
                    assert_eq!(is_hole, is_spoiled, "{place} of {spoiled:?}");
                }
            }
        }
    }
}
