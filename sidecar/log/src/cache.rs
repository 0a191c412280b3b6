//! The page cache: what readers find in memory, in a fixed number of places, within a budget.
//!
//! ```text
//!   shelf    bucket = granule of a file (64 KiB)      eight places: the pieces that have some of it
//!               │
//!   piece    a group as it was written │ what the disk was asked for │ a run: small groups, one behind the other
//!
//!   clock    piece piece piece …       the hand takes those away that nobody looked at since it last came by
//! ```
//!
//! A group that was written becomes a piece as it is, so whoever reads at the end never asks the disk, and however many
//! read it share one copy. Readers take no lock and never wait: see [`sidestream_ring::shelf`]. Whoever adds something makes
//! room for it first, one at a time; a place that somebody looks at is passed by.
//!
//! It must never hold what is not acknowledged, nor answer with less than it was asked for, nor have more than its budget.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use sidestream_ring::{
    shelf::{Removed, Shelf},
    sync::{AtomicBool, Gauge, Ordering, Tally},
};

use crate::{files::FileKey, settings::GRANULE};

/// Groups up to this many bytes are copied into a run.
pub(crate) const SMALL_GROUP: usize = 16 << 10;
/// Groups of a run.
const RUN_PARTS: usize = 64;
/// What a piece and a part of a run cost beside their bytes: with their places on the shelf and in the clock.
const PIECE_COST: usize = 192;
const PART_COST: usize = size_of::<OnceLock<Part>>() + 64;

pub(crate) struct Cache {
    budget: usize,
    shelf: Shelf<Arc<Piece>>,
    /// For those who add. Nobody who reads takes it.
    clock: Mutex<Clock>,
    used: Gauge,
    hits: Tally,
    misses: Tally,
    evicted: Tally,
}

/// What the cache did since it was made, and has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheCounts {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) evicted: u64,
    pub(crate) used: u64,
}

#[derive(Default)]
struct Clock {
    /// Every piece once, with what it costs.
    pieces: VecDeque<(Arc<Piece>, usize)>,
    /// The run that small groups are added to; not among the pieces yet.
    run: Option<Open>,
    used: usize,
}

/// Bytes of a file that are in memory: parts that follow each other.
struct Piece {
    file: FileKey,
    /// Filled from the first on, by whoever has the clock; a part that is there never changes.
    parts: Box<[OnceLock<Part>]>,
    /// Somebody looked at it since the hand came by.
    is_wanted: AtomicBool,
}

struct Part {
    start: u32,
    bytes: Bytes,
}

struct Open {
    piece: Arc<Piece>,
    parts: usize,
    /// Where the next group has to begin.
    end: u32,
    bytes: usize,
    cost: usize,
}

impl Cache {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            budget,
            shelf: Shelf::new(budget / GRANULE as usize),
            clock: Mutex::default(),
            used: Gauge::new(),
            hits: Tally::new(),
            misses: Tally::new(),
            evicted: Tally::new(),
        }
    }

    /// Bytes it may have.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// The bytes from `position` of a file to the end of a piece, where they are at least `length`.
    pub(crate) fn get(&self, file: FileKey, position: u32, length: usize) -> Option<Bytes> {
        let (bucket, tag) = place(file, position / GRANULE);
        let found = self.shelf.find(bucket, tag, |piece| piece.get(file, position, length));
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.add(1);
        found
    }

    /// Answers no more with the piece that has this position. Its memory is free when the hand comes by.
    pub(crate) fn forget(&self, file: FileKey, position: u32) {
        let (bucket, tag) = place(file, position / GRANULE);
        self.shelf.remove(bucket, tag, |piece| piece.get(file, position, 1).is_some());
    }

    /// Keeps what was read or written in one piece, which holds on to `cost` bytes of memory.
    pub(crate) fn put(&self, file: FileKey, position: u32, bytes: Bytes, cost: usize) {
        let cost = cost + PIECE_COST + PART_COST;
        let mut clock = self.clock();
        if !self.make_room(&mut clock, cost) {
            return;
        }
        let (from, to) = (position, position + bytes.len() as u32);
        let piece = Arc::new(Piece::of(file, Part { start: position, bytes }));
        self.list(&piece, from, to);
        clock.pieces.push_back((piece, cost));
        self.account(&mut clock, cost);
    }

    /// Keeps a copy of a small group, together with those around it.
    pub(crate) fn put_small(&self, file: FileKey, position: u32, group: &[u8]) {
        let mut clock = self.clock();
        let fits = |run: &Open| {
            run.piece.file == file
                && run.end == position
                && run.parts < RUN_PARTS
                && run.bytes + group.len() <= GRANULE as usize
        };
        if !clock.run.as_ref().is_some_and(fits) {
            if let Some(run) = clock.run.take() {
                clock.pieces.push_back((run.piece, run.cost));
            }
            let cost = PIECE_COST + RUN_PARTS * PART_COST;
            if !self.make_room(&mut clock, cost) {
                return;
            }
            let piece = Arc::new(Piece::run(file));
            clock.run = Some(Open { piece, parts: 0, end: position, bytes: 0, cost });
            self.account(&mut clock, cost);
        }
        if !self.make_room(&mut clock, group.len()) {
            return;
        }
        let end = position + group.len() as u32;
        let Some(run) = clock.run.as_mut() else { return };
        let listed_to = if run.parts == 0 { None } else { Some((run.end - 1) / GRANULE) };
        let piece = run.piece.clone();
        let part = Part { start: position, bytes: Bytes::copy_from_slice(group) };
        let is_new = piece.parts[run.parts].set(part).is_ok();
        debug_assert!(is_new, "a part was there already");
        run.parts += 1;
        run.end = end;
        run.bytes += group.len();
        run.cost += group.len();
        self.account(&mut clock, group.len());
        let from = listed_to.map_or(position, |granule| ((granule + 1) * GRANULE).max(position));
        if from < end {
            self.list(&piece, from, end);
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.hits.get(),
            misses: self.misses.get(),
            evicted: self.evicted.get(),
            used: self.used.get(),
        }
    }

    /// Lets it be found in each granule of this range.
    fn list(&self, piece: &Arc<Piece>, from: u32, to: u32) {
        for granule in from / GRANULE..to.div_ceil(GRANULE) {
            let (bucket, tag) = place(piece.file, granule);
            // What had the place is found in another granule, or not any more, and goes when the hand comes by.
            let _ = self.shelf.put(bucket, tag, piece.clone());
        }
    }

    /// Takes pieces away until `cost` fits; whether it does.
    fn make_room(&self, clock: &mut Clock, cost: usize) -> bool {
        if cost > self.budget {
            return false;
        }
        // Twice around; the second time what is wanted goes too.
        let around = clock.pieces.len() + 1;
        let mut turns = 0;
        while clock.used + cost > self.budget {
            if turns == 2 * around {
                return false;
            }
            turns += 1;
            let Some((piece, own)) = clock.pieces.pop_front() else {
                // Only the run is left.
                let Some(run) = clock.run.take() else { return false };
                clock.pieces.push_back((run.piece, run.cost));
                continue;
            };
            let is_wanted = piece.is_wanted.swap(false, Ordering::Relaxed) && turns <= around;
            if is_wanted || !self.unlist(&piece) {
                clock.pieces.push_back((piece, own));
                continue;
            }
            clock.used -= own;
            self.used.set(clock.used as u64);
            self.evicted.add(1);
        }
        true
    }

    /// Takes a piece off the shelf; false where somebody looks at it at this moment, and it stays.
    fn unlist(&self, piece: &Arc<Piece>) -> bool {
        let (from, to) = piece.range();
        (from / GRANULE..to.div_ceil(GRANULE)).all(|granule| {
            let (bucket, tag) = place(piece.file, granule);
            self.shelf.remove(bucket, tag, |other| Arc::ptr_eq(other, piece)) != Removed::Busy
        })
    }

    fn account(&self, clock: &mut Clock, cost: usize) {
        clock.used += cost;
        self.used.set(clock.used as u64);
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Piece {
    fn of(file: FileKey, part: Part) -> Self {
        Self { file, parts: Box::new([OnceLock::from(part)]), is_wanted: AtomicBool::new(false) }
    }

    fn run(file: FileKey) -> Self {
        let parts = (0..RUN_PARTS).map(|_| OnceLock::new()).collect();
        Self { file, parts, is_wanted: AtomicBool::new(false) }
    }

    fn get(&self, file: FileKey, position: u32, length: usize) -> Option<Bytes> {
        if self.file != file {
            return None;
        }
        let after = self.parts.partition_point(|part| part.get().is_some_and(|part| part.start <= position));
        let part = self.parts[after.checked_sub(1)?].get()?;
        let from = (position - part.start) as usize;
        if from + length > part.bytes.len() {
            return None;
        }
        if !self.is_wanted.load(Ordering::Relaxed) {
            self.is_wanted.store(true, Ordering::Relaxed);
        }
        Some(part.bytes.slice(from..))
    }

    /// From its first byte to the one after its last.
    fn range(&self) -> (u32, u32) {
        let parts = || self.parts.iter().map_while(OnceLock::get);
        let start = parts().next().map_or(0, |part| part.start);
        (start, parts().last().map_or(start, |part| part.start + part.bytes.len() as u32))
    }
}

/// Where a granule of a file stands on the shelf. Granules that follow each other are in buckets that do.
fn place((number, generation): FileKey, granule: u32) -> (usize, u32) {
    let file = number.wrapping_mul(0x9e37_79b1) ^ generation.wrapping_mul(0x85eb_ca6b);
    (file.wrapping_add(granule) as usize, file.rotate_left(16) ^ granule)
}

#[cfg(test)]
mod tests;
