//! An expression as it runs: a tree that borrows from the event and from itself, and allocates only for what it makes.
//!
//! [`Node::truth`] answers conditions, [`Node::value`] everything; each leaves to the other what the other does best.
//! Both keep what is frequent in a small function and the rest out of line: a small frame is most of the speed.

use std::cell::Cell;

use regex::Regex;
use sidestream_event::{Event, Map, Text, Value};

use crate::{
    error::Fault,
    limits,
    operand::Operand,
    operators::{self, Arithmetic, Conversion},
    place::{Place, Test},
};

mod loops;
mod numbers;

pub(crate) use loops::Loop;

#[derive(Debug)]
pub(crate) enum Node {
    Place(Place),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    If(Box<[Node; 3]>),
    /// A test of what is there already.
    TestPlaces(Test, Box<[Place; 2]>),
    Test(Test, Box<[Node; 2]>),
    Has(Box<Node>, Text),
    /// The variable of a loop: of the innermost where 0, of the one around that where 1.
    Variable(usize),
    Meta(MetaField),
    /// A header by its name in lower case.
    Header(Text),
    HasHeader(Text),
    Field(Box<Node>, Text),
    Index(Box<[Node; 2]>),
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    Negate(Box<Node>),
    Convert(Conversion, Box<Node>),
    Size(Box<Node>),
    Matches(Box<Node>, Box<Regex>),
    List(Vec<Node>),
    Map(Vec<(Text, Node)>),
    Loop(Box<Loop>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MetaField {
    Key,
    Source,
    Sequence,
    Traceparent,
}

/// What an evaluation reads, and what it has left to spend.
pub(crate) struct Scope<'s, 'a> {
    event: &'a Event,
    work_left: &'s Cell<u32>,
    turn: Option<Turn<'s, 'a>>,
}

/// A turn of a loop: its item, and the scope the loop stands in.
struct Turn<'s, 'a> {
    item: &'s Operand<'a>,
    around: &'s Scope<'s, 'a>,
}

impl<'s, 'a> Scope<'s, 'a> {
    #[inline]
    pub(crate) fn new(event: &'a Event, work_left: &'s Cell<u32>) -> Self {
        Self { event, work_left, turn: None }
    }

    fn variable(&self, loops_out: usize) -> &Operand<'a> {
        let turn = self.turn.as_ref().expect("lowered with its loop around it");
        if loops_out == 0 { turn.item } else { turn.around.variable(loops_out - 1) }
    }

    fn spend(&self, work: u32) -> Result<(), Fault<'a>> {
        self.work_left.set(self.work_left.get().checked_sub(work).ok_or(Fault::TooMuchWork)?);
        Ok(())
    }

    /// Pays for reading so many bytes. Outside loops that is free: there, an expression reads what it names but once.
    #[inline]
    fn read(&self, bytes: impl FnOnce() -> usize) -> Result<(), Fault<'a>> {
        if self.turn.is_none() { Ok(()) } else { self.spend(limits::work(bytes())) }
    }
}

impl Node {
    /// The fields of a map that is written out with names; `None` for everything else.
    pub(crate) fn fields(&self) -> Option<&[(Text, Node)]> {
        match self {
            Node::Map(fields) => Some(fields),
            _ => None,
        }
    }

    /// Whether the condition holds.
    pub(crate) fn truth<'a>(&'a self, scope: &Scope<'_, 'a>) -> Result<bool, Fault<'a>> {
        match self {
            Node::TestPlaces(test, places) => match places_test(*test, places, scope) {
                Some(truth) => Ok(truth),
                None => rarer_places_test(*test, places, scope),
            },
            // An error on one side gives way to an answer the other side has alone, as CEL has it.
            Node::And(sides) => match sides[0].truth(scope) {
                Ok(false) => Ok(false),
                Ok(true) => sides[1].truth(scope),
                Err(fault) => match sides[1].truth(scope) {
                    Ok(false) => Ok(false),
                    _ => Err(fault),
                },
            },
            Node::Or(sides) => match sides[0].truth(scope) {
                Ok(true) => Ok(true),
                Ok(false) => sides[1].truth(scope),
                Err(fault) => match sides[1].truth(scope) {
                    Ok(true) => Ok(true),
                    _ => Err(fault),
                },
            },
            Node::Not(of) => of.truth(scope).map(|truth| !truth),
            Node::Test(test, sides) => match numbers::test(*test, sides, scope) {
                Some(truth) => Ok(truth),
                None => self.rarer_truth(scope),
            },
            other => other.rarer_truth(scope),
        }
    }

    #[inline(never)]
    fn rarer_truth<'a>(&'a self, scope: &Scope<'_, 'a>) -> Result<bool, Fault<'a>> {
        match self {
            Node::If(parts) => {
                if parts[0].truth(scope)? {
                    parts[1].truth(scope)
                } else {
                    parts[2].truth(scope)
                }
            }
            Node::Test(test, sides) => {
                let (left, right) = (sides[0].value(scope)?, sides[1].value(scope)?);
                scope.read(|| left.heap_bytes() + right.heap_bytes())?;
                test.of(&left, &right)
            }
            Node::Matches(of, pattern) => {
                let text = of.value(scope)?;
                scope.read(|| text.heap_bytes())?;
                match text.as_text() {
                    Some(text) => Ok(pattern.is_match(text)),
                    None => Err(Fault::NoOverload { operation: "matches", left: text.kind(), right: None }),
                }
            }
            Node::Has(of, name) => of.value(scope)?.has(name),
            Node::HasHeader(name) => Ok(header(scope.event, name).is_some()),
            Node::Loop(it) if !it.makes_list() => it.truth(scope),
            other => other.value(scope)?.truth(),
        }
    }

    /// The value.
    pub(crate) fn value<'a>(&'a self, scope: &Scope<'_, 'a>) -> Result<Operand<'a>, Fault<'a>> {
        match self {
            Node::Place(place) => place.get(scope.event).map(Operand::from),
            Node::Variable(loops_out) => Ok(scope.variable(*loops_out).clone()),
            Node::Field(of, name) => of.value(scope)?.field(name),
            Node::Arithmetic(arithmetic, sides) => {
                let (left, right) = (sides[0].value(scope)?, sides[1].value(scope)?);
                let result = arithmetic.of(&left, &right)?;
                scope.read(|| result.heap_bytes())?;
                Ok(result)
            }
            other => other.rarer_value(scope),
        }
    }

    #[inline(never)]
    fn rarer_value<'a>(&'a self, scope: &Scope<'_, 'a>) -> Result<Operand<'a>, Fault<'a>> {
        match self {
            Node::Meta(field) => Ok(field.of(scope.event)),
            Node::Header(name) => match header(scope.event, name) {
                Some(value) => Ok(Operand::Text(value)),
                None => Err(Fault::NoField { field: name.clone(), map: None }),
            },
            Node::Index(sides) => {
                let (of, index) = (sides[0].value(scope)?, sides[1].value(scope)?);
                of.index(&index)
            }
            Node::If(parts) => {
                if parts[0].truth(scope)? {
                    parts[1].value(scope)
                } else {
                    parts[2].value(scope)
                }
            }
            Node::Negate(of) => operators::negate(&of.value(scope)?),
            Node::Convert(conversion, of) => conversion.of(of.value(scope)?),
            Node::Size(of) => {
                let of = of.value(scope)?;
                scope.read(|| of.as_text().map_or(0, str::len))?;
                of.size().map(Operand::Int)
            }
            Node::List(items) => {
                let values: Result<Vec<Value>, _> =
                    items.iter().map(|item| item.value(scope).map(Operand::into_value)).collect();
                Ok(Operand::Made(Value::from(values?)))
            }
            Node::Map(fields) => {
                let mut map = Map::with_capacity(fields.len());
                for (name, field) in fields {
                    map.push_new(name.clone(), field.value(scope)?.into_value());
                }
                Ok(Operand::Made(Value::Map(map)))
            }
            Node::Loop(it) if it.makes_list() => it.list(scope),
            condition => condition.truth(scope).map(Operand::Bool),
        }
    }
}

/// The answer for values that are there and of the frequent kinds; inside a loop never, as there reading is paid for.
#[inline]
fn places_test(test: Test, places: &[Place; 2], scope: &Scope<'_, '_>) -> Option<bool> {
    let (left, right) = (places[0].find(scope.event)?, places[1].find(scope.event)?);
    if scope.turn.is_none() { test.of_frequent(left, right) } else { None }
}

#[inline(never)]
fn rarer_places_test<'a>(
    test: Test,
    places: &'a [Place; 2],
    scope: &Scope<'_, 'a>,
) -> Result<bool, Fault<'a>> {
    let (left, right) = (places[0].get(scope.event)?, places[1].get(scope.event)?);
    scope.read(|| left.heap_bytes() + right.heap_bytes())?;
    test.of(&Operand::from(left), &Operand::from(right))
}

impl MetaField {
    fn of<'a>(self, event: &'a Event) -> Operand<'a> {
        let text = |text: Option<&'a Text>| text.map_or(Operand::Null, Operand::Text);
        let meta = &event.meta;
        match self {
            MetaField::Key => text(meta.key.as_ref()),
            MetaField::Source => Operand::Text(&meta.source),
            MetaField::Sequence => Operand::Int(i64::try_from(meta.sequence).unwrap_or(i64::MAX)),
            MetaField::Traceparent => {
                text(meta.context.as_ref().and_then(|context| context.traceparent.as_ref()))
            }
        }
    }
}

/// The first header called `name`, which is in lower case.
fn header<'a>(event: &'a Event, name: &str) -> Option<&'a Text> {
    let headers = &event.meta.context.as_ref()?.headers;
    headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
