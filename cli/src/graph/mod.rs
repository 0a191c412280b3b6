//! Graphs in code: built like a file, compiled like a file, started by the program.

pub(crate) mod builder;
pub(crate) mod kind;
pub(crate) mod running;
