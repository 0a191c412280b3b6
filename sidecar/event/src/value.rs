//! The body of an event, and every value inside it.

use std::fmt;

use bytes::Bytes;

use crate::{Map, json};

/// Text of any length: at most 15 bytes inline, longer text shared by reference count.
pub type Text = ecow::EcoString;

/// A list of values, shared by reference count and copied when a shared one is changed.
pub type List = ecow::EcoVec<Value>;

/// One value: the body of an event, a field of a map, the result of an expression.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing: a field that is present and says so.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number. JSON numbers beyond this range become [`Value::Float`].
    Int(i64),
    /// A number with a fraction; may be NaN or infinite, which JSON writes as `null`.
    Float(f64),
    /// Text, always valid UTF-8.
    Text(Text),
    /// Bytes as they came: a slice of the buffer they were read into.
    Bytes(Bytes),
    /// Values in order.
    List(List),
    /// Named values in the order they were set.
    Map(Map),
}

impl Value {
    /// The word documentation and error messages use for this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "text",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Map(_) => "map",
        }
    }

    /// The field `name` of a map; `None` where this is no map or has no such field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(map) => map.get(name),
            _ => None,
        }
    }

    /// The value at a dotted path, such as `labels.route`; a name may not itself hold a dot.
    pub fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(self, |value, name| value.field(name))
    }

    /// The number this is, whole numbers included; `None` for anything else.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The text this is.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Makes this an empty map, keeping the storage of the map it was, and lends it.
    ///
    /// What lets a source fill the same event again and again without allocating.
    pub fn reset_map(&mut self) -> &mut Map {
        match self {
            Value::Map(map) => map.clear(),
            _ => *self = Value::Map(Map::new()),
        }
        match self {
            Value::Map(map) => map,
            _ => unreachable!("made a map just above"),
        }
    }

    /// Bytes this value holds beyond its own size, as an estimate for memory limits: shared payloads count in full.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Value::Text(text) if text.len() > 15 => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.iter().map(|value| size_of::<Value>() + value.heap_bytes()).sum(),
            Value::Map(map) => map
                .iter()
                .map(|(name, value)| size_of::<(Text, Value)>() + name.len() + value.heap_bytes())
                .sum(),
            _ => 0,
        }
    }
}

/// Writes the value as JSON, the form people read in logs and on the console.
impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        json::write(self, &mut text);
        out.write_str(&String::from_utf8_lossy(&text))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}
impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}
impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Value::Int(value.into())
    }
}
impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.into())
    }
}
impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value.into())
    }
}
impl From<Text> for Value {
    fn from(value: Text) -> Self {
        Value::Text(value)
    }
}
impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Value::Bytes(value)
    }
}
impl From<Map> for Value {
    fn from(value: Map) -> Self {
        Value::Map(value)
    }
}
impl From<List> for Value {
    fn from(value: List) -> Self {
        Value::List(value)
    }
}
impl From<Vec<Value>> for Value {
    fn from(value: Vec<Value>) -> Self {
        Value::List(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_path_reaches_into_maps_and_stops_at_anything_else() {
        let labels: Map = [("route", Value::from("/cart"))].into_iter().collect();
        let body: Value = [("labels", Value::from(labels)), ("value", Value::from(3))].into_iter().collect();
        assert_eq!(body.at("labels.route").and_then(Value::as_text), Some("/cart"));
        assert_eq!(body.at("value.route"), None);
        assert_eq!(body.at("missing"), None);
    }

    #[test]
    fn a_value_stays_within_a_cache_line() {
        assert!(size_of::<Value>() <= 40, "{}", size_of::<Value>());
    }
}
