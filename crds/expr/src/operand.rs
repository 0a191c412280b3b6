//! A value while an expression runs: borrowed from the event or the expression wherever it can be.

use std::cmp::Ordering;

use sidestream_event::{Bytes, List, Map, Text, Value};

use crate::error::Fault;

/// A value while an expression runs.
#[derive(Clone, Debug)]
pub(crate) enum Operand<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a Text),
    Bytes(&'a Bytes),
    List(&'a List),
    Map(&'a Map),
    /// A text, bytes, list or map that was computed.
    Made(Value),
}

impl<'a> From<&'a Value> for Operand<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Operand::Null,
            Value::Bool(value) => Operand::Bool(*value),
            Value::Int(value) => Operand::Int(*value),
            Value::Float(value) => Operand::Float(*value),
            Value::Text(value) => Operand::Text(value),
            Value::Bytes(value) => Operand::Bytes(value),
            Value::List(value) => Operand::List(value),
            Value::Map(value) => Operand::Map(value),
        }
    }
}

impl From<Value> for Operand<'_> {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Operand::Null,
            Value::Bool(value) => Operand::Bool(value),
            Value::Int(value) => Operand::Int(value),
            Value::Float(value) => Operand::Float(value),
            made => Operand::Made(made),
        }
    }
}

impl<'a> Operand<'a> {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Operand::Null => "null",
            Operand::Bool(_) => "bool",
            Operand::Int(_) => "int",
            Operand::Float(_) => "float",
            Operand::Text(_) => "text",
            Operand::Bytes(_) => "bytes",
            Operand::List(_) => "list",
            Operand::Map(_) => "map",
            Operand::Made(value) => value.kind(),
        }
    }

    /// The value, sharing what can be shared.
    pub(crate) fn into_value(self) -> Value {
        match self {
            Operand::Null => Value::Null,
            Operand::Bool(value) => Value::Bool(value),
            Operand::Int(value) => Value::Int(value),
            Operand::Float(value) => Value::Float(value),
            Operand::Text(value) => Value::Text(value.clone()),
            Operand::Bytes(value) => Value::Bytes(value.clone()),
            Operand::List(value) => Value::List(value.clone()),
            Operand::Map(value) => Value::Map(value.clone()),
            Operand::Made(value) => value,
        }
    }

    /// Bytes behind the value, as [`Value::heap_bytes`] counts them.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Operand::Text(text) => text.len(),
            Operand::Bytes(bytes) => bytes.len(),
            Operand::List(list) => Value::List((*list).clone()).heap_bytes(),
            Operand::Map(map) => Value::Map((*map).clone()).heap_bytes(),
            Operand::Made(value) => value.heap_bytes(),
            Operand::Null | Operand::Bool(_) | Operand::Int(_) | Operand::Float(_) => 0,
        }
    }

    pub(crate) fn truth(&self) -> Result<bool, Fault<'a>> {
        match self {
            Operand::Bool(value) => Ok(*value),
            other => Err(Fault::NotABool(other.kind())),
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Operand::Text(text) => Some(text),
            Operand::Made(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Operand::Bytes(bytes) => Some(bytes),
            Operand::Made(Value::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&List> {
        match self {
            Operand::List(list) => Some(list),
            Operand::Made(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    pub(crate) fn as_map(&self) -> Option<&Map> {
        match self {
            Operand::Map(map) => Some(map),
            Operand::Made(Value::Map(map)) => Some(map),
            _ => None,
        }
    }

    /// The field `name`.
    pub(crate) fn field(&self, name: &Text) -> Result<Operand<'a>, Fault<'a>> {
        match self {
            Operand::Map(map) => match map.get(name) {
                Some(value) => Ok(Operand::from(value)),
                None => Err(Fault::NoField { field: name.clone(), map: Some(map) }),
            },
            Operand::Made(Value::Map(map)) => match map.get(name) {
                Some(value) => Ok(Operand::from(value.clone())),
                None => Err(Fault::NoField { field: name.clone(), map: None }),
            },
            other => Err(Fault::NoOverload { operation: ".", left: other.kind(), right: None }),
        }
    }

    /// Whether there is a field `name`.
    pub(crate) fn has(&self, name: &str) -> Result<bool, Fault<'a>> {
        match self.as_map() {
            Some(map) => Ok(map.get(name).is_some()),
            None => Err(Fault::NoOverload { operation: "has", left: self.kind(), right: None }),
        }
    }

    /// The value at `index`: of a list by place, of a map by name.
    pub(crate) fn index(&self, index: &Operand<'a>) -> Result<Operand<'a>, Fault<'a>> {
        let refused = || Fault::NoOverload { operation: "[]", left: self.kind(), right: Some(index.kind()) };
        if let Some(list) = self.as_list() {
            let place = match *index {
                Operand::Int(place) => place,
                // As the crate has it: a whole float is an index, short of the ends of what 64 bits hold.
                Operand::Float(place) if place.trunc() == place && place.abs() < -(i64::MIN as f64) => {
                    place as i64
                }
                _ => return Err(refused()),
            };
            let in_list = usize::try_from(place).ok().filter(|place| *place < list.len());
            return match (in_list, self) {
                (None, _) => Err(Fault::NoIndex { index: place, len: list.len() }),
                (Some(place), Operand::List(list)) => Ok(Operand::from(&list[place])),
                (Some(place), _) => Ok(Operand::from(list[place].clone())),
            };
        }
        match (self.as_map(), index) {
            (Some(_), Operand::Text(name)) => self.field(name),
            (Some(_), Operand::Made(Value::Text(name))) => self.field(name),
            (Some(_), Operand::Int(_) | Operand::Float(_) | Operand::Bool(_)) => {
                Err(Fault::NoField { field: Operand::key(index), map: None })
            }
            _ => Err(refused()),
        }
    }

    /// CEL's `==`: numbers by value whatever their kind, a NaN equal to nothing, different kinds unequal.
    pub(crate) fn equals(&self, other: &Operand<'_>) -> bool {
        match (self, other) {
            (Operand::Null, Operand::Null) => true,
            (Operand::Bool(a), Operand::Bool(b)) => a == b,
            (Operand::Int(a), Operand::Int(b)) => a == b,
            (Operand::Float(a), Operand::Float(b)) => a == b,
            (Operand::Int(a), Operand::Float(b)) => *a as f64 == *b,
            (Operand::Float(a), Operand::Int(b)) => *a == *b as f64,
            (Operand::Text(a), Operand::Text(b)) => a == b,
            _ => self.contents_equal(other),
        }
    }

    fn contents_equal(&self, other: &Operand<'_>) -> bool {
        if let (Some(a), Some(b)) = (self.as_text(), other.as_text()) {
            return a == b;
        }
        if let (Some(a), Some(b)) = (self.as_bytes(), other.as_bytes()) {
            return a == b;
        }
        if let (Some(a), Some(b)) = (self.as_list(), other.as_list()) {
            return lists_equal(a, b);
        }
        matches!((self.as_map(), other.as_map()), (Some(a), Some(b)) if maps_equal(a, b))
    }

    /// How this is ordered beside `other`: `Some(None)` where one is a NaN, `None` where the two have no order.
    pub(crate) fn order(&self, other: &Operand<'_>) -> Option<Option<Ordering>> {
        match (self, other) {
            (Operand::Int(a), Operand::Int(b)) => Some(Some(a.cmp(b))),
            (Operand::Float(a), Operand::Float(b)) => Some(a.partial_cmp(b)),
            (Operand::Int(a), Operand::Float(b)) => Some((*a as f64).partial_cmp(b)),
            (Operand::Float(a), Operand::Int(b)) => Some(a.partial_cmp(&(*b as f64))),
            (Operand::Bool(a), Operand::Bool(b)) => Some(Some(a.cmp(b))),
            _ => match (self.as_text(), other.as_text()) {
                (Some(a), Some(b)) => Some(Some(a.cmp(b))),
                _ => Some(Some(self.as_bytes()?.cmp(other.as_bytes()?))),
            },
        }
    }

    /// CEL's `in`: `self` among the values of a list or the names of a map; `None` where it has no meaning.
    pub(crate) fn is_in(&self, container: &Operand<'_>) -> Option<bool> {
        if let Some(list) = container.as_list() {
            return Some(match self.as_text() {
                Some(text) => list.iter().any(|value| value.as_text() == Some(text)),
                None => list.iter().any(|value| self.equals(&Operand::from(value))),
            });
        }
        let map = container.as_map()?;
        match self {
            Operand::Int(_) | Operand::Float(_) | Operand::Bool(_) => Some(false),
            _ => Some(map.get(self.as_text()?).is_some()),
        }
    }

    /// CEL's `size`: of text in code points.
    pub(crate) fn size(&self) -> Result<i64, Fault<'a>> {
        let size = if let Some(text) = self.as_text() {
            text.chars().count()
        } else if let Some(bytes) = self.as_bytes() {
            bytes.len()
        } else if let Some(list) = self.as_list() {
            list.len()
        } else if let Some(map) = self.as_map() {
            map.len()
        } else {
            return Err(Fault::NoOverload { operation: "size", left: self.kind(), right: None });
        };
        Ok(size as i64)
    }

    fn key(&self) -> Text {
        match self {
            Operand::Int(key) => key.to_string().into(),
            Operand::Float(key) => key.to_string().into(),
            Operand::Bool(key) => key.to_string().into(),
            other => other.kind().into(),
        }
    }
}

fn lists_equal(a: &List, b: &List) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Operand::from(a).equals(&Operand::from(b)))
}

fn maps_equal(a: &Map, b: &Map) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| Operand::from(a).equals(&Operand::from(b))))
}
