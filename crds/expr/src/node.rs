//! An expression as it runs: a tree that borrows from the event and from itself, and allocates only for what it makes.
//!
//! [`Node::truth`] answers conditions, [`Node::value`] everything; each leaves to the other what the other does best.

use std::cmp::Ordering;

use regex::Regex;
use sidestream_event::{Event, Map, Text, Value};

use crate::{
    ast::LoopKind,
    error::Fault,
    limits,
    operand::Operand,
    operators::{self, Arithmetic, Conversion},
};

#[derive(Debug)]
pub(crate) enum Node {
    Const(Value),
    /// The body of the event.
    Event,
    /// A field of the body: what most expressions read.
    EventField(Text),
    Meta(MetaField),
    /// A header by its name in lower case.
    Header(Text),
    HasHeader(Text),
    /// A variable of a loop, counted from the outermost.
    Variable(usize),
    Field(Box<Node>, Text),
    Has(Box<Node>, Text),
    Index(Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    If(Box<[Node; 3]>),
    Equal(Box<[Node; 2]>),
    Differ(Box<[Node; 2]>),
    Order(Order, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    Negate(Box<Node>),
    Convert(Conversion, Box<Node>),
    Size(Box<Node>),
    Search(Search, Box<[Node; 2]>),
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

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

/// A loop over the values of a list or the names of a map; its variable is the next one after those in scope.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) kind: LoopKind,
    pub(crate) range: Node,
    pub(crate) condition: Option<Node>,
    pub(crate) transform: Option<Node>,
}

/// What an evaluation reads, and what it has left to spend.
pub(crate) struct Scope<'a> {
    event: &'a Event,
    variables: Vec<Operand<'a>>,
    work_left: u32,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(event: &'a Event) -> Self {
        Self { event, variables: Vec::new(), work_left: limits::WORK_MAX }
    }

    fn spend(&mut self, work: u32) -> Result<(), Fault<'a>> {
        self.work_left = self.work_left.checked_sub(work).ok_or(Fault::TooMuchWork)?;
        Ok(())
    }
}

impl Node {
    /// Whether the condition holds.
    pub(crate) fn truth<'a>(&'a self, scope: &mut Scope<'a>) -> Result<bool, Fault<'a>> {
        match self {
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
            Node::If(parts) => if parts[0].truth(scope)? { parts[1].truth(scope) } else { parts[2].truth(scope) },
            Node::Equal(sides) => Ok(sides[0].value(scope)?.equals(&sides[1].value(scope)?)),
            Node::Differ(sides) => Ok(!sides[0].value(scope)?.equals(&sides[1].value(scope)?)),
            Node::Order(order, sides) => {
                let (left, right) = (sides[0].value(scope)?, sides[1].value(scope)?);
                Ok(left.order(&right, order.sign())?.is_some_and(|found| order.holds(found)))
            }
            Node::In(sides) => {
                let (value, container) = (sides[0].value(scope)?, sides[1].value(scope)?);
                if let Some(list) = container.as_list() {
                    scope.spend(operators::work(list.len()))?;
                }
                value.is_in(&container)
            }
            Node::Search(search, sides) => {
                let (text, part) = (sides[0].value(scope)?, sides[1].value(scope)?);
                match (text.as_text(), part.as_text()) {
                    (Some(text), Some(part)) => Ok(search.finds(text, part)),
                    _ => Err(Fault::NoOverload {
                        operation: search.name(),
                        left: text.kind(),
                        right: Some(part.kind()),
                    }),
                }
            }
            Node::Matches(of, pattern) => {
                let text = of.value(scope)?;
                match text.as_text() {
                    Some(text) => Ok(pattern.is_match(text)),
                    None => Err(Fault::NoOverload { operation: "matches", left: text.kind(), right: None }),
                }
            }
            Node::Has(of, name) => of.value(scope)?.has(name),
            Node::HasHeader(name) => Ok(header(scope.event, name).is_some()),
            Node::Loop(it) if it.kind != LoopKind::Map && it.kind != LoopKind::Filter => it.truth(scope),
            other => other.value(scope)?.truth(),
        }
    }

    /// The value.
    pub(crate) fn value<'a>(&'a self, scope: &mut Scope<'a>) -> Result<Operand<'a>, Fault<'a>> {
        match self {
            Node::Const(value) => Ok(Operand::from(value)),
            Node::EventField(name) => match &scope.event.body {
                Value::Map(map) => match map.get(name) {
                    Some(value) => Ok(Operand::from(value)),
                    None => Err(Fault::NoField { field: name.clone(), map: Some(map) }),
                },
                body => Err(Fault::NoOverload { operation: ".", left: body.kind(), right: None }),
            },
            Node::Event => Ok(Operand::from(&scope.event.body)),
            Node::Meta(field) => Ok(field.of(scope.event)),
            Node::Header(name) => match header(scope.event, name) {
                Some(value) => Ok(Operand::Text(value)),
                None => Err(Fault::NoField { field: name.clone(), map: None }),
            },
            Node::Variable(place) => Ok(scope.variables[*place].clone()),
            Node::Field(of, name) => of.value(scope)?.field(name),
            Node::Index(sides) => {
                let (of, index) = (sides[0].value(scope)?, sides[1].value(scope)?);
                of.index(&index)
            }
            Node::If(parts) => if parts[0].truth(scope)? { parts[1].value(scope) } else { parts[2].value(scope) },
            Node::Arithmetic(arithmetic, sides) => {
                let (left, right) = (sides[0].value(scope)?, sides[1].value(scope)?);
                let (result, work) = arithmetic.of(&left, &right)?;
                scope.spend(work)?;
                Ok(result)
            }
            Node::Negate(of) => operators::negate(&of.value(scope)?),
            Node::Convert(conversion, of) => conversion.of(of.value(scope)?),
            Node::Size(of) => of.value(scope)?.size().map(Operand::Int),
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
            Node::Loop(it) if it.kind == LoopKind::Map || it.kind == LoopKind::Filter => it.list(scope),
            condition => condition.truth(scope).map(Operand::Bool),
        }
    }
}

impl Loop {
    fn truth<'a>(&'a self, scope: &mut Scope<'a>) -> Result<bool, Fault<'a>> {
        let condition = self.condition.as_ref().expect("lowered with one");
        let mut found = 0_usize;
        let mut fault = None;
        self.each(scope, |scope, _| {
            match (self.kind, condition.truth(scope)) {
                // What decides alone outweighs the errors beside it.
                (LoopKind::All, Ok(false)) | (LoopKind::Exists, Ok(true)) => {
                    found = 1;
                    fault = None;
                    return Ok(false);
                }
                (LoopKind::ExistsOne, Ok(true)) => found += 1,
                (_, Ok(_)) => {}
                (_, Err(Fault::TooMuchWork)) => return Err(Fault::TooMuchWork),
                (LoopKind::ExistsOne, Err(error)) => return Err(error),
                (_, Err(error)) => fault = Some(error),
            }
            Ok(true)
        })?;
        match (fault, self.kind) {
            (Some(fault), _) => Err(fault),
            (None, LoopKind::All) => Ok(found == 0),
            (None, _) => Ok(found == 1),
        }
    }

    fn list<'a>(&'a self, scope: &mut Scope<'a>) -> Result<Operand<'a>, Fault<'a>> {
        let mut made = Vec::new();
        self.each(scope, |scope, item| {
            if let Some(condition) = &self.condition
                && !condition.truth(scope)?
            {
                return Ok(true);
            }
            made.push(match &self.transform {
                Some(transform) => transform.value(scope)?.into_value(),
                None => item.into_value(),
            });
            Ok(true)
        })?;
        Ok(Operand::Made(Value::from(made)))
    }

    /// Calls `turn` for each item, with the item in scope, until it says false.
    fn each<'a>(
        &'a self,
        scope: &mut Scope<'a>,
        mut turn: impl FnMut(&mut Scope<'a>, Operand<'a>) -> Result<bool, Fault<'a>>,
    ) -> Result<(), Fault<'a>> {
        let mut one = |scope: &mut Scope<'a>, item: Operand<'a>| {
            scope.spend(1)?;
            scope.variables.push(item.clone());
            let more = turn(scope, item);
            scope.variables.pop();
            more
        };
        let mut all = |scope: &mut Scope<'a>, items: &mut dyn Iterator<Item = Operand<'a>>| {
            for item in items {
                if !one(scope, item)? {
                    break;
                }
            }
            Ok(())
        };
        match self.range.value(scope)? {
            Operand::List(list) => all(scope, &mut list.iter().map(Operand::from)),
            Operand::Map(map) => all(scope, &mut map.iter().map(|(name, _)| Operand::Text(name))),
            Operand::Made(Value::List(list)) => all(scope, &mut list.into_iter().map(Operand::from)),
            Operand::Made(Value::Map(map)) => {
                all(scope, &mut map.iter().map(|(name, _)| Operand::Made(Value::Text(name.clone()))))
            }
            other => Err(Fault::NoOverload { operation: self.kind.name(), left: other.kind(), right: None }),
        }
    }
}

impl MetaField {
    fn of<'a>(self, event: &'a Event) -> Operand<'a> {
        let text = |text: Option<&'a Text>| text.map_or(Operand::Null, Operand::Text);
        let meta = &event.meta;
        match self {
            MetaField::Key => text(meta.key.as_ref()),
            MetaField::Source => Operand::Text(&meta.source),
            MetaField::Sequence => Operand::Int(i64::try_from(meta.sequence).unwrap_or(i64::MAX)),
            MetaField::Traceparent => text(meta.context.as_ref().and_then(|context| context.traceparent.as_ref())),
        }
    }
}

/// The first header called `name`, which is in lower case.
fn header<'a>(event: &'a Event, name: &str) -> Option<&'a Text> {
    let headers = &event.meta.context.as_ref()?.headers;
    headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Order {
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Order::Less => "<",
            Order::LessOrEqual => "<=",
            Order::More => ">",
            Order::MoreOrEqual => ">=",
        }
    }

    pub(crate) fn holds(self, found: Ordering) -> bool {
        match self {
            Order::Less => found.is_lt(),
            Order::LessOrEqual => found.is_le(),
            Order::More => found.is_gt(),
            Order::MoreOrEqual => found.is_ge(),
        }
    }
}

impl Search {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Search::Contains => "contains",
            Search::StartsWith => "startsWith",
            Search::EndsWith => "endsWith",
        }
    }

    fn finds(self, text: &str, part: &str) -> bool {
        match self {
            Search::Contains => text.contains(part),
            Search::StartsWith => text.starts_with(part),
            Search::EndsWith => text.ends_with(part),
        }
    }
}
