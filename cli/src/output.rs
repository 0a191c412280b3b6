//! Words for whoever called: to the standard output and to the standard error, neither of which may be there.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use crate::verb::{DONE, failed};

/// Prints what was asked for. A reader that has gone (`| head -1`) has all it wanted: that is no error.
pub(crate) fn print(text: impl Display) -> ExitCode {
    let mut output = io::stdout().lock();
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => DONE,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(error) => {
            complain(format_args!("error: cannot write to the standard output: {error}"));
            failed()
        }
    }
}

/// Says something beside what was asked for, on a line of its own.
pub(crate) fn complain(text: impl Display) {
    // Where nobody can be told there is nothing to do about it; `eprintln!` would panic.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
