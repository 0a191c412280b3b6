//! The keeper: everything about segments that nobody waits for.
//!
//! ```text
//!   flushing   what only the kernel has: see `commit/flush`
//!   footers    the index of a finished segment, behind its batches
//!   zeros      ahead of the end while groups are small
//!   freeing    segments that nobody can read any more
//!   cleaning   segments that are mostly dead: what lives is copied into one that stands for them all
//!   reserve    what it lacks, as soon as there is room: see `reserve`
//! ```
//!
//! A copy and its name are durable before what it stands for is removed; where both are found at a start, the finished copy
//! counts. Where a segment ends, its footer says and the head of the next one: the footer is durable before the next one goes. It must never write where the storage thread does, nor remove the segment whose head is the newest.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use sidestream_event::record::HEADER_BYTES;
use sidestream_host::disk::{Aligned, Barrier, is_full};

use crate::{
    Damage, PartitionId, around,
    files::FileKey,
    footer::Footer,
    head::{Head, file_name},
    index::Strands,
    reserve::LOOK,
    scan::{End, Found, place, scan_whole, sum_of},
    state::{Phase, Segment, Shared},
    walk::{Loaded, is_of, load},
};

/// Zeros are written so many bytes at a time: what a group may have to wait for.
const ZEROS: u32 = 256 << 10;
/// How long the keeper waits after a disk has failed it.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    /// An error of the disk in keeping is no reason to stop; it is tried again with the next chore.
    is_failing: bool,
    /// Segments that can't be read in part; they are not cleaned.
    spoiled: BTreeSet<u32>,
    /// Whose end was made durable last, and whose was to be and may not be.
    ended: Option<FileKey>,
    doubted: Option<FileKey>,
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, is_failing: false, spoiled: BTreeSet::new(), ended: None, doubted: None }
    }

    /// The life of the thread.
    pub(crate) fn run(mut self) {
        loop {
            while self.turn() {}
            let state = self.shared.state();
            if state.phase != Phase::Open {
                return;
            }
            if self.is_failing {
                // What failed is tried again, but not as fast as it can.
                drop(self.shared.chores.wait_timeout(state, RETRY).unwrap_or_else(PoisonError::into_inner));
            } else if state.flush.is_asked
                || state.is_chore_due
                || state.wants_zeros
                || !state.finished.is_empty()
            {
                continue;
            } else if state.is_reserve_lacking(&self.shared.settings) {
                drop(self.shared.chores.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(self.shared.chores.wait(state).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Does one thing; whether there was one.
    pub(crate) fn turn(&mut self) -> bool {
        // What becomes due from here on is seen by the next turn.
        self.shared.state().is_chore_due = false;
        self.is_failing = false;
        if self.flush() || self.zero_ahead() || self.write_footer() {
            return true;
        }
        // What fails must not keep the others from what they can do.
        [Self::free, |keeper: &mut Self| keeper.shared.refill(), Self::clean].into_iter().any(|chore| {
            let done = chore(self);
            self.is_failing |= done.is_err();
            done.unwrap_or(false)
        })
    }

    fn zero_ahead(&self) -> bool {
        let (key, from, length) = {
            let mut state = self.shared.state();
            if !std::mem::take(&mut state.wants_zeros) {
                return false;
            }
            let Some((number, segment)) = state.segments.last_key_value() else { return false };
            let (number, generation, size) = (*number, segment.generation, segment.size as u32);
            // Behind all that was taken to be written; and some way behind, because a group that comes meanwhile and
            // reaches there waits for the zeros.
            let taken = state.taken.max(state.tail);
            let from = match state.zeroed {
                zeroed if zeroed >= taken && zeroed > segment.start => zeroed,
                zeroed => (zeroed.max(taken) + ZEROS / 4).next_multiple_of(4096),
            };
            if state.zeroed > state.tail + self.shared.settings.zero_ahead_bytes || from >= size {
                return false;
            }
            let length = ZEROS.min(size - from);
            state.zeroing = Some(from);
            ((number, generation), from, length)
        };
        let written = self
            .shared
            .files
            .open(&*self.shared.disk, key)
            .and_then(|file| file.zero(from.into(), length.into()));
        let mut state = self.shared.state();
        state.zeroing = None;
        if state.segments.last_key_value().is_some_and(|(number, _)| *number == key.0) {
            state.zeroed = from + length;
            state.wants_zeros = written.is_ok()
                && state.zeroed < state.tail.saturating_add(self.shared.settings.zero_ahead_bytes);
        }
        drop(state);
        self.shared.zeros.notify_one();
        written.is_ok()
    }

    fn write_footer(&self) -> bool {
        let Some((number, end, strands)) = self.shared.state().finished.front().cloned() else {
            return false;
        };
        let generation = self.shared.state().segments.get(&number).map(|segment| segment.generation);
        // Without a footer the segment is read at the next start.
        let _ = generation.map(|generation| self.finish((number, generation), end, &strands));
        self.shared.state().finished.pop_front();
        true
    }

    /// Has a segment end with its footer.
    fn finish(&self, key: FileKey, end: End, strands: &Strands) -> io::Result<()> {
        let file = self.shared.files.open(&*self.shared.disk, key)?;
        // Who says that it ends behind its file may say anything; what is missing there can't be read either way.
        let position = file.length()?.min(end.position.into()) as u32;
        let end = End { position, ..end };
        let length = Footer::write(&*file, self.shared.disk.block(), key, end, strands)?;
        let mut state = self.shared.state();
        if let Some(segment) = state.segments.get_mut(&key.0) {
            let size = std::mem::replace(&mut segment.size, length);
            segment.end = end.position;
            state.used = state.used + length - size;
            state.reserve.gain(size.saturating_sub(length), &self.shared.settings);
        }
        Ok(())
    }

    fn free(&mut self) -> io::Result<bool> {
        let dead: Vec<(u32, Segment)> = {
            let state = self.shared.state();
            let before = state.segments.range(..state.headed.unwrap_or_default());
            let dead = before.filter(|(_, segment)| segment.live == 0 && !segment.has_holes);
            dead.map(|(number, segment)| (*number, *segment)).collect()
        };
        let mut failed = Ok(false);
        for (number, segment) in dead {
            match self.end_before(number) {
                Ok(true) => {
                    self.free_one(number, segment);
                    return Ok(true);
                }
                Ok(false) => {}
                // Another one may have its room back.
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    fn free_one(&self, number: u32, segment: Segment) {
        let mut state = self.shared.state();
        state.segments.remove(&number);
        state.finished.retain(|(finished, ..)| *finished != number);
        state.used -= segment.size;
        state.counts.freed += 1;
        drop(state);
        let key = (number, segment.generation);
        // One that can't be removed is removed at the next start.
        let removed = self.shared.disk.remove(&file_name(key.0, key.1));
        // A reader may have opened it anew just before: its room comes back when nobody has it open.
        self.shared.files.forget(key);
        if removed.is_ok() {
            self.shared.state().reserve.gain(segment.size, &self.shared.settings);
        }
        self.shared.room.notify_waiters();
    }

    /// Makes durable where the segment before this one ends, for this one's head is about to go: whether it may.
    fn end_before(&mut self, number: u32) -> io::Result<bool> {
        let (before, is_aside) = {
            let state = self.shared.state();
            let before =
                state.segments.range(..number).next_back().map(|(number, segment)| (*number, *segment));
            let first = before.map_or(0, |(_, segment)| segment.last.saturating_add(1));
            (before, first < number && state.is_set_aside(first..=number - 1))
        };
        if is_aside {
            return Ok(false);
        }
        let Some((number, segment)) = before else { return Ok(true) };
        let key = (number, segment.generation);
        // A copy was durable with its footer before it was there.
        if segment.generation > 0 || self.ended == Some(key) {
            return Ok(true);
        }
        let file = self.shared.files.open(&*self.shared.disk, key)?;
        // What a barrier that failed may have lost is written again: the kernel calls it clean.
        if self.doubted == Some(key) || Footer::find(&*file)?.is_none() {
            let chain = segment.end_chain.ok_or(io::ErrorKind::InvalidData)?;
            let end = End { position: segment.end, chain };
            // A footer without what can't be read now would be believed for ever.
            if segment.has_holes || self.spoiled.contains(&number) {
                return Ok(false);
            }
            let Loaded { strands, is_whole } = load(&self.shared, key)?;
            if !is_whole {
                self.spoiled.insert(number);
                return Ok(false);
            }
            match self.finish(key, end, &strands) {
                // Its torn end may be taken for damage one day; without room nothing goes on now.
                Err(error) if is_full(&error) => return Ok(true),
                finished => finished?,
            }
        }
        self.doubted = Some(key);
        file.barrier(Barrier::End)?;
        (self.ended, self.doubted) = (Some(key), None);
        Ok(true)
    }

    /// Gives the reserve back what nobody can read any more: at a start, before anything is written.
    pub(crate) fn restore(&mut self) {
        if self.shared.state().reserve.bytes() < self.shared.settings.reserve_bytes {
            while self.write_footer() || matches!(self.free(), Ok(true)) {}
            // What can't be had now may be had later.
            let _ = self.shared.refill();
        }
    }

    /// Copies what lives of the segments that are mostly dead.
    fn clean(&mut self) -> io::Result<bool> {
        let Some(victims) = self.victims() else { return Ok(false) };
        if !self.end_before(victims[0].0)? {
            self.spoiled.insert(victims[0].0);
            return Ok(true);
        }
        let (first, last) = (victims[0].0, victims[victims.len() - 1].1.last);
        let generation = victims.iter().map(|(_, segment)| segment.generation).max().unwrap_or(0) + 1;
        let mut copy = Copy::new(Head {
            number: first,
            last,
            generation,
            journal: self.shared.journal,
            ..Head::default()
        });
        for (number, segment) in &victims {
            let file = self.shared.files.open(&*self.shared.disk, (*number, segment.generation))?;
            let read = around::read(&*file, 0, segment.end as usize)?;
            let (scanned, _) = scan_whole(&read, *number, segment);
            let is_unknown = |damage: &Damage| damage.lost.is_none() && !damage.is_mended;
            if !read.holes.is_empty() || scanned.damage.iter().any(is_unknown) {
                // What can't be read now may be another time, and by its index: it is not thrown away.
                self.spoiled.insert(*number);
                return Ok(true);
            }
            self.shared.state().damage.extend(scanned.damage.iter().filter(|damage| damage.lost.is_some()));
            for found in scanned.found {
                if self.lives(&found, (*number, segment.generation), segment.last) {
                    copy.add(found, &read.bytes);
                }
            }
        }
        self.replace(&victims, copy)
    }

    /// Finished segments, one after the other, that are to be one.
    fn victims(&self) -> Option<Vec<(u32, Segment)>> {
        let state = self.shared.state();
        let headed = state.headed?;
        let settings = &self.shared.settings;
        let dead = |segment: &Segment| {
            u64::from(segment.end.saturating_sub(segment.start)).saturating_sub(segment.live)
        };
        let is_finished =
            |number: u32| number < headed && state.finished.iter().all(|(other, ..)| *other != number);
        let all_dead: u64 = state
            .segments
            .iter()
            .filter(|(number, _)| is_finished(**number))
            .map(|(_, segment)| dead(segment))
            .sum();
        let is_tight = !state.may_grow(settings);
        let is_worth_it = all_dead > (state.used / 4).max(u64::from(settings.segment_bytes));
        if !is_worth_it && !is_tight {
            return None;
        }
        let mut victims: Vec<(u32, Segment)> = Vec::new();
        let mut live = 0;
        for (number, segment) in state.segments.iter().filter(|(number, _)| is_finished(**number)) {
            let fits = live + segment.live <= u64::from(settings.segment_bytes) / 2;
            // In the middle of a run anything that fits is taken along: fewer files.
            let is_spoiled = segment.has_holes || self.spoiled.contains(number);
            let first =
                victims.last().map_or(*number, |(_, before): &(u32, Segment)| before.last.saturating_add(1));
            let is_aside = state.is_set_aside(first..=segment.last);
            if dead(segment) >= segment.live && fits && !is_spoiled && !is_aside {
                victims.push((*number, *segment));
                live += segment.live;
            } else if !victims.is_empty() {
                break;
            }
        }
        // Without room for the copy all that is read for it would be read in vain, again and again.
        let has_room = !state.reserve.is_disk_full
            || settings.reserve_bytes == 0
            || state.reserve.bytes() >= live + u64::from(settings.piece(0));
        (!victims.is_empty() && has_room).then_some(victims)
    }

    fn lives(&self, found: &Found, key: (u32, u32), last: u32) -> bool {
        let state = self.shared.state();
        state.partitions.get(&PartitionId(found.header.partition)).is_some_and(|partition| {
            // What no span says is here nobody can read: to copy it would be no gain, again and again.
            let is_known = partition.spans.iter().any(|span| span.segment == key.0);
            let is_there = found.header.next_offset() > partition.gone && is_known;
            is_there && is_of(partition.born, key, last, found.position)
        })
    }

    fn replace(&self, victims: &[(u32, Segment)], copy: Copy) -> io::Result<bool> {
        let Copy { head, mut bytes, strands, chain, start, head_chain } = copy;
        let disk = &self.shared.disk;
        let (number, generation) = (head.number, head.generation);
        let name = file_name(number, generation);
        let end = End { position: bytes.len() as u32, chain };
        bytes.pad(disk.block());
        let file = disk.create(&name)?;
        let size = bytes.len() as u64 + Footer::bytes_max(&strands, disk.block());
        // The reserve lends it, for what it replaces is more; but not the last of what it has.
        let may_lend = self.shared.state().reserve.bytes() >= size + u64::from(self.shared.settings.piece(0));
        let allotted = if may_lend {
            self.shared.allot(&*file, size, size, self.shared.settings.last_piece()).map(drop)
        } else {
            file.allocate(size)
        };
        let written = allotted.and_then(|()| {
            file.write(0, &bytes)?;
            let length = Footer::write(&*file, disk.block(), (number, generation), end, &strands)?;
            file.barrier(Barrier::Copy)?;
            disk.sync_names(Barrier::CopyName)?;
            Ok(length)
        });
        let length = match written {
            Ok(length) => length,
            Err(error) => {
                let _ = disk.remove(&name);
                self.shared.state().reserve.gain(size, &self.shared.settings);
                return Err(error);
            }
        };
        let mut state = self.shared.state();
        for (victim, segment) in victims {
            state.segments.remove(victim);
            state.used -= segment.size;
        }
        state.used += length;
        let mut segment = Segment {
            last: head.last,
            generation,
            start,
            end: end.position,
            chain: Some(head_chain),
            end_chain: Some(chain),
            size: length,
            live: 0,
            has_holes: false,
        };
        let is_replaced = |span: u32| victims.iter().any(|(victim, _)| *victim == span);
        for (id, partition) in &mut state.partitions {
            let Some(at) = partition.spans.iter().position(|span| is_replaced(span.segment)) else {
                continue;
            };
            partition.spans.retain(|span| !is_replaced(span.segment));
            // What was trimmed while it was copied is dead in the copy.
            if let Some(span) =
                strands.get(id).map(|strand| strand.span(number)).filter(|span| span.end > partition.gone)
            {
                segment.live += u64::from(span.bytes);
                partition.spans.insert(at, span);
            }
        }
        for partition in state.removing.values_mut() {
            partition.spans.retain(|span| !is_replaced(span.segment));
        }
        state.segments.insert(number, segment);
        state.counts.cleaned += victims.len() as u64;
        drop(state);
        for (victim, segment) in victims {
            let _ = disk.remove(&file_name(*victim, segment.generation));
            self.shared.files.forget((*victim, segment.generation));
        }
        let replaced: u64 = victims.iter().map(|(_, segment)| segment.size).sum();
        self.shared.state().reserve.gain(replaced, &self.shared.settings);
        Ok(true)
    }
}

/// A segment that stands for others.
struct Copy {
    head: Head,
    head_chain: u32,
    start: u32,
    bytes: Aligned,
    strands: Strands,
    chain: u32,
}

impl Copy {
    fn new(head: Head) -> Self {
        let (bytes, chain) = head.write();
        let start = head.bytes();
        Self { head, head_chain: chain, start, bytes: Aligned::of(&bytes), strands: Strands::new(), chain }
    }

    fn add(&mut self, found: Found, bytes: &[u8]) {
        let position = self.bytes.len() as u32;
        let mut header = found.header;
        header.place = place(self.head.number, position);
        // Nothing of a copy was ever acknowledged before all of it was durable.
        header.frontier = position;
        header.chain = self.chain;
        let mut written = [0; HEADER_BYTES];
        header.write(&mut written);
        let from = found.position as usize;
        self.bytes.extend(&written);
        self.bytes.extend(&bytes[from + HEADER_BYTES..from + header.length as usize]);
        self.chain = sum_of(&header);
        self.strands.entry(PartitionId(header.partition)).or_default().note(&header, position);
    }
}
