//! Values between separators (RFC 4180): the columns the settings name, in their order. A field that is missing or null
//! is empty; lists and maps are their JSON.

use sidestream_event::{Value, json};
use sidestream_plan::stage;

use super::{Format, NoMap};
use crate::operator::{BuildError, parse};

pub(super) struct Csv {
    columns: Vec<String>,
    separator: u8,
}

impl Csv {
    pub(super) fn new(config: &stage::EncodeCsv) -> Result<Self, BuildError> {
        Ok(Self {
            columns: config.columns.clone(),
            separator: parse::separator(config.separator.as_deref())?,
        })
    }
}

impl Format for Csv {
    fn encode(&self, body: &Value, line: &mut Vec<u8>) -> Result<(), NoMap> {
        if !matches!(body, Value::Map(_)) {
            return Err(NoMap(body.kind()));
        }
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                line.push(self.separator);
            }
            match body.at(column) {
                None | Some(Value::Null) => {}
                Some(Value::Text(text)) => self.quote(text.as_bytes(), line),
                Some(Value::Bytes(bytes)) if std::str::from_utf8(bytes).is_ok() => self.quote(bytes, line),
                // Their JSON is base64 in quotes, and in base64 there is nothing to quote.
                Some(bytes @ Value::Bytes(_)) => {
                    let text = json_of(bytes);
                    line.extend_from_slice(&text[1..text.len() - 1]);
                }
                Some(other) => self.quote(&json_of(other), line),
            }
        }
        Ok(())
    }
}

impl Csv {
    /// Appends a value, in quotes where it could not be told from what is around it.
    fn quote(&self, value: &[u8], line: &mut Vec<u8>) {
        let special = |byte: &u8| *byte == self.separator || matches!(byte, b'"' | b'\n' | b'\r');
        if !value.iter().any(special) {
            return line.extend_from_slice(value);
        }
        line.push(b'"');
        for byte in value {
            if *byte == b'"' {
                line.push(b'"');
            }
            line.push(*byte);
        }
        line.push(b'"');
    }
}

fn json_of(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    json::write(value, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use sidestream_event::Event;

    use super::*;
    use crate::operator::testing::{Stage, event};

    #[test]
    fn the_columns_stand_in_their_order_and_what_needs_quotes_gets_them() {
        let mut stage = Stage::of(r#"{"encode": {"csv": {"columns": ["b", "a.x", "none", "c", "d"]}}}"#);
        stage.push([event(r#"{"a":{"x":1.5},"b":"say \"hi\", twice","c":null,"d":[1,2]}"#)]);
        let line = stage.events()[0].body.as_text().unwrap().to_string();
        assert_eq!(line, r#""say ""hi"", twice",1.5,,,"[1,2]""#);
    }

    #[test]
    fn bytes_are_text_where_they_can_be_and_base64_where_not() {
        let mut stage = Stage::of(r#"{"encode": {"csv": {"columns": ["a", "b"], "separator": ";"}}}"#);
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec().into());
        stage
            .push([Event::new([("a", bytes(b"x;y")), ("b", bytes(&[0xff]))].into_iter().collect::<Value>())]);
        assert_eq!(stage.events()[0].body.as_text(), Some("\"x;y\";/w=="));
    }

    #[test]
    fn what_is_written_parses_back() {
        let columns = r#""columns": ["a", "b", "c"]"#;
        let mut written = Stage::of(&format!(r#"{{"encode": {{"csv": {{{columns}}}}}}}"#));
        let mut read = Stage::of(&format!(r#"{{"parse": {{"csv": {{{columns}}}}}}}"#));
        let body = r#"{"a":"x,\"y\"\r\nz","b":-2.5,"c":"é"}"#;
        written.push([event(body)]);
        read.push(written.events());
        assert_eq!(read.bodies(), [body]);
    }
}
