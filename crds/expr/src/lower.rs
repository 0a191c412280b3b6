//! Tree to [`Node`]: everything but unsigned numbers, times, types and whole envelopes, which the interpreter does.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, MapExpr, SelectExpr, operators as op},
};
use regex::Regex;
use sidestream_event::{Bytes, Text, Value};

use crate::{
    ast,
    node::{Loop, MetaField, Node},
    operand::Operand,
    operators::{self, Arithmetic, Conversion},
    place::{Place, Test},
};

/// Lowers a checked tree; `None` where the interpreter must do it.
pub(crate) fn lower(tree: &IdedExpr) -> Option<Node> {
    Lowering { variables: Vec::new() }.node(tree)
}

struct Lowering<'e> {
    /// Names of the loops' variables in scope, outermost first.
    variables: Vec<&'e str>,
}

impl<'e> Lowering<'e> {
    fn node(&mut self, tree: &'e IdedExpr) -> Option<Node> {
        match &tree.expr {
            Expr::Literal(literal) => constant(literal).map(as_is),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) if list.optional_indices.is_empty() => {
                let items: Vec<Node> =
                    list.elements.iter().map(|item| self.node(item)).collect::<Option<_>>()?;
                Some(settled(items).unwrap_or_else(Node::List))
            }
            Expr::Map(map) => self.map(map),
            Expr::Comprehension(it) => self.comprehension(ast::Loop::of(it)?),
            Expr::List(_) | Expr::Struct(_) | Expr::Unspecified => None,
        }
    }

    fn name(&self, name: &str) -> Option<Node> {
        match self.variables.iter().rposition(|variable| *variable == name) {
            Some(place) => Some(Node::Variable(self.variables.len() - 1 - place)),
            None => (name == "event").then_some(Node::Place(Place::Event)),
        }
    }

    fn is_meta(&self, tree: &IdedExpr) -> bool {
        matches!(&tree.expr, Expr::Ident(name) if name == "meta") && !self.variables.contains(&"meta")
    }

    fn is_headers(&self, tree: &IdedExpr) -> bool {
        matches!(&tree.expr, Expr::Select(select)
            if !select.test && select.field == "headers" && self.is_meta(&select.operand))
    }

    fn select(&mut self, select: &'e SelectExpr) -> Option<Node> {
        let name = Text::from(select.field.as_str());
        if self.is_meta(&select.operand) {
            let field = match select.field.as_str() {
                _ if select.test => return Some(as_is(Value::Bool(true))), // checked: there always
                "key" => MetaField::Key,
                "source" => MetaField::Source,
                "sequence" => MetaField::Sequence,
                "traceparent" => MetaField::Traceparent,
                _ => return None,
            };
            return Some(Node::Meta(field));
        }
        if self.is_headers(&select.operand) {
            return Some(if select.test { Node::HasHeader(name) } else { Node::Header(name) });
        }
        let of = self.node(&select.operand)?;
        Some(if select.test { Node::Has(Box::new(of), name) } else { field(of, name) })
    }

    fn call(&mut self, call: &'e CallExpr) -> Option<Node> {
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            (name, None, [left, right]) => self.binary(name, left, right),
            (op::CONDITIONAL, None, [condition, yes, no]) => {
                Some(Node::If(Box::new([self.node(condition)?, self.node(yes)?, self.node(no)?])))
            }
            (name, None, [of]) => self.unary(name, of),
            ("size", Some(of), []) => Some(Node::Size(Box::new(self.node(of)?))),
            ("matches", Some(of), [pattern]) => self.matches(of, pattern),
            (name, Some(of), [part]) => {
                let search = match name {
                    "contains" => Test::Contains,
                    "startsWith" => Test::StartsWith,
                    "endsWith" => Test::EndsWith,
                    _ => return None,
                };
                Some(test(search, [self.node(of)?, self.node(part)?]))
            }
            _ => None,
        }
    }

    fn binary(&mut self, name: &str, left: &'e IdedExpr, right: &'e IdedExpr) -> Option<Node> {
        if name == "matches" {
            return self.matches(left, right);
        }
        if self.is_headers(left) && name == op::INDEX {
            return ast::text_literal(right).map(|name| Node::Header(name.into()));
        }
        if self.is_headers(right) && name == op::IN {
            return ast::text_literal(left).map(|name| Node::HasHeader(name.into()));
        }
        let sides = [self.node(left)?, self.node(right)?];
        Some(match name {
            op::LOGICAL_AND => Node::And(Box::new(sides)),
            op::LOGICAL_OR => Node::Or(Box::new(sides)),
            op::EQUALS => test(Test::Equal, sides),
            op::NOT_EQUALS => test(Test::Differ, sides),
            op::LESS => test(Test::Less, sides),
            op::LESS_EQUALS => test(Test::LessOrEqual, sides),
            op::GREATER => test(Test::More, sides),
            op::GREATER_EQUALS => test(Test::MoreOrEqual, sides),
            op::IN => test(Test::In, sides),
            op::INDEX => match sides {
                [of, Node::Place(Place::Const(Value::Text(name)))] => field(of, name),
                sides => Node::Index(Box::new(sides)),
            },
            op::ADD => Node::Arithmetic(Arithmetic::Add, Box::new(sides)),
            op::SUBSTRACT => Node::Arithmetic(Arithmetic::Subtract, Box::new(sides)),
            op::MULTIPLY => Node::Arithmetic(Arithmetic::Multiply, Box::new(sides)),
            op::DIVIDE => Node::Arithmetic(Arithmetic::Divide, Box::new(sides)),
            op::MODULO => Node::Arithmetic(Arithmetic::Remainder, Box::new(sides)),
            _ => return None,
        })
    }

    fn unary(&mut self, name: &str, of: &'e IdedExpr) -> Option<Node> {
        let of = self.node(of)?;
        let conversion = match name {
            op::LOGICAL_NOT => return Some(Node::Not(Box::new(of))),
            op::NEGATE => return Some(negated(of)),
            "size" => return Some(Node::Size(Box::new(of))),
            "dyn" => return Some(of),
            "int" => Conversion::Int,
            "double" => Conversion::Float,
            "string" => Conversion::Text,
            "bool" => Conversion::Bool,
            _ => return None,
        };
        Some(Node::Convert(conversion, Box::new(of)))
    }

    fn matches(&mut self, of: &'e IdedExpr, pattern: &'e IdedExpr) -> Option<Node> {
        let pattern = Regex::new(ast::text_literal(pattern)?).ok()?;
        Some(Node::Matches(Box::new(self.node(of)?), Box::new(pattern)))
    }

    fn map(&mut self, map: &'e MapExpr) -> Option<Node> {
        let mut fields = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return None };
            let name = Text::from(ast::text_literal(&entry.key)?);
            if entry.optional || fields.iter().any(|(known, _)| *known == name) {
                return None;
            }
            fields.push((name, self.node(&entry.value)?));
        }
        Some(Node::Map(fields))
    }

    fn comprehension(&mut self, it: ast::Loop<'e>) -> Option<Node> {
        let range = self.node(it.range)?;
        self.variables.push(it.variable);
        let condition = it.condition.map(|condition| self.node(condition));
        let transform = it.transform.map(|transform| self.node(transform));
        self.variables.pop();
        let (condition, transform) = (all_or_none(condition)?, all_or_none(transform)?);
        Some(Node::Loop(Box::new(Loop { kind: it.kind, range, condition, transform })))
    }
}

/// `Some(None)` where there was nothing to lower, `None` where it could not be.
fn all_or_none(lowered: Option<Option<Node>>) -> Option<Option<Node>> {
    match lowered {
        None => Some(None),
        Some(node) => node.map(Some),
    }
}

fn constant(literal: &LiteralValue) -> Option<Value> {
    Some(match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes.inner())),
        LiteralValue::Double(number) => Value::Float(*number.inner()),
        LiteralValue::Int(number) => Value::Int(*number.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(text) => Value::Text(text.inner().into()),
        LiteralValue::UInt(_) => return None,
    })
}

fn as_is(value: Value) -> Node {
    Node::Place(Place::Const(value))
}

fn field(of: Node, name: Text) -> Node {
    match of {
        Node::Place(Place::Event) => Node::Place(Place::EventField(name)),
        Node::Place(place) => Node::Place(Place::Field(Box::new(place), name)),
        of => Node::Field(Box::new(of), name),
    }
}

fn test(test: Test, sides: [Node; 2]) -> Node {
    match sides {
        [Node::Place(left), Node::Place(right)] => Node::TestPlaces(test, Box::new([left, right])),
        sides => Node::Test(test, Box::new(sides)),
    }
}

/// A list of constants is a constant.
fn settled(items: Vec<Node>) -> Result<Node, Vec<Node>> {
    if !items.iter().all(|item| matches!(item, Node::Place(Place::Const(_)))) {
        return Err(items);
    }
    let values = items.into_iter().filter_map(|item| match item {
        Node::Place(Place::Const(value)) => Some(value),
        _ => None,
    });
    Ok(as_is(Value::List(values.collect())))
}

fn negated(of: Node) -> Node {
    if let Node::Place(Place::Const(value)) = &of
        && let Ok(negative) = operators::negate(&Operand::from(value))
    {
        return as_is(negative.into_value());
    }
    Node::Negate(Box::new(of))
}
