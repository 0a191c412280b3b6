//! The text an event holds, for those who parse it, and how much of it a message may show.

use std::fmt;

use sidestream_event::{Event, Value};

/// Where the text is: the body, or a field of it.
pub(super) struct Place {
    path: Option<String>,
}

/// Why there is no text.
#[derive(Debug, PartialEq)]
pub(super) enum NoText {
    Missing(String),
    Kind(&'static str),
    Encoding { at: usize },
}

impl Place {
    pub(super) fn new(path: Option<&String>) -> Self {
        Self { path: path.cloned() }
    }

    /// The text there: a text as it is, bytes where they are UTF-8.
    pub(super) fn text<'a>(&self, event: &'a Event) -> Result<&'a str, NoText> {
        let value = match &self.path {
            None => &event.body,
            Some(path) => event.body.at(path).ok_or_else(|| NoText::Missing(path.clone()))?,
        };
        match value {
            Value::Text(text) => Ok(text),
            Value::Bytes(bytes) => {
                std::str::from_utf8(bytes).map_err(|error| NoText::Encoding { at: error.valid_up_to() })
            }
            other => Err(NoText::Kind(other.kind())),
        }
    }
}

/// The beginning of a text, in backquotes, for a message: at most [`SHOWN_BYTES_MAX`] bytes, on one line.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = SHOWN_BYTES_MAX;
        out.write_str("`")?;
        for char in self.0.chars() {
            let escaped = char.escape_debug();
            let plain = !char.is_control();
            let bytes = if plain { char.len_utf8() } else { escaped.len() };
            if bytes > left {
                return out.write_str("...`");
            }
            left -= bytes;
            if plain { write!(out, "{char}")? } else { write!(out, "{escaped}")? }
        }
        out.write_str("`")
    }
}

impl fmt::Display for NoText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoText::Missing(path) => {
                write!(out, "there is no field `{path}` to parse; a `when` can keep such events away")
            }
            NoText::Kind(kind) => {
                write!(
                    out,
                    "text is wanted to parse, and this is {kind}; name the field that holds it with `field`"
                )
            }
            NoText::Encoding { at } => write!(out, "the text is not UTF-8 from byte {at} on"),
        }
    }
}

const SHOWN_BYTES_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::testing::event;

    #[test]
    fn the_text_is_the_body_or_a_field_and_anything_else_says_what_it_is() {
        let body = Place::new(None);
        let field = Place::new(Some(&"a.b".to_string()));
        assert_eq!(body.text(&event("\"x\"")), Ok("x"));
        assert_eq!(field.text(&event(r#"{"a":{"b":"y"}}"#)), Ok("y"));
        assert!(body.text(&event("{}")).unwrap_err().to_string().contains("this is map"));
        assert!(field.text(&event("{}")).unwrap_err().to_string().contains("no field `a.b`"));
        let invalid = Event::new(Value::Bytes(vec![b'a', 0xff].into()));
        assert_eq!(body.text(&invalid).unwrap_err().to_string(), "the text is not UTF-8 from byte 1 on");
        assert_eq!(body.text(&Event::new(Value::Bytes("x".into()))), Ok("x"));
    }

    #[test]
    fn a_message_shows_the_beginning_of_a_long_text_on_one_line() {
        assert_eq!(Shown("a\nb").to_string(), "`a\\nb`");
        let long = Shown(&"é".repeat(1000)).to_string();
        assert_eq!(long, format!("`{}...`", "é".repeat(40)));
    }
}
