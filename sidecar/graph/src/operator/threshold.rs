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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::operator::testing::{Stage, deliver, event, event_at};

    fn numbers(values: &[f64]) -> Vec<sidestream_event::Event> {
        values.iter().map(|value| event(&value.to_string())).collect()
    }

    #[test]
    fn it_speaks_only_when_the_state_changes() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "above": 5, "clearBelow": 3}}"#);
        stage.push(numbers(&[1.0, 6.0, 7.0, 4.0, 5.5, 2.9, 1.0, 5.1]));
        assert_eq!(
            stage.bodies(),
            [
                r#"{"state":"firing","value":6.0,"bound":5.0}"#,
                r#"{"state":"resolved","value":2.9,"bound":5.0}"#,
                r#"{"state":"firing","value":5.1,"bound":5.0}"#,
            ]
        );
    }

    #[test]
    fn at_the_bound_nothing_changes() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "above": 5}}"#);
        stage.push(numbers(&[5.0, 6.0, 5.0, 4.9]));
        assert_eq!(stage.bodies().len(), 2);
    }

    #[test]
    fn below_is_the_mirror_of_above_and_both_make_a_band() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "below": 2, "clearAbove": 3}}"#);
        stage.push(numbers(&[2.5, 1.9, 2.5, 3.1]));
        let bodies = stage.bodies();
        assert!(bodies[0].contains(r#""state":"firing","value":1.9,"bound":2.0"#), "{bodies:?}");
        assert!(bodies[1].contains(r#""state":"resolved","value":3.1,"bound":2.0"#), "{bodies:?}");
        let mut band = Stage::of(r#"{"threshold": {"value": "event", "below": 2, "above": 8}}"#);
        band.push(numbers(&[5.0, 9.0, 5.0, 1.0, 9.0, 5.0]));
        let bounds: Vec<_> = band.bodies();
        assert_eq!(bounds.len(), 4);
        assert!(bounds[2].contains(r#""value":1.0,"bound":2.0"#), "{bounds:?}");
    }

    #[test]
    fn each_key_has_a_state_of_its_own() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event.v", "above": 5, "by": "event.k"}}"#);
        stage.push([event(r#"{"k":"a","v":6}"#), event(r#"{"k":2,"v":6}"#), event(r#"{"k":"a","v":1}"#)]);
        let events = stage.events();
        let said: Vec<_> = events.iter().map(|event| event.body.to_string()).collect();
        assert_eq!(
            said,
            [
                r#"{"state":"firing","by":"a","value":6.0,"bound":5.0}"#,
                r#"{"state":"firing","by":2,"value":6.0,"bound":5.0}"#,
                r#"{"state":"resolved","by":"a","value":1.0,"bound":5.0}"#,
            ]
        );
        assert_eq!(events[1].meta.key.as_deref(), Some("2"));
    }

    #[test]
    fn a_nan_is_an_error_and_a_null_is_nothing_and_neither_changes_the_state() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "above": 5}}"#);
        stage.push(numbers(&[6.0]));
        stage.push([sidestream_event::Event::new(f64::NAN), event("null"), event("\"x\"")]);
        stage.push(numbers(&[7.0, 1.0]));
        assert_eq!(stage.bodies().len(), 2);
        let failed = stage.failed();
        assert_eq!(failed.len(), 2);
        assert!(failed[0].1.contains("the value is NaN"), "{}", failed[0].1);
        stage.push([sidestream_event::Event::new(f64::INFINITY)]);
        assert_eq!(stage.bodies().len(), 1, "an infinity is beyond any bound");
    }

    #[test]
    fn with_for_it_fires_by_the_time_of_events_when_the_value_stays_beyond() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "above": 5, "for": "1m"}}"#);
        stage.push([event_at(0.0, "6"), event_at(59.0, "7"), event_at(60.0, "8")]);
        let events = stage.events();
        assert_eq!(events[0].body.to_string(), r#"{"state":"firing","value":8.0,"bound":5.0}"#);
        assert_eq!(events[0].meta.time.as_seconds(), 60.0);
        assert_eq!(stage.due(), None);
    }

    #[test]
    fn with_for_it_fires_by_the_clock_when_no_event_comes() {
        let mut stage =
            Stage::of(r#"{"threshold": {"value": "event.v", "above": 5, "for": "1m", "by": "event.k"}}"#);
        stage.push([event_at(100.0, r#"{"k":"a","v":6}"#)]);
        stage.advance(30.0);
        stage.push([event_at(100.0, r#"{"k":"b","v":6}"#), event_at(130.0, r#"{"k":"a","v":7}"#)]);
        assert_eq!(stage.due().unwrap().since(stage.now()).as_secs_f64(), 30.0);
        stage.advance(30.0);
        stage.tick();
        let events = stage.events();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].body.to_string(), r#"{"state":"firing","by":"a","value":7.0,"bound":5.0}"#);
        assert_eq!((events[0].meta.time.as_seconds(), events[0].meta.key.as_deref()), (160.0, Some("a")));
        stage.push([event_at(190.0, r#"{"k":"a","v":1}"#)]);
        assert!(stage.bodies()[0].contains("resolved"));
    }

    #[test]
    fn with_for_a_value_that_comes_back_in_time_never_fires() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "above": 5, "for": "1m"}}"#);
        stage.push([event_at(0.0, "6"), event_at(30.0, "5"), event_at(60.0, "6"), event_at(119.0, "6")]);
        stage.advance(59.0);
        stage.tick();
        assert!(stage.bodies().is_empty());
        stage.advance(1.0);
        stage.push([event_at(119.0, "1")]);
        let bodies = stage.bodies();
        assert!(
            bodies[0].contains("firing") && bodies[1].contains("resolved"),
            "a late tick loses nothing: {bodies:?}"
        );
    }

    #[test]
    fn only_keys_that_are_pending_or_firing_are_remembered_and_further_ones_are_dropped() {
        let mut stage =
            Stage::of(r#"{"threshold": {"value": "event.v", "above": 5, "by": "event.k", "maxKeys": 2}}"#);
        stage.push((0..1000).map(|k| event(&format!(r#"{{"k":{k},"v":1}}"#))));
        assert!(stage.dropped().is_empty());
        stage.push((0..3).map(|k| event(&format!(r#"{{"k":{k},"v":9}}"#))));
        assert_eq!((stage.bodies().len(), stage.dropped()), (2, vec![(1002, "keys")]));
        stage.push([event(r#"{"k":0,"v":1}"#), event(r#"{"k":2,"v":9}"#)]);
        assert_eq!((stage.bodies().len(), stage.dropped().len()), (2, 0));
    }

    #[test]
    fn the_source_is_held_while_a_key_is_pending_and_answered_when_the_state_is_delivered() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "above": 5, "for": "1m"}}"#);
        stage.push([event("6")]);
        stage.push([event("7")]);
        assert_eq!((stage.settled(), stage.released()), (2, vec![1]));
        stage.advance(60.0);
        stage.tick();
        let batches = stage.take_batches();
        assert_eq!(stage.released(), [1]);
        deliver(batches);
        assert_eq!(stage.released(), [0, 1]);
        stage.push([event("1")]);
        assert_eq!(stage.settled(), 2, "`resolved` answers for its cause");
        deliver(stage.take_batches());
        assert_eq!(stage.settled(), 3);
        stage.push([event("6")]);
        stage.flush();
        assert_eq!(stage.released(), [0, 1, 2, 3]);
        assert_eq!((stage.due(), stage.bodies().len()), (None, 0));
    }

    #[test]
    fn an_event_without_a_key_fails() {
        let mut stage = Stage::of(r#"{"threshold": {"value": "event", "above": 5, "by": "event.k"}}"#);
        stage.push([event("6")]);
        assert!(stage.failed()[0].1.starts_with("`by`: "));
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        let refused = |bounds: &str| {
            Stage::refused(&format!(r#"{{"threshold": {{"value": "event"{bounds}}}}}"#)).to_string()
        };
        assert!(refused("").contains("one of the two"));
        assert!(
            refused(r#", "above": 1, "clearBelow": 2"#)
                .contains("must not be greater than `above`, which is 1")
        );
        assert!(
            refused(r#", "below": 2, "clearAbove": 1"#).contains("must not be less than `below`, which is 2")
        );
        assert!(refused(r#", "below": 2, "clearBelow": 1"#).contains("goes with `above`"));
        assert!(refused(r#", "above": 2, "clearAbove": 1"#).contains("goes with `below`"));
        let nan = sidestream_plan::stage::Threshold {
            value: "event".into(),
            above: Some(f64::NAN),
            clear_below: None,
            below: None,
            clear_above: None,
            by: None,
            hold: None,
            max_keys: None,
        };
        assert!(super::Bounds::new(&nan).err().unwrap().to_string().contains("one is NaN"));
    }

    proptest! {
        #[test]
        fn it_changes_state_as_a_model_of_one_bound_does(
            clear in 0..=10i64,
            wait in 0..20u64,
            steps in prop::collection::vec((0..8u64, 0..20i64), 1..100),
        ) {
            let config =
                format!(r#"{{"threshold": {{"value": "event", "above": 10, "clearBelow": {clear}, "for": "{wait}s"}}}}"#);
            let mut stage = Stage::of(&config);
            let (mut time, mut beyond_since, mut firing, mut expected) = (0, None, false, Vec::new());
            for (passes, value) in steps {
                time += passes;
                if !firing {
                    // Time may have been enough before this event came.
                    if beyond_since.is_some_and(|since| time - since >= wait) {
                        (firing, beyond_since) = (true, None);
                        expected.push("firing");
                    } else if value > 10 {
                        let since = *beyond_since.get_or_insert(time);
                        if time - since >= wait {
                            (firing, beyond_since) = (true, None);
                            expected.push("firing");
                        }
                    } else {
                        beyond_since = None;
                    }
                }
                if firing && value < clear {
                    firing = false;
                    expected.push("resolved");
                }
                stage.advance(passes as f64);
                stage.push([event_at(time as f64, &value.to_string())]);
            }
            let said: Vec<_> = stage.events().iter().map(|event| event.body.field("state").unwrap().to_string()).collect();
            let expected: Vec<_> = expected.iter().map(|state| format!("\"{state}\"")).collect();
            prop_assert_eq!(said, expected);
        }
    }
}
