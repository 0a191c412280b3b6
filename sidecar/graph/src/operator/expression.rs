//! An expression in its setting: the wording of what goes wrong names both.

use std::fmt;

use sidestream_event::{Event, Value};
use sidestream_expr::{EvalError, Problem, Program, Type};
use sidestream_plan::Expression;

use super::BuildError;

/// A compiled expression that knows which setting it stands in.
pub(super) struct Formula {
    setting: String,
    program: Program,
}

/// An event an expression gave no value for, or not one that can be used.
pub(super) struct Unusable<'a> {
    setting: &'a str,
    reason: Reason,
}

enum Reason {
    Failed(EvalError),
    Unfit(f64),
}

impl Formula {
    /// What the setting says of an event.
    pub(super) fn new(
        setting: impl Into<String>,
        source: &Expression,
        input: &Type,
    ) -> Result<Self, BuildError> {
        Self::of(setting.into(), source, Program::compile(source.source(), input))
    }

    /// A condition.
    pub(super) fn condition(setting: &str, source: &Expression, input: &Type) -> Result<Self, BuildError> {
        Self::of(setting.into(), source, Program::compile_predicate(source.source(), input))
    }

    fn of(
        setting: String,
        source: &Expression,
        program: Result<Program, Vec<Problem>>,
    ) -> Result<Self, BuildError> {
        match program {
            Ok(program) => Ok(Self { setting, program }),
            Err(problems) => {
                Err(BuildError::Expression { setting, source: source.source().into(), problems })
            }
        }
    }

    /// Whether `event` is one the expression says yes to.
    pub(super) fn test(&self, event: &Event) -> Result<bool, Unusable<'_>> {
        self.program.test(event).map_err(|error| self.failed(error))
    }

    /// What the expression says of `event`.
    pub(super) fn eval(&self, event: &Event) -> Result<Value, Unusable<'_>> {
        self.program.eval(event).map_err(|error| self.failed(error))
    }

    /// What the expression says of `event`, into a value whose storage is used again.
    pub(super) fn eval_into(&self, event: &Event, value: &mut Value) -> Result<(), Unusable<'_>> {
        self.program.eval_into(event, value).map_err(|error| self.failed(error))
    }

    /// The number the expression says, which is not NaN: a NaN can be neither compared nor added up.
    pub(super) fn number(&self, event: &Event) -> Result<f64, Unusable<'_>> {
        match self.program.eval_f64(event) {
            Ok(number) if number.is_nan() => Err(self.unfit(number)),
            Ok(number) => Ok(number),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The number the expression says, which is neither NaN nor infinite.
    pub(super) fn finite(&self, event: &Event) -> Result<f64, Unusable<'_>> {
        match self.number(event) {
            Ok(number) if number.is_infinite() => Err(self.unfit(number)),
            other => other,
        }
    }

    fn unfit(&self, number: f64) -> Unusable<'_> {
        Unusable { setting: &self.setting, reason: Reason::Unfit(number) }
    }

    fn failed(&self, error: EvalError) -> Unusable<'_> {
        Unusable { setting: &self.setting, reason: Reason::Failed(error) }
    }
}

impl Unusable<'_> {
    /// Whether the expression said null where a number was wanted: a value that is not known yet.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.reason, Reason::Failed(EvalError::NotANumber { kind: "null" }))
    }
}

impl fmt::Display for Unusable<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Failed(error) => write!(out, "`{}`: {error}", self.setting),
            Reason::Unfit(number) => {
                write!(out, "`{}`: the value is {number}; a `when` can keep such events away", self.setting)
            }
        }
    }
}
