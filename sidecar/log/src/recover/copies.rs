//! Copies that cleaning made, beside what they stand for: the power or a kill came before all of it was removed.

use std::collections::HashSet;

use sidestream_host::disk::Barrier;

use super::{File, Recovery};
use crate::{
    OpenError,
    scan::{Found as Batch, Scanned, scan},
};

/// What became of a copy.
enum Copied {
    Whole,
    Torn,
    /// Some of what would tell can't be read now.
    Unclear,
}

impl Recovery<'_> {
    /// A copy that was finished counts, and what it stands for goes; one that was not goes. Only while there is something that
    /// it stands for is it read: before the first of that was removed, all of the copy was durable.
    pub(super) fn drop_superseded(&mut self, files: &mut Vec<File>) -> Result<(), OpenError> {
        let copies: Vec<(u32, u32)> = files
            .iter()
            .filter(|file| file.generation > 0)
            .map(|file| (file.number, file.generation))
            .collect();
        for key in copies {
            let Some(copy) = files.iter().position(|file| (file.number, file.generation) == key) else {
                continue;
            };
            let range = key.0..=files[copy].last();
            let stood_for = |file: &File| range.contains(&file.number) && file.generation < key.1;
            let originals: Vec<&File> = files.iter().filter(|file| stood_for(file)).collect();
            if originals.is_empty() {
                continue;
            }
            let gone: Vec<File> = match self.look_into(&files[copy], &originals)? {
                Copied::Whole => {
                    // Whole in the kernel, perhaps, of a process that was killed.
                    let kept = files[copy].file.barrier(Barrier::Copy);
                    kept.and_then(|()| self.disk.sync_names(Barrier::CopyName))
                        .map_err(|error| self.error("flushing", &files[copy].name, error))?;
                    files.extract_if(.., |file| stood_for(file)).collect()
                }
                Copied::Torn => vec![files.remove(copy)],
                Copied::Unclear => {
                    let copy = files.remove(copy);
                    let last = copy.head.as_ref().map_or(u32::MAX, |read| read.head.last);
                    self.set_aside(copy.number, last);
                    continue;
                }
            };
            gone.iter().try_for_each(|file| self.remove(&file.name))?;
        }
        Ok(())
    }

    /// Whether all of a copy was written once: it is whole, or has what is in none of the `originals` that are left, so others
    /// were removed.
    fn look_into(&self, copy: &File, originals: &[&File]) -> Result<Copied, OpenError> {
        let (mut has_holes, scanned) = self.look_at(copy)?;
        // Without a head nobody knows what it stands for; of a finished one both copies of that would have to be damaged.
        if copy.head.is_none() {
            return Ok(if has_holes { Copied::Unclear } else { Copied::Torn });
        }
        if copy.footer.is_some() && scanned.damage.iter().all(|damage| damage.is_mended) {
            return Ok(Copied::Whole);
        }
        let batch = |found: &Batch| (found.header.partition, found.header.base_offset);
        let mut left = HashSet::new();
        for original in originals {
            let (holes, scanned) = self.look_at(original)?;
            has_holes |= holes;
            left.extend(scanned.found.iter().map(batch));
        }
        // What can't be read now may be what tells.
        if has_holes || self.found.state.is_set_aside(copy.number..=copy.last()) {
            return Ok(Copied::Unclear);
        }
        let has_more = scanned.found.iter().any(|found| !left.contains(&batch(found)));
        Ok(if has_more { Copied::Whole } else { Copied::Torn })
    }

    /// What stands in a segment, as far as its footer says; and whether some of it can't be read.
    fn look_at(&self, file: &File) -> Result<(bool, Scanned), OpenError> {
        let read = self.bytes(file)?;
        let (start, chain) = file.start();
        let end = file.footer.map(|footer| footer.end());
        Ok((!read.holes.is_empty(), scan(&read, file.number, start, chain, end)))
    }
}
