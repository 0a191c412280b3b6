//! What is there already: a constant of the expression, or something in the event. Reading it is a reference, and tests
//! of two such are the hot path: no value is made for them.

use std::cmp::Ordering;

use sidestream_event::{Event, Text, Value};

use crate::{error::Fault, operand::Operand};

/// Where a value is found.
#[derive(Debug)]
pub(crate) enum Place {
    Const(Value),
    /// The body of the event.
    Event,
    /// A field of the body: what most expressions read.
    EventField(Text),
    Field(Box<Place>, Text),
}

impl Place {
    /// The value, where it is there. An `Option` of a reference comes back in a register: a fault would not.
    #[inline]
    pub(crate) fn find<'a>(&'a self, event: &'a Event) -> Option<&'a Value> {
        match self {
            Place::Const(value) => Some(value),
            Place::EventField(name) => event.body.field(name),
            Place::Event => Some(&event.body),
            Place::Field(of, name) => of.find_deeper(event)?.field(name),
        }
    }

    #[inline(never)]
    fn find_deeper<'a>(&'a self, event: &'a Event) -> Option<&'a Value> {
        self.find(event)
    }

    #[inline]
    pub(crate) fn get<'a>(&'a self, event: &'a Event) -> Result<&'a Value, Fault<'a>> {
        self.find(event).ok_or_else(|| self.missing(event))
    }

    /// Why [`Place::find`] found nothing.
    #[cold]
    fn missing<'a>(&'a self, event: &'a Event) -> Fault<'a> {
        let (of, name) = match self {
            Place::Const(_) | Place::Event => unreachable!("always there"),
            Place::EventField(name) => (&event.body, name),
            Place::Field(of, name) => match of.find(event) {
                Some(of) => (of, name),
                None => return of.missing(event),
            },
        };
        match of {
            Value::Map(map) => Fault::NoField { field: name.clone(), map: Some(map) },
            other => Fault::NoOverload { operation: ".", left: other.kind(), right: None },
        }
    }
}

/// A condition on two values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Test {
    Equal,
    Differ,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    In,
    Contains,
    StartsWith,
    EndsWith,
}

impl Test {
    /// How a user writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Test::Equal => "==",
            Test::Differ => "!=",
            Test::Less => "<",
            Test::LessOrEqual => "<=",
            Test::More => ">",
            Test::MoreOrEqual => ">=",
            Test::In => "in",
            Test::Contains => "contains",
            Test::StartsWith => "startsWith",
            Test::EndsWith => "endsWith",
        }
    }

    /// Whether it holds for two values of the kinds that are compared most; `None` for all others.
    #[inline]
    pub(crate) fn of_frequent(self, left: &Value, right: &Value) -> Option<bool> {
        match (left, right) {
            (Value::Int(a), Value::Int(b)) => self.of_ints(*a, *b),
            (Value::Float(a), Value::Float(b)) => self.of_floats(*a, *b),
            (Value::Text(a), Value::Text(b)) => match self {
                Test::Equal => Some(a == b),
                Test::Differ => Some(a != b),
                Test::StartsWith => Some(a.starts_with(b.as_str())),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it holds for two whole numbers; `None` where it is no comparison.
    #[inline]
    pub(crate) fn of_ints(self, a: i64, b: i64) -> Option<bool> {
        self.compares().then(|| self.found(a.cmp(&b)))
    }

    /// Whether it holds for two floats; `None` where it is no comparison. A NaN differs from all, and nothing else.
    #[inline]
    pub(crate) fn of_floats(self, a: f64, b: f64) -> Option<bool> {
        let found = a.partial_cmp(&b);
        self.compares().then(|| found.map_or(self == Test::Differ, |found| self.found(found)))
    }

    /// Whether it holds.
    pub(crate) fn of<'a>(self, left: &Operand<'a>, right: &Operand<'a>) -> Result<bool, Fault<'a>> {
        let refused =
            || Fault::NoOverload { operation: self.name(), left: left.kind(), right: Some(right.kind()) };
        match self {
            Test::Equal => Ok(left.equals(right)),
            Test::Differ => Ok(!left.equals(right)),
            Test::In => left.is_in(right).ok_or_else(refused),
            Test::Less | Test::LessOrEqual | Test::More | Test::MoreOrEqual => {
                // Beside a NaN nothing holds.
                left.order(right)
                    .map(|found| found.is_some_and(|found| self.found(found)))
                    .ok_or_else(refused)
            }
            Test::Contains | Test::StartsWith | Test::EndsWith => match (left.as_text(), right.as_text()) {
                (Some(text), Some(part)) => Ok(match self {
                    Test::StartsWith => text.starts_with(part),
                    Test::EndsWith => text.ends_with(part),
                    _ => text.contains(part),
                }),
                _ => Err(refused()),
            },
        }
    }

    #[inline]
    fn compares(self) -> bool {
        use Test::{Differ, Equal, Less, LessOrEqual, More, MoreOrEqual};
        matches!(self, Equal | Differ | Less | LessOrEqual | More | MoreOrEqual)
    }

    /// Whether an order that was found is one asked for.
    #[inline]
    fn found(self, found: Ordering) -> bool {
        match self {
            Test::Equal => found.is_eq(),
            Test::Differ => found.is_ne(),
            Test::Less => found.is_lt(),
            Test::LessOrEqual => found.is_le(),
            Test::More => found.is_gt(),
            _ => found.is_ge(),
        }
    }
}
