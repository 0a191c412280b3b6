//! CEL over events: parse, check, lower, evaluate.
//!
//! An expression is text a user wrote (<https://cel.dev>, the language Kubernetes uses for its own conditions). In it
//! `event` is the body of an event and `meta` its envelope. What happens to it, in the order of the files:
//!
//! ```text
//! text -> parse -> check against the event's shape -> lower ----> Node: evaluated here, by reference
//!            |                    |                     \-------> the cel crate's interpreter, for what is rare
//!            v                    v
//!        Problems, all of them: what is wrong, where, and what to write instead
//! ```
//!
//! Both ways of evaluating give the same answers; `tests/same_as_the_interpreter.rs` holds them to it. The answers are
//! CEL's (<https://github.com/google/cel-spec/blob/master/doc/langdef.md>), with these settled by this house:
//! - a NaN is unordered, as IEEE 754 has it: `<`, `<=`, `>` and `>=` with a NaN are false and not errors;
//! - the names of headers are in lower case, as HTTP/2 sends them; of repeated headers the first is seen;
//! - the pattern of `matches` is written out, and compiled once;
//! - the work of one evaluation is bounded (see `limits.rs`).
//!
//! This crate reads no clock and does no I/O. It never changes an event.

mod ast;
mod check;
mod error;
mod functions;
mod interpret;
mod limits;
mod lower;
mod node;
mod operand;
mod operators;
mod parse;
mod place;
mod problem;
mod program;
mod reads;
mod reference;
mod shape;

pub use error::EvalError;
pub use problem::Problem;
pub use program::Program;
pub use reads::reads;
pub use reference::expressions_page;
pub use shape::{Field, Shape, Type};
