//! Passes a share of the events.

use sidestream_event::Batch;
use sidestream_expr::Type;
use sidestream_plan::stage;

use super::{
    BuildError,
    key::{Key, stable_hash},
};
use crate::{Flow, Output, Processor};

/// `sample`: by count, or by key.
pub(super) fn build(config: &stage::Sample, input: &Type) -> Result<Box<dyn Processor>, BuildError> {
    let every = config.every.max(1);
    Ok(match &config.by {
        None => Box::new(ByCount { every, since: every - 1 }),
        Some(by) => Box::new(ByKey { every, by: Key::new(Some(by), input)? }),
    })
}

/// Passes the first of each `every` events.
struct ByCount {
    every: u32,
    /// Events since the last that passed.
    since: u32,
}

/// Passes the keys whose hash falls into the first of `every` equal parts: the same keys in every process, so that
/// what one sidecar samples of a trace the next does too.
struct ByKey {
    every: u32,
    by: Key,
}

impl Processor for ByCount {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        batch.retain(|_| {
            self.since += 1;
            let passes = self.since == self.every;
            if passes {
                self.since = 0;
            }
            passes
        });
        Flow::Continue
    }
}

impl Processor for ByKey {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain(|event| match self.by.read(event) {
            Ok((identity, _)) => (u128::from(stable_hash(identity)) * u128::from(self.every)) >> 64 == 0,
            Err(reason) => out.refuse(event, reason),
        });
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn one_in_every_passes_across_batches() {
        let mut stage = Stage::of(r#"{"sample": {"every": 3}}"#);
        for batch in (0..9).collect::<Vec<_>>().chunks(2) {
            stage.push(batch.iter().map(|n| event(&n.to_string())));
        }
        assert_eq!(stage.bodies(), ["0", "3", "6"]);
    }

    #[test]
    fn all_events_of_a_key_pass_or_none_and_about_one_key_in_every() {
        let mut stage = Stage::of(r#"{"sample": {"every": 10, "by": "event"}}"#);
        for _ in 0..2 {
            stage.push((0..10_000).map(|n| event(&format!("\"trace {n}\""))));
        }
        let passed = stage.bodies();
        let (first, second) = passed.split_at(passed.len() / 2);
        assert_eq!(first, second);
        assert!((900..1100).contains(&first.len()), "{}", first.len());
    }

    #[test]
    fn an_event_without_a_key_fails() {
        let mut stage = Stage::of(r#"{"sample": {"every": 1, "by": "event.id"}}"#);
        stage.push([event("{}"), event(r#"{"id":1}"#)]);
        assert_eq!((stage.bodies().len(), stage.failed().len()), (1, 1));
    }
}
