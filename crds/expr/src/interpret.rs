//! The cel crate's interpreter, for what is not lowered: unsigned numbers, times, types, whole envelopes.
//!
//! An event becomes values of the crate, which borrow its texts: only the fields the expression names, or the whole body
//! where it names the body itself. What this house settles otherwise than the crate is put into the tree beforehand, as
//! calls of functions whose names begin with `@` and so cannot be written by a user.

use std::{collections::BTreeSet, sync::Arc};

use cel::{
    Context, ExecutionError, IdedExpr, Value as CelValue,
    common::{
        ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators as op},
        value::Val,
    },
};
use regex::Regex;
use sidestream_event::{Event, Value};

use crate::{EvalError, ast, error::Fault, limits, parse};

mod house;
mod values;

/// An expression for the interpreter.
#[derive(Debug)]
pub(crate) struct Interpreted {
    tree: IdedExpr,
    reads: Reads,
    patterns: Arc<[Regex]>,
}

/// What of an event the expression reads.
#[derive(Debug, Default)]
struct Reads {
    body: bool,
    fields: BTreeSet<String>,
    meta: bool,
}

impl Interpreted {
    /// Prepares a checked tree.
    pub(crate) fn new(tree: &IdedExpr) -> Self {
        let mut tree = tree.clone();
        let mut reads = Reads::default();
        reads.find(&tree);
        let mut patterns = Vec::new();
        settle(&mut tree, &mut patterns);
        Self { tree, reads, patterns: patterns.into() }
    }

    /// The value for `event`.
    pub(crate) fn eval(&self, event: &Event) -> Result<Value, EvalError> {
        house::WORK_LEFT.set(limits::WORK_MAX);
        let mut context = Context::with_env(Arc::clone(&house::ENVIRONMENT));
        if !self.patterns.is_empty() {
            let patterns = Arc::clone(&self.patterns);
            let found = move |text: Arc<String>, which: i64| {
                usize::try_from(which)
                    .ok()
                    .and_then(|which| patterns.get(which))
                    .is_some_and(|p| p.is_match(&text))
            };
            context
                .add_function(house::MATCHES, found)
                .map_err(|error| EvalError::Other(error.to_string()))?;
        }
        if let Some(body) = self.reads.body_of(event) {
            context.add_variable_as_val("event", body);
        }
        if self.reads.meta {
            context.add_variable_as_val("meta", values::envelope(&event.meta));
        }
        CelValue::resolve(&self.tree, &context)
            .map_err(|error| worded(error, event))
            .and_then(values::from_cel)
    }
}

impl Reads {
    fn find(&mut self, node: &IdedExpr) {
        let field = match &node.expr {
            Expr::Select(select) => Some((&*select.operand, select.field.as_str())),
            Expr::Call(CallExpr { func_name, target: None, args }) if func_name == op::INDEX => {
                ast::text_literal(&args[1]).map(|name| (&args[0], name))
            }
            _ => None,
        };
        match (field, &node.expr) {
            (Some((of, name)), _) if matches!(&of.expr, Expr::Ident(of) if of == "event") => {
                self.fields.insert(name.to_string());
                return;
            }
            (_, Expr::Ident(name)) if name == "event" => self.body = true,
            (_, Expr::Ident(name)) if name == "meta" => self.meta = true,
            _ => {}
        }
        for child in parse::children(node) {
            self.find(child);
        }
    }

    fn body_of<'v>(&self, event: &'v Event) -> Option<Box<dyn Val + 'v>> {
        match &event.body {
            Value::Map(map) if !self.body => {
                let fields = self.fields.iter().filter_map(|name| {
                    let (name, value) = map.iter().find(|(own, _)| *own == name)?;
                    Some((name.as_str(), values::to_cel(value)))
                });
                Some(values::map(fields))
            }
            body if self.body || !self.fields.is_empty() => Some(values::to_cel(body)),
            _ => None,
        }
    }
}

/// Puts what this house settles into the tree.
fn settle(node: &mut IdedExpr, patterns: &mut Vec<Regex>) {
    match &mut node.expr {
        Expr::Comprehension(it) => {
            settle(&mut it.iter_range, patterns);
            let range = std::mem::take(&mut it.iter_range);
            it.iter_range = IdedExpr { id: range.id, expr: call(house::TURNS, vec![range]) };
            // The accumulator, its start and the result are the macro's own; what the user wrote stands in the step.
            settle(&mut it.loop_step, patterns);
        }
        Expr::Call(called) => {
            if let Some(target) = &mut called.target {
                settle(target, patterns);
            }
            called.args.iter_mut().for_each(|arg| settle(arg, patterns));
            settle_call(called, patterns);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|item| settle(item, patterns)),
        Expr::Select(select) => settle(&mut select.operand, patterns),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    settle(&mut entry.key, patterns);
                    settle(&mut entry.value, patterns);
                }
            }
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

fn settle_call(called: &mut CallExpr, patterns: &mut Vec<Regex>) {
    let of_accumulator =
        matches!(called.args.first(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "@result");
    match called.func_name.as_str() {
        op::LESS => called.func_name = house::LESS.into(),
        op::LESS_EQUALS => called.func_name = house::LESS_OR_EQUAL.into(),
        op::GREATER => called.func_name = house::MORE.into(),
        op::GREATER_EQUALS => called.func_name = house::MORE_OR_EQUAL.into(),
        // The interpreter knows a macro's own `@result + [x]` by its name, and makes it cheap.
        op::ADD if !of_accumulator => called.func_name = house::ADD.into(),
        "matches" => {
            let mut args: Vec<IdedExpr> = called.target.take().map(|target| *target).into_iter().collect();
            args.append(&mut called.args);
            if let Some(Ok(pattern)) = args.get(1).and_then(ast::text_literal).map(Regex::new) {
                args[1].expr = Expr::Literal(LiteralValue::Int((patterns.len() as i64).into()));
                patterns.push(pattern);
                called.func_name = house::MATCHES.into();
            }
            called.args = args;
        }
        _ => {}
    }
}

fn call(name: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr { func_name: name.into(), target: None, args })
}

/// The interpreter's errors in the words of this house.
fn worded(error: ExecutionError, event: &Event) -> EvalError {
    match error {
        ExecutionError::NoSuchKey(name) => {
            let map = match &event.body {
                Value::Map(map) if map.get(&name).is_none() => Some(map),
                _ => None,
            };
            EvalError::from(Fault::NoField { field: name.as_str().into(), map })
        }
        ExecutionError::NoSuchOverload(overload) => EvalError::NoOverload {
            operation: overload.function().trim_matches(['_', '@']).to_string(),
            kinds: overload.argument_types().iter().map(|kind| house_kind(kind).to_string()).collect(),
        },
        ExecutionError::UnsupportedBinaryOperator(operation, left, right) => EvalError::NoOverload {
            operation: sign(operation).to_string(),
            kinds: [left, right].map(|value| house_kind(&value.type_of().to_string()).to_string()).to_vec(),
        },
        ExecutionError::UnexpectedType { got, want } if want == "bool" => {
            EvalError::NotABool { kind: house_kind(&got) }
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => EvalError::DivisionByZero,
        ExecutionError::Overflow(operation, ..) => EvalError::Overflow { operation: sign(operation) },
        ExecutionError::FunctionError { function, .. } if function == house::TURNS => EvalError::TooMuchWork,
        // The crate quotes values in full, and an event may carry megabytes.
        other => EvalError::Other(other.to_string().chars().take(MESSAGE_CHARS_MAX).collect()),
    }
}

const MESSAGE_CHARS_MAX: usize = 200;

/// How a user writes the operator that the crate calls `operation`.
fn sign(operation: &'static str) -> &'static str {
    match operation {
        "add" => "+",
        "sub" | "negate" => "-",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        same => same,
    }
}

/// The word of [`Value::kind`] for one of the crate's.
fn house_kind(kind: &str) -> &'static str {
    match kind {
        "bool" => "bool",
        "bytes" => "bytes",
        "double" | "float" => "float",
        "google.protobuf.Duration" | "duration" => "duration",
        "google.protobuf.Timestamp" | "timestamp" => "timestamp",
        "int" => "int",
        "list" => "list",
        "map" => "map",
        "null_type" | "null" => "null",
        "string" => "text",
        "type" => "type",
        "uint" => "uint",
        _ => "something else",
    }
}
