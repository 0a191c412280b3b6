//! The verbs, a file each.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod dnpipe;
pub(crate) mod eval;
pub(crate) mod group;
pub(crate) mod inject;
pub(crate) mod plan;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod redrive;
pub(crate) mod reset;
pub(crate) mod run;
pub(crate) mod top;

use std::process::ExitCode;

/// What was asked for was done.
pub(crate) const DONE: ExitCode = ExitCode::SUCCESS;

/// It could not be done, and not because of what was written.
pub(crate) fn failed() -> ExitCode {
    ExitCode::from(1)
}

/// What was written is wrong: a file, an expression, an argument.
pub(crate) fn wrong() -> ExitCode {
    ExitCode::from(2)
}
