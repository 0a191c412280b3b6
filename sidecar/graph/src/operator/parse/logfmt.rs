//! logfmt (Brandur Leach, "logfmt", https://brandur.org/logfmt): `key=value` pairs between white space.
//!
//! ```text
//!   level=info msg="it said \"hi\"" took=1.5 retried
//!     text         text, escapes     number   true
//! ```
//!
//! Outside quotes what JSON calls a number is one, `true` and `false` are what they say, and everything else is text;
//! inside quotes all is text, with JSON's escapes. A key alone is `true`; a key with `=` and nothing is the empty text.
//! Of a key given twice the last value stands.

use sidestream_event::{Builder, Map, Text, Value};

use super::{Format, Malformed};
use crate::operator::number::number_or_text;

#[derive(Default)]
pub(super) struct Logfmt {
    /// A quoted value without its escapes, kept for its storage.
    unescaped: String,
}

/// What is wrong, and at which byte.
struct Wrong(&'static str, usize);

impl Format for Logfmt {
    fn parse(&mut self, text: &str, body: &mut Value) -> Result<(), Malformed> {
        let fields = self.read(text).map_err(|Wrong(what, at)| {
            Malformed::new(
                format_args!("not logfmt: {what} at byte {at}"),
                text,
                "write `key=value` or `key=\"a value\"`",
            )
        })?;
        *body = Value::Map(fields);
        Ok(())
    }
}

impl Logfmt {
    fn read(&mut self, line: &str) -> Result<Map, Wrong> {
        let bytes = line.as_bytes();
        let mut fields = Builder::with_capacity(USUAL_FIELDS);
        let mut at = 0;
        loop {
            at += bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if at == bytes.len() {
                break;
            }
            let start = at;
            at += length_of(&bytes[at..], |byte| byte == b'=' || byte == b'"');
            let key = &line[start..at];
            match bytes.get(at) {
                Some(b'"') => return Err(Wrong("a quote in a key", at)),
                Some(b'=') if key.is_empty() => return Err(Wrong("no key before `=`", at)),
                Some(b'=') => at += 1,
                _ => {
                    fields.insert(key.into(), Value::Bool(true));
                    continue;
                }
            }
            let value = if bytes.get(at) == Some(&b'"') {
                let (value, end) = self.quoted(line, at)?;
                at = end;
                value
            } else {
                let start = at;
                at += length_of(&bytes[at..], |byte| byte == b'"');
                if bytes.get(at) == Some(&b'"') {
                    return Err(Wrong("a quote inside a value that does not begin with one", at));
                }
                match &line[start..at] {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    bare => number_or_text(bare),
                }
            };
            fields.insert(key.into(), value);
        }
        Ok(fields.build())
    }

    /// The value in quotes that begins at `start`, and where it ends.
    fn quoted(&mut self, line: &str, start: usize) -> Result<(Value, usize), Wrong> {
        let bytes = line.as_bytes();
        let (mut at, mut copied) = (start + 1, start + 1);
        self.unescaped.clear();
        loop {
            match bytes.get(at) {
                None => return Err(Wrong("a quote that is not closed", start)),
                Some(b'"') => break,
                Some(b'\\') => {
                    self.unescaped.push_str(&line[copied..at]);
                    let (char, length) = escape(&line[at + 1..]).ok_or(Wrong("an unknown escape", at))?;
                    self.unescaped.push(char);
                    at += 1 + length;
                    copied = at;
                }
                Some(_) => at += 1,
            }
        }
        let end = at + 1;
        if bytes.get(end).is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return Err(Wrong("no white space after a closing quote", end));
        }
        // Most quoted values have no escape and are taken as they stand.
        let value = if copied == start + 1 {
            Text::from(&line[copied..at])
        } else {
            self.unescaped.push_str(&line[copied..at]);
            Text::from(&self.unescaped)
        };
        Ok((Value::Text(value), end))
    }
}

/// Bytes up to the next white space, or one that `stop` says yes to.
fn length_of(bytes: &[u8], stop: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| !byte.is_ascii_whitespace() && !stop(**byte)).count()
}

/// The character of an escape, of which `rest` is what follows the backslash, and how long it is.
fn escape(rest: &str) -> Option<(char, usize)> {
    let simple = |char| Some((char, 1));
    match rest.as_bytes().first()? {
        b'n' => simple('\n'),
        b't' => simple('\t'),
        b'r' => simple('\r'),
        b'b' => simple('\u{8}'),
        b'f' => simple('\u{c}'),
        b'"' => simple('"'),
        b'\\' => simple('\\'),
        b'/' => simple('/'),
        b'u' => {
            let first = unit(rest.get(1..5)?)?;
            match char::from_u32(first) {
                Some(char) => Some((char, 5)),
                // The first half of a pair.
                None => {
                    let second = unit(rest.get(5..)?.strip_prefix("\\u")?.get(..4)?)?;
                    let pair = char::decode_utf16([first as u16, second as u16]).next()?.ok()?;
                    Some((pair, 11))
                }
            }
        }
        _ => None,
    }
}

/// The number of four hexadecimal digits.
fn unit(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Storage a map starts with, so that an ordinary line allocates its map once.
const USUAL_FIELDS: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::operator::{
        parse::parsed,
        testing::{Stage, event},
    };

    fn read(line: &str) -> String {
        match parsed(&mut Logfmt::default(), line) {
            Ok(value) => value.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn pairs_become_fields_of_the_kinds_they_look_like() {
        assert_eq!(
            read(r#"level=info msg="it said \"hi\"" took=1.5 n=3 ok=false code="200" empty= id=007 retried"#),
            r#"{"level":"info","msg":"it said \"hi\"","took":1.5,"n":3,"ok":false,"code":"200","empty":"","id":"007","retried":true}"#
        );
        assert_eq!(read(" \t a=1\n"), r#"{"a":1}"#);
        assert_eq!(read(""), "{}");
        assert_eq!(read("a=1 a=2"), r#"{"a":2}"#);
        assert_eq!(read("url=/x?y=1"), r#"{"url":"/x?y=1"}"#);
        assert_eq!(read(r#"a="\n\t\u00e9\ud83d\ude00\\\/""#), "{\"a\":\"\\n\\té😀\\\\/\"}");
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (line, what) in [
            ("=1", "no key before `=` at byte 0"),
            ("a=\"x", "a quote that is not closed at byte 2"),
            ("a=\"x\"y", "no white space after a closing quote at byte 5"),
            ("a\"b=1", "a quote in a key at byte 1"),
            ("a=b\"c", "a quote inside a value that does not begin with one at byte 3"),
            ("a=\"\\q\"", "an unknown escape at byte 3"),
            ("a=\"\\ud83d\"", "an unknown escape at byte 3"),
            ("a=\"\\u+123\"", "an unknown escape at byte 3"),
        ] {
            let said = read(line);
            assert!(said.starts_with(&format!("error: not logfmt: {what}, in `")), "{said}");
            assert!(said.contains("write `key=value`"), "{said}");
        }
    }

    #[test]
    fn a_hundred_thousand_fields_do_not_take_the_square_of_the_time() {
        let line: String = (0..100_000).map(|n| format!("k{n}={n} ")).collect();
        let map = Logfmt::default().read(&(line.clone() + &line)).ok().unwrap();
        assert_eq!(map.len(), 100_000);
        assert_eq!(map.get("k99999"), Some(&Value::Int(99_999)));
    }

    #[test]
    fn a_line_becomes_the_body() {
        let mut stage = Stage::of(r#"{"parse": {"logfmt": {"field": "line"}}}"#);
        stage.push([event(r#"{"line":"a=1"}"#), event(r#"{"line":"a=\""}"#)]);
        assert_eq!(stage.bodies(), [r#"{"a":1}"#]);
        assert_eq!(stage.failed()[0].0, r#"{"line":"a=\""}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "(?s).{0,200}") {
            let _ = parsed(&mut Logfmt::default(), &text);
        }

        #[test]
        fn anything_that_looks_like_logfmt_is_read_or_refused_without_a_panic(line in r#"([a-c= "\\u0-9éd]{0,40})"#) {
            let _ = parsed(&mut Logfmt::default(), &line);
        }
    }
}
