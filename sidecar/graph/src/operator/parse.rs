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
    text::{Place, Shown},
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
    /// Makes `body` what `text` says; what it was is storage to use again.
    fn parse(&mut self, text: &str, body: &mut Value) -> Result<(), Malformed>;
}

struct Parser<F> {
    place: Place,
    format: F,
}

impl<F: Format> Processor for Parser<F> {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain_with(|event, spares| {
            let text = match self.place.text(event) {
                Ok(text) => text,
                Err(reason) => return out.refuse(event, reason),
            };
            let mut body = spares.stale();
            match self.format.parse(text, &mut body) {
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

/// Why a text is not of the format: what is wrong and where, and what may help.
#[derive(Debug)]
struct Malformed(String);

impl Malformed {
    /// `what` is wrong in `text`, whose beginning is shown; `cure` says what may help.
    fn new(what: impl fmt::Display, text: &str, cure: &str) -> Self {
        Self(format!("{what}, in {}; {cure}", Shown(text)))
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What a format makes of a text, for its tests.
#[cfg(test)]
fn parsed(format: &mut impl Format, text: &str) -> Result<Value, Malformed> {
    let mut body = Value::Null;
    format.parse(text, &mut body).map(|()| body)
}
