//! The reserve: room in a file that pushes leave alone, so that trims, cursors and resets go on when the disk is full.
//!
//! ```text
//!   there is room   │ segments ─────────── pushes │        │ reserve                │
//!   full            │ segments ───────────────────│ piece ││ what is left of it     │   in a piece there is no push
//!   some is freed   │ segments ─────────────│ piece │       │ the reserve has it back │   before a push has any
//! ```
//!
//! A piece is a quarter of the reserve, as a segment. It is freed when its user has written anew what is true, which
//! [`Journal::is_reserve_low`](crate::Journal::is_reserve_low) asks for, and has trimmed the rest: so the reserve lasts for
//! ever where half of it holds what its user has. The last of it is for trims alone: whoever used up the rest can let go of it.
//! The file's length is how much is left, also for the next process.
//!
//! Taking must never be refused while something is left, nor may a push have what the reserve lacks.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sidestream_host::{
    Moment,
    disk::{DiskFile, is_full},
};

use crate::{
    PartitionId, Settings,
    state::{Shared, State},
};

/// The file whose room is set aside.
pub(crate) const RESERVE: &str = "reserve";
/// How often is looked whether somebody else has given room back to a full disk.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
/// The reserve grows by multiples of so many bytes.
const STEP: u64 = 4096;

/// Who writes; the greater, the more of a full disk they may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// None of the reserve.
    Push,
    /// What the user of the journal must not lose: all but the last of it.
    State,
    /// Trims, and what else gives room back: all of it.
    #[default]
    Note,
}

impl Rank {
    pub(crate) fn of(partition: PartitionId) -> Self {
        match partition {
            PartitionId::CONTROL => Self::Note,
            PartitionId::STATE => Self::State,
            _ => Self::Push,
        }
    }

    /// Bytes of the reserve that are not for it.
    pub(crate) fn spared(self, settings: &Settings) -> u64 {
        if self == Self::Note { 0 } else { settings.last_piece() }
    }
}

/// What is known of the reserve.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    /// Bytes of its file; none before the keeper has made it.
    pub(crate) left: Option<u64>,
    /// The disk refused a segment; until the reserve is whole and there is room for one only the reserve is left.
    pub(crate) is_disk_full: bool,
    /// Bytes were given back to the disk since anybody looked.
    pub(crate) is_room_new: bool,
    looked: Option<Moment>,
}

impl Reserve {
    /// Bytes that it has of the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.left.unwrap_or_default()
    }

    /// Bytes of files were given back to the disk: what the reserve lacks comes first, see the keeper.
    pub(crate) fn gain(&mut self, bytes: u64, settings: &Settings) {
        self.is_room_new |= bytes > 0;
        // Who has no reserve finds out by trying.
        self.is_disk_full &= bytes == 0 || settings.reserve_bytes > 0;
    }
}

/// One at a time changes the file.
#[derive(Default)]
pub(crate) struct Turn(Mutex<()>);

impl Turn {
    fn take(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Has the disk set room aside for a `file` of `size` bytes, or of `least` at least: of the reserve but for `spared` bytes,
    /// where there is no other. Says how many bytes.
    ///
    /// # Errors
    /// One of [`is_full`] where nothing is left.
    pub(crate) fn allot(&self, file: &dyn DiskFile, size: u64, least: u64, spared: u64) -> io::Result<u64> {
        let mut size = size;
        loop {
            match file.allocate(size) {
                Err(error) if is_full(&error) => {
                    let left = self.state().reserve.bytes().saturating_sub(spared);
                    let smaller = size.min(left / STEP * STEP).max(least);
                    // Drawn where there is something; and what is left may be too little for a piece and enough all the same.
                    if !self.draw(smaller, spared)? && smaller == size {
                        return Err(error);
                    }
                    size = smaller;
                }
                done => return done.map(|()| size),
            }
        }
    }

    /// Makes the reserve smaller by `bytes`, or what it has of them beyond `spared`; whether it had any.
    pub(crate) fn draw(&self, bytes: u64, spared: u64) -> io::Result<bool> {
        let _turn = self.reserve_turn.take();
        let left = self.state().reserve.bytes();
        let mut kept = left.saturating_sub(bytes).max(spared.min(left));
        if kept == left {
            return Ok(false);
        }
        match self.disk.open(RESERVE).and_then(|file| file.truncate(kept)) {
            // Somebody removed it: the disk has it back already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => kept = 0,
            done => done?,
        }
        self.state().reserve.left = Some(kept);
        Ok(true)
    }

    /// Gives the reserve what it lacks, as far as there is room, and then the pushes what is beyond it; whether anything has
    /// changed. Looks only where room was given back, and every [`LOOK`] while it lacks something.
    pub(crate) fn refill(&self) -> io::Result<bool> {
        let _turn = self.reserve_turn.take();
        let settings = &self.settings;
        let (left, wanted, is_disk_full) = {
            let now = self.clock.now();
            let mut state = self.state();
            let (wanted, is_lacking) = (state.reserve_wanted(settings), state.is_reserve_lacking(settings));
            let reserve = &mut state.reserve;
            let is_time = reserve.looked.is_none_or(|looked| now.since(looked) >= LOOK);
            if !is_lacking || !(reserve.is_room_new || is_time) {
                return Ok(false);
            }
            (reserve.is_room_new, reserve.looked) = (false, Some(now));
            (reserve.left, wanted, reserve.is_disk_full)
        };
        let file = match self.disk.create(RESERVE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(RESERVE)?,
            file => file?,
        };
        let has = left.unwrap_or_default();
        // Whether pushes may go on is found out by having a segment's room for a moment.
        let beyond = if is_disk_full { u64::from(settings.segment_bytes) } else { 0 };
        let made = grow(&*file, has, wanted.max(has), beyond);
        let mut state = self.state();
        // The file may be longer than it was, whatever went wrong.
        let (made, has_beyond) = made.inspect_err(|_| state.reserve.is_room_new = true)?;
        state.reserve.left = Some(made);
        let is_over = is_disk_full && has_beyond;
        if is_over {
            state.reserve.is_disk_full = false;
            drop(state);
            self.room.notify_waiters();
        }
        Ok(made > has || is_over)
    }
}

impl State {
    /// Bytes that the reserve should have, within the capacity.
    fn reserve_wanted(&self, settings: &Settings) -> u64 {
        let room = settings.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used));
        settings.reserve_bytes.min(room)
    }

    /// Whether the reserve is to have more, or the pushes are to have what it doesn't need.
    pub(crate) fn is_reserve_lacking(&self, settings: &Settings) -> bool {
        let is_whole = self.reserve.left.is_some_and(|left| left >= self.reserve_wanted(settings));
        settings.reserve_bytes > 0 && (self.reserve.is_disk_full || !is_whole)
    }
}

/// Makes a file of `has` bytes as long as there is room for, up to `wanted`; how long, and whether there was room for `beyond`
/// more.
fn grow(file: &dyn DiskFile, has: u64, wanted: u64, beyond: u64) -> io::Result<(u64, bool)> {
    let mut made = has;
    let reach = |made: &mut u64, length: u64| match file.allocate(length) {
        Ok(()) => {
            *made = length;
            Ok(true)
        }
        // Some of it may have been had.
        Err(error) if is_full(&error) => file.truncate(*made).map(|()| false),
        Err(error) => Err(error),
    };
    if reach(&mut made, wanted + beyond)? {
        file.truncate(wanted)?;
        return Ok((wanted, true));
    }
    let mut step = wanted.saturating_sub(made);
    while step > 0 {
        let length = (made + step).min(wanted);
        // Twice the same would be refused twice.
        let is_new = length > made && (beyond > 0 || length < wanted);
        let reached = is_new && reach(&mut made, length)?;
        step = if reached { wanted - made } else { step / 2 / STEP * STEP };
    }
    Ok((made, false))
}
