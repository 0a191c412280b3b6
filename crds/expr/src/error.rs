//! Why an expression gave no value.

use std::fmt;

use sidestream_event::{Map, Text};

use crate::limits;

/// Why an expression gave no value for an event. What it says is about that event; the next may do well.
#[derive(Clone, Debug, PartialEq)]
pub enum EvalError {
    /// A map has no such field.
    NoSuchField {
        /// The field that was read.
        field: String,
        /// Fields the map has, at most eight of them.
        there: Vec<String>,
    },
    /// A list is not that long.
    NoSuchIndex {
        /// The index that was read.
        index: i64,
        /// How many values the list has.
        len: usize,
    },
    /// An operator or function does not take values of these kinds.
    NoOverload {
        /// The operator or function.
        operation: String,
        /// The kinds it was given.
        kinds: Vec<String>,
    },
    /// A condition was neither true nor false.
    NotABool {
        /// What it was.
        kind: &'static str,
    },
    /// A number was wanted.
    NotANumber {
        /// What it was.
        kind: &'static str,
    },
    /// The result is beyond 64 bits.
    Overflow {
        /// The operator or function.
        operation: &'static str,
    },
    /// A whole number was divided by zero.
    DivisionByZero,
    /// A text or number could not be converted.
    Conversion {
        /// The function asked to convert.
        to: &'static str,
        /// What it was given.
        from: String,
    },
    /// The evaluation came to its limit of work.
    TooMuchWork,
    /// Anything else, in the words of the interpreter.
    Other(String),
}

impl fmt::Display for EvalError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvalError::NoSuchField { field, there } if there.is_empty() => {
                write!(out, "no such field `{field}`")
            }
            EvalError::NoSuchField { field, there } => {
                write!(out, "no such field `{field}`; there are {}", there.join(", "))
            }
            EvalError::NoSuchIndex { index, len } => write!(out, "no index {index} in a list of {len}"),
            EvalError::NoOverload { operation, kinds } => {
                write!(out, "`{operation}` does not take {}", kinds.join(" and "))?;
                let mixed =
                    kinds.iter().any(|kind| kind == "int") && kinds.iter().any(|kind| kind == "float");
                if mixed { out.write_str("; convert the int: `double(x)`") } else { Ok(()) }
            }
            EvalError::NotABool { kind } => {
                write!(out, "a condition must be true or false, and this is {kind}")
            }
            EvalError::NotANumber { kind } => write!(out, "a number is wanted, and this is {kind}"),
            EvalError::Overflow { operation } => write!(out, "`{operation}` overflows 64 bits"),
            EvalError::DivisionByZero => out.write_str("division of a whole number by zero"),
            EvalError::Conversion { to, from } => write!(out, "`{to}` cannot convert {from}"),
            EvalError::TooMuchWork => {
                write!(out, "more than {} turns of loops for one event", limits::WORK_MAX)
            }
            EvalError::Other(message) => out.write_str(message),
        }
    }
}

impl std::error::Error for EvalError {}

/// An error while it may still be absorbed (`x || true`): it borrows what it would say, so that making one is free.
#[derive(Debug)]
pub(crate) enum Fault<'a> {
    NoField { field: Text, map: Option<&'a Map> },
    NoIndex { index: i64, len: usize },
    NoOverload { operation: &'static str, left: &'static str, right: Option<&'static str> },
    NotABool(&'static str),
    Overflow(&'static str),
    DivisionByZero,
    Conversion { to: &'static str, from: Text },
    TooMuchWork,
}

impl From<Fault<'_>> for EvalError {
    #[cold]
    fn from(fault: Fault<'_>) -> Self {
        match fault {
            Fault::NoField { field, map } => EvalError::NoSuchField {
                field: field.to_string(),
                there: map
                    .into_iter()
                    .flat_map(Map::iter)
                    .take(FIELDS_NAMED_MAX)
                    .map(|(name, _)| name.to_string())
                    .collect(),
            },
            Fault::NoIndex { index, len } => EvalError::NoSuchIndex { index, len },
            Fault::NoOverload { operation, left, right } => EvalError::NoOverload {
                operation: operation.to_string(),
                kinds: std::iter::once(left).chain(right).map(str::to_string).collect(),
            },
            Fault::NotABool(kind) => EvalError::NotABool { kind },
            Fault::Overflow(operation) => EvalError::Overflow { operation },
            Fault::DivisionByZero => EvalError::DivisionByZero,
            Fault::Conversion { to, from } => EvalError::Conversion { to, from: shortened(&from) },
            Fault::TooMuchWork => EvalError::TooMuchWork,
        }
    }
}

/// Quoted, and cut where it is long: an event may carry megabytes.
fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(40).collect();
    if chars.next().is_some() { format!("`{start}...`") } else { format!("`{start}`") }
}

const FIELDS_NAMED_MAX: usize = 8;
