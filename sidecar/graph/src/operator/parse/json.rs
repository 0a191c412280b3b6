//! JSON (RFC 8259); what its codec promises is in [`sidestream_event::json`].

use sidestream_event::{Value, json};

use super::{Format, Malformed};

pub(super) struct Json;

impl Format for Json {
    fn parse(&mut self, text: &str, body: &mut Value) -> Result<(), Malformed> {
        json::read_over(text, body)
            .map_err(|error| Malformed::new(error, text, "a `when` can keep lines of another form away"))
    }
}

#[cfg(test)]
mod tests {
    use sidestream_event::{Event, Value};

    use crate::operator::testing::{Stage, event};

    #[test]
    fn text_and_bytes_become_the_value_they_say() {
        let mut stage = Stage::of(r#"{"parse": {"json": {}}}"#);
        stage.push([event(r#""{\"a\":[1,2.5,null]}""#), Event::new(Value::Bytes("true".into()))]);
        assert_eq!(stage.bodies(), [r#"{"a":[1,2.5,null]}"#, "true"]);
    }

    #[test]
    fn the_fields_take_the_place_of_the_body_also_where_a_field_held_the_text() {
        let mut stage = Stage::of(r#"{"parse": {"json": {"field": "log.line"}}}"#);
        stage.push([event(r#"{"log":{"line":"{\"a\":1}"},"host":"h"}"#)]);
        assert_eq!(stage.bodies(), [r#"{"a":1}"#]);
    }

    #[test]
    fn a_malformed_text_fails_with_its_place_its_beginning_and_a_cure() {
        let mut stage = Stage::of(r#"{"parse": {"json": {}}}"#);
        let long = format!("\"{{{}\"", "x".repeat(10_000));
        stage.push([
            event(r#""GET /cart""#),
            event(&long),
            Event::new(Value::Bytes(vec![0xff].into())),
            event("5"),
        ]);
        let reasons: Vec<_> = stage.failed().into_iter().map(|(_, reason)| reason).collect();
        assert_eq!(
            reasons[0],
            "not JSON: expected value at line 1 column 1, in `GET /cart`; a `when` can keep lines of another form away"
        );
        assert!(reasons[1].len() < 250, "{}", reasons[1]);
        assert!(reasons[2].contains("not UTF-8 from byte 0 on"), "{}", reasons[2]);
        assert!(reasons[3].contains("text is wanted to parse, and this is int"), "{}", reasons[3]);
    }
}
