//! Keeps the events an expression says yes to.

use sidestream_event::Batch;
use sidestream_expr::Type;
use sidestream_plan::stage;

use super::{BuildError, expression::Formula};
use crate::{Flow, Output, Processor};

/// `filter`: the others are done. An event the expression has no answer for fails.
pub(super) struct Filter {
    keep: Formula,
}

impl Filter {
    pub(super) fn new(config: &stage::Filter, input: &Type) -> Result<Self, BuildError> {
        Ok(Self { keep: Formula::condition("keep", &config.keep, input)? })
    }
}

impl Processor for Filter {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain(|event| match self.keep.test(event) {
            Ok(keep) => keep,
            Err(reason) => out.refuse(event, reason),
        });
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn only_the_events_it_says_yes_to_stay_in_their_order() {
        let mut stage = Stage::of(r#"{"filter": {"keep": "event.n > 1"}}"#);
        stage.push([event(r#"{"n":3}"#), event(r#"{"n":1}"#), event(r#"{"n":2}"#)]);
        assert_eq!(stage.bodies(), [r#"{"n":3}"#, r#"{"n":2}"#]);
        assert!(stage.failed().is_empty());
    }

    #[test]
    fn an_event_without_an_answer_fails_and_its_neighbours_do_not() {
        let mut stage = Stage::of(r#"{"filter": {"keep": "event.n > 1"}}"#);
        stage.push([event(r#"{"n":3}"#), event(r#"{"m":1}"#), event(r#"{"n":2}"#)]);
        assert_eq!(stage.bodies(), [r#"{"n":3}"#, r#"{"n":2}"#]);
        let failed = stage.failed();
        assert_eq!(failed[0].0, r#"{"m":1}"#);
        assert!(failed[0].1.contains("`keep`: no such field `n`"), "{}", failed[0].1);
    }
}
