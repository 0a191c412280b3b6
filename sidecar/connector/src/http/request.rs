//! From the body of a request to events.
//!
//! | `content-type`                                   | events                                         |
//! |--------------------------------------------------|------------------------------------------------|
//! | `application/json`, `text/json`, `…+json`        | one: the value                                 |
//! | `application/x-ndjson`, `…/ndjson`, `…/jsonl`    | one a line that is not blank: the value        |
//! | `…/x-www-form-urlencoded`, `multipart/…`         | none: 415                                      |
//! | anything else, or none                           | one: the text, or bytes where it is no UTF-8   |
//!
//! `curl -d` says that a body is a form where nobody tells it otherwise: taken as text, JSON sent so would be refused by
//! the stages one by one, with nobody the wiser.
//!
//! A request is taken whole or not at all: one bad line refuses it. Of its headers, `traceparent` goes to the events'
//! trace context and the `content-type` of a body that stayed text to their headers; no other one is kept.

use std::fmt;

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use sidestream_event::{Batch, Context, Event, Mark, Text, Value, json};

/// The events a request brings.
pub(super) fn events(headers: &HeaderMap, body: Bytes) -> Result<Batch, BadBody> {
    let media_type = media_type(headers);
    let mut context = Context {
        traceparent: text_header(headers, "traceparent").filter(|own| is_traceparent(own)).map(Text::from),
        ..Context::default()
    };
    let bodies = match form(&media_type) {
        Form::Json => vec![json::read(&body).map_err(|error| BadBody::NotJson { line: None, error })?],
        Form::JsonLines => lines(&body)?,
        Form::Fields => return Err(BadBody::Fields { media_type }),
        Form::Text => {
            let content_type = text_header(headers, CONTENT_TYPE.as_str());
            context.headers.extend(content_type.map(|own| ("content-type".into(), own.into())));
            vec![match std::str::from_utf8(&body) {
                Ok(text) => Value::Text(text.into()),
                Err(_) => Value::Bytes(body),
            }]
        }
    };
    let context = (context != Context::default()).then(|| Box::new(context));
    let event = |body| {
        let mut event = Event::new(body);
        event.meta.context = context.clone();
        event
    };
    Ok(Batch::of(bodies.into_iter().map(event).collect(), Mark::none()))
}

/// Whether the body of a request with these headers is taken as text.
pub(super) fn is_text(headers: &HeaderMap) -> bool {
    matches!(form(&media_type(headers)), Form::Text)
}

/// Why a body brings no events.
#[derive(Debug)]
pub(super) enum BadBody {
    /// Its content type says JSON, and this place of it says otherwise.
    NotJson {
        /// The line of a body that is one value a line, from 1.
        line: Option<usize>,
        error: json::Malformed,
    },
    /// More lines than [`EVENTS_MAX`].
    TooMany,
    /// Its content type is that of a form, whose fields nobody reads here.
    Fields { media_type: String },
}

impl BadBody {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            BadBody::NotJson { .. } | BadBody::TooMany => StatusCode::BAD_REQUEST,
            BadBody::Fields { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

impl fmt::Display for BadBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadBody::NotJson { line: Some(line), error } => write!(out, "line {line} of the body: {error}"),
            BadBody::NotJson { line: None, error } => {
                write!(
                    out,
                    "the body is {error}; send one value, or `content-type: application/x-ndjson` for one a line"
                )
            }
            BadBody::Fields { media_type } => {
                write!(out, "a body of type {media_type} is not read here; {WHAT_TO_SEND}")
            }
            BadBody::TooMany => write!(out, "more than {EVENTS_MAX} events; send them in several requests"),
        }
    }
}

enum Form {
    Json,
    JsonLines,
    Fields,
    Text,
}

fn form(media_type: &str) -> Form {
    match media_type {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Form::JsonLines,
        "application/json" | "text/json" => Form::Json,
        "application/x-www-form-urlencoded" => Form::Fields,
        other if other.ends_with("+json") => Form::Json,
        other if other.starts_with("multipart/") => Form::Fields,
        _ => Form::Text,
    }
}

fn lines(body: &[u8]) -> Result<Vec<Value>, BadBody> {
    let mut values = Vec::new();
    for (line, text) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        if values.len() == EVENTS_MAX {
            return Err(BadBody::TooMany);
        }
        values.push(json::read(text).map_err(|error| BadBody::NotJson { line: Some(line), error })?);
    }
    Ok(values)
}

/// What the body is, by its content type: without parameters, in lower case; empty where nothing says it.
fn media_type(headers: &HeaderMap) -> String {
    let content_type = text_header(headers, CONTENT_TYPE.as_str());
    content_type.and_then(|own| own.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase()
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `version-trace-parent-flags` in lower-case hexadecimal, trace and parent not all zeros
/// (https://www.w3.org/TR/trace-context/#traceparent-header). One that is not is to be ignored.
fn is_traceparent(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let mut parts = text.split('-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    // Later versions may append fields; version 00 has none.
    let is_whole = parts.next().is_none() || version != "00";
    [version, trace, parent, flags].map(str::len) == [2, 32, 16, 2]
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && version != "ff"
        && !is_zero(trace)
        && !is_zero(parent)
        && is_whole
        && text.len() <= TRACEPARENT_BYTES_MAX
}

/// What to tell those whose body is not what they meant it to be.
pub(super) const WHAT_TO_SEND: &str = "send `content-type: application/json` for one event, \
    `application/x-ndjson` for one a line, or `text/plain` for a text";
/// A request is one batch, and a batch is taken whole, so its length bounds how far it can overshoot a ring's limit.
const EVENTS_MAX: usize = 10_000;
const TRACEPARENT_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, body: &'static [u8]) -> Result<Vec<Value>, String> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
        let batch = events(&headers, Bytes::from_static(body)).map_err(|bad| bad.to_string())?;
        Ok(batch.events().iter().map(|event| event.body.clone()).collect())
    }

    #[test]
    fn the_content_type_says_what_a_body_is() {
        let one = || Value::from_iter([("a", 1)]);
        assert_eq!(read("application/json; charset=utf-8", b"{\"a\":1}").unwrap(), [one()]);
        assert_eq!(read("Application/CloudEvents+JSON", b" {\"a\":1}\n").unwrap(), [one()]);
        assert_eq!(read("application/x-ndjson", b"{\"a\":1}\r\n\n2\n").unwrap(), [one(), Value::Int(2)]);
        assert_eq!(read("text/plain", b"{\"a\":1}").unwrap(), [Value::from("{\"a\":1}")]);
        assert_eq!(read("text/plain", b"\xff").unwrap(), [Value::Bytes(Bytes::from_static(b"\xff"))]);
    }

    #[test]
    fn a_bad_body_is_refused_whole_and_the_place_is_named() {
        assert_eq!(
            read("application/json", b"{\"a\":}").unwrap_err(),
            "the body is not JSON: expected value at line 1 column 6; send one value, or \
             `content-type: application/x-ndjson` for one a line"
        );
        assert!(
            read("application/x-ndjson", b"1\n\nno\n")
                .unwrap_err()
                .starts_with("line 3 of the body: not JSON")
        );
        assert!(read("application/json", b"").is_err());
        let many = "1\n".repeat(EVENTS_MAX + 1);
        assert!(read("application/jsonl", many.leak().as_bytes()).unwrap_err().contains("several requests"));
    }

    #[test]
    fn a_form_is_refused_with_what_to_send_instead() {
        for form in ["application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=x"] {
            let said = read(form, b"{\"a\":1}").unwrap_err();
            assert!(said.contains("is not read here; send `content-type: application/json`"), "{said}");
        }
    }

    #[test]
    fn only_a_well_formed_traceparent_is_kept() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        assert!(is_traceparent(&format!("01{}-more", &good[2..])));
        assert!(!is_traceparent(&format!("{good}-more")));
        assert!(!is_traceparent(&good.to_uppercase()));
        assert!(!is_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"));
        assert!(!is_traceparent("garbage"));
    }
}
