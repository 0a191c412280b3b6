//! logfmt: `key=value` pairs, as the reader in `parse/logfmt.rs` takes them: what is written reads back the same, where
//! keys are words and values are text, numbers or bools.
//!
//! Text is quoted where it would not read back as text without. Null is nothing after the `=`, lists and maps are
//! their JSON in quotes. In a key, what would end it is written `_`.

use sidestream_event::{Value, json};

use super::{Format, NoMap};
use crate::operator::number::number;

pub(super) struct Logfmt;

impl Format for Logfmt {
    fn encode(&self, body: &Value, line: &mut Vec<u8>) -> Result<(), NoMap> {
        let Value::Map(fields) = body else { return Err(NoMap(body.kind())) };
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                line.push(b' ');
            }
            write_key(name, line);
            line.push(b'=');
            match value {
                Value::Null => {}
                Value::Text(text) if is_bare(text) => line.extend_from_slice(text.as_bytes()),
                // JSON's quotes and escapes are logfmt's.
                Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Bytes(_) => {
                    json::write(value, line);
                }
                Value::List(_) | Value::Map(_) => json::write(&Value::from(value.to_string()), line),
            }
        }
        Ok(())
    }
}

fn write_key(name: &str, line: &mut Vec<u8>) {
    if name.is_empty() {
        line.push(b'_');
    }
    let safe = |byte: u8| if byte.is_ascii_whitespace() || matches!(byte, b'=' | b'"') { b'_' } else { byte };
    line.extend(name.bytes().map(safe));
}

/// Whether a text stays the text it is without quotes.
fn is_bare(text: &str) -> bool {
    let plain = |byte: u8| byte > b' ' && byte != b'"' && byte != 0x7f;
    text.bytes().all(plain) && !matches!(text, "" | "true" | "false") && number(text).is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::operator::testing::{Stage, event};

    #[test]
    fn what_needs_quotes_gets_them() {
        let mut stage = Stage::of(r#"{"encode": {"logfmt": {}}}"#);
        stage.push([event(
            r#"{"a":"x","b":"a b","c":"12","d":12,"e":1.5,"f":true,"g":"true","h":null,"i":"","j":"q\"","k":[1],"l m":2,"":3}"#,
        )]);
        let line = stage.events()[0].body.as_text().unwrap().to_string();
        assert_eq!(
            line,
            r#"a=x b="a b" c="12" d=12 e=1.5 f=true g="true" h= i="" j="q\"" k="[1]" l_m=2 _=3"#
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(fields in prop::collection::btree_map(
            "[a-z_.é]{1,8}",
            prop_oneof![
                ".{0,20}".prop_map(Value::from),
                any::<bool>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                (-1e9..1e9f64).prop_map(Value::from),
                "(true|false|null|-?[0-9]{1,3}(\\.[0-9])?)".prop_map(Value::from),
            ],
            0..8,
        )) {
            let body: Value = fields.into_iter().collect();
            let mut written = Stage::of(r#"{"encode": {"logfmt": {}}}"#);
            written.push([sidestream_event::Event::new(body.clone())]);
            let mut read = Stage::of(r#"{"parse": {"logfmt": {}}}"#);
            read.push(written.events());
            let events = read.events();
            prop_assert!(!events.is_empty(), "{:?}", read.failed());
            prop_assert_eq!(&events[0].body, &body);
        }
    }
}
