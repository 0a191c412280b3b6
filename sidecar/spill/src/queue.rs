//! The order of a spilled queue, and who is owed what. Pure: no disk, no time of its own.
//!
//! ```text
//!   push ─▶ tail ───────────────── hand ─▶ out ─ settled, passed ─▶ gone
//!            └ begin_store, stored ─▶ disk ─ hand_stored ─▶ ┘
//!   order:   out, then disk, then tail; what is out may be on the disk as well
//! ```
//!
//! It must never hand a batch out of its turn, answer a source before its batch is stored or settled, or let go of a stored
//! offset while a state may hold an event of it.

use std::{collections::VecDeque, ops::Range, time::Duration};

use bytes::Bytes;
use sidestream_event::Settled;
use sidestream_host::Moment;

use crate::{encode::Parcel, owed::Owed};

/// What waits for a stage.
#[derive(Default)]
pub(crate) struct Queue {
    /// Handed out, until nothing holds it any more.
    out: VecDeque<Held>,
    /// Offsets that are stored and not handed out.
    disk: Range<u64>,
    /// In memory, and not handed out. Those that are being stored come first, and wait for that.
    tail: VecDeque<Held>,
    tail_events: usize,
    /// Bytes of all frames in memory.
    bytes: usize,
    /// Events that may wait in memory.
    capacity: usize,
    next_id: u64,
    /// Counts the readers; only the newest is handed anything.
    reader: u64,
    /// Whether nobody reads.
    is_left: bool,
    /// Whether all of it is to be stored, however little it is.
    is_forced: bool,
}

/// A batch.
struct Held {
    id: u64,
    count: u32,
    since: Moment,
    /// While it is neither stored nor settled.
    frame: Option<Bytes>,
    /// While its source has something to hear.
    owed: Option<Owed>,
    is_storing: bool,
    stored: Option<Range<u64>>,
    /// Whom it was handed to, and the position behind its events there.
    sent: Option<(u64, u64)>,
    is_settled: bool,
    is_released: bool,
    /// Lost behind, or dropped because the stage was removed: whoever reads next gets it again.
    is_back: bool,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hand {
    /// This one, from memory.
    Frame { id: u64, frame: Bytes },
    /// What is stored at this offset: read it, and say so by [`Queue::hand_stored`].
    Stored(u64),
    /// Nothing now.
    Nothing,
}

impl Queue {
    /// One that goes on with what a partition has.
    pub(crate) fn of(disk: Range<u64>) -> Queue {
        Queue { disk, capacity: 1, is_left: true, ..Queue::default() }
    }

    pub(crate) fn set_capacity(&mut self, events: usize) {
        self.capacity = events.max(1);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.tail_events < self.capacity && self.bytes < BYTES_MAX
    }

    pub(crate) fn push(&mut self, parcel: Parcel, now: Moment) {
        let Parcel { frame, count, owed } = parcel;
        self.tail_events += count as usize;
        self.bytes += frame.len();
        let id = self.new_id();
        self.tail.push_back(Held { frame: Some(frame), owed: Some(owed), ..Held::new(id, count, now) });
    }

    /// Everything is to be stored, or only what has to be again.
    pub(crate) fn force(&mut self, is_forced: bool) {
        self.is_forced = is_forced;
    }

    /// Whether all that came in is settled or stored: nothing is lost with this process.
    pub(crate) fn is_safe(&self) -> bool {
        self.in_memory().next().is_none()
    }

    /// Events that would be.
    pub(crate) fn unsafe_events(&self) -> u64 {
        self.in_memory().map(|held| u64::from(held.count)).sum()
    }

    /// Whether nothing is left to be handed out.
    pub(crate) fn is_handed_out(&self) -> bool {
        self.disk.is_empty() && self.tail.is_empty() && self.out.iter().all(|held| held.sent.is_some())
    }

    /// Stored events that were not handed out or came back, and all events in memory that were not handed out.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let back: u64 = self.out.iter().filter(|held| held.is_back).map(|held| u64::from(held.count)).sum();
        (self.disk.end - self.disk.start + back, self.tail_events as u64)
    }

    /// Stored events that have not ended: also those that were handed out.
    pub(crate) fn unsettled(&self) -> u64 {
        let out = self.out.iter().filter(|held| held.stored.is_some() && !held.is_settled);
        self.disk.end - self.disk.start + out.map(|held| u64::from(held.count)).sum::<u64>()
    }

    /// When something is to be stored; none where nothing has to be.
    pub(crate) fn store_at(&self) -> Option<Moment> {
        let oldest = self.in_memory().find(|held| !held.is_storing)?;
        let is_due = self.is_forced || !self.disk.is_empty() || !self.has_room();
        Some(if is_due { Moment::default() } else { oldest.since + WAITS_MAX })
    }

    /// What is to be stored now, in order, of `bytes` at most or a single batch, where each takes `beside` bytes more than its
    /// frame. Each is to be reported by [`Queue::stored`], in order too, or by [`Queue::not_stored`].
    pub(crate) fn begin_store(&mut self, now: Moment, bytes: usize, beside: usize) -> Vec<(u64, Bytes, u32)> {
        let (mut chunk, mut left) = (Vec::new(), bytes);
        if self.store_at().is_none_or(|due| due > now) {
            return chunk;
        }
        for held in self.out.iter_mut().chain(&mut self.tail) {
            let Some(frame) = held.frame.as_ref().filter(|_| !held.is_storing) else { continue };
            let takes = frame.len() + beside;
            if takes > left && !chunk.is_empty() {
                break;
            }
            left = left.saturating_sub(takes);
            chunk.push((held.id, frame.clone(), held.count));
            held.is_storing = true;
        }
        chunk
    }

    /// A batch is durable at these offsets: its source need not keep it. Gives what it was owed, to be dropped.
    pub(crate) fn stored(&mut self, id: u64, offsets: Range<u64>) -> Option<Owed> {
        if self.tail.front().is_some_and(|held| held.id == id) {
            let held = self.tail.pop_front()?;
            self.tail_events -= held.count as usize;
            self.bytes -= held.frame.map_or(0, |frame| frame.len());
            let from = if self.disk.is_empty() { offsets.start } else { self.disk.start };
            self.disk = from..offsets.end;
            return held.owed;
        }
        // It was handed out from memory, so nothing before it was left on the disk, but for what comes back.
        let from = if self.disk.is_empty() { offsets.end } else { self.disk.start };
        self.disk = from..offsets.end;
        let held = self.out.iter_mut().find(|held| held.id == id)?;
        self.bytes -= held.frame.take().map_or(0, |frame| frame.len());
        held.is_storing = false;
        held.stored = Some(offsets);
        held.owed.take()
    }

    /// What else was being stored is not, and is to be tried again.
    pub(crate) fn not_stored(&mut self) {
        self.out.iter_mut().chain(&mut self.tail).for_each(|held| held.is_storing = false);
    }

    /// A reader comes, and goes on where the one before was, and with what was dropped behind that one. Says who it is.
    pub(crate) fn begin_reader(&mut self) -> u64 {
        let comes_again = |held: &&Held| held.sent.is_none() || held.is_back && held.stored.is_none();
        let in_hand: Vec<u64> = self.out.iter().filter(comes_again).map(|held| held.id).collect();
        in_hand.into_iter().rev().for_each(|id| self.take_back(id));
        let back = self.out.iter().filter(|held| held.is_back);
        if let Some(from) = back.filter_map(|held| Some(held.stored.as_ref()?.start)).min() {
            self.disk.start = self.disk.start.min(from);
            self.out.retain(|held| !(held.is_back && held.stored.is_some()));
        }
        self.reader += 1;
        self.is_left = false;
        self.reader
    }

    /// The reader has gone.
    pub(crate) fn leave(&mut self, reader: u64) {
        self.is_left |= reader == self.reader;
    }

    pub(crate) fn is_left(&self) -> bool {
        self.is_left
    }

    /// Whether another reader has come after this one.
    pub(crate) fn is_replaced(&self, reader: u64) -> bool {
        self.reader != reader
    }

    /// The next batch.
    pub(crate) fn hand(&mut self) -> Hand {
        if !self.disk.is_empty() {
            return Hand::Stored(self.disk.start);
        }
        let Some(held) = self.tail.pop_front_if(|held| !held.is_storing) else { return Hand::Nothing };
        self.tail_events -= held.count as usize;
        let hand = Hand::Frame { id: held.id, frame: held.frame.clone().unwrap_or_default() };
        self.out.push_back(held);
        hand
    }

    /// What is stored at these offsets was read by `reader`, and is handed to it. None where it was not the next.
    pub(crate) fn hand_stored(&mut self, reader: u64, offsets: Range<u64>, now: Moment) -> Option<u64> {
        if self.is_replaced(reader) || self.disk.is_empty() || !offsets.contains(&self.disk.start) {
            return None;
        }
        let (id, count) = (self.new_id(), (offsets.end - offsets.start) as u32);
        self.disk.start = offsets.end.min(self.disk.end);
        self.out.push_back(Held { stored: Some(offsets), ..Held::new(id, count, now) });
        Some(id)
    }

    /// What is stored before `to` cannot be read. Says how many events those are that were not handed out.
    pub(crate) fn skip(&mut self, to: u64) -> u64 {
        let from = self.disk.start;
        self.disk.start = to.clamp(from, self.disk.end);
        self.disk.start - from
    }

    /// A batch was sent on by `reader`; `end` is the position behind it. From one that was replaced the next has taken it.
    pub(crate) fn sent(&mut self, reader: u64, id: u64, end: u64) {
        if self.is_replaced(reader) {
            return;
        }
        if let Some(held) = self.out.iter_mut().find(|held| held.id == id) {
            held.sent = Some((reader, end));
        }
    }

    /// A batch was not sent on by `reader`: it is the next again.
    pub(crate) fn give_back(&mut self, reader: u64, id: u64) {
        if !self.is_replaced(reader) {
            self.take_back(id);
        }
    }

    fn take_back(&mut self, id: u64) {
        let Some(at) = self.out.iter().position(|held| held.id == id) else { return };
        let Some(mut held) = self.out.remove(at) else { return };
        (held.sent, held.is_released, held.is_back) = (None, false, false);
        match &held.stored {
            Some(offsets) => self.disk.start = offsets.start,
            None => {
                self.tail_events += held.count as usize;
                self.tail.push_front(held);
            }
        }
    }

    /// A batch that was handed out has nothing that could be sent on: it is gone. Says how many events those are, and what was
    /// owed for them.
    pub(crate) fn forget(&mut self, reader: u64, id: u64) -> Option<(u32, Option<Owed>)> {
        if self.is_replaced(reader) {
            return None;
        }
        let at = self.out.iter().position(|held| held.id == id)?;
        let held = self.out.remove(at)?;
        self.bytes -= held.frame.map_or(0, |frame| frame.len());
        Some((held.count, held.owed))
    }

    /// The events of a batch have ended. What is lost behind, or dropped where nobody reads any more, comes again with the next
    /// reader, or the next start.
    pub(crate) fn settled(&mut self, id: u64, settled: &Settled) -> Option<Owed> {
        let at = self.out.iter().position(|held| held.id == id)?;
        let reader = self.reader;
        let held = &mut self.out[at];
        let is_gone = self.is_left || held.sent.is_some_and(|(whose, _)| whose != reader);
        if settled.is_lost || is_gone && settled.dropped > settled.unfit {
            held.is_back = true;
            return None;
        }
        held.is_settled = true;
        self.bytes -= held.frame.take().map_or(0, |frame| frame.len());
        if let Some(owed) = &mut held.owed {
            owed.settle(settled);
        }
        if held.is_released {
            return self.out.remove(at)?.owed;
        }
        if self.out.len() > JOINED_FROM {
            self.join(at);
        }
        None
    }

    /// No state behind `reader` holds anything before `position`. Gives what was owed for that, to be dropped.
    pub(crate) fn passed(&mut self, reader: u64, position: u64) -> Vec<Owed> {
        let mut owed = Vec::new();
        let mut at = 0;
        while let Some(held) = self.out.get_mut(at) {
            let Some((whose, end)) = held.sent else { break };
            if whose == reader && end > position {
                break;
            }
            held.is_released |= whose == reader;
            if held.is_released && held.is_settled && !held.is_back {
                owed.extend(self.out.remove(at).and_then(|held| held.owed));
            } else {
                at += 1;
            }
        }
        owed
    }

    /// The first stored offset that may still be needed; everything before it is of no use.
    pub(crate) fn needed_from(&self) -> u64 {
        let out = self.out.iter().filter_map(|held| Some(held.stored.as_ref()?.start)).min();
        out.map_or(self.disk.start, |out| out.min(self.disk.start))
    }

    /// In order: what would be lost with this process, if its source did not bring it again.
    fn in_memory(&self) -> impl Iterator<Item = &Held> {
        self.out.iter().chain(&self.tail).filter(|held| held.frame.is_some())
    }

    /// Two batches of which everything has settled are held as one: what a long window holds takes no more room.
    fn join(&mut self, at: usize) {
        let Some((before, own)) = at.checked_sub(1).and_then(|before| {
            let (before, own) = (self.out.get(before)?, self.out.get(at)?);
            Some((before, own))
        }) else {
            return;
        };
        let is_quiet =
            |held: &Held| held.is_settled && !held.is_storing && !held.is_released && !held.is_back;
        let reader = |held: &Held| held.sent.map(|(reader, _)| reader);
        if !is_quiet(before) || !is_quiet(own) || reader(before) != reader(own) {
            return;
        }
        let Some(own) = self.out.remove(at) else { return };
        let before = &mut self.out[at - 1];
        before.sent = own.sent;
        before.count += own.count;
        before.stored = match (before.stored.take(), own.stored) {
            (Some(first), Some(second)) => Some(first.start.min(second.start)..first.end.max(second.end)),
            (first, second) => first.or(second),
        };
        match (&mut before.owed, own.owed) {
            (Some(owed), Some(later)) => owed.join(later),
            (owed, later) => *owed = owed.take().or(later),
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Held {
    fn new(id: u64, count: u32, since: Moment) -> Held {
        Held {
            id,
            count,
            since,
            frame: None,
            owed: None,
            is_storing: false,
            stored: None,
            sent: None,
            is_settled: false,
            is_released: false,
            is_back: false,
        }
    }
}

/// What may be in memory of one queue, in bytes of frames.
pub(crate) const BYTES_MAX: usize = 16 << 20;
/// What has waited so long is stored, however little it is: a stage that takes nothing for so long may take nothing for hours,
/// and a source that cannot repeat would lose it with the power.
pub(crate) const WAITS_MAX: Duration = Duration::from_secs(5);
/// With more than so many batches out, those that only states hold are held as one.
const JOINED_FROM: usize = 256;

#[cfg(test)]
mod tests;
