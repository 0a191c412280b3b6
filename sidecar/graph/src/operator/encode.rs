//! Fields become text: the body turns into a line of a format. A format is a file.

mod csv;
mod logfmt;

use std::fmt;

use sidestream_event::{Batch, Event, Text, Value, json};
use sidestream_expr::Type;
use sidestream_plan::stage;

use self::{csv::Csv, logfmt::Logfmt};
use super::{BuildError, expression::Formula};
use crate::{Flow, Output, Processor};

/// `encode`, to one format.
pub(super) fn build(config: &stage::Encode, input: &Type) -> Result<Box<dyn Processor>, BuildError> {
    Ok(match config {
        stage::Encode::Json(_) => encoder(Json),
        stage::Encode::Logfmt(_) => encoder(Logfmt),
        stage::Encode::Csv(config) => encoder(Csv::new(config)?),
        stage::Encode::Text(config) => Box::new(Says { text: Formula::new("text", &config.text, input)? }),
    })
}

fn encoder(format: impl Format + 'static) -> Box<dyn Processor> {
    Box::new(Encoder { format, line: Vec::new() })
}

/// A format that any value, or any map, has a line in.
trait Format: Send {
    /// Appends the line of `body`, which is UTF-8 and has no line break at its end.
    fn encode(&self, body: &Value, line: &mut Vec<u8>) -> Result<(), NoMap>;
}

/// A body that has no fields.
#[derive(Debug)]
struct NoMap(&'static str);

/// A value that is no text.
struct NoText(&'static str);

struct Json;

struct Encoder<F> {
    format: F,
    /// The line of one event, kept for its storage.
    line: Vec<u8>,
}

/// `text`: whatever an expression says.
struct Says {
    text: Formula,
}

impl Format for Json {
    fn encode(&self, body: &Value, line: &mut Vec<u8>) -> Result<(), NoMap> {
        json::write(body, line);
        Ok(())
    }
}

impl<F: Format> Processor for Encoder<F> {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain(|event| {
            self.line.clear();
            if let Err(reason) = self.format.encode(&event.body, &mut self.line) {
                return out.refuse(event, reason);
            }
            event.body = Value::Text(Text::from(String::from_utf8_lossy(&self.line)));
            true
        });
        if self.line.capacity() > LINE_KEPT_BYTES {
            self.line = Vec::new();
        }
        Flow::Continue
    }
}

impl Processor for Says {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain(|event: &mut Event| match self.text.eval(event) {
            Ok(text @ Value::Text(_)) => {
                event.body = text;
                true
            }
            Ok(other) => out.refuse(event, NoText(other.kind())),
            Err(reason) => out.refuse(event, reason),
        });
        Flow::Continue
    }
}

impl fmt::Display for NoMap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "fields are wanted to encode, and the body is {}; `map` it to a map first", self.0)
    }
}

impl fmt::Display for NoText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`text`: text is wanted, and this is {}; convert it with `string(...)`", self.0)
    }
}

/// Storage kept from one batch to the next.
const LINE_KEPT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn json_is_one_line_that_reads_back_the_same() {
        let mut stage = Stage::of(r#"{"encode": {"json": {}}}"#);
        stage.push([event(r#"{"a":[1,"x\ny"]}"#), event("null")]);
        assert_eq!(stage.bodies(), [r#""{\"a\":[1,\"x\\ny\"]}""#, "\"null\""]);
        stage.push([event(&format!("\"{}\"", "x".repeat(100_000)))]);
        assert_eq!(stage.bodies()[0].len(), 100_006);
    }

    #[test]
    fn text_is_what_the_expression_says() {
        let mut stage =
            Stage::of(r#"{"encode": {"text": {"text": "event.name + ' ' + string(event.value)"}}}"#);
        stage.push([event(r#"{"name":"up","value":1}"#), event(r#"{"name":"up"}"#)]);
        assert_eq!(stage.bodies(), ["\"up 1\""]);
        assert!(stage.failed()[0].1.starts_with("`text`: no such field `value`"));
    }

    #[test]
    fn an_expression_that_says_no_text_is_an_error_with_its_cure() {
        let mut stage = Stage::of(r#"{"encode": {"text": {"text": "event.value"}}}"#);
        stage.push([event(r#"{"value":1}"#)]);
        assert!(stage.failed()[0].1.contains("this is int; convert it with `string(...)`"));
    }

    #[test]
    fn a_body_without_fields_has_no_line_in_formats_of_fields() {
        for format in [r#"{"logfmt": {}}"#, r#"{"csv": {"columns": ["a"]}}"#] {
            let mut stage = Stage::of(&format!(r#"{{"encode": {format}}}"#));
            stage.push([event("5")]);
            assert!(stage.failed()[0].1.contains("the body is int; `map` it"));
        }
    }
}
