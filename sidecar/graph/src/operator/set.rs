//! Sets fields, each from an expression over the event as it came in.

use std::fmt;

use sidestream_event::{Batch, Map, Value};
use sidestream_expr::Type;
use sidestream_plan::stage;

use super::{BuildError, expression::Formula};
use crate::{Flow, Output, Processor};

/// `set`: all expressions are evaluated before the first field is set, so an event is changed as a whole or not at all.
/// Maps on the way of a dotted path are made where they are missing.
pub(super) struct Set {
    fields: Vec<(String, Formula)>,
    /// The values of one event, kept for their storage.
    values: Vec<Value>,
}

/// What stands where a map should: its kind and, where it is not the body, its path.
struct NoMap<'a> {
    path: &'a str,
    kind: &'static str,
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
                if let Err(reason) = check(&event.body, path) {
                    return out.refuse(event, reason);
                }
            }
            for ((path, _), value) in fields.iter().zip(values.drain(..)) {
                put(&mut event.body, path, value);
            }
            true
        });
        Flow::Continue
    }
}

/// Whether everything on the way to `path` is a map or missing.
fn check<'a>(body: &Value, path: &'a str) -> Result<(), NoMap<'a>> {
    let mut at = body;
    let mut read = 0;
    for name in path.split('.') {
        match at {
            Value::Map(_) => {}
            Value::Null => return Ok(()),
            other => return Err(NoMap { path: &path[..read], kind: other.kind() }),
        }
        read += name.len() + usize::from(read > 0);
        match at.field(name) {
            Some(value) => at = value,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Sets the field at `path`; whatever is no map on the way becomes one.
fn put(body: &mut Value, path: &str, value: Value) {
    let map = as_map(body);
    match path.split_once('.') {
        None => map.insert(path, value),
        Some((name, rest)) => {
            if map.get(name).is_none() {
                map.insert(name, Map::new());
            }
            if let Some(inner) = map.get_mut(name) {
                put(inner, rest, value);
            }
        }
    }
}

fn as_map(value: &mut Value) -> &mut Map {
    match value {
        Value::Map(map) => map,
        other => other.reset_map(),
    }
}

impl fmt::Display for NoMap<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            "" => {
                write!(out, "the body is {} and has no fields to set; `parse` or `map` it first", self.kind)
            }
            path => write!(out, "`{path}` is {} and has no fields to set; `unset` it first", self.kind),
        }
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
