//! `sidestream eval`: an expression, tried on one event.

use std::{fs::File, io::Read, process::ExitCode};

use clap::Args;
use serde_json::Value as Json;
use sidestream_event::{Event, Value, json};
use sidestream_expr::{Problem, Program, Type};

use super::{failed, wrong};
use crate::output::{complain, print};

/// What to evaluate, and on what.
#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// A CEL expression over `event` (the body) and `meta` (the envelope)
    expression: String,
    /// The body of the event as JSON, or @FILE, or - for the standard input
    #[arg(long, value_name = "JSON", default_value = "{}")]
    event: String,
}

impl Eval {
    pub(crate) fn run(self) -> ExitCode {
        let program = match Program::compile(&self.expression, &Type::Dyn) {
            Ok(program) => program,
            Err(problems) => {
                problems.iter().for_each(|problem| complain(pointed_at(problem, &self.expression)));
                return wrong();
            }
        };
        let event = match read_event(&self.event) {
            Ok(body) => Event::new(body),
            Err(reason) => {
                complain(format_args!("error: the event: {reason}"));
                return wrong();
            }
        };
        match program.eval(&event) {
            Ok(value) => {
                // Beside the value, so that the value alone can be piped on.
                complain(format_args!("type: {}", value.kind()));
                print(format_args!("{}\n", pretty(&value)))
            }
            Err(error) => {
                complain(format_args!("error: {error}"));
                failed()
            }
        }
    }
}

fn read_event(given: &str) -> Result<Value, String> {
    let mut text = Vec::new();
    if given == "-" {
        let read = std::io::stdin().lock().take(EVENT_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error| format!("cannot read the standard input: {error}"))?;
    } else if let Some(path) = given.strip_prefix('@') {
        let read = File::open(path).and_then(|from| from.take(EVENT_BYTES_MAX).read_to_end(&mut text));
        read.map_err(|error| format!("cannot read {path}: {error}"))?;
    } else {
        text.extend_from_slice(given.as_bytes());
    }
    json::read(&text).map_err(|error| error.to_string())
}

/// As one line where it is short, else as a person would want to read it.
fn pretty(value: &Value) -> String {
    let line = value.to_string();
    match serde_json::from_str::<Json>(&line) {
        Ok(json) if line.len() > LINE_CHARS_MAX => format!("{json:#}"),
        _ => line,
    }
}

/// The problem with the line of the expression it is about, and a caret under the place.
fn pointed_at(problem: &Problem, expression: &str) -> String {
    let mut text = format!("error: {}", problem.message);
    if let Some((line, column)) = problem.line_and_column(expression) {
        let shown = expression.lines().nth(line - 1).unwrap_or_default();
        let margin = line.to_string().len();
        let caret = column - 1;
        text += &format!("\n{:margin$} |\n{line} | {shown}\n{:margin$} | {:caret$}^", "", "", "");
    }
    if let Some(help) = &problem.help {
        text += &format!("\n  = cure: {help}");
    }
    text
}

const EVENT_BYTES_MAX: u64 = 64 << 20;
const LINE_CHARS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_points_at_its_place() {
        let problems = Program::compile("true &&\n  event.x + ", &Type::Dyn).unwrap_err();
        let text = pointed_at(&problems[0], "true &&\n  event.x + ");
        assert!(text.contains("2 |   event.x + \n") && text.contains('^'), "{text}");
    }
}
