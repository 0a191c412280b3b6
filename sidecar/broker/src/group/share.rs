//! What a group knows of one partition: what is done, what is out, what comes again. Pure: time comes in, nothing goes out.
//!
//! ```text
//!   offsets   0 ──────── cursor ───────────────────────── fresh ──────── end of the partition
//!              all done   │ done │ out │ done │ waiting │   never handed out
//! ```
//!
//! Every offset between `cursor` and `fresh` is either done or pending, never both; a pending one is out with the
//! partition's owner, waits for another delivery, or is to be buried with the dead letters.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use serde::{Deserialize, Serialize};
use sidestream_host::Moment;

use super::ranges::Ranges;
use crate::limits;

/// A partition as a group sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Share {
    /// Everything below is done.
    cursor: u64,
    /// What is done above the cursor.
    done: Ranges,
    /// Nothing at or above was ever handed out.
    fresh: u64,
    /// By start.
    pending: BTreeMap<u64, Pending>,
    pending_records: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pending {
    end: u64,
    /// Deliveries so far.
    deliveries: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// The owner has it until then.
    Out { until: Moment },
    /// It may be delivered again from then on.
    Waiting { from: Moment },
    /// It was delivered often enough.
    Dying,
}

/// What happens to what was not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) max_deliveries: Option<u32>,
    pub(crate) backoff: Duration,
}

/// Offsets that are handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) range: Range<u64>,
    /// The number of this delivery, from 1.
    pub(crate) delivery: u32,
}

/// What is written down of a share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) cursor: u64,
    /// Ranges above the cursor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) done: Vec<(u64, u64)>,
    /// Ranges that were delivered and are not done, and how often.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) delivered: Vec<(u64, u64, u32)>,
}

impl Share {
    /// A share that begins at `cursor`.
    pub(crate) fn at(cursor: u64) -> Self {
        Self { cursor, fresh: cursor, ..Self::default() }
    }

    /// As it was written down: what was out is due at once, or was out often enough.
    pub(crate) fn read(written: &Written, now: Moment, max_deliveries: Option<u32>) -> Self {
        let patience = Patience { max_deliveries, backoff: Duration::ZERO };
        let mut share = Self::at(written.cursor);
        written.done.iter().for_each(|(from, to)| share.done.insert(*from..(*to).max(*from)));
        let mut fresh = share.done.end().unwrap_or(share.cursor);
        for &(from, to, deliveries) in written.delivered.iter().filter(|(from, to, _)| from < to) {
            fresh = fresh.max(to);
            share.put(from..to, deliveries, next_state(deliveries, now, patience));
        }
        share.fresh = fresh;
        // What is neither done nor known to have been delivered is delivered as if for the first time.
        let mut at = share.cursor;
        let known: Vec<Range<u64>> =
            share.done.iter().chain(written.delivered.iter().map(|(a, b, _)| *a..*b)).collect();
        let mut covered = Ranges::default();
        known.into_iter().for_each(|range| covered.insert(range));
        let gaps: Vec<Range<u64>> = covered
            .iter()
            .filter_map(|range| {
                let gap = at..range.start;
                at = range.end;
                (!gap.is_empty()).then_some(gap)
            })
            .collect();
        gaps.into_iter().for_each(|gap| share.put(gap, 0, State::Waiting { from: now }));
        share.advance();
        share
    }

    /// What is to be written down.
    pub(crate) fn write(&self) -> Written {
        let delivered = self.pending.iter().filter(|(_, pending)| pending.deliveries > 0);
        Written {
            cursor: self.cursor,
            done: self.done.iter().map(|range| (range.start, range.end)).collect(),
            delivered: delivered.map(|(start, pending)| (*start, pending.end, pending.deliveries)).collect(),
        }
    }

    /// Hands out up to `records_max` offsets below `end` until `until`: first what is due again, then what is fresh.
    pub(crate) fn claim(&mut self, end: u64, records_max: u64, now: Moment, until: Moment) -> Vec<Claim> {
        let mut claims = Vec::new();
        let mut left = records_max;
        if until != HELD && self.pending_records > limits::PENDING_RECORDS_MAX {
            // Left by who held more than others may have out.
            left = left.min(limits::PENDING_RECORDS_MAX.saturating_sub(self.out()));
        }
        while left > 0 {
            let is_due = |pending: &Pending| matches!(pending.state, State::Waiting { from } if from <= now);
            let due = self
                .pending
                .iter()
                .find(|(_, pending)| is_due(pending))
                .map(|(start, pending)| (*start, *pending));
            let claim = match due {
                Some((start, pending)) => {
                    let range = start..pending.end.min(start.saturating_add(left));
                    self.cut(range.clone());
                    Claim { range, delivery: pending.deliveries.saturating_add(1) }
                }
                None => {
                    let room = if until == HELD { self.room_to_hold() } else { self.room() };
                    let range = self.fresh..end.min(self.fresh.saturating_add(left.min(room)));
                    if range.is_empty() {
                        break;
                    }
                    self.fresh = range.end;
                    Claim { range, delivery: 1 }
                }
            };
            left -= claim.range.end - claim.range.start;
            self.put(claim.range.clone(), claim.delivery, State::Out { until });
            claims.push(claim);
        }
        claims
    }

    /// Takes back what was handed out and never delivered: it was no delivery.
    pub(crate) fn unclaim(&mut self, claim: &Claim, now: Moment) {
        for (range, pending) in self.cut(claim.range.clone()) {
            if pending.deliveries != claim.delivery {
                // It was handed out to another since.
                self.put(range, pending.deliveries, pending.state);
                continue;
            }
            let deliveries = pending.deliveries.saturating_sub(1);
            if deliveries == 0 && range.end == self.fresh {
                self.fresh = range.start;
            } else {
                self.put(range, deliveries, State::Waiting { from: now });
            }
        }
    }

    /// These are done, whether they are out or to come again. What was never handed out stays so.
    pub(crate) fn settle(&mut self, range: Range<u64>) {
        for (range, _) in self.cut(range) {
            self.done.insert(range);
        }
        self.advance();
    }

    /// These can't be had: they are done, also where they were not handed out yet.
    pub(crate) fn pass_over(&mut self, range: Range<u64>) {
        self.settle(range.clone());
        if (range.start..range.end).contains(&self.fresh) {
            self.done.insert(self.fresh..range.end);
            self.fresh = range.end;
            self.advance();
        }
    }

    /// Whether all of these are out, as what was handed out then.
    pub(crate) fn has_out(&self, range: Range<u64>, delivery: u32) -> bool {
        let before = self.pending.range(..=range.start).next_back();
        let first = before.map_or(range.start, |(start, _)| *start);
        let mut at = range.start;
        for (start, pending) in self.pending.range(first..range.end) {
            let is_its = matches!(pending.state, State::Out { .. }) && pending.deliveries == delivery;
            if *start > at || (pending.end > at && !is_its) {
                return false;
            }
            at = at.max(pending.end);
        }
        at >= range.end
    }

    /// These were not taken: they come again after a while, or are to be buried.
    pub(crate) fn fail(&mut self, range: Range<u64>, now: Moment, patience: Patience) {
        for (range, pending) in self.cut(range) {
            let state = match pending.state {
                State::Out { .. } => next_state(pending.deliveries, now, patience),
                other => other,
            };
            self.put(range, pending.deliveries, state);
        }
    }

    /// Those that are out for too long were not taken. Whether there were any.
    pub(crate) fn expire(&mut self, now: Moment, patience: Patience) -> bool {
        let late = self.matching(|state| matches!(state, State::Out { until } if until <= now));
        late.iter().for_each(|range| self.fail(range.clone(), now, patience));
        !late.is_empty()
    }

    /// The owner is gone: what it has is due at once. The delivery counts, for its end may be why the owner is gone.
    pub(crate) fn release(&mut self, now: Moment, max_deliveries: Option<u32>) {
        let patience = Patience { max_deliveries, backoff: Duration::ZERO };
        for range in self.matching(|state| matches!(state, State::Out { .. })) {
            self.fail(range, now, patience);
        }
    }

    /// Nothing below `start` exists any more.
    pub(crate) fn fence(&mut self, start: u64) {
        if start <= self.cursor {
            return;
        }
        self.cut(self.cursor..start);
        self.done.remove(0..start);
        self.cursor = start;
        self.fresh = self.fresh.max(start);
        self.advance();
    }

    /// Begins anew at `to`, forgetting what was done and what is out.
    pub(crate) fn seek(&mut self, to: u64) {
        *self = Self::at(to);
    }

    /// These are to be delivered again, as if for the first time, although they may be done. Whoever asks sees to it that
    /// there is [`room`](Share::room): it bounds what is pending, and with it the ranges between that are done.
    pub(crate) fn revive(&mut self, range: Range<u64>, now: Moment) {
        let range = range.start..range.end.min(self.fresh);
        if range.is_empty() {
            return;
        }
        self.cut(range.clone());
        if range.start < self.cursor {
            self.done.insert(range.start..self.cursor);
            self.cursor = range.start;
        }
        self.done.remove(range.clone());
        let state = State::Waiting { from: now };
        // What comes one by one is handed out together.
        let before = self.pending.range_mut(..range.start).next_back().map(|(_, before)| before);
        let is_one = |before: &&mut Pending| {
            before.end == range.start && before.deliveries == 0 && before.state == state
        };
        match before.filter(is_one) {
            Some(before) => {
                before.end = range.end;
                self.pending_records += range.end - range.start;
            }
            None => self.put(range, 0, state),
        }
    }

    /// How many more records may be pending.
    pub(crate) fn room(&self) -> u64 {
        limits::PENDING_RECORDS_MAX.saturating_sub(self.pending_records)
    }

    /// The same for who holds what it gets, in few pieces.
    fn room_to_hold(&self) -> u64 {
        limits::HELD_RECORDS_MAX.saturating_sub(self.pending_records)
    }

    /// How many pieces are written down of it.
    pub(crate) fn pieces(&self) -> usize {
        self.done.len() + self.pending.len()
    }

    /// What was delivered often enough comes again where that may be more often now. Whether there was any.
    pub(crate) fn reconsider(&mut self, now: Moment, patience: Patience) -> bool {
        let dying = self.dying();
        for (range, deliveries) in &dying {
            let state = next_state(*deliveries, now, patience);
            self.cut(range.clone());
            self.put(range.clone(), *deliveries, state);
        }
        !dying.is_empty()
    }

    /// How many records the owner has.
    fn out(&self) -> u64 {
        let out = self.pending.iter().filter(|(_, pending)| matches!(pending.state, State::Out { .. }));
        out.map(|(start, pending)| pending.end - start).sum()
    }

    /// What is to be buried, in order.
    pub(crate) fn dying(&self) -> Vec<(Range<u64>, u32)> {
        let dying = self.pending.iter().filter(|(_, pending)| pending.state == State::Dying);
        dying.map(|(start, pending)| (*start..pending.end, pending.deliveries)).collect()
    }

    /// Whether the owner has anything.
    pub(crate) fn is_out(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending.state, State::Out { .. }))
    }

    /// When something is due again or out for too long.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        let due = self.pending.values().filter_map(|pending| match pending.state {
            State::Out { until } => (until != HELD).then_some(until),
            State::Waiting { from } => Some(from),
            State::Dying => None,
        });
        due.min()
    }

    /// The lowest offset that is not done.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// How many of the offsets below `end` are not done.
    pub(crate) fn lag(&self, end: u64) -> u64 {
        end.saturating_sub(self.fresh) + self.pending_records
    }

    fn matching(&self, test: impl Fn(State) -> bool) -> Vec<Range<u64>> {
        let found = self.pending.iter().filter(|(_, pending)| test(pending.state));
        found.map(|(start, pending)| *start..pending.end).collect()
    }

    /// Takes out what of `range` is pending.
    fn cut(&mut self, range: Range<u64>) -> Vec<(Range<u64>, Pending)> {
        let mut found = Vec::new();
        if range.is_empty() {
            return found;
        }
        let before =
            self.pending.range(..range.start).next_back().filter(|(_, pending)| pending.end > range.start);
        let first = before.map_or(range.start, |(start, _)| *start);
        let touched: Vec<u64> = self.pending.range(first..range.end).map(|(start, _)| *start).collect();
        for start in touched {
            let Some(pending) = self.pending.remove(&start) else { continue };
            if start < range.start {
                self.pending.insert(start, Pending { end: range.start, ..pending });
            }
            if pending.end > range.end {
                self.pending.insert(range.end, pending);
            }
            let taken = start.max(range.start)..pending.end.min(range.end);
            self.pending_records -= taken.end - taken.start;
            found.push((taken, pending));
        }
        found
    }

    fn put(&mut self, range: Range<u64>, deliveries: u32, state: State) {
        self.pending_records += range.end - range.start;
        // What is held for long is much, and in one piece.
        if state == (State::Out { until: HELD })
            && let Some((_, before)) = self.pending.range_mut(..range.start).next_back()
            && (before.end, before.deliveries, before.state) == (range.start, deliveries, state)
        {
            before.end = range.end;
            return;
        }
        self.pending.insert(range.start, Pending { end: range.end, deliveries, state });
    }

    fn advance(&mut self) {
        while let Some(range) = self.done.take_from(self.cursor) {
            self.cursor = range.end;
        }
    }
}

/// Out for as long as the owner lives.
const HELD: Moment = Moment::from_nanos(u64::MAX);

fn next_state(deliveries: u32, now: Moment, patience: Patience) -> State {
    if patience.max_deliveries.is_some_and(|max| deliveries >= max) {
        return State::Dying;
    }
    let doubled = patience.backoff.saturating_mul(1 << deliveries.saturating_sub(1).min(16));
    State::Waiting { from: now + doubled.min(limits::BACKOFF_MAX) }
}

#[cfg(test)]
mod tests;
