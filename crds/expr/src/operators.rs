//! Arithmetic and conversions, as CEL has them: whole numbers overflow with an error, and never mix with floats.

use sidestream_event::{Text, Value};

use crate::{error::Fault, operand::Operand};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Arithmetic {
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Remainder => "%",
        }
    }

    pub(crate) fn of<'a>(self, left: &Operand<'a>, right: &Operand<'a>) -> Result<Operand<'a>, Fault<'a>> {
        match (left, right) {
            (Operand::Int(a), Operand::Int(b)) => self.of_ints(*a, *b).map(Operand::Int),
            (Operand::Float(a), Operand::Float(b)) => {
                self.of_floats(*a, *b).map(Operand::Float).ok_or_else(|| self.refused(left, right))
            }
            _ if self == Arithmetic::Add => join(left, right),
            _ => Err(self.refused(left, right)),
        }
    }

    pub(crate) fn of_ints(self, a: i64, b: i64) -> Result<i64, Fault<'static>> {
        if b == 0 && matches!(self, Arithmetic::Divide | Arithmetic::Remainder) {
            return Err(Fault::DivisionByZero);
        }
        let result = match self {
            Arithmetic::Add => a.checked_add(b),
            Arithmetic::Subtract => a.checked_sub(b),
            Arithmetic::Multiply => a.checked_mul(b),
            Arithmetic::Divide => a.checked_div(b),
            Arithmetic::Remainder => a.checked_rem(b),
        };
        result.ok_or(Fault::Overflow(self.sign()))
    }

    /// `None` for the remainder, which CEL has for whole numbers alone.
    pub(crate) fn of_floats(self, a: f64, b: f64) -> Option<f64> {
        match self {
            Arithmetic::Add => Some(a + b),
            Arithmetic::Subtract => Some(a - b),
            Arithmetic::Multiply => Some(a * b),
            Arithmetic::Divide => Some(a / b),
            Arithmetic::Remainder => None,
        }
    }

    fn refused<'a>(self, left: &Operand<'a>, right: &Operand<'a>) -> Fault<'a> {
        Fault::NoOverload { operation: self.sign(), left: left.kind(), right: Some(right.kind()) }
    }
}

/// `+` of two texts, bytes or lists.
fn join<'a>(left: &Operand<'a>, right: &Operand<'a>) -> Result<Operand<'a>, Fault<'a>> {
    let made = if let (Some(a), Some(b)) = (left.as_text(), right.as_text()) {
        let mut text = Text::with_capacity(a.len() + b.len());
        text.push_str(a);
        text.push_str(b);
        Value::Text(text)
    } else if let (Some(a), Some(b)) = (left.as_bytes(), right.as_bytes()) {
        Value::Bytes([&a[..], &b[..]].concat().into())
    } else if let (Some(a), Some(b)) = (left.as_list(), right.as_list()) {
        Value::List(a.iter().chain(b.iter()).cloned().collect())
    } else {
        return Err(Arithmetic::Add.refused(left, right));
    };
    Ok(Operand::Made(made))
}

/// Unary `-`.
pub(crate) fn negate<'a>(of: &Operand<'a>) -> Result<Operand<'a>, Fault<'a>> {
    match of {
        Operand::Int(number) => number.checked_neg().map(Operand::Int).ok_or(Fault::Overflow("-")),
        Operand::Float(number) => Ok(Operand::Float(-number)),
        other => Err(Fault::NoOverload { operation: "-", left: other.kind(), right: None }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Conversion {
    Int,
    Float,
    Text,
    Bool,
}

impl Conversion {
    /// The name of the function in expressions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Conversion::Int => "int",
            Conversion::Float => "double",
            Conversion::Text => "string",
            Conversion::Bool => "bool",
        }
    }

    pub(crate) fn of<'a>(self, from: Operand<'a>) -> Result<Operand<'a>, Fault<'a>> {
        let failed =
            |from: &dyn ToString| Fault::Conversion { to: self.name(), from: from.to_string().into() };
        if let Some(text) = from.as_text() {
            return match self {
                Conversion::Int => text.parse().map(Operand::Int).map_err(|_| failed(&text)),
                Conversion::Float => text.parse().map(Operand::Float).map_err(|_| failed(&text)),
                Conversion::Text => Ok(from),
                Conversion::Bool => match text {
                    "1" | "t" | "true" | "TRUE" | "True" => Ok(Operand::Bool(true)),
                    "0" | "f" | "false" | "FALSE" | "False" => Ok(Operand::Bool(false)),
                    _ => Err(failed(&text)),
                },
            };
        }
        match (self, from) {
            (Conversion::Int, Operand::Int(number)) => Ok(Operand::Int(number)),
            // Both ends of the range are refused, as CEL has it: 2^63 is what `i64::MAX` rounds to.
            (Conversion::Int, Operand::Float(number)) if number.abs() < -(i64::MIN as f64) => {
                Ok(Operand::Int(number as i64))
            }
            (Conversion::Int, Operand::Float(number)) => Err(failed(&number)),
            (Conversion::Float, Operand::Int(number)) => Ok(Operand::Float(number as f64)),
            (Conversion::Float, Operand::Float(number)) => Ok(Operand::Float(number)),
            (Conversion::Bool, Operand::Bool(value)) => Ok(Operand::Bool(value)),
            (Conversion::Text, Operand::Bool(value)) => Ok(text(&value)),
            (Conversion::Text, Operand::Int(number)) => Ok(text(&number)),
            (Conversion::Text, Operand::Float(number)) => Ok(text(&number)),
            (Conversion::Text, ref from) if from.as_bytes().is_some() => {
                let bytes = from.as_bytes().map_or(&[][..], |bytes| bytes);
                let valid = std::str::from_utf8(bytes).map_err(|_| failed(&"bytes that are not UTF-8"))?;
                Ok(Operand::Made(Value::Text(valid.into())))
            }
            (_, from) => Err(Fault::NoOverload { operation: self.name(), left: from.kind(), right: None }),
        }
    }
}

fn text<'a>(value: &dyn ToString) -> Operand<'a> {
    Operand::Made(Value::Text(value.to_string().into()))
}
