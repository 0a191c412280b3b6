//! Operators of two sides: what they take, what they give, and what to write where they do not.

use cel::{
    IdedExpr,
    common::ast::{Expr, LiteralValue, operators as op},
};

use super::{Checker, op_sign};
use crate::{Problem, Type, ast};

impl<'p> Checker<'p> {
    pub(super) fn binary(
        &mut self,
        node: &'p IdedExpr,
        name: &str,
        left: &'p IdedExpr,
        right: &'p IdedExpr,
    ) -> Type {
        let (a, b) = (self.of(left), self.of(right));
        if let Some(name) = ast::text_literal(left).filter(|_| self.is_headers(right)) {
            self.field(left, right, &b, name);
        }
        let sides = Sides { sign: op_sign(name).unwrap_or_default(), left, a: &a, right, b: &b };
        let result = match name {
            op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO => sides.arithmetic(),
            op::EQUALS | op::NOT_EQUALS => sides.equality(),
            op::IN => sides.membership(),
            _ => sides.order(),
        };
        result.unwrap_or_else(|problem| self.wrong(node, problem))
    }
}

struct Sides<'a> {
    sign: &'static str,
    left: &'a IdedExpr,
    a: &'a Type,
    right: &'a IdedExpr,
    b: &'a Type,
}

impl Sides<'_> {
    fn arithmetic(&self) -> Result<Type, Problem> {
        use Type::{Bytes, Duration, Dyn, Float, Int, List, Text, Timestamp};
        let joins = self.sign == "+";
        let spans = matches!(self.sign, "+" | "-");
        Ok(match (self.a, self.b) {
            (Dyn, Dyn) => Dyn,
            (Int, Int | Dyn) | (Dyn, Int) => Int,
            (Float, Float | Dyn) | (Dyn, Float) if self.sign != "%" => Float,
            (Text, Text | Dyn) | (Dyn, Text) if joins => Text,
            (Bytes, Bytes | Dyn) | (Dyn, Bytes) if joins => Bytes,
            (List(a), List(b)) if joins => Type::list((**a).clone().or((**b).clone())),
            (List(_), Dyn) | (Dyn, List(_)) if joins => Type::list(Dyn),
            (Duration, Duration) if spans => Duration,
            (Timestamp, Duration) if spans => Timestamp,
            (Duration, Timestamp) if joins => Timestamp,
            (Timestamp, Timestamp) if self.sign == "-" => Duration,
            (Timestamp | Duration, Dyn) | (Dyn, Timestamp | Duration) if spans => Dyn,
            _ => return Err(self.no_arithmetic()),
        })
    }

    fn no_arithmetic(&self) -> Problem {
        let problem = self.refused();
        match (self.a, self.b) {
            (Type::Float, Type::Float | Type::Dyn) | (Type::Dyn, Type::Float) if self.sign == "%" => {
                problem.help("`%` is for whole numbers: write `int(x)`")
            }
            (Type::Int, Type::Float) => problem.help(format!("write {}", as_float(self.left))),
            (Type::Float, Type::Int) => problem.help(format!("write {}", as_float(self.right))),
            (Type::Text, other) | (other, Type::Text) if self.sign == "+" && is_scalar(other) => {
                let node = if *self.a == Type::Text { self.right } else { self.left };
                problem.help(format!("write {}", converted("string", node)))
            }
            (Type::Text, other) if other.may_be_number() => {
                problem.help(format!("write {}", converted(number_function(other), self.left)))
            }
            (other, Type::Text) if other.may_be_number() => {
                problem.help(format!("write {}", converted(number_function(other), self.right)))
            }
            _ => problem,
        }
    }

    fn equality(&self) -> Result<Type, Problem> {
        if may_equal(self.a, self.b) {
            return Ok(Type::Bool);
        }
        let always = if self.sign == "==" { "false" } else { "true" };
        let problem = Problem::new(format!("{} `{}` {} is always {always}", self.a, self.sign, self.b));
        Err(self.with_conversion(problem))
    }

    fn order(&self) -> Result<Type, Problem> {
        use Type::{Bool, Bytes, Duration, Dyn, Null, Text, Timestamp};
        match (self.a, self.b) {
            (Null | Type::List(_) | Type::Map(_), _) | (_, Null | Type::List(_) | Type::Map(_)) => {
                Err(self.refused())
            }
            (Dyn, _) | (_, Dyn) => Ok(Bool),
            (Bool, Bool) | (Text, Text) | (Bytes, Bytes) | (Timestamp, Timestamp) | (Duration, Duration) => {
                Ok(Bool)
            }
            (a, b) if a.may_be_number() && b.may_be_number() => Ok(Bool),
            _ => Err(self.with_conversion(self.refused())),
        }
    }

    fn membership(&self) -> Result<Type, Problem> {
        match (self.a, self.b) {
            (_, Type::Dyn) => Ok(Type::Bool),
            (a, Type::List(of)) if may_equal(a, of) => Ok(Type::Bool),
            (a, Type::List(of)) => Err(Problem::new(format!("{a} is never in a list of {of}"))),
            (Type::Text | Type::Dyn, Type::Map(_)) => Ok(Type::Bool),
            (a, Type::Map(_)) => Err(Problem::new(format!("{a} is never the name of a field"))),
            (Type::Text | Type::Dyn, Type::Text) => {
                let (part, text) = (ast::written(self.left), ast::written(self.right));
                let (part, text) = (part.unwrap_or("x".into()), text.unwrap_or("text".into()));
                Err(Problem::new("`in` looks into a list or a map, and this is text")
                    .help(format!("write `{text}.contains({part})`")))
            }
            (_, b) => Err(Problem::new(format!("`in` looks into a list or a map, and this is {b}"))),
        }
    }

    fn refused(&self) -> Problem {
        Problem::new(format!("`{}` does not take {} and {}", self.sign, self.a, self.b))
    }

    /// How to make the two sides alike, where one is text and the other a number or bool.
    fn with_conversion(&self, problem: Problem) -> Problem {
        let (text, other, kind) = match (self.a, self.b) {
            (Type::Text, kind) => (self.left, self.right, kind),
            (kind, Type::Text) => (self.right, self.left, kind),
            _ => return problem,
        };
        match (ast::text_literal(text), kind) {
            (Some(literal), Type::Int | Type::Float) if literal.parse::<f64>().is_ok() => {
                problem.help(format!("write {literal} without quotes"))
            }
            (Some(_), _) if is_scalar(kind) => problem.help(format!("write {}", converted("string", other))),
            (None, Type::Int | Type::Float) => {
                problem.help(format!("write {}", converted(number_function(kind), text)))
            }
            _ => problem,
        }
    }
}

/// Whether a value of one may equal a value of the other. Anything may be compared with null: fields may hold it.
fn may_equal(a: &Type, b: &Type) -> bool {
    use Type::{Dyn, List, Map, Null};
    match (a, b) {
        (Dyn | Null, _) | (_, Dyn | Null) | (List(_), List(_)) | (Map(_), Map(_)) => true,
        (a, b) => a == b || (a.may_be_number() && b.may_be_number()),
    }
}

fn is_scalar(kind: &Type) -> bool {
    matches!(kind, Type::Int | Type::Float | Type::Bool)
}

fn number_function(kind: &Type) -> &'static str {
    if *kind == Type::Int { "int" } else { "double" }
}

/// A whole number as a float.
fn as_float(node: &IdedExpr) -> String {
    match &node.expr {
        Expr::Literal(LiteralValue::Int(number)) => format!("`{}.0`", number.inner()),
        _ => converted("double", node),
    }
}

fn converted(function: &str, node: &IdedExpr) -> String {
    format!("`{function}({})`", ast::written(node).unwrap_or("...".into()))
}
