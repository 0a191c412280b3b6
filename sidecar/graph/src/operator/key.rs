//! What an operator keeps apart: the value of a `by` expression in one canonical text.
//!
//! Two values have the same text exactly where they are equal: the number 1 is 1.0 and neither is `"1"`, the order of a
//! map's fields does not matter, and every NaN is the same. The text is an identity, never shown; [`shown`] is what
//! `meta.key` says.

use std::fmt::{self, Write};

use sidestream_event::{Event, Text, Value, fnv1a};
use sidestream_expr::Type;
use sidestream_plan::Expression;

use super::{
    BuildError,
    expression::{Formula, Unusable},
};

/// Reads the key of event after event, into one buffer.
pub(super) struct Key {
    by: Option<Formula>,
    text: String,
}

/// An event whose key cannot be told or kept.
pub(super) enum NoKey<'a> {
    Unusable(Unusable<'a>),
    TooLong,
}

impl Key {
    /// The key that `by` says; with none, all events have the same.
    pub(super) fn new(by: Option<&Expression>, input: &Type) -> Result<Self, BuildError> {
        Ok(Self { by: by.map(|by| Formula::new("by", by, input)).transpose()?, text: String::new() })
    }

    /// Whether there is an expression.
    pub(super) fn is_some(&self) -> bool {
        self.by.is_some()
    }

    /// The identity of the key of `event`, and its value: null where there is no expression.
    ///
    /// # Errors
    /// Where the expression fails, and where the key is longer than [`KEY_BYTES_MAX`].
    pub(super) fn read(&mut self, event: &Event) -> Result<(&str, Value), NoKey<'_>> {
        self.text.clear();
        let Some(by) = &self.by else {
            return Ok(("", Value::Null));
        };
        let value = by.eval(event).map_err(NoKey::Unusable)?;
        match &value {
            Value::Text(text) if text.len() > KEY_BYTES_MAX => return Err(NoKey::TooLong),
            // By itself a text needs no length, and most keys are text.
            Value::Text(text) => {
                self.text.push('t');
                self.text.push_str(text);
            }
            other => write_identity(other, &mut self.text),
        }
        if self.text.len() > KEY_BYTES_MAX + 1 {
            self.text = String::new();
            return Err(NoKey::TooLong);
        }
        Ok((&self.text, value))
    }
}

/// The hash of the key of an event, as stages have it that bring the events of a key together: for whoever sends them there.
pub struct KeyHash(Key);

impl KeyHash {
    /// Of the key that `by` says; with none, all events have the same.
    ///
    /// # Errors
    /// Where the expression does not compile.
    pub fn new(by: Option<&Expression>) -> Result<KeyHash, BuildError> {
        Key::new(by, &Type::Dyn).map(KeyHash)
    }

    /// The same in every process, and for equal keys. An event whose key cannot be told has that of no key: the stage that
    /// it comes to will say so.
    pub fn of(&mut self, event: &Event) -> u64 {
        self.0.read(event).map_or(stable_hash(""), |(identity, _)| stable_hash(identity))
    }
}

/// The value of a key as `meta.key` says it: text as it is, everything else as JSON.
pub(super) fn shown(value: &Value) -> Text {
    match value {
        Value::Text(text) => text.clone(),
        other => {
            let mut text = Text::new();
            write!(text, "{other}").expect("a text takes all that is written to it");
            text
        }
    }
}

/// A number that equal keys share and that is the same in every process: FNV-1a (Fowler, Noll, Vo), its bits mixed by
/// the finaliser of SplitMix64, since FNV's upper ones are weak for short texts.
pub(super) fn stable_hash(identity: &str) -> u64 {
    let mut hash = fnv1a(identity.as_bytes());
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn write_identity(value: &Value, out: &mut String) {
    if out.len() > KEY_BYTES_MAX + 1 {
        return;
    }
    match value {
        Value::Null => out.push('0'),
        Value::Bool(true) => out.push('y'),
        Value::Bool(false) => out.push('n'),
        Value::Int(number) => put(out, format_args!("i{number}")),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < WHOLE_MAX => {
            put(out, format_args!("i{}", *number as i64));
        }
        Value::Float(number) if number.is_nan() => out.push_str("fn"),
        Value::Float(number) => put(out, format_args!("f{:x}", number.to_bits())),
        Value::Text(text) => {
            // A length, so that no text inside a list or map can pass for the end of it.
            put(out, format_args!("t{}:", text.len()));
            out.push_str(&text[..text.floor_char_boundary(KEY_BYTES_MAX + 1)]);
        }
        Value::Bytes(bytes) => {
            put(out, format_args!("b{}:", bytes.len()));
            bytes.iter().take(KEY_BYTES_MAX).for_each(|byte| put(out, format_args!("{byte:02x}")));
        }
        Value::List(list) => {
            put(out, format_args!("l{}:", list.len()));
            list.iter().for_each(|value| write_identity(value, out));
        }
        Value::Map(map) => {
            put(out, format_args!("m{}:", map.len()));
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_unstable_by(|one, other| one.0.cmp(other.0));
            for (name, value) in fields {
                put(out, format_args!("{}:{name}", name.len()));
                write_identity(value, out);
            }
        }
    }
}

fn put(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a text takes all that is written to it");
}

impl fmt::Display for NoKey<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoKey::Unusable(reason) => reason.fmt(out),
            NoKey::TooLong => {
                write!(
                    out,
                    "`by`: the key is longer than {KEY_BYTES_MAX} bytes; take a shorter one, such as an id"
                )
            }
        }
    }
}

/// The longest key, so that a hundred thousand of them stay within a few hundred MiB: what DESIGN caps all names at.
pub(super) const KEY_BYTES_MAX: usize = 4096;
/// Below this every whole `f64` is a whole number of its own: 2^63.
const WHOLE_MAX: f64 = 9_223_372_036_854_775_808.0;

#[cfg(test)]
mod tests {
    use sidestream_event::json;

    use super::*;

    fn identity(text: &str) -> String {
        let mut out = String::new();
        write_identity(&json::read(text.as_bytes()).unwrap(), &mut out);
        out
    }

    #[test]
    fn equal_values_have_one_identity_and_different_ones_have_two() {
        for (one, other) in [("1", "1.0"), ("0", "-0.0"), (r#"{"a":1,"b":2}"#, r#"{"b":2.0,"a":1}"#)] {
            assert_eq!(identity(one), identity(other), "{one} {other}");
        }
        let different = [
            "null",
            "true",
            "false",
            "1",
            "1.5",
            r#""1""#,
            r#""true""#,
            r#""null""#,
            r#""""#,
            "[]",
            "{}",
            "[1]",
            "[[1]]",
            r#"["a","b"]"#,
            r#"["a1:b"]"#,
            r#"["at1:b"]"#,
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            "9007199254740993",
            "1e300",
        ];
        for (index, one) in different.iter().enumerate() {
            for other in &different[index + 1..] {
                assert_ne!(identity(one), identity(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn bytes_and_nan_are_keys_too() {
        let mut out = String::new();
        write_identity(&Value::Bytes(vec![0xff, 0].into()), &mut out);
        write_identity(&Value::Float(f64::NAN), &mut out);
        write_identity(&Value::Float(-f64::NAN), &mut out);
        assert_eq!(out, "b2:ff00fnfn");
    }

    #[test]
    fn a_key_too_long_is_refused() {
        let mut key = Key::new(Some(&"event".into()), &Type::Dyn).unwrap();
        for body in [Value::from("x".repeat(4097)), vec![Value::from("x".repeat(3000)); 2].into()] {
            let reason = key.read(&Event::new(body)).err().unwrap().to_string();
            assert!(reason.contains("longer than 4096 bytes"), "{reason}");
        }
        assert!(key.read(&Event::new("x".repeat(4096))).is_ok());
    }

    #[test]
    fn a_key_is_shown_as_its_text_or_as_json() {
        assert_eq!(shown(&Value::from("/cart")), "/cart");
        assert_eq!(shown(&Value::from(3)), "3");
        assert_eq!(shown(&Value::from(true)), "true");
    }

    #[test]
    fn equal_keys_have_the_same_hash_and_an_event_without_one_has_that_of_no_key() {
        let mut hash = KeyHash::new(Some(&"event.k".into())).unwrap();
        let mut of = |value: Value| hash.of(&Event::new([("k", value)].into_iter().collect::<Value>()));
        assert_eq!(of(Value::Int(1)), of(Value::Float(1.0)));
        assert_ne!(of(Value::Int(1)), of("1".into()));
        assert_eq!(of("x".repeat(KEY_BYTES_MAX + 1).into()), stable_hash(""));
        assert_eq!(KeyHash::new(None).unwrap().of(&Event::new(7)), stable_hash(""));
    }

    #[test]
    fn the_stable_hash_is_the_same_in_every_process() {
        assert_eq!(stable_hash(""), 0xf52a_15e9_a9b5_e89b);
    }
}
