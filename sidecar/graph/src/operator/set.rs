//! Sets fields, each from an expression over the event as it came in.

use sidestream_event::{Batch, Value};
use sidestream_expr::Type;
use sidestream_plan::stage;

use super::{BuildError, expression::Formula, path};
use crate::{Flow, Output, Processor};

/// `set`: all expressions are evaluated before the first field is set, so an event is changed as a whole or not at all.
/// Maps on the way of a dotted path are made where they are missing.
pub(super) struct Set {
    fields: Vec<(String, Formula)>,
    /// The values of one event, kept for their storage.
    values: Vec<Value>,
}

impl Set {
    pub(super) fn new(config: &stage::Set, input: &Type) -> Result<Self, BuildError> {
        let fields = config
            .fields
            .iter()
            .map(|(path, source)| Ok((path.clone(), Formula::new(format!("fields.{path}"), source, input)?)));
        Ok(Self { fields: fields.collect::<Result<_, _>>()?, values: Vec::new() })
    }
}

impl Processor for Set {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        let Self { fields, values } = self;
        batch.retain(|event| {
            values.clear();
            for (path, formula) in fields.iter() {
                match formula.eval(event) {
                    Ok(value) => values.push(value),
                    Err(reason) => return out.refuse(event, reason),
                }
                if let Err(reason) = path::check(&event.body, path) {
                    return out.refuse(event, reason);
                }
            }
            for ((path, _), value) in fields.iter().zip(values.drain(..)) {
                path::put(&mut event.body, path, value);
            }
            true
        });
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn every_expression_sees_the_event_as_it_came_in() {
        let mut stage =
            Stage::of(r#"{"set": {"fields": {"a": "event.b", "b": "event.a", "c.d": "event.a + 1"}}}"#);
        stage.push([event(r#"{"a":1,"b":2}"#)]);
        assert_eq!(stage.bodies(), [r#"{"a":2,"b":1,"c":{"d":2}}"#]);
    }

    #[test]
    fn an_event_one_expression_fails_on_is_not_half_changed() {
        let mut stage = Stage::of(r#"{"set": {"fields": {"a": "9", "b": "event.missing"}}}"#);
        stage.push([event(r#"{"a":1}"#)]);
        assert!(stage.bodies().is_empty());
        assert_eq!(stage.failed()[0].0, r#"{"a":1}"#);
    }

    #[test]
    fn a_field_of_what_is_no_map_is_an_error_that_says_what_it_is() {
        let mut stage = Stage::of(r#"{"set": {"fields": {"a.b.c": "1"}}}"#);
        stage.push([event(r#""text""#), event(r#"{"a":5}"#), event(r#"{"a":{"b":[1]}}"#), event("null")]);
        assert_eq!(stage.bodies(), [r#"{"a":{"b":{"c":1}}}"#]);
        let reasons: Vec<_> = stage.failed().into_iter().map(|(_, reason)| reason).collect();
        assert!(reasons[0].starts_with("the body is text"), "{reasons:?}");
        assert!(reasons[1].starts_with("`a` is int"), "{reasons:?}");
        assert!(reasons[2].starts_with("`a.b` is list"), "{reasons:?}");
    }
}
