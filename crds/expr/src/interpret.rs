//! The cel crate's interpreter, for what is not lowered: unsigned numbers, times, types, whole envelopes.
//!
//! An event becomes values of the crate, which borrow its texts: only the fields the expression names, or the whole body
//! where it names the body itself. What this house settles otherwise than the crate is put into the tree beforehand, as
//! calls of functions whose names begin with `@` and so cannot be written by a user.

use std::{
    cell::Cell,
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value as CelValue,
    common::{
        ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators as op},
        types::{
            CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp, DYN_TYPE,
        },
        value::{CowVal, Val},
    },
};
use chrono::{DateTime, SecondsFormat};
use regex::Regex;
use sidestream_event::{Event, Map, Meta, Value};

use crate::{EvalError, ast, limits, parse};

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
        WORK_LEFT.set(limits::WORK_MAX);
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        if !self.patterns.is_empty() {
            let patterns = Arc::clone(&self.patterns);
            let found = move |text: Arc<String>, which: i64| {
                usize::try_from(which).ok().and_then(|which| patterns.get(which)).is_some_and(|p| p.is_match(&text))
            };
            context.add_function(MATCHES, found).map_err(|error| EvalError::Other(error.to_string()))?;
        }
        if let Some(body) = self.reads.body_of(event) {
            context.add_variable_as_val("event", body);
        }
        if self.reads.meta {
            context.add_variable_as_val("meta", envelope(&event.meta));
        }
        CelValue::resolve(&self.tree, &context).map_err(|error| worded(error, event)).and_then(from_cel)
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
                    Some((name.as_str(), to_cel(value)))
                });
                Some(cel_map(fields))
            }
            body if self.body || !self.fields.is_empty() => Some(to_cel(body)),
            _ => None,
        }
    }
}

/// Puts what this house settles into the tree.
fn settle(node: &mut IdedExpr, patterns: &mut Vec<Regex>) {
    let mut own = node;
    if let Expr::Comprehension(it) = &mut own.expr {
        settle(&mut it.iter_range, patterns);
        let range = std::mem::take(&mut it.iter_range);
        it.iter_range = IdedExpr { id: range.id, expr: call(TURNS, vec![range]) };
        // The accumulator, its start and the result are the macro's own; what the user wrote stands in the step.
        settle(&mut it.loop_step, patterns);
        return;
    }
    match &mut own.expr {
        Expr::Call(called) => {
            if let Some(target) = &mut called.target {
                settle(target, patterns);
            }
            called.args.iter_mut().for_each(|arg| settle(arg, patterns));
            settle_call(called, patterns);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|item| settle(item, patterns)),
        Expr::Select(select) => {
            own = &mut select.operand;
            settle(own, patterns);
        }
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    settle(&mut entry.key, patterns);
                    settle(&mut entry.value, patterns);
                }
            }
        }
        _ => {}
    }
}

fn settle_call(called: &mut CallExpr, patterns: &mut Vec<Regex>) {
    let of_accumulator = matches!(called.args.first(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "@result");
    match called.func_name.as_str() {
        op::LESS => called.func_name = LESS.into(),
        op::LESS_EQUALS => called.func_name = LESS_OR_EQUAL.into(),
        op::GREATER => called.func_name = MORE.into(),
        op::GREATER_EQUALS => called.func_name = MORE_OR_EQUAL.into(),
        // The interpreter knows a macro's own `@result + [x]` by its name, and makes it cheap.
        op::ADD if !of_accumulator => called.func_name = ADD.into(),
        "matches" => {
            let mut args: Vec<IdedExpr> = called.target.take().map(|target| *target).into_iter().collect();
            args.append(&mut called.args);
            if let Some(Ok(pattern)) = args.get(1).and_then(ast::text_literal).map(Regex::new) {
                args[1].expr = Expr::Literal(LiteralValue::Int((patterns.len() as i64).into()));
                patterns.push(pattern);
                called.func_name = MATCHES.into();
            }
            called.args = args;
        }
        _ => {}
    }
}

fn call(name: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr { func_name: name.into(), target: None, args })
}

const LESS: &str = "@less";
const LESS_OR_EQUAL: &str = "@less_or_equal";
const MORE: &str = "@more";
const MORE_OR_EQUAL: &str = "@more_or_equal";
const ADD: &str = "@add";
const TURNS: &str = "@turns";
const MATCHES: &str = "@matches";

thread_local! {
    /// Units of work the evaluation on this thread has left.
    static WORK_LEFT: Cell<u32> = const { Cell::new(0) };
}

/// The standard library, and this house's functions.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    let two = || vec![DYN_TYPE, DYN_TYPE];
    let added = env
        .add_overload(LESS, LESS, two(), |args| ordered("_<_", &args, Ordering::is_lt))
        .and_then(|()| env.add_overload(LESS_OR_EQUAL, LESS_OR_EQUAL, two(), |args| ordered("_<=_", &args, Ordering::is_le)))
        .and_then(|()| env.add_overload(MORE, MORE, two(), |args| ordered("_>_", &args, Ordering::is_gt)))
        .and_then(|()| env.add_overload(MORE_OR_EQUAL, MORE_OR_EQUAL, two(), |args| ordered("_>=_", &args, Ordering::is_ge)))
        .and_then(|()| env.add_overload(ADD, ADD, two(), add))
        .and_then(|()| env.add_overload(TURNS, TURNS, vec![DYN_TYPE], turns));
    added.expect("no user or library can declare a name with `@`");
    Arc::new(env)
});

/// A comparison in which a NaN is unordered and no error.
fn ordered<'b, 'v>(
    operation: &str,
    args: &[CowVal<'b, 'v>],
    holds: fn(Ordering) -> bool,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (left, right) = (args[0].as_ref(), args[1].as_ref());
    let found = match left.as_comparer().map(|left| left.compare(right)) {
        Some(Ok(found)) => holds(found),
        _ if numbers_with_nan(left, right) => false,
        _ => return Err(refused(operation, left, right)),
    };
    Ok(CowVal::owned(CelBool::from(found)))
}

fn numbers_with_nan(left: &dyn Val, right: &dyn Val) -> bool {
    let number = |val: &dyn Val| match CelValue::try_from(val) {
        Ok(CelValue::Float(number)) => Some(number),
        Ok(CelValue::Int(_) | CelValue::UInt(_)) => Some(0.0),
        _ => None,
    };
    matches!((number(left), number(right)), (Some(a), Some(b)) if a.is_nan() || b.is_nan())
}

/// `+`, paid for by what it copies; the crate alone would also add the names of a map to a list.
fn add<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (left, right) = (args[0].as_ref(), args[1].as_ref());
    let size = |val: &dyn Val| {
        let text = val.downcast_ref::<CelString>().map(|text| text.len());
        let bytes = val.downcast_ref::<CelBytes>().map(|bytes| bytes.len());
        let list = val.as_sizer().map(|list| usize::try_from(*list.size().inner()).unwrap_or(usize::MAX));
        text.or(bytes).or(list).unwrap_or(0)
    };
    spend(limits::work(size(left).saturating_add(size(right))))?;
    let list_and_other = left.downcast_ref::<CelList>().is_some() && right.downcast_ref::<CelList>().is_none();
    match left.as_adder() {
        Some(adder) if !list_and_other => {
            adder.add(right).map(|sum| CowVal::Owned(sum.into_owned())).map_err(|error| match error {
                ExecutionError::UnsupportedBinaryOperator(..) => refused("_+_", left, right),
                other => other,
            })
        }
        _ => Err(refused("_+_", left, right)),
    }
}

/// The range of a loop, paid for.
fn turns<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let range = args.remove(0);
    let turns = range.as_sizer().map_or(0, |range| *range.size().inner());
    spend(u32::try_from(turns).unwrap_or(u32::MAX).saturating_mul(limits::INTERPRETED_TURN))?;
    Ok(range)
}

fn spend(work: u32) -> Result<(), ExecutionError> {
    let left = WORK_LEFT.get().checked_sub(work);
    WORK_LEFT.set(left.unwrap_or(0));
    left.map(drop).ok_or_else(|| ExecutionError::function_error(TURNS, EvalError::TooMuchWork))
}

fn refused(operation: &str, left: &dyn Val, right: &dyn Val) -> ExecutionError {
    let kinds = [left, right].map(|val| val.get_type().name().to_string());
    ExecutionError::no_such_overload(operation, kinds.to_vec())
}

/// A value of the crate that borrows the texts of `value`.
fn to_cel(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Int(number) => Box::new(CelInt::from(*number)),
        Value::Float(number) => Box::new(CelDouble::from(*number)),
        Value::Text(text) => Box::new(CelString::from(text.as_str())),
        Value::Bytes(bytes) => Box::new(CelBytes::from(&bytes[..])),
        Value::List(list) => Box::new(CelList::from(list.iter().map(to_cel).collect::<Vec<_>>())),
        Value::Map(map) => cel_map(map.iter().map(|(name, value)| (name.as_str(), to_cel(value)))),
    }
}

fn cel_map<'v>(fields: impl Iterator<Item = (&'v str, Box<dyn Val + 'v>)>) -> Box<dyn Val + 'v> {
    let fields: HashMap<CelMapKey<'v>, _> =
        fields.map(|(name, value)| (CelMapKey::String(CelString::from(name)), value)).collect();
    Box::new(CelMap::from(fields))
}

fn envelope(meta: &Meta) -> Box<dyn Val + '_> {
    let mut headers: HashMap<CelMapKey<'_>, Box<dyn Val + '_>> = HashMap::new();
    for (name, value) in meta.context.iter().flat_map(|context| &context.headers) {
        let name = CelMapKey::String(CelString::from(name.as_str().to_ascii_lowercase()));
        headers.entry(name).or_insert_with(|| Box::new(CelString::from(value.as_str())));
    }
    let time = DateTime::from_timestamp_nanos(meta.time.as_nanos()).fixed_offset();
    let traceparent = meta.context.as_ref().and_then(|context| context.traceparent.as_deref());
    let fields: [(&str, Box<dyn Val + '_>); 6] = [
        ("key", text_or_null(meta.key.as_deref())),
        ("time", Box::new(CelTimestamp::from(time))),
        ("headers", Box::new(CelMap::from(headers))),
        ("source", Box::new(CelString::from(meta.source.as_str()))),
        ("sequence", Box::new(CelInt::from(i64::try_from(meta.sequence).unwrap_or(i64::MAX)))),
        ("traceparent", text_or_null(traceparent)),
    ];
    cel_map(fields.into_iter())
}

fn text_or_null(text: Option<&str>) -> Box<dyn Val + '_> {
    match text {
        Some(text) => Box::new(CelString::from(text)),
        None => Box::new(CelNull),
    }
}

/// A value of the crate as one of an event: times as text, fields in the order of their names.
fn from_cel(value: CelValue) -> Result<Value, EvalError> {
    Ok(match value {
        CelValue::Null => Value::Null,
        CelValue::Bool(value) => Value::Bool(value),
        CelValue::Int(number) => Value::Int(number),
        CelValue::UInt(number) => {
            Value::Int(i64::try_from(number).map_err(|_| EvalError::Overflow { operation: "uint" })?)
        }
        CelValue::Float(number) => Value::Float(number),
        CelValue::String(text) => Value::Text(text.as_str().into()),
        CelValue::Bytes(bytes) => Value::Bytes(Arc::unwrap_or_clone(bytes).into()),
        CelValue::Timestamp(time) => {
            Value::Text(time.to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true).into())
        }
        CelValue::Duration(span) => Value::Text(seconds(span).into()),
        CelValue::List(list) => {
            let values: Result<Vec<Value>, _> = list.iter().cloned().map(from_cel).collect();
            Value::from(values?)
        }
        CelValue::Map(map) => {
            let mut fields: Vec<_> = map.map.iter().collect();
            fields.sort_by_key(|(name, _)| name.to_string());
            let mut made = Map::with_capacity(fields.len());
            for (name, value) in fields {
                made.insert(name.to_string(), from_cel(value.clone())?);
            }
            Value::Map(made)
        }
        other => return Err(EvalError::Other(format!("events cannot hold {other:?}"))),
    })
}

/// As CEL's `string(duration)` has it: seconds with the digits they need, and an `s`.
fn seconds(span: chrono::Duration) -> String {
    let sign = if span < chrono::Duration::zero() { "-" } else { "" };
    let (whole, nanos) = (span.num_seconds().unsigned_abs(), span.subsec_nanos().unsigned_abs());
    let fraction = format!(".{nanos:09}");
    format!("{sign}{whole}{}s", fraction.trim_end_matches('0').trim_end_matches('.'))
}

/// The interpreter's errors in the words of this house.
fn worded(error: ExecutionError, event: &Event) -> EvalError {
    match error {
        ExecutionError::NoSuchKey(name) => {
            let map = match &event.body {
                Value::Map(map) if map.get(&name).is_none() => Some(map),
                _ => None,
            };
            EvalError::from(crate::error::Fault::NoField { field: name.as_str().into(), map })
        }
        ExecutionError::NoSuchOverload(overload) => EvalError::NoOverload {
            operation: overload.function().trim_matches(['_', '@']).to_string(),
            kinds: overload.argument_types().iter().map(|kind| house_kind(kind).to_string()).collect(),
        },
        ExecutionError::UnexpectedType { got, want } if want == "bool" => {
            EvalError::NotABool { kind: house_kind_static(&got) }
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => EvalError::DivisionByZero,
        ExecutionError::Overflow(operation, ..) => EvalError::Overflow { operation },
        ExecutionError::FunctionError { function, .. } if function == TURNS => EvalError::TooMuchWork,
        other => EvalError::Other(other.to_string()),
    }
}

/// The word of [`Value::kind`] for one of CEL's.
fn house_kind(kind: &str) -> &str {
    match kind {
        "double" => "float",
        "string" => "text",
        "null_type" => "null",
        "google.protobuf.Timestamp" => "timestamp",
        "google.protobuf.Duration" => "duration",
        same => same,
    }
}

fn house_kind_static(kind: &str) -> &'static str {
    match house_kind(kind) {
        "float" => "float",
        "text" => "text",
        "null" => "null",
        "int" => "int",
        "bytes" => "bytes",
        "list" => "list",
        "map" => "map",
        "timestamp" => "timestamp",
        "duration" => "duration",
        _ => "something else",
    }
}
