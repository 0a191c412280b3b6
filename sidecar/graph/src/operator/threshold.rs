//! Says when a value goes beyond a bound, and when it is back.
//!
//! ```text
//!                    beyond                  beyond for `for`
//!   (nothing kept) ─────────▶ pending ─────────────────────────▶ firing      emits `firing`
//!         ▲  ▲   not beyond      │                                 │
//!         │  └───────────────────┘               back              │
//!         └────────────────────────────────────────────────────────┘         emits `resolved`
//! ```
//!
//! Only keys that are pending or firing take memory. `for` has passed when an event of that much later time says so,
//! or, with none coming, when the monotonic clock does. A value that is null is not known yet and changes nothing; one
//! that is NaN is an error.
//!
//! An event that changes no state is done. One that does leaves in the place of its cause and answers for it; while a
//! key is pending its source is held behind the event that began it.

use std::{collections::BTreeSet, time::Duration};

use sidestream_event::{Batch, Event, Hold, Map, Mark, Meta, Value};
use sidestream_expr::Type;
use sidestream_host::Moment;
use sidestream_plan::stage;

use super::{
    BuildError, KEYS_MAX,
    expression::Formula,
    key::{Key, shown},
    keyed::{Keyed, SlotId},
};
use crate::{Flow, Output, Processor};

/// `threshold`.
pub(super) struct Threshold {
    value: Formula,
    by: Key,
    bounds: Bounds,
    wait: Duration,
    keys_max: usize,
    keys: Keyed<State>,
    /// When each pending key fires if no event comes.
    timers: BTreeSet<(Moment, SlotId)>,
}

enum State {
    Pending(Box<Pending>),
    Firing { bound: f64 },
}

struct Pending {
    /// The envelope of the event that began it.
    meta: Meta,
    by: Value,
    /// The last value.
    value: f64,
    bound: f64,
    fires: Moment,
    hold: Hold,
}

/// What a value is held against: where it fires, and where it is back.
struct Bounds {
    above: Option<(f64, f64)>,
    below: Option<(f64, f64)>,
}

impl Threshold {
    pub(super) fn new(config: &stage::Threshold, input: &Type) -> Result<Self, BuildError> {
        Ok(Self {
            value: Formula::new("value", &config.value, input)?,
            by: Key::new(config.by.as_ref(), input)?,
            bounds: Bounds::new(config)?,
            wait: config.hold.map_or(Duration::ZERO, |hold| hold.get()),
            keys_max: config.max_keys.map_or(KEYS_MAX, |keys| keys.max(1) as usize),
            keys: Keyed::new(),
            timers: BTreeSet::new(),
        })
    }

    /// Moves the state of the event's key; true where the event now says so.
    fn step(&mut self, event: &mut Event, mark: &Mark, out: &mut Output) -> bool {
        let value = match self.value.number(event) {
            Ok(value) => value,
            Err(reason) if reason.is_null() => return false,
            Err(reason) => return out.refuse(event, reason),
        };
        let (key, by) = match self.by.read(event) {
            Ok(key) => key,
            Err(reason) => return out.refuse(event, reason),
        };
        let (beyond, now) = (self.bounds.beyond(value), out.now());
        let Some(id) = self.keys.find(key) else {
            let Some(bound) = beyond else { return false };
            if self.keys.len() >= self.keys_max {
                out.drop_event(event.meta.sequence, "keys");
                return false;
            }
            if self.wait.is_zero() {
                self.keys.insert(key, State::Firing { bound });
                self.say("firing", by, value, bound, event);
                return true;
            }
            let mut hold = Hold::default();
            hold.extend(mark);
            let fires = now + self.wait;
            let pending = Pending { meta: event.meta.clone(), by, value, bound, fires, hold };
            let id = self.keys.insert(key, State::Pending(Box::new(pending)));
            self.timers.insert((fires, id));
            return false;
        };
        match (self.keys.get(id), beyond) {
            (State::Pending(pending), None) => {
                self.timers.remove(&(pending.fires, id));
                self.keys.remove(id);
                false
            }
            (State::Pending(pending), Some(_)) => {
                pending.value = value;
                if event.meta.time.since(pending.meta.time) < self.wait {
                    return false;
                }
                let (fires, bound) = (pending.fires, pending.bound);
                self.timers.remove(&(fires, id));
                *self.keys.get(id) = State::Firing { bound };
                self.say("firing", by, value, bound, event);
                true
            }
            (State::Firing { bound }, _) => {
                let bound = *bound;
                let back = self.bounds.cleared(value);
                if back {
                    self.keys.remove(id);
                    self.say("resolved", by, value, bound, event);
                }
                back
            }
        }
    }

    /// Fires the keys whose wait is over by the clock.
    fn fire_due(&mut self, out: &mut Output) {
        let (mut events, mut hold) = (Vec::new(), Hold::default());
        while let Some((fires, id)) = self.timers.first().copied()
            && fires <= out.now()
        {
            self.timers.remove(&(fires, id));
            let state = self.keys.get(id);
            if let State::Pending(pending) = state {
                let firing = State::Firing { bound: pending.bound };
                if let State::Pending(pending) = std::mem::replace(state, firing) {
                    let Pending { mut meta, by, value, bound, hold: held, .. } = *pending;
                    meta.time = meta.time.plus(self.wait);
                    let mut event = Event { meta, body: Value::Null };
                    self.say("firing", by, value, bound, &mut event);
                    events.push(event);
                    hold.merge(&held);
                }
            }
        }
        out.emit(Batch::of(events, Mark::emitted([hold])));
    }

    /// Makes `event` say the new state.
    fn say(&self, state: &str, by: Value, value: f64, bound: f64, event: &mut Event) {
        let mut fields = Map::with_capacity(4);
        fields.push_new("state".into(), state.into());
        if self.by.is_some() {
            event.meta.key = Some(shown(&by));
            fields.push_new("by".into(), by);
        }
        fields.push_new("value".into(), value.into());
        fields.push_new("bound".into(), bound.into());
        event.body = fields.into();
    }
}

impl Processor for Threshold {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        self.fire_due(out);
        let mark = batch.mark().clone();
        batch.retain(|event| self.step(event, &mark, out));
        Flow::Continue
    }

    fn tick(&mut self, out: &mut Output) {
        self.fire_due(out);
    }

    fn due(&self) -> Option<Moment> {
        self.timers.first().map(|(fires, _)| *fires)
    }

    /// What is pending is not known to last: it is forgotten, and so is what fires.
    fn flush(&mut self, _: &mut Output) {
        self.timers.clear();
        self.keys = Keyed::new();
    }
}

impl Bounds {
    fn new(config: &stage::Threshold) -> Result<Self, BuildError> {
        let numbers = [config.above, config.clear_below, config.below, config.clear_above];
        if numbers.into_iter().flatten().any(f64::is_nan) {
            return Err(BuildError::setting("above", "and the other bounds must be numbers, and one is NaN"));
        }
        let pair =
            |bound: Option<f64>, clear: Option<f64>| bound.map(|bound| (bound, clear.unwrap_or(bound)));
        let own = Self {
            above: pair(config.above, config.clear_below),
            below: pair(config.below, config.clear_above),
        };
        match (&own, config) {
            (Self { above: None, below: None }, _) => {
                Err(BuildError::setting("above", "or `below` says where the bound is: one of the two"))
            }
            (Self { above: None, .. }, stage::Threshold { clear_below: Some(_), .. }) => {
                Err(BuildError::setting("clearBelow", "goes with `above`; with `below` write `clearAbove`"))
            }
            (Self { below: None, .. }, stage::Threshold { clear_above: Some(_), .. }) => {
                Err(BuildError::setting("clearAbove", "goes with `below`; with `above` write `clearBelow`"))
            }
            (Self { above: Some((bound, clear)), .. }, _) if clear > bound => Err(BuildError::setting(
                "clearBelow",
                format!("must not be greater than `above`, which is {bound}"),
            )),
            (Self { below: Some((bound, clear)), .. }, _) if clear < bound => Err(BuildError::setting(
                "clearAbove",
                format!("must not be less than `below`, which is {bound}"),
            )),
            _ => Ok(own),
        }
    }

    /// The bound that `value` is beyond.
    fn beyond(&self, value: f64) -> Option<f64> {
        let above = self.above.filter(|(bound, _)| value > *bound);
        above.or(self.below.filter(|(bound, _)| value < *bound)).map(|(bound, _)| bound)
    }

    fn cleared(&self, value: f64) -> bool {
        self.above.is_none_or(|(_, clear)| value < clear) && self.below.is_none_or(|(_, clear)| value > clear)
    }
}
