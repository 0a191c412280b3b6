//! What readers find in memory: pieces of segments, within a budget; files that are open, indexes that were read.
//!
//! A group that was written becomes a piece as it is, so whoever reads at the end never asks the disk, and however many
//! read it share one copy. What the disk was asked for becomes pieces too. Room is made by the clock: a piece that nobody
//! looked at since the hand last came by goes.
//!
//! It must never hold what is not acknowledged, nor answer with less than it was asked for.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sidestream_host::disk::{Disk, DiskFile};

use crate::{head::file_name, index::Strands};

/// What a piece costs beside its bytes.
const PIECE_COST: usize = 128;
/// Files that are open at once, other than the one that is written, and indexes in memory.
const OPEN_FILES_MAX: usize = 32;
const INDEXES_MAX: usize = 16;

/// Which file: number and generation.
pub(crate) type FileKey = (u32, u32);

#[derive(Default)]
pub(crate) struct Cache {
    budget: usize,
    inner: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    /// By file and first byte.
    pieces: BTreeMap<(FileKey, u32), Piece>,
    /// The clock: every piece once.
    hand: VecDeque<(FileKey, u32)>,
    used: usize,
    hits: u64,
    misses: u64,
}

struct Piece {
    bytes: Bytes,
    /// What it keeps in memory, which can be more than it shows.
    cost: usize,
    is_wanted: bool,
}

impl Cache {
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, inner: Mutex::default() }
    }

    /// The bytes from `position` of a file to the end of a piece, where they are at least `length`.
    pub(crate) fn get(&self, file: FileKey, position: u32, length: usize) -> Option<Bytes> {
        let mut pieces = self.lock();
        let found = pieces.find(file, position, length);
        match found {
            Some(_) => pieces.hits += 1,
            None => pieces.misses += 1,
        }
        found
    }

    /// Keeps `bytes`, which hold on to `cost` bytes of memory.
    pub(crate) fn put(&self, file: FileKey, position: u32, bytes: Bytes, cost: usize) {
        let cost = cost + PIECE_COST;
        if cost > self.budget {
            return;
        }
        let mut pieces = self.lock();
        let key = (file, position);
        if let Some(old) = pieces.pieces.insert(key, Piece { bytes, cost, is_wanted: false }) {
            pieces.used -= old.cost;
        } else {
            pieces.hand.push_back(key);
        }
        pieces.used += cost;
        while pieces.used > self.budget {
            pieces.turn();
        }
    }

    /// Reads answered from memory, and not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let pieces = self.lock();
        (pieces.hits, pieces.misses)
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pieces {
    fn find(&mut self, file: FileKey, position: u32, length: usize) -> Option<Bytes> {
        let ((owner, start), piece) = self.pieces.range_mut(..=(file, position)).next_back()?;
        let from = position.checked_sub(*start).filter(|_| *owner == file)? as usize;
        if from + length > piece.bytes.len() {
            return None;
        }
        piece.is_wanted = true;
        Some(piece.bytes.slice(from..))
    }

    /// Looks at the next piece: one that was wanted since is passed by once more, another one goes.
    fn turn(&mut self) {
        let Some(key) = self.hand.pop_front() else {
            self.used = 0;
            return;
        };
        let Some(piece) = self.pieces.get_mut(&key) else { return };
        if std::mem::take(&mut piece.is_wanted) {
            self.hand.push_back(key);
        } else if let Some(piece) = self.pieces.remove(&key) {
            self.used -= piece.cost;
        }
    }
}

/// Files that are open, and indexes that were read, a few of each; the oldest goes.
#[derive(Default)]
pub(crate) struct Files {
    open: Mutex<VecDeque<(FileKey, Arc<dyn DiskFile>)>>,
    indexes: Mutex<VecDeque<(FileKey, Arc<Strands>)>>,
}

impl Files {
    /// The file, opened where it is not.
    pub(crate) fn open(&self, disk: &dyn Disk, key: FileKey) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(known, _)| *known == key) {
            return Ok(file.clone());
        }
        let file = disk.open(&file_name(key.0, key.1))?;
        remember(&mut open, OPEN_FILES_MAX, key, file.clone());
        Ok(file)
    }

    /// The index of a finished segment, if it is in memory.
    pub(crate) fn known_index(&self, key: FileKey) -> Option<Arc<Strands>> {
        let indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes.iter().find(|(known, _)| *known == key).map(|(_, index)| index.clone())
    }

    /// The index of a finished segment, read by `read` where it is not in memory.
    pub(crate) fn index(
        &self,
        key: FileKey,
        read: impl FnOnce() -> io::Result<Strands>,
    ) -> io::Result<Arc<Strands>> {
        if let Some(index) = self.known_index(key) {
            return Ok(index);
        }
        let index = Arc::new(read()?);
        remember(
            &mut self.indexes.lock().unwrap_or_else(PoisonError::into_inner),
            INDEXES_MAX,
            key,
            index.clone(),
        );
        Ok(index)
    }

    /// Lets go of a file that is removed.
    pub(crate) fn forget(&self, key: FileKey) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != key);
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != key);
    }
}

fn remember<T>(known: &mut VecDeque<(FileKey, T)>, most: usize, key: FileKey, value: T) {
    if known.len() == most {
        known.pop_front();
    }
    known.push_back((key, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileKey = (1, 0);

    #[test]
    fn the_budget_holds_and_what_is_wanted_stays_longest() {
        let cache = Cache::new(10 * (1000 + PIECE_COST));
        for n in 0..100_u32 {
            cache.put(FILE, n * 1000, Bytes::from(vec![n as u8; 1000]), 1000);
            assert!(cache.lock().used <= cache.budget);
            // The first is looked at again and again.
            assert!(cache.get(FILE, 10, 500).is_some(), "{n}");
        }
        assert!(cache.get(FILE, 50_000, 1).is_none());
        assert_eq!(cache.get(FILE, 99_900, 7).unwrap(), vec![99; 100]);
    }

    #[test]
    fn a_piece_answers_only_for_what_is_wholly_in_it() {
        let cache = Cache::new(1 << 20);
        cache.put(FILE, 4096, Bytes::from(vec![7; 100]), 100);
        assert!(cache.get(FILE, 4096, 100).is_some());
        for (file, position, length) in
            [(FILE, 4095, 2), (FILE, 4096, 101), (FILE, 4196, 1), ((2, 0), 4096, 1), ((1, 1), 4096, 1)]
        {
            assert!(cache.get(file, position, length).is_none(), "{file:?} {position} {length}");
        }
        assert_eq!(cache.counts(), (1, 5));
    }
}
