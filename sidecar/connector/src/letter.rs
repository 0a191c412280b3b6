//! What a sink writes of an event: its body, and of a dead letter also which stage could not handle it and why.
//!
//! ```text
//!   {"a":1}                                                       an event whose body is a map
//!   {"stage":"fields","error":"not JSON: ...","body":"{\"a\":"}   a dead letter
//! ```

use sidestream_event::{Event, Value, json};

use crate::{ERROR_HEADER, STAGE_HEADER};

/// Why an event is a dead letter.
pub(crate) struct Letter<'a> {
    /// The stage that failed.
    pub(crate) stage: &'a str,
    /// What it said.
    pub(crate) error: &'a str,
}

impl<'a> Letter<'a> {
    /// None for an ordinary event.
    pub(crate) fn of(event: &'a Event) -> Option<Letter<'a>> {
        // Few events have headers at all.
        event.meta.context.as_ref()?;
        let (stage, error) = (event.meta.header(STAGE_HEADER)?, event.meta.header(ERROR_HEADER)?);
        Some(Letter { stage, error })
    }
}

/// Appends an event as JSON without a line break: its body, or a dead letter as drawn above.
pub(crate) fn write_json(event: &Event, out: &mut Vec<u8>) {
    let Some(Letter { stage, error }) = Letter::of(event) else {
        return json::write(&event.body, out);
    };
    out.extend_from_slice(b"{\"stage\":");
    json::write(&Value::Text(stage.into()), out);
    out.extend_from_slice(b",\"error\":");
    json::write(&Value::Text(error.into()), out);
    out.extend_from_slice(b",\"body\":");
    json::write(&event.body, out);
    out.push(b'}');
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `body`, as stage `fields` could not handle it.
    pub(crate) fn letter(body: impl Into<Value>) -> Event {
        let mut event = Event::new(body);
        let headers = &mut event.meta.context_mut().headers;
        headers.push((STAGE_HEADER.into(), "fields".into()));
        headers.push((ERROR_HEADER.into(), "not \"JSON\"".into()));
        event
    }

    fn written(event: &Event) -> String {
        let mut out = Vec::new();
        write_json(event, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_dead_letter_says_where_it_failed_and_why_and_is_whole() {
        assert_eq!(
            written(&letter("{\"a\":")),
            r#"{"stage":"fields","error":"not \"JSON\"","body":"{\"a\":"}"#
        );
        let map: Value = [("a", 1)].into_iter().collect();
        assert_eq!(written(&letter(map)), r#"{"stage":"fields","error":"not \"JSON\"","body":{"a":1}}"#);
    }

    #[test]
    fn an_event_with_other_headers_is_its_body() {
        let mut event = Event::new("x");
        event.meta.context_mut().headers.push(("file".into(), "/var/log/a".into()));
        assert_eq!(written(&event), "\"x\"");
    }
}
