//! JSON, both ways (RFC 8259): the form people write, and the one `parse` and `encode` meet most.
//!
//! Reading bounds depth at 128 levels. Whole numbers beyond 64 bits become floats. Of a name given twice the last
//! value stands. Writing turns NaN and infinities into `null`, bytes into text where they are UTF-8 and else into base64.

use std::{fmt, io};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

use crate::{List, Text, Value, map::Builder};

mod reader;

/// Why a text is no JSON: where and what, in serde_json's words.
#[derive(Debug)]
pub struct Malformed(serde_json::Error);

/// The value a JSON text says. Trailing text other than white space is an error.
pub fn read(text: &[u8]) -> Result<Value, Malformed> {
    let mut value = Value::Null;
    match std::str::from_utf8(text) {
        Ok(text) => read_over(text, &mut value).map(|()| value),
        Err(_) => serde_json::from_slice(text).map_err(Malformed),
    }
}

/// As [`read`], into `value`, whose storage is used again where nobody shares it: events of one stream are alike, and one
/// that is read over another of its kind allocates nothing. After an error `value` holds something, but not what was asked.
pub fn read_over(text: &str, value: &mut Value) -> Result<(), Malformed> {
    if reader::read(text, value).is_none() {
        *value = serde_json::from_str(text).map_err(Malformed)?;
    }
    Ok(())
}

/// Appends the value as one line of JSON without a line break.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(Infallible(out), value)
        .expect("a value always has a JSON form, and memory takes it");
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "not JSON: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => out.serialize_unit(),
            Value::Bool(value) => out.serialize_bool(*value),
            Value::Int(value) => out.serialize_i64(*value),
            Value::Float(value) => out.serialize_f64(*value),
            Value::Text(value) => out.serialize_str(value),
            Value::Bytes(value) => match std::str::from_utf8(value) {
                Ok(text) => out.serialize_str(text),
                Err(_) => out.serialize_str(&BASE64_STANDARD.encode(value)),
            },
            Value::List(list) => {
                let mut seq = out.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|value| seq.serialize_element(value))?;
                seq.end()
            }
            Value::Map(map) => {
                let mut fields = out.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(name, value)| fields.serialize_entry(name.as_str(), value))?;
                fields.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let mut list = List::new();
        while let Some(value) = input.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let mut map = Builder::with_capacity(USUAL_FIELDS);
        while let Some(Name(name)) = input.next_key()? {
            map.insert(name, input.next_value()?);
        }
        Ok(Value::Map(map.build()))
    }
}

/// A field name, read without a `String` in between.
struct Name(Text);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a field name")
            }
            fn visit_str<E>(self, value: &str) -> Result<Name, E> {
                Ok(Name(value.into()))
            }
        }
        input.deserialize_str(NameVisitor)
    }
}

struct Infallible<'a>(&'a mut Vec<u8>);

impl io::Write for Infallible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Storage a parsed map starts with, so that an ordinary log line allocates its map once.
const USUAL_FIELDS: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-1e300..1e300f64).prop_map(|number| Value::Float(number + 0.5)),
            ".{0,24}".prop_map(|text| Value::Text(text.into())),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((".{0,20}", inner), 0..8)
                    .prop_map(|fields| fields.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(value in any_value()) {
            let mut text = Vec::new();
            write(&value, &mut text);
            let again = read(&text).unwrap();
            let mut text_again = Vec::new();
            write(&again, &mut text_again);
            prop_assert_eq!(String::from_utf8(text).unwrap(), String::from_utf8(text_again).unwrap());
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn of_a_name_given_twice_the_last_value_stands_however_many_fields_there_are() {
        assert_eq!(read(br#"{"a":1,"a":2}"#).unwrap().to_string(), r#"{"a":2}"#);
        let fields: Vec<_> = (0..200).map(|n| format!("\"f{}\":{n}", n % 100)).collect();
        let map = read(format!("{{{}}}", fields.join(",")).as_bytes()).unwrap();
        assert_eq!(map.field("f7"), Some(&Value::Int(107)));
        assert_eq!(map.field("f99"), Some(&Value::Int(199)));
    }

    #[test]
    fn a_number_too_big_becomes_a_float_and_depth_is_bounded() {
        assert_eq!(read(b"18446744073709551615").unwrap(), Value::Float(18446744073709551615.0));
        let deep = "[".repeat(100_000);
        assert!(read(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn what_json_cannot_say_is_written_as_the_header_promises() {
        assert_eq!(Value::Float(f64::NAN).to_string(), "null");
        assert_eq!(Value::Bytes("hi".into()).to_string(), "\"hi\"");
        assert_eq!(Value::Bytes(bytes::Bytes::from_static(&[0xff])).to_string(), "\"/w==\"");
    }
}
