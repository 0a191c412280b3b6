//! Makes a new body from an expression.

use sidestream_event::Batch;
use sidestream_expr::Type;
use sidestream_plan::stage;

use super::{BuildError, expression::Formula};
use crate::{Flow, Output, Processor};

/// `map`: the envelope stays.
pub(super) struct Map {
    body: Formula,
}

impl Map {
    pub(super) fn new(config: &stage::Map, input: &Type) -> Result<Self, BuildError> {
        Ok(Self { body: Formula::new("body", &config.body, input)? })
    }
}

impl Processor for Map {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain_with(|event, spares| {
            let mut body = spares.room();
            match self.body.eval_into(event, &mut body) {
                Ok(()) => {
                    spares.keep(std::mem::replace(&mut event.body, body));
                    true
                }
                Err(reason) => out.refuse(event, reason),
            }
        });
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn the_body_becomes_what_the_expression_says_and_the_envelope_stays() {
        let mut stage = Stage::of(r#"{"map": {"body": "{'route': event.path, 'slow': event.ms > 500}"}}"#);
        let mut one = event(r#"{"path":"/cart","ms":700}"#);
        one.meta.key = Some("k".into());
        stage.push([one]);
        let events = stage.events();
        assert_eq!(events[0].body.to_string(), r#"{"route":"/cart","slow":true}"#);
        assert_eq!(events[0].meta.key.as_deref(), Some("k"));
    }

    #[test]
    fn an_event_the_expression_fails_on_keeps_its_body_in_the_dead_letter() {
        let mut stage = Stage::of(r#"{"map": {"body": "event.a / event.b"}}"#);
        stage.push([event(r#"{"a":1,"b":0}"#), event(r#"{"a":6,"b":3}"#)]);
        assert_eq!(stage.bodies(), ["2"]);
        let failed = stage.failed();
        assert_eq!(failed[0].0, r#"{"a":1,"b":0}"#);
        assert!(failed[0].1.contains("division"), "{}", failed[0].1);
    }
}
