//! The short way for numbers: comparisons of sums, differences and items of loops, without a value in between that would
//! have to be dropped. It answers where all goes well; where it says `None`, the long way finds out why.

use sidestream_event::Value;

use super::{Node, Scope};
use crate::{operand::Operand, place::Test};

#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    Float(f64),
}

/// Whether `test` holds for two numbers of one kind.
#[inline]
pub(super) fn test(test: Test, sides: &[Node; 2], scope: &Scope<'_, '_>) -> Option<bool> {
    match (number(&sides[0], scope)?, number(&sides[1], scope)?) {
        (Number::Int(a), Number::Int(b)) => test.of_ints(a, b),
        (Number::Float(a), Number::Float(b)) => test.of_floats(a, b),
        _ => None,
    }
}

fn number(node: &Node, scope: &Scope<'_, '_>) -> Option<Number> {
    match node {
        Node::Place(place) => match place.find(scope.event)? {
            Value::Int(number) => Some(Number::Int(*number)),
            Value::Float(number) => Some(Number::Float(*number)),
            _ => None,
        },
        Node::Variable(loops_out) => match scope.variable(*loops_out) {
            Operand::Int(number) => Some(Number::Int(*number)),
            Operand::Float(number) => Some(Number::Float(*number)),
            _ => None,
        },
        Node::Arithmetic(arithmetic, sides) => match (number(&sides[0], scope)?, number(&sides[1], scope)?) {
            (Number::Int(a), Number::Int(b)) => arithmetic.of_ints(a, b).ok().map(Number::Int),
            (Number::Float(a), Number::Float(b)) => arithmetic.of_floats(a, b).map(Number::Float),
            _ => None,
        },
        _ => None,
    }
}
