//! One event: what is known of it, and what it says.

use crate::{Text, Timestamp, Value};

/// What flows: an envelope and a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// What is known of the event: `meta` in expressions.
    pub meta: Meta,
    /// What it says: `event` in expressions.
    pub body: Value,
}

/// The envelope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// When it happened; where the source cannot tell, when the source took it in.
    pub time: Timestamp,
    /// Its number at its source, from 0, without gaps; events made from others carry on their first ancestor's.
    pub sequence: u64,
    /// What orders it: events of one key keep their order through every stage.
    pub key: Option<Text>,
    /// The source stage it came from.
    pub source: Text,
    /// What few events carry, kept apart so that the rest stay small.
    pub context: Option<Box<Context>>,
}

/// The rare part of an envelope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// Headers in the order they came; names may repeat.
    pub headers: Vec<(Text, Text)>,
    /// W3C trace context: the `traceparent` field as it came (https://www.w3.org/TR/trace-context/).
    pub traceparent: Option<Text>,
}

impl Event {
    /// An event that says `body`, with an empty envelope: the source that sends it fills in time and sequence.
    pub fn new(body: impl Into<Value>) -> Self {
        Self { meta: Meta::default(), body: body.into() }
    }

    /// Bytes the event takes, as an estimate for memory limits.
    pub fn size_bytes(&self) -> usize {
        size_of::<Event>() + self.body.heap_bytes()
    }
}

impl Meta {
    /// The first header called `name`, compared without case, as HTTP does.
    pub fn header(&self, name: &str) -> Option<&str> {
        let context = self.context.as_ref()?;
        context
            .headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The rare part of the envelope, made where there was none.
    pub fn context_mut(&mut self) -> &mut Context {
        self.context.get_or_insert_default()
    }
}

/// The header that says why an event could not be handled: put on a dead letter by the stage that failed, and on an event by
/// the source that could not take it whole.
pub const ERROR_HEADER: &str = "sidestream-error";

/// The header of a dead letter that names the stage that failed.
pub const STAGE_HEADER: &str = "sidestream-stage";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_without_regard_to_case() {
        let mut event = Event::new("hi");
        event.meta.context_mut().headers.push(("Content-Type".into(), "text/plain".into()));
        assert_eq!(event.meta.header("content-type"), Some("text/plain"));
        assert_eq!(event.meta.header("accept"), None);
    }
}
