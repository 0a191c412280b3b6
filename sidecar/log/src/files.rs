//! Files that are open, and indexes that were read: a few of each, the oldest goes.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use sidestream_host::{
    Moment,
    disk::{Disk, DiskFile},
};

use crate::{head::file_name, index::Strands};

/// Files that are open at once, other than the one that is written, and indexes in memory.
const OPEN_FILES_MAX: usize = 32;
const INDEXES_MAX: usize = 16;

/// Which file: number and generation.
pub(crate) type FileKey = (u32, u32);

/// Files that are open, and indexes that were read, a few of each; the oldest goes.
#[derive(Default)]
pub(crate) struct Files {
    open: Mutex<VecDeque<(FileKey, Arc<dyn DiskFile>)>>,
    indexes: Mutex<VecDeque<(FileKey, Index)>>,
}

/// What a finished segment has.
#[derive(Clone)]
pub(crate) struct Index {
    pub(crate) strands: Arc<Strands>,
    /// Until when it is believed: for good, or where some of the segment could not be read, which may be another time.
    pub(crate) until: Option<Moment>,
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
    pub(crate) fn known_index(&self, key: FileKey, now: impl FnOnce() -> Moment) -> Option<Arc<Strands>> {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = indexes.iter().position(|(known, _)| *known == key)?;
        if indexes[at].1.until.is_some_and(|until| until <= now()) {
            indexes.remove(at);
            return None;
        }
        Some(indexes[at].1.strands.clone())
    }

    /// Has it in memory.
    pub(crate) fn remember_index(&self, key: FileKey, index: Index) {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        remember(&mut indexes, INDEXES_MAX, key, index);
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
