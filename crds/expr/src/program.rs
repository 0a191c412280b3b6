//! A compiled expression: the door of this crate.

use std::{cell::Cell, fmt, sync::Arc};

use sidestream_event::{Event, Value};

use crate::{
    EvalError, Problem, Type, check,
    interpret::Interpreted,
    limits,
    lower::lower,
    node::{Node, Scope},
    operand::Operand,
    parse::{self, Parsed, parse},
};

/// A compiled expression. A clone shares it; any thread may evaluate it, and many at once.
#[derive(Clone)]
pub struct Program(Arc<Compiled>);

struct Compiled {
    source: String,
    result: Type,
    checked: bool,
    code: Code,
}

enum Code {
    Lowered(Node),
    Interpreted(Interpreted),
}

impl Program {
    /// Compiles `source` for events whose bodies are `event`; [`Type::Dyn`] where nothing is known of them.
    ///
    /// # Errors
    /// Everything that is wrong: of the syntax, or else of the types. Never empty, in the order of the source.
    pub fn compile(source: &str, event: &Type) -> Result<Program, Vec<Problem>> {
        let parsed = parse(source)?;
        let checked = check::check(&parsed, event)?;
        Self::of(source, &parsed, checked)
    }

    /// Compiles a condition: as [`Program::compile`], and the result must be [`Type::Bool`], or [`Type::Dyn`].
    ///
    /// # Errors
    /// As [`Program::compile`], and where the result cannot be true or false.
    pub fn compile_predicate(source: &str, event: &Type) -> Result<Program, Vec<Problem>> {
        let parsed = parse(source)?;
        let checked = check::check(&parsed, event)?;
        match &checked.result {
            Type::Bool | Type::Dyn => Self::of(source, &parsed, checked),
            other => Err(vec![check::not_a_condition(other, parsed.tree()).at(Some(0))]),
        }
    }

    fn of(source: &str, parsed: &Parsed, checked: check::Checked) -> Result<Self, Vec<Problem>> {
        let code = match lower(parsed.tree()) {
            Some(node) => Code::Lowered(node),
            None if parse::depth(parsed.tree()) > limits::INTERPRETED_DEPTH_MAX => {
                return Err(vec![parse::too_deep(limits::INTERPRETED_DEPTH_MAX)]);
            }
            None => Code::Interpreted(Interpreted::new(parsed.tree())),
        };
        let source = source.to_string();
        Ok(Self(Arc::new(Compiled { source, result: checked.result, checked: checked.complete, code })))
    }

    /// What it gives; [`Type::Timestamp`] and [`Type::Duration`] come out of [`Program::eval`] as text.
    pub fn result(&self) -> &Type {
        &self.0.result
    }

    /// Whether every type was known when it was compiled. False where it reads a field of unknown type: such a field is
    /// checked when it runs.
    pub fn is_checked(&self) -> bool {
        self.0.checked
    }

    /// Whether it was lowered: it then allocates only for what it makes. The rest is interpreted, some ten times slower.
    pub fn is_lowered(&self) -> bool {
        matches!(self.0.code, Code::Lowered(_))
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The value for `event`. Texts, lists and maps of the event are shared, not copied.
    ///
    /// # Errors
    /// What an event lacks or holds may be no value for this expression: see [`EvalError`].
    pub fn eval(&self, event: &Event) -> Result<Value, EvalError> {
        match &self.0.code {
            Code::Lowered(node) => Ok(node.value(&Scope::new(event, &full())).map(Operand::into_value)?),
            Code::Interpreted(code) => code.eval(event),
        }
    }

    /// As [`Program::eval`], into `value`, whose map storage is used again where the expression makes a map: what keeps a
    /// stage that makes new bodies from allocating. After an error `value` holds something, but not what was asked.
    ///
    /// # Errors
    /// As [`Program::eval`].
    pub fn eval_into(&self, event: &Event, value: &mut Value) -> Result<(), EvalError> {
        if let Code::Lowered(node) = &self.0.code
            && let Some(fields) = node.fields()
        {
            let work = full();
            let scope = Scope::new(event, &work);
            let map = value.reset_map();
            for (name, field) in fields {
                map.push_new(name.clone(), field.value(&scope)?.into_value());
            }
            return Ok(());
        }
        *value = self.eval(event)?;
        Ok(())
    }

    /// Whether the condition holds for `event`. Comparisons and searches that are lowered allocate nothing.
    ///
    /// # Errors
    /// As [`Program::eval`], and where the result is neither true nor false.
    pub fn test(&self, event: &Event) -> Result<bool, EvalError> {
        match &self.0.code {
            Code::Lowered(node) => Ok(node.truth(&Scope::new(event, &full()))?),
            Code::Interpreted(code) => match code.eval(event)? {
                Value::Bool(truth) => Ok(truth),
                other => Err(EvalError::NotABool { kind: other.kind() }),
            },
        }
    }

    /// The number for `event`; whole numbers as the nearest `f64`.
    ///
    /// # Errors
    /// As [`Program::eval`], and where the result is no number.
    pub fn eval_f64(&self, event: &Event) -> Result<f64, EvalError> {
        match &self.0.code {
            Code::Lowered(node) => match node.value(&Scope::new(event, &full()))? {
                Operand::Int(number) => Ok(number as f64),
                Operand::Float(number) => Ok(number),
                other => Err(EvalError::NotANumber { kind: other.kind() }),
            },
            Code::Interpreted(code) => {
                let value = code.eval(event)?;
                value.as_f64().ok_or(EvalError::NotANumber { kind: value.kind() })
            }
        }
    }
}

/// The work an evaluation may do.
#[inline]
fn full() -> Cell<u32> {
    Cell::new(limits::WORK_MAX)
}

/// The source: what a person recognises it by.
impl fmt::Debug for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Program({:?})", self.0.source)
    }
}
