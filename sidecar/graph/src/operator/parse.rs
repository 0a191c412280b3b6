//! Text becomes fields, which take the place of the body. A format is a file.

mod csv;
mod json;
mod logfmt;
mod prometheus;
mod regex;

use std::fmt;

use sidestream_event::{Batch, Value};
use sidestream_plan::stage;

use super::{
    BuildError,
    text::{NoText, Place, Shown},
};
use crate::{Flow, Output, Processor};

pub(super) use self::csv::separator;

/// `parse`, of one format.
pub(super) fn build(config: &stage::Parse) -> Result<Box<dyn Processor>, BuildError> {
    Ok(match config {
        stage::Parse::Json(config) => parser(config.field.as_ref(), json::Json),
        stage::Parse::Logfmt(config) => parser(config.field.as_ref(), logfmt::Logfmt::default()),
        stage::Parse::Csv(config) => parser(config.field.as_ref(), csv::Csv::new(config)?),
        stage::Parse::Regex(config) => parser(config.field.as_ref(), regex::Regex::new(config)?),
        stage::Parse::Prometheus(config) => Box::new(prometheus::Prometheus::new(config)),
    })
}

fn parser(field: Option<&String>, format: impl Format + 'static) -> Box<dyn Processor> {
    Box::new(Parser { place: Place::new(field), format })
}

/// A format in which one text is one value.
trait Format: Send {
    /// The value `text` says. Bytes may be anything; those that are no UTF-8 are the format's to refuse.
    fn parse(&mut self, text: &[u8]) -> Result<Value, Malformed>;
}

struct Parser<F> {
    place: Place,
    format: F,
}

impl<F: Format> Processor for Parser<F> {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain(|event| {
            let text = match self.place.bytes(event) {
                Ok(text) => text,
                Err(reason) => return out.refuse(event, reason),
            };
            match self.format.parse(text) {
                Ok(body) => {
                    event.body = body;
                    true
                }
                Err(reason) => out.refuse(event, reason),
            }
        });
        Flow::Continue
    }
}

/// Why a text is not of the format: what is wrong and where, and what may help.
#[derive(Debug)]
struct Malformed(String);

impl Malformed {
    /// `what` is wrong in `text`, whose beginning is shown; `cure` says what may help.
    fn new(what: impl fmt::Display, text: &[u8], cure: &str) -> Self {
        // Enough bytes for what is shown of them, so that a huge text is not copied to be cut.
        let start = String::from_utf8_lossy(&text[..text.len().min(128)]);
        Self(format!("{what}, in {}; {cure}", Shown(&start)))
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// `text` as UTF-8.
fn utf8(text: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(text)
        .map_err(|error| Malformed(NoText::Encoding { at: error.valid_up_to() }.to_string()))
}
