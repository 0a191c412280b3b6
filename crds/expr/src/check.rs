//! The type checker: what an expression is, before it runs, and everything that is wrong with it.
//!
//! It walks the tree once, from the leaves. What is found wrong is told and then taken for `dyn`, which fits everywhere,
//! so that one slip is told once. It refuses only what would fail for every event, or what CEL has no meaning for.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, MapExpr, SelectExpr, operators as op},
};

use crate::{
    Problem, Shape, Type,
    ast::{self, LoopKind},
    functions::{Kind, TYPES},
    limits,
    parse::Parsed,
    problem::nearest,
};

mod calls;
mod operators;

/// What is known of a checked expression.
pub(crate) struct Checked {
    pub(crate) result: Type,
    /// Whether everything it reads of the event has a known type.
    pub(crate) complete: bool,
}

/// Checks `parsed` for events whose bodies are `event`, or says everything that is wrong with it.
pub(crate) fn check(parsed: &Parsed, event: &Type) -> Result<Checked, Vec<Problem>> {
    let mut checker = Checker {
        parsed,
        event,
        meta: envelope(),
        variables: Vec::new(),
        problems: Vec::new(),
        complete: true,
    };
    let result = checker.of(parsed.tree());
    let Checker { mut problems, complete, .. } = checker;
    if problems.is_empty() {
        return Ok(Checked { result, complete });
    }
    problems.sort_by_key(|problem| problem.at);
    problems.dedup();
    Err(problems)
}

/// What is known of `meta`.
fn envelope() -> Shape {
    Shape::closed()
        .with("key", Type::Dyn) // text or null
        .with("time", Type::Timestamp)
        .with("headers", Type::Map(Shape::of(Type::Text)))
        .with("source", Type::Text)
        .with("sequence", Type::Int)
        .with("traceparent", Type::Dyn) // text or null
}

struct Checker<'p> {
    parsed: &'p Parsed,
    event: &'p Type,
    meta: Shape,
    /// Variables of loops, outermost first.
    variables: Vec<(&'p str, Type)>,
    problems: Vec<Problem>,
    complete: bool,
}

impl<'p> Checker<'p> {
    /// The type of `node`, telling what is wrong below it.
    fn of(&mut self, node: &'p IdedExpr) -> Type {
        match &node.expr {
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.name(node, name),
            Expr::Select(select) => self.select(node, select),
            Expr::Call(call) => self.call(node, call),
            Expr::List(list) => {
                let of = list.elements.iter().map(|item| self.of(item)).reduce(Type::or);
                Type::list(of.unwrap_or(Type::Dyn))
            }
            Expr::Map(map) => self.map(map),
            Expr::Comprehension(it) => match ast::Loop::of(it) {
                Some(it) => self.comprehension(node, it),
                None => self.wrong(node, Problem::new("a loop of an unknown kind")),
            },
            Expr::Struct(message) => self.wrong(
                node,
                Problem::new(format!("there is no message type `{}`", message.type_name))
                    .help("write a map: `{\"name\": value}`"),
            ),
            Expr::Unspecified => self.wrong(node, Problem::new("an expression is wanted here")),
        }
    }

    /// Tells what is wrong at `node`, and goes on as if it were anything.
    fn wrong(&mut self, node: &IdedExpr, problem: Problem) -> Type {
        self.problems.push(problem.at(self.parsed.place(node)));
        Type::Dyn
    }

    fn name(&mut self, node: &IdedExpr, name: &str) -> Type {
        if let Some((_, kind)) = self.variables.iter().rev().find(|(variable, _)| *variable == name) {
            return kind.clone();
        }
        match name {
            "event" => {
                self.complete &= *self.event != Type::Dyn;
                self.event.clone()
            }
            "meta" => Type::Map(self.meta.clone()),
            _ if TYPES.contains(&name) => Type::Dyn,
            _ => {
                let problem = Problem::new(format!("there is no `{name}`"));
                let problem = match self.meant_by(name) {
                    Some(meant) => problem.help(format!("write `{meant}`")),
                    None => problem.help("an expression reads `event` and `meta`"),
                };
                self.wrong(node, problem)
            }
        }
    }

    /// What a name that is not there was probably meant to be.
    fn meant_by(&self, name: &str) -> Option<String> {
        let variables = self.variables.iter().map(|(variable, _)| *variable);
        if let Some(near) = nearest(name, variables.chain(["event", "meta", "true", "false", "null"])) {
            return Some(near.to_string());
        }
        match self.event {
            Type::Map(shape) if shape.fields().any(|(field, _)| field == name) => {
                Some(format!("event.{name}"))
            }
            _ if self.meta.get(name).is_some() => Some(format!("meta.{name}")),
            Type::Map(shape) => match nearest(name, shape.fields().map(|(field, _)| field.as_str())) {
                Some(field) => Some(format!("event.{field}")),
                None => shape.is_open().then(|| format!("event.{name}")),
            },
            Type::Dyn => Some(format!("event.{name}")),
            _ => None,
        }
    }

    fn select(&mut self, node: &'p IdedExpr, select: &'p SelectExpr) -> Type {
        let of = self.of(&select.operand);
        let field = self.field(node, &select.operand, &of, &select.field);
        if select.test { Type::Bool } else { field }
    }

    /// The type of the field `name` of a value `of`, which is written as `operand`.
    fn field(&mut self, node: &IdedExpr, operand: &IdedExpr, of: &Type, name: &str) -> Type {
        let shape = match of {
            Type::Dyn => {
                self.complete &= self.is_meta(operand);
                return Type::Dyn;
            }
            Type::Map(shape) => shape,
            other => {
                let written = ast::written(operand).map_or("this".into(), |written| format!("`{written}`"));
                return self.wrong(node, Problem::new(format!("{written} is {other}, which has no fields")));
            }
        };
        if self.is_headers(operand) && name.contains(|c: char| c.is_ascii_uppercase()) {
            let problem =
                Problem::new(format!("no header is ever named `{name}`: their names are in lower case"));
            return self.wrong(
                node,
                problem.help(format!("write `meta.headers[\"{}\"]`", name.to_ascii_lowercase())),
            );
        }
        match shape.get(name) {
            Some(field) => {
                self.complete &= field.kind != Type::Dyn || self.is_meta(operand);
                field.kind
            }
            None => {
                let problem = Problem::new(format!("there is no field `{name}`"));
                let names: Vec<&str> = shape.fields().map(|(name, _)| name.as_str()).collect();
                let problem = match nearest(name, names.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None if names.is_empty() => problem.help("there are no fields"),
                    None => problem.help(format!("there are {}", names[..names.len().min(16)].join(", "))),
                };
                self.wrong(node, problem)
            }
        }
    }

    fn is_meta(&self, node: &IdedExpr) -> bool {
        matches!(&node.expr, Expr::Ident(name) if name == "meta")
            && !self.variables.iter().any(|(variable, _)| *variable == "meta")
    }

    fn is_headers(&self, node: &IdedExpr) -> bool {
        matches!(&node.expr, Expr::Select(select) if select.field == "headers" && self.is_meta(&select.operand))
    }

    fn map(&mut self, map: &'p MapExpr) -> Type {
        let mut shape = Shape::closed();
        let mut others: Option<Type> = None;
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            let (key, value) = (self.of(&entry.key), self.of(&entry.value));
            match ast::text_literal(&entry.key) {
                Some(name) if shape.fields().any(|(known, _)| known == name) => {
                    self.wrong(&entry.key, Problem::new(format!("the field `{name}` is set twice")));
                }
                Some(name) => shape = shape.with(name, value),
                None if Kind::Text.takes(&key) => {
                    others = Some(others.map_or(value.clone(), |all| all.or(value)))
                }
                None => {
                    let problem = Problem::new(format!("fields are named by text, and this is {key}"));
                    self.wrong(&entry.key, problem.help("write `string(x)`, or quotes around the name"));
                }
            }
        }
        match others {
            None => Type::Map(shape),
            Some(kind) => {
                Type::Map(Shape::of(shape.fields().fold(kind, |all, (_, field)| all.or(field.kind.clone()))))
            }
        }
    }

    fn comprehension(&mut self, node: &'p IdedExpr, it: ast::Loop<'p>) -> Type {
        let item = match self.of(it.range) {
            Type::List(of) => *of,
            Type::Map(_) => Type::Text,
            Type::Dyn => Type::Dyn,
            other => self.wrong(
                node,
                Problem::new(format!("`{}` goes over a list or a map, and this is {other}", it.kind.name())),
            ),
        };
        if self.variables.len() == limits::LOOPS_NESTED_MAX {
            let problem =
                Problem::new(format!("more than {} loops inside one another", limits::LOOPS_NESTED_MAX));
            return self.wrong(node, problem.help("set a field with the inner list first"));
        }
        self.variables.push((it.variable, item.clone()));
        if let Some(condition) = it.condition {
            self.condition(condition);
        }
        let made = it.transform.map(|transform| self.of(transform));
        self.variables.pop();
        match it.kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => Type::Bool,
            LoopKind::Filter => Type::list(item),
            LoopKind::Map => Type::list(made.unwrap_or(Type::Dyn)),
        }
    }

    /// Checks that `node` is true or false.
    fn condition(&mut self, node: &'p IdedExpr) {
        let kind = self.of(node);
        if !Kind::Bool.takes(&kind) {
            let problem = not_a_condition(&kind, node);
            self.wrong(node, problem);
        }
    }

    fn call(&mut self, node: &'p IdedExpr, call: &'p CallExpr) -> Type {
        match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
            (op::CONDITIONAL, None, [condition, yes, no]) => {
                self.condition(condition);
                self.of(yes).or(self.of(no))
            }
            (op::LOGICAL_AND | op::LOGICAL_OR, None, [left, right]) => {
                self.condition(left);
                self.condition(right);
                Type::Bool
            }
            (op::LOGICAL_NOT, None, [of]) => {
                self.condition(of);
                Type::Bool
            }
            (op::NEGATE, None, [of]) => match self.of(of) {
                kind @ (Type::Int | Type::Float | Type::Dyn) => kind,
                other => self.wrong(node, Problem::new(format!("`-` wants a number, and this is {other}"))),
            },
            (op::INDEX, None, [of, index]) => self.index(node, of, index),
            (sign, None, [left, right]) if op_sign(sign).is_some() => self.binary(node, sign, left, right),
            (name, target, args) => self.function(node, name, target.as_deref(), args),
        }
    }

    fn index(&mut self, node: &'p IdedExpr, of: &'p IdedExpr, index: &'p IdedExpr) -> Type {
        let (kind, by) = (self.of(of), self.of(index));
        match (&kind, &by) {
            (Type::List(item), Type::Int | Type::Float | Type::Dyn) => (**item).clone(),
            (Type::Map(_) | Type::Dyn, Type::Text) if ast::text_literal(index).is_some() => {
                self.field(node, of, &kind, ast::text_literal(index).unwrap_or_default())
            }
            (Type::Map(shape), Type::Text | Type::Dyn) => {
                let value = shape.any_value();
                self.complete &= value != Type::Dyn || self.is_meta(of);
                value
            }
            (Type::Dyn, _) => {
                self.complete = false;
                Type::Dyn
            }
            (Type::List(_), by) => self
                .wrong(index, Problem::new(format!("a list is indexed by a whole number, and this is {by}"))),
            (Type::Map(_), by) => {
                self.wrong(index, Problem::new(format!("a map is indexed by text, and this is {by}")))
            }
            (other, _) => self.wrong(node, Problem::new(format!("{other} has no index"))),
        }
    }
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Float,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::Text,
        LiteralValue::UInt(_) => Type::Dyn,
    }
}

/// What to say of a condition that is neither true nor false.
pub(crate) fn not_a_condition(kind: &Type, node: &IdedExpr) -> Problem {
    let problem = Problem::new(format!("a condition must be true or false, and this is {kind}"));
    let Some(written) = ast::written(node) else { return problem };
    match kind {
        Type::Int => problem.help(format!("compare it: `{written} != 0`")),
        Type::Float => problem.help(format!("compare it: `{written} > 0.0`")),
        Type::Text => problem.help(format!("compare it: `{written} != \"\"`")),
        Type::List(_) | Type::Map(_) => problem.help(format!("compare its size: `size({written}) > 0`")),
        _ => problem,
    }
}

/// How a user writes the operator of two sides that the crate calls `name`.
fn op_sign(name: &str) -> Option<&'static str> {
    Some(match name {
        op::ADD => "+",
        op::SUBSTRACT => "-",
        op::MULTIPLY => "*",
        op::DIVIDE => "/",
        op::MODULO => "%",
        op::EQUALS => "==",
        op::NOT_EQUALS => "!=",
        op::LESS => "<",
        op::LESS_EQUALS => "<=",
        op::GREATER => ">",
        op::GREATER_EQUALS => ">=",
        op::IN => "in",
        _ => return None,
    })
}
