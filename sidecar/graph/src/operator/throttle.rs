//! Bounds the rate by a token bucket (Turner, "New directions in communications", IEEE Communications Magazine, 1986).
//!
//! A bucket holds up to `burst` tokens, gains `rate` of them a second, and an event takes one. What finds none is
//! dropped as `rate`, or waits, and the stages before it with it. Time is the monotonic clock's.
//!
//! A key seen too long ago loses its bucket to a newer one and starts again with a full one, so that over any span no
//! key passes more than `burst` + `rate` x seconds while fewer than [`KEYS_MAX`] keys are in use.

use std::time::Duration;

use sidestream_event::Batch;
use sidestream_expr::Type;
use sidestream_host::Moment;
use sidestream_plan::stage::{self, ThrottleMode};

use super::{BuildError, KEYS_MAX, key::Key, keyed::Keyed};
use crate::{Flow, Output, Processor};

/// `throttle`.
pub(super) struct Throttle {
    limit: Limit,
    mode: ThrottleMode,
    by: Key,
    buckets: Keyed<Bucket>,
}

#[derive(Clone, Copy)]
struct Limit {
    /// Tokens a second.
    rate: f64,
    burst: f64,
}

struct Bucket {
    tokens: f64,
    at: Moment,
}

impl Throttle {
    pub(super) fn new(config: &stage::Throttle, input: &Type) -> Result<Self, BuildError> {
        if !(config.rate > 0.0 && config.rate.is_finite()) {
            return Err(BuildError::setting(
                "rate",
                "must be more than 0; to stop all events use `filter: {keep: 'false'}`",
            ));
        }
        let mode = config.mode.unwrap_or_default();
        if mode == ThrottleMode::Block && config.by.is_some() {
            return Err(BuildError::setting(
                "by",
                "goes with `mode: Drop` alone: one key that waits would hold up the others",
            ));
        }
        let burst = config.burst.map_or(config.rate.ceil(), f64::from).max(1.0);
        Ok(Self {
            limit: Limit { rate: config.rate, burst },
            mode,
            by: Key::new(config.by.as_ref(), input)?,
            buckets: Keyed::new(),
        })
    }

    /// The bucket of a key, which is now the one used last.
    fn bucket<'a>(buckets: &'a mut Keyed<Bucket>, key: &str, limit: Limit, now: Moment) -> &'a mut Bucket {
        let id = match buckets.find(key) {
            Some(id) => {
                buckets.move_last(id);
                id
            }
            None => {
                if buckets.len() >= KEYS_MAX
                    && let Some(least_recent) = buckets.first()
                {
                    buckets.remove(least_recent);
                }
                buckets.insert(key, Bucket { tokens: limit.burst, at: now })
            }
        };
        let bucket = buckets.get(id);
        bucket.fill(limit, now);
        bucket
    }

    fn drop_above(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        let Self { limit, by, buckets, .. } = self;
        let now = out.now();
        batch.retain(|event| match by.read(event) {
            Ok((key, _)) => {
                let passes = Self::bucket(buckets, key, *limit, now).take();
                if !passes {
                    out.drop_event(event.meta.sequence, "rate");
                }
                passes
            }
            Err(reason) => out.refuse(event, reason),
        });
        Flow::Continue
    }

    fn block_above(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        let (limit, now) = (self.limit, out.now());
        let bucket = Self::bucket(&mut self.buckets, "", limit, now);
        let mut passing = Batch::new(batch.mark().clone());
        if bucket.tokens < batch.len() as f64 {
            batch.retain(|event| {
                let waits = !bucket.take();
                if !waits {
                    passing.push(std::mem::take(event));
                }
                waits
            });
            passing.set_born_nanos(batch.born_nanos());
            out.emit(passing);
            return Flow::Hold(now + bucket.wait(limit, batch.len()));
        }
        bucket.tokens -= batch.len() as f64;
        Flow::Continue
    }
}

impl Processor for Throttle {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        match self.mode {
            ThrottleMode::Drop => self.drop_above(batch, out),
            ThrottleMode::Block => self.block_above(batch, out),
        }
    }
}

impl Bucket {
    fn fill(&mut self, limit: Limit, now: Moment) {
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() * limit.rate).min(limit.burst);
        self.at = self.at.max(now);
    }

    fn take(&mut self) -> bool {
        let passes = self.tokens >= 1.0;
        if passes {
            self.tokens -= 1.0;
        }
        passes
    }

    /// How long until enough of `waiting` events may pass to be worth a call: a millisecond's worth, and at least one.
    fn wait(&self, limit: Limit, waiting: usize) -> Duration {
        let worth = (limit.rate / 1e3).clamp(1.0, limit.burst.min(waiting as f64).max(1.0));
        // Rounded up, so that the tokens are there when the call comes.
        Duration::from_secs_f64(((worth - self.tokens) / limit.rate).max(0.0)) + Duration::from_nanos(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::operator::testing::{Stage, event};

    fn numbered(count: usize) -> impl Iterator<Item = sidestream_event::Event> {
        (0..count).map(|n| event(&n.to_string()))
    }

    #[test]
    fn a_burst_passes_and_what_is_above_the_rate_is_dropped() {
        let mut stage = Stage::of(r#"{"throttle": {"rate": 2, "burst": 3}}"#);
        stage.push(numbered(5));
        assert_eq!(stage.bodies(), ["0", "1", "2"]);
        assert_eq!(stage.dropped(), [(3, "rate"), (4, "rate")]);
        stage.advance(1.0);
        stage.push(numbered(5));
        assert_eq!(stage.bodies(), ["0", "1"]);
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let mut stage = Stage::of(r#"{"throttle": {"rate": 1, "by": "event.k"}}"#);
        stage.push([event(r#"{"k":"a"}"#), event(r#"{"k":"b"}"#), event(r#"{"k":"a"}"#), event("{}")]);
        assert_eq!(stage.bodies(), [r#"{"k":"a"}"#, r#"{"k":"b"}"#]);
        assert_eq!((stage.dropped().len(), stage.failed().len()), (1, 1));
    }

    #[test]
    fn a_hundred_thousand_keys_more_than_it_remembers_push_out_the_least_recent() {
        let mut stage = Stage::of(r#"{"throttle": {"rate": 0.001, "by": "event"}}"#);
        stage.push([event("\"first\"")]);
        stage.push(numbered(KEYS_MAX - 1));
        stage.push([event("\"first\"")]);
        assert_eq!(stage.dropped().len(), 1, "still remembered, and recent again");
        stage.push([event("\"new\""), event("\"first\""), event("0")]);
        assert_eq!(stage.bodies().last().unwrap(), "0", "the least recent was forgotten");
        assert_eq!(stage.dropped().len(), 1);
    }

    #[test]
    fn what_waits_is_held_until_its_token_is_there_and_nothing_is_lost() {
        let mut stage = Stage::of(r#"{"throttle": {"rate": 10, "burst": 2, "mode": "Block"}}"#);
        let started = stage.now();
        stage.push(numbered(6));
        assert_eq!(stage.bodies(), ["0", "1"]);
        while let Some(until) = stage.held_until() {
            stage.advance_to(until);
            stage.resume();
        }
        assert_eq!(stage.bodies(), ["2", "3", "4", "5"]);
        let took = stage.now().since(started).as_secs_f64();
        assert!((0.4..0.41).contains(&took), "{took}");
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let refused = |config| Stage::refused(config).to_string();
        assert!(refused(r#"{"throttle": {"rate": 0}}"#).contains("must be more than 0"));
        assert!(
            refused(r#"{"throttle": {"rate": 1, "by": "event", "mode": "Block"}}"#).contains("`mode: Drop`")
        );
    }

    proptest! {
        #[test]
        fn the_rate_is_never_exceeded_over_any_span(
            rate in 0.5..500.0f64,
            burst in 1..50u32,
            block in any::<bool>(),
            steps in prop::collection::vec((0..400u64, 1..40usize), 1..60),
        ) {
            let mode = if block { "Block" } else { "Drop" };
            let config = format!(r#"{{"throttle": {{"rate": {rate}, "burst": {burst}, "mode": "{mode}"}}}}"#);
            let mut stage = Stage::of(&config);
            let mut passes: Vec<f64> = Vec::new();
            for (wait_millis, count) in steps {
                stage.advance(wait_millis as f64 / 1e3);
                stage.push(numbered(count));
                let mut note = |stage: &mut Stage| {
                    let at = stage.now().as_nanos() as f64 / 1e9;
                    passes.extend(stage.bodies().iter().map(|_| at));
                };
                note(&mut stage);
                while let Some(until) = stage.held_until() {
                    prop_assert!(until > stage.now());
                    stage.advance_to(until);
                    stage.resume();
                    note(&mut stage);
                }
            }
            for (index, from) in passes.iter().enumerate() {
                for (later, to) in passes.iter().enumerate().skip(index) {
                    let bound = f64::from(burst) + rate * (to - from) + 1e-6;
                    prop_assert!((later - index + 1) as f64 <= bound, "{} in {}", later - index + 1, to - from);
                }
            }
        }
    }
}
