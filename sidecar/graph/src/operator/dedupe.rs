//! Passes the first of equal events.
//!
//! What is remembered is an identity and when it was last passed, in that order:
//!
//! ```text
//!   front: oldest ─▶ forgotten when `window` has passed, or when there are too many ─▶ … ─▶ back: newest
//! ```
//!
//! Time is the monotonic clock's, so that setting the wall clock neither forgets nor repeats anything.

use std::collections::VecDeque;

use hashbrown::HashSet;
use sidestream_event::{Batch, Text};
use sidestream_expr::Type;
use sidestream_host::Moment;
use sidestream_plan::stage;

use super::{BuildError, KEYS_MAX, key::Key};
use crate::{Flow, Output, Processor};

/// `dedupe`: a repeat is done, as if filtered away.
pub(super) struct Dedupe {
    by: Key,
    window: std::time::Duration,
    capacity: usize,
    known: HashSet<Text>,
    passed: VecDeque<(Moment, Text)>,
}

impl Dedupe {
    pub(super) fn new(config: &stage::Dedupe, input: &Type) -> Result<Self, BuildError> {
        Ok(Self {
            by: Key::new(Some(&config.by), input)?,
            window: config.window.get(),
            capacity: config.capacity.map_or(KEYS_MAX, |keys| keys.max(1) as usize),
            known: HashSet::new(),
            passed: VecDeque::new(),
        })
    }

    fn forget_first(&mut self) {
        if let Some((_, identity)) = self.passed.pop_front() {
            self.known.remove(&identity);
        }
    }
}

impl Processor for Dedupe {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        let now = out.now();
        while self.passed.front().is_some_and(|(at, _)| now.since(*at) >= self.window) {
            self.forget_first();
        }
        batch.retain(|event| {
            let identity = match self.by.read(event) {
                Ok((identity, _)) => identity,
                Err(reason) => return out.refuse(event, reason),
            };
            if self.known.contains(identity) {
                return false;
            }
            let identity = Text::from(identity);
            self.known.insert(identity.clone());
            self.passed.push_back((now, identity));
            if self.passed.len() > self.capacity {
                self.forget_first();
            }
            true
        });
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::operator::testing::{Stage, event};

    #[test]
    fn the_first_of_equal_events_passes_until_the_window_is_over() {
        let mut stage = Stage::of(r#"{"dedupe": {"by": "event.id", "window": "10s"}}"#);
        stage.push([event(r#"{"id":1,"n":1}"#), event(r#"{"id":1,"n":2}"#), event(r#"{"id":"1","n":3}"#)]);
        stage.advance(9.9);
        stage.push([event(r#"{"id":1.0,"n":4}"#)]);
        assert_eq!(stage.bodies(), [r#"{"id":1,"n":1}"#, r#"{"id":"1","n":3}"#]);
        stage.advance(0.1);
        stage.push([event(r#"{"id":1,"n":5}"#)]);
        assert_eq!(stage.bodies(), [r#"{"id":1,"n":5}"#]);
    }

    #[test]
    fn a_wall_clock_that_jumps_changes_nothing() {
        let mut stage = Stage::of(r#"{"dedupe": {"by": "event", "window": "10s"}}"#);
        stage.push([event("1")]);
        stage.set_wall(-1e9);
        stage.push([event("1")]);
        stage.set_wall(9e9);
        stage.push([event("1")]);
        assert_eq!(stage.bodies(), ["1"]);
    }

    #[test]
    fn beyond_its_capacity_the_oldest_identity_goes() {
        let mut stage = Stage::of(r#"{"dedupe": {"by": "event", "window": "1h", "capacity": 2}}"#);
        stage.push([event("1"), event("2"), event("3"), event("3"), event("2"), event("1")]);
        assert_eq!(stage.bodies(), ["1", "2", "3", "1"]);
    }

    #[test]
    fn an_event_without_an_identity_fails() {
        let mut stage = Stage::of(r#"{"dedupe": {"by": "event.id", "window": "1h"}}"#);
        stage.push([event("{}")]);
        assert!(stage.failed()[0].1.starts_with("`by`: no such field"));
    }

    proptest! {
        #[test]
        fn within_a_window_each_identity_passes_once(steps in prop::collection::vec((0..6i64, 0..2000u64), 1..200)) {
            let mut stage = Stage::of(r#"{"dedupe": {"by": "event", "window": "5s", "capacity": 4}}"#);
            // (identity, when it passed), oldest first
            let mut model: Vec<(i64, u64)> = Vec::new();
            let (mut now, mut expected) = (0, Vec::new());
            for (identity, wait_millis) in steps {
                now += wait_millis;
                stage.advance(wait_millis as f64 / 1e3);
                stage.push([event(&identity.to_string())]);
                model.retain(|(_, at)| now - at < 5000);
                if model.iter().all(|(own, _)| *own != identity) {
                    expected.push(identity.to_string());
                    model.push((identity, now));
                    if model.len() > 4 {
                        model.remove(0);
                    }
                }
            }
            prop_assert_eq!(stage.bodies(), expected);
        }
    }
}
