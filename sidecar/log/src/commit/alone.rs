//! Whoever pushes alone writes, too.
//!
//! ```text
//!   for the device, or among others   push ─▶ storage thread: write ─▶ told     two changes of thread
//!   for the kernel, and alone         push ── write ─▶ told                     none
//! ```
//!
//! Handing a small batch to the kernel takes no longer than waking a thread that does. Whatever may take longer, a barrier,
//! another segment, zeros that are waited for, is left to the storage thread; and so is a group that others push to: each
//! write takes all that came during the one before.

use std::time::Duration;

use super::{Committer, flush::Owed};
use crate::state::{Phase, State};

/// Who pushes within this time after the last group is not alone.
const CALM: Duration = Duration::from_micros(20);
/// What takes no longer to copy than a thread to wake.
const SMALL: usize = 64 << 10;

impl Committer {
    /// Writes what has gathered, where that takes no longer than having it written; whether it did.
    pub(crate) fn turn_alone(&mut self) -> bool {
        // Where the storage thread waits for nothing, it may have a time to keep from here on.
        let is_awaited = self.due().is_some();
        if !self.turn_if(Self::is_alone) {
            return false;
        }
        self.shared.state().counts.alone += 1;
        is_awaited
    }

    fn is_alone(&self, state: &State) -> bool {
        let (now, settings, group) = (self.shared.clock.now(), &self.shared.settings, &state.gather);
        let Some(tail) = &self.tail else { return false };
        // Pages that are under way to the device may not be written to meanwhile.
        let is_flushing = |owed: &Owed| owed.is_asked || now.since(owed.since) >= owed.limit(settings);
        let has_time = !tail.owed.as_ref().is_some_and(is_flushing) && state.flush.done.is_none();
        let padded = group.bytes.len().next_multiple_of(self.shared.disk.block()) as u32;
        now.since(self.last_commit) >= CALM
            && !group.is_durable
            && has_time
            && group.bytes.len() <= SMALL
            && self.fits(group, padded)
            && settings.gather.is_zero()
            && state.zeroing.is_none()
            && !state.wants_zeros
            && state.phase == Phase::Open
    }
}
