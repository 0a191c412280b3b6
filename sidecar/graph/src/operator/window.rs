//! Aggregates over spans of event time, for all events together or for each key.
//!
//! ```text
//!   event ─▶ key ─▶ Series ─▶ Cell of its pane       one update an event, however many windows overlap
//!                     │ │ │
//!            pane   6 7 8 9      window of 3 panes ending at 9 = cells 6 + 7 + 8, emitted once 9 is the frontier
//! ```
//!
//! Windows leave in the order of their ends, those of one end in the order in which their keys first came. When many
//! end at once they leave over several calls, and the stages before wait meanwhile. What time it is, and when a window
//! ends, `time.rs` says.
//!
//! State is bounded: an event whose key, or cell, would be one too many is dropped as `keys`, one whose windows are all
//! closed as `late`. A key without cells is forgotten. Of each source only the first batch of each pane is held back
//! from being released, and the windows emitted hold it on until they are delivered.

mod aggregate;
mod rate;
mod series;
mod sketch;
#[cfg(test)]
mod tests;
mod time;

use std::{collections::VecDeque, fmt, time::Duration};

use sidestream_event::{Batch, Event, Hold, Map, Mark, Meta, Timestamp, Value};
use sidestream_expr::Type;
use sidestream_host::Moment;
use sidestream_plan::stage;

use self::{
    aggregate::{Aggregates, Totals},
    series::Series,
    time::{AHEAD_MAX, StreamTime},
};
use super::{
    BuildError, KEYS_MAX,
    key::{Key, shown},
    keyed::{Keyed, SlotId},
    split::BATCH_EVENTS_MAX,
};
use crate::{Flow, Output, Processor};

/// `window`.
pub(super) struct Window {
    by: Key,
    aggregates: Aggregates,
    time: StreamTime,
    /// Panes of a window: one where windows do not overlap.
    span: i64,
    series: Keyed<Series>,
    series_max: usize,
    /// Cells of all series, and how many there may be: what every key needs when none is late.
    cells: usize,
    cells_max: usize,
    /// Panes with a cell, ascending.
    panes: VecDeque<Pane>,
    closing: Option<Closing>,
    due: Option<Moment>,
    /// The values of the event at hand, the totals of the window at hand, and totals nobody uses: kept for their storage.
    values: Vec<f64>,
    merged: Totals,
    spare: Vec<Totals>,
}

struct Pane {
    number: i64,
    hold: Hold,
}

/// Windows on their way out.
struct Closing {
    /// Where the frontier will be.
    target: i64,
    /// The end of the windows at hand, and the series that is next.
    end: i64,
    next: Option<SlotId>,
    mark: Mark,
    /// Whether time starts anew afterwards.
    restart: bool,
}

/// An event from a future too far.
struct Ahead(Duration);

impl Window {
    pub(super) fn new(config: &stage::Window, input: &Type) -> Result<Self, BuildError> {
        let (size, every) = match (&config.tumbling, &config.sliding) {
            (Some(size), None) => (size.get(), size.get()),
            (None, Some(sliding)) => (sliding.size.get(), sliding.every.get()),
            _ => {
                return Err(BuildError::setting(
                    "tumbling",
                    "or `sliding` says how long a window is: one of the two",
                ));
            }
        };
        if size.is_zero() || every.is_zero() {
            return Err(BuildError::setting("tumbling", "must be longer than nothing: `1m`"));
        }
        let span = size.as_nanos() / every.as_nanos();
        if !size.as_nanos().is_multiple_of(every.as_nanos()) || span > PANES_MAX {
            let reason = format!("must be a multiple of `every`, and at most {PANES_MAX} of them");
            return Err(BuildError::setting("sliding.size", reason));
        }
        let lateness = config.lateness.map_or(Duration::ZERO, |lateness| lateness.get());
        let series_max = config.max_keys.map_or(KEYS_MAX, |keys| keys.max(1) as usize);
        let panes =
            usize::try_from((size + lateness).as_nanos().div_ceil(every.as_nanos())).unwrap_or(usize::MAX);
        let aggregates = Aggregates::new(&config.emit, input)?;
        Ok(Self {
            by: Key::new(config.by.as_ref(), input)?,
            time: StreamTime::new(every, lateness),
            span: span as i64,
            series: Keyed::new(),
            series_max,
            cells: 0,
            cells_max: series_max.saturating_mul(panes.saturating_add(1)),
            panes: VecDeque::new(),
            closing: None,
            due: None,
            values: Vec::new(),
            merged: aggregates.fresh(),
            spare: Vec::new(),
            aggregates,
        })
    }

    /// Takes `event` in or ends it; true where it must wait for windows that are closing.
    fn take(&mut self, event: &mut Event, mark: &Mark, out: &mut Output) -> bool {
        let time = event.meta.time;
        if time > out.wall().plus(AHEAD_MAX) {
            return out.refuse(event, Ahead(time.since(out.wall())));
        }
        let pane = self.time.pane_of(time);
        if pane.saturating_add(self.span) <= self.time.frontier {
            out.drop_event(event.meta.sequence, "late");
            return false;
        }
        if let Err(reason) = self.aggregates.read(event, &mut self.values) {
            return out.refuse(event, reason);
        }
        if let Some(frontier) = self.time.see(time, out.now(), out.wall()) {
            self.begin_closing(frontier, false);
            if !self.close(out, WINDOWS_PER_CALL) {
                return true;
            }
        }
        let (key, by) = match self.by.read(event) {
            Ok(key) => key,
            Err(reason) => return out.refuse(event, reason),
        };
        let id = match self.series.find(key) {
            Some(id) => id,
            None if self.series.len() >= self.series_max => {
                out.drop_event(event.meta.sequence, "keys");
                return false;
            }
            None => self.series.insert(key, Series::new(by, event.meta.source.clone())),
        };
        let series = self.series.get(id);
        let index = match series.find(pane) {
            Ok(index) => index,
            Err(_) if self.cells >= self.cells_max => {
                out.drop_event(event.meta.sequence, "keys");
                return false;
            }
            Err(index) => {
                let totals = self.spare.pop().unwrap_or_else(|| self.aggregates.fresh());
                series.insert(index, pane, event.meta.sequence, totals);
                self.cells += 1;
                index
            }
        };
        self.aggregates.add(series.totals(index), &self.values, time);
        self.hold(pane, mark);
        false
    }

    /// Keeps the source behind the first of its batches that has events in `pane`.
    fn hold(&mut self, pane: i64, mark: &Mark) {
        let index = match self.panes.back() {
            Some(last) if last.number == pane => self.panes.len() - 1,
            _ => match self.panes.binary_search_by_key(&pane, |own| own.number) {
                Ok(index) => index,
                Err(index) => {
                    self.panes.insert(index, Pane { number: pane, hold: Hold::default() });
                    index
                }
            },
        };
        self.panes[index].hold.extend(mark);
    }

    /// The next end at which a window has something in it, or a key can be forgotten.
    fn next_end(&self) -> Option<i64> {
        match self.panes.front() {
            Some(pane) => Some(pane.number.max(self.time.frontier).saturating_add(1)),
            None if self.series.is_empty() => None,
            None => Some(self.time.frontier.saturating_add(self.span)),
        }
    }

    fn begin_closing(&mut self, target: i64, restart: bool) {
        // What is closing already closes further; its ends come before these.
        match &mut self.closing {
            Some(closing) => {
                closing.target = closing.target.max(target);
                closing.restart |= restart;
            }
            None => {
                let mark = Mark::none();
                self.closing = Some(Closing { target, end: self.time.frontier, next: None, mark, restart });
            }
        }
    }

    /// Emits at most `limit` of the windows that are closing; true when none is left.
    fn close(&mut self, out: &mut Output, mut limit: usize) -> bool {
        let Some(mut closing) = self.closing.take() else { return true };
        loop {
            let mut batch = Batch::new(closing.mark.clone());
            while let Some(id) = closing.next {
                if limit == 0 {
                    out.emit(batch);
                    self.closing = Some(closing);
                    return false;
                }
                closing.next = self.series.after(id);
                if let Some(event) = self.window_of(id, closing.end) {
                    limit -= 1;
                    batch.push(event);
                    if batch.len() == BATCH_EVENTS_MAX {
                        out.emit(std::mem::replace(&mut batch, Batch::new(closing.mark.clone())));
                    }
                }
                self.retire(id, closing.end);
            }
            out.emit(batch);
            self.time.frontier = closing.end;
            while self.panes.front().is_some_and(|pane| pane.number.saturating_add(self.span) <= closing.end)
            {
                self.panes.pop_front();
            }
            match self.next_end() {
                Some(end) if end <= closing.target && closing.end < closing.target => {
                    (closing.end, closing.next) = (end, self.series.first());
                    let mut hold = Hold::default();
                    self.panes
                        .iter()
                        .take_while(|pane| pane.number < end)
                        .for_each(|pane| hold.merge(&pane.hold));
                    closing.mark = Mark::emitted([hold]);
                }
                _ if closing.restart => {
                    self.time.restart();
                    return true;
                }
                _ => {
                    self.time.frontier = closing.target;
                    return true;
                }
            }
        }
    }

    /// The event of the window that ends where pane `end` begins; `None` where nothing of this key is in it.
    fn window_of(&mut self, id: SlotId, end: i64) -> Option<Event> {
        let series = self.series.get(id);
        let sequence = series.sum_up(end, self.span, &mut self.merged)?;
        let start = self.time.start_of(end.saturating_sub(self.span));
        let end = self.time.start_of(end);
        let mut fields = Map::with_capacity(USUAL_FIELDS);
        let mut key = None;
        if self.by.is_some() {
            key = Some(shown(&series.by));
            fields.push_new("by".into(), series.by.clone());
        }
        fields.push_new("start".into(), Value::Float(start.as_seconds()));
        fields.push_new("end".into(), Value::Float(end.as_seconds()));
        self.aggregates.write(&self.merged, &mut fields);
        let meta = Meta { time: end, sequence, key, source: series.source.clone(), context: None };
        Some(Event { meta, body: fields.into() })
    }

    /// Forgets what no window that ends after `end` has in it.
    fn retire(&mut self, id: SlotId, end: i64) {
        let series = self.series.get(id);
        while let Some(mut totals) = series.retire(end, self.span) {
            self.cells -= 1;
            if self.spare.len() < SPARE_MAX {
                totals.reset(None);
                self.spare.push(totals);
            }
        }
        if series.is_over(end, self.span) {
            self.series.remove(id);
        }
    }

    /// Starts closing all there is, where the wall clock was set back.
    fn check_clock(&mut self, wall: Timestamp) {
        if self.time.was_set_back(wall) {
            self.begin_closing(i64::MAX, true);
        }
    }

    fn set_due(&mut self, out: &Output) {
        self.due = match (&self.closing, self.next_end()) {
            (Some(_), _) => Some(out.now()),
            (None, Some(end)) => {
                self.time.until_closed(end, out.now(), out.wall()).map(|until| out.now() + until)
            }
            (None, None) => None,
        };
    }
}

impl Processor for Window {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        self.check_clock(out.wall());
        let mut waits = !self.close(out, WINDOWS_PER_CALL);
        let mark = batch.mark().clone();
        batch.retain(|event| {
            waits = waits || self.take(event, &mark, out);
            waits
        });
        self.set_due(out);
        if waits { Flow::Hold(out.now()) } else { Flow::Continue }
    }

    fn tick(&mut self, out: &mut Output) {
        self.check_clock(out.wall());
        if let Some(frontier) = self.time.pass(out.now(), out.wall()) {
            self.begin_closing(frontier, false);
        }
        self.close(out, WINDOWS_PER_CALL);
        self.set_due(out);
    }

    fn due(&self) -> Option<Moment> {
        self.due
    }

    fn flush(&mut self, out: &mut Output) {
        self.begin_closing(i64::MAX, true);
        self.close(out, usize::MAX);
        self.due = None;
    }
}

impl fmt::Display for Ahead {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "its time is {} s ahead of this machine's clock, and at most {} s are taken; set the clock of one of the two",
            self.0.as_secs(),
            AHEAD_MAX.as_secs()
        )
    }
}

/// How many windows one call emits: some 5 MiB of events, and a few milliseconds.
const WINDOWS_PER_CALL: usize = 8 * BATCH_EVENTS_MAX;
/// The most panes a window has, as the language says.
const PANES_MAX: u128 = 1000;
/// Storage a window's map starts with: its key, its two ends, and five aggregates.
const USUAL_FIELDS: usize = 8;
/// Totals kept for the next pane.
const SPARE_MAX: usize = 1024;
