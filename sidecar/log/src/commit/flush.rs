//! How the device gets what only the kernel has, while nobody who pushes waits for it.
//!
//! ```text
//!   storage thread   write ─▶ write ─▶ much, or long ago? asks ─▶ write ─▶ write ─▶ hears: durable up to there
//!   keeper                                   └─▶ barrier ───────────────────────────▲
//! ```
//!
//! A barrier for all that was pushed in a second takes as long as hundreds of writes. Where the keeper is late, the storage
//! thread has the barrier itself, so that [`Settings::flush`] holds. A barrier must never count for what was written after it
//! began.

use std::{io, time::Duration};

use sidestream_host::{Moment, disk::Barrier};

use super::Committer;
use crate::{Durability, control::Note, keep::Keeper, settings::Settings, state::Group};

/// From so many bytes on the keeper is asked, however young they are: what a segment that ends has to wait for.
const MUCH: u32 = 4 << 20;

/// What of the segment that is written was promised to the device and only the kernel has.
#[derive(Debug)]
pub(crate) struct Owed {
    /// Since when, the oldest of it.
    pub(crate) since: Moment,
    /// Where the last of it ends.
    pub(crate) end: u32,
    /// The keeper knows.
    pub(crate) is_asked: bool,
}

impl Owed {
    /// When something is to happen, as an age: half way the keeper is asked, and at the end nobody waits for it any more.
    pub(crate) fn limit(&self, settings: &Settings) -> Duration {
        if self.is_asked { settings.flush } else { settings.flush / 2 }
    }

    /// Whether the keeper is to be asked, where `bytes` are not durable.
    pub(crate) fn wants_flush(&self, bytes: u32, now: Moment, settings: &Settings) -> bool {
        !self.is_asked && (bytes >= MUCH || now.since(self.since) >= self.limit(settings))
    }

    /// What is still owed after a barrier that began at `begun`, when the segment ended at `position`.
    pub(crate) fn after(self, position: u32, begun: Moment) -> Option<Self> {
        (self.end > position).then_some(Self { since: begun, end: self.end, is_asked: false })
    }
}

/// What the keeper is asked, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    pub(crate) is_asked: bool,
    pub(crate) done: Option<Flushed>,
}

/// A barrier that the keeper had.
#[derive(Debug)]
pub(crate) struct Flushed {
    /// Of which segment, and where it ended when this began.
    pub(crate) number: u32,
    pub(crate) position: u32,
    pub(crate) begun: Moment,
    pub(crate) result: io::Result<()>,
}

impl Committer {
    /// Notes that all is durable where nothing has happened for long enough, or has the keeper see to it; whether it did.
    pub(crate) fn settle(&mut self) -> bool {
        let has_heard = self.hear();
        let is_due = self.due().is_some_and(|wait| wait.is_zero());
        if is_due && !self.ask() {
            self.mark();
        }
        is_due || has_heard
    }

    /// Asks the keeper for a barrier where that is in time; whether it did.
    pub(super) fn ask(&mut self) -> bool {
        let settings = &self.shared.settings;
        let Some(tail) = self.tail.as_mut() else { return false };
        let bytes = tail.position - tail.durable;
        let Some(owed) = tail.owed.as_mut() else { return false };
        let now = self.shared.clock.now();
        if now.since(owed.since) >= settings.flush || !owed.wants_flush(bytes, now, settings) {
            return false;
        }
        owed.is_asked = true;
        self.shared.state().flush.is_asked = true;
        self.shared.chores.notify_one();
        true
    }

    /// What came of the keeper's barrier; whether there was one.
    pub(super) fn hear(&mut self) -> bool {
        let Some(done) = self.shared.state().flush.done.take() else { return false };
        // Of a segment that has ended: its end had a barrier of its own.
        let Some(tail) = self.tail.as_mut().filter(|tail| tail.number == done.number) else { return true };
        match done.result {
            Ok(()) => {
                tail.durable = tail.durable.max(done.position);
                tail.owed = tail.owed.take().and_then(|owed| owed.after(done.position, done.begun));
            }
            Err(error) => self.fail(Group::default(), &error),
        }
        true
    }

    /// Notes that all is durable.
    pub(crate) fn mark(&mut self) {
        if self.tail.as_ref().is_none_or(|tail| tail.is_settled) {
            return;
        }
        let (header, body) = Note::Mark.batch();
        drop(self.shared.state().gather.push(header, &body, 0, Durability::Device, Some(Note::Mark)));
        while self.turn() {}
        // Where there was no room for a mark, what was promised is kept all the same.
        let Some(tail) = self.tail.as_mut().filter(|tail| !tail.is_settled) else { return };
        tail.is_settled = true;
        if tail.durable < tail.position {
            let kept = tail.file.barrier(Barrier::Earlier);
            (tail.durable, tail.owed) = (tail.position, None);
            if let Err(error) = kept {
                self.fail(Group::default(), &error);
            }
        }
    }

    /// In how long all should be noted as durable, if it is not.
    pub(super) fn due(&self) -> Option<Duration> {
        let tail = self.tail.as_ref().filter(|tail| !tail.is_settled)?;
        let settings = &self.shared.settings;
        let (since, limit) = match &tail.owed {
            Some(owed) => (owed.since, owed.limit(settings)),
            None if tail.durable < tail.position => return None,
            None => (self.last_commit, settings.settle),
        };
        Some(limit.saturating_sub(self.shared.clock.now().since(since)))
    }
}

impl Keeper {
    /// Has the device keep what was written to the last segment, if that was asked; whether it was.
    pub(crate) fn flush(&self) -> bool {
        let (key, position) = {
            let mut state = self.shared.state();
            if !std::mem::take(&mut state.flush.is_asked) {
                return false;
            }
            let Some((number, segment)) = state.segments.last_key_value() else { return false };
            ((*number, segment.generation), state.tail)
        };
        let begun = self.shared.clock.now();
        let file = self.shared.files.open(&*self.shared.disk, key);
        let result = file.and_then(|file| file.barrier(Barrier::Earlier));
        let mut state = self.shared.state();
        state.counts.barriers += u64::from(result.is_ok());
        state.flush.done = Some(Flushed { number: key.0, position, begun, result });
        drop(state);
        self.shared.work.notify_one();
        true
    }
}
