//! Text to tree, by the cel crate's parser, kept within bounds.
//!
//! The crate's parser recurses with the source and needs about 30 KiB of stack a level unoptimised, so it runs on a
//! thread of its own with room for the worst that [`limits::OPERATORS_MAX`] lets in; what is too deep to evaluate on a
//! worker's stack is refused, and dropped, there. Should it panic, that thread ends and a problem says so.

use std::thread;

use cel::{
    IdedExpr, ParseError, Program,
    common::ast::{EntryExpr, Expr},
};

use crate::{Problem, limits};

/// A parsed expression, and where each of its nodes was written.
pub(crate) struct Parsed {
    program: Program,
}

impl Parsed {
    pub(crate) fn tree(&self) -> &IdedExpr {
        self.program.expression()
    }

    /// Where `node` was written, at the word a person would point at: bytes from the start of the source.
    pub(crate) fn place(&self, node: &IdedExpr) -> Option<usize> {
        let places = self.program.source_info();
        // The crate gives the place of the dot of `x.name` and of the bracket of `name(x)`.
        let (sign, _) = places.offset_for(node.id)?;
        let sign = (sign as usize).min(places.source.len());
        let (before, after) = (places.source.get(..sign)?, places.source.get(sign..)?);
        Some(match &node.expr {
            Expr::Select(select) => {
                let field = format!(".{}", select.field);
                after.find(&field).map_or(sign, |dot| sign + dot + 1)
            }
            Expr::Call(call) if after.starts_with('(') && before.ends_with(&call.func_name) => {
                sign - call.func_name.len()
            }
            _ => sign,
        })
    }
}

/// Parses `source`, or says everything that is wrong with it.
pub(crate) fn parse(source: &str) -> Result<Parsed, Vec<Problem>> {
    guard(source).map_err(|problem| vec![problem])?;
    let parser = {
        let source = source.to_string();
        move || parse_here(&source)
    };
    let started = thread::Builder::new()
        .name("expression".into())
        .stack_size(limits::PARSER_STACK_BYTES)
        .spawn(parser)
        .map_err(|error| vec![Problem::new(format!("no thread to parse it on: {error}"))])?;
    let parsed =
        started.join().unwrap_or_else(|_| Err(vec![Problem::new("the parser gave up on this expression")]));
    parsed.map(|program| Parsed { program })
}

fn parse_here(source: &str) -> Result<Program, Vec<Problem>> {
    match Program::compile(source) {
        Ok(program) if depth(program.expression()) > limits::DEPTH_MAX => {
            Err(vec![too_deep(limits::DEPTH_MAX)])
        }
        Ok(program) => Ok(program),
        Err(errors) => Err(worded(source, errors.errors)),
    }
}

/// What can be refused without parsing.
fn guard(source: &str) -> Result<(), Problem> {
    if source.trim().is_empty() {
        return Err(Problem::new("an expression is wanted, and this is empty").at(Some(0)));
    }
    if source.len() > limits::SOURCE_BYTES_MAX {
        let (len, max) = (source.len(), limits::SOURCE_BYTES_MAX);
        return Err(Problem::new(format!("an expression of {len} bytes is longer than {max}"))
            .help("split it over several stages"));
    }
    if source.bytes().filter(|byte| b".[({+-*/%<>=!?&|".contains(byte)).count() > limits::OPERATORS_MAX {
        return Err(too_deep(limits::DEPTH_MAX));
    }
    Ok(())
}

pub(crate) fn too_deep(max: usize) -> Problem {
    Problem::new(format!("the expression is nested deeper than {max} levels"))
        .help("split it over several stages, or set a field with a part of it first")
}

/// How many levels the tree has.
pub(crate) fn depth(node: &IdedExpr) -> usize {
    1 + children(node).into_iter().map(depth).max().unwrap_or(0)
}

/// The nodes right below `node`.
pub(crate) fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(it) => {
            vec![&it.iter_range, &it.accu_init, &it.loop_cond, &it.loop_step, &it.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Struct(message) => {
            message.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect()
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// The parser's errors in the words of this house.
fn worded(source: &str, errors: Vec<ParseError>) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors {
        let at = offset(source, error.pos);
        let problem = word(source, &error.msg, at);
        // One slip gives the parser several complaints about the same place: the first is the nearest to the cause.
        if !problems.iter().any(|known| known.at == problem.at || known.message == problem.message) {
            problems.push(problem);
        }
        if problems.len() == PROBLEMS_MAX {
            break;
        }
    }
    problems
}

fn word(source: &str, message: &str, at: Option<usize>) -> Problem {
    if message.contains("Recursion limit") {
        return too_deep(limits::DEPTH_MAX).at(at);
    }
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    // What could have stood there is a list of nearly every token: not worth a reader's time.
    let message = message.split(" expecting ").next().unwrap_or(message);
    let rest = at.and_then(|at| source.get(at..)).unwrap_or("");
    let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let problem = if message.contains("'<EOF>'") || rest.is_empty() {
        Problem::new("the expression ends too early").at(Some(source.trim_end().len()))
    } else if let Some(found) =
        message.strip_prefix("mismatched input ").or(message.strip_prefix("extraneous input "))
    {
        Problem::new(format!("{found} is not expected here")).at(at)
    } else if let Some(found) = message.strip_prefix("token recognition error at: ") {
        Problem::new(format!("{found} is not understood")).at(at)
    } else {
        Problem::new(message.to_string()).at(at)
    };
    let help = match word.as_str() {
        "and" | "AND" => "write `&&`",
        "or" | "OR" => "write `||`",
        "not" | "NOT" => "write `!`",
        "is" | "eq" => "write `==`",
        "ne" => "write `!=`",
        _ if rest.starts_with("= ") || message.contains("at: '= ") => "write `==` to compare",
        _ if message.contains("has() macro") => "write `has(event.name)`",
        _ if message.contains("simple name") => {
            "the first argument names each value: `event.list.all(x, x > 0)`"
        }
        _ if message.contains("unsupported syntax '.?'") => "write `has(event.name) ? event.name : 0`",
        _ if rest.starts_with('`') => "write `event[\"a-b\"]`",
        _ if message.contains("invalid int") => "whole numbers have 64 bits; write `1e30` for a larger one",
        _ if rest.starts_with(['\'', '"']) && message.contains("recognition") => {
            "close the quotes, and write a backslash twice, or the text as r'...'"
        }
        _ => return problem,
    };
    problem.help(help)
}

/// The byte at a line and column, both counted from 1, columns in characters.
fn offset(source: &str, (line, column): (isize, isize)) -> Option<usize> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let start: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = source.get(start..)?;
    Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
}

/// Problems told of one expression: more help nobody.
const PROBLEMS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(source: &str) -> Vec<String> {
        match parse(source) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(|problem| format!("{:?} {problem}", problem.at)).collect(),
        }
    }

    #[test]
    fn a_slip_is_told_with_its_place_and_its_cure() {
        assert_eq!(complaints("event.a == 'é' and b"), ["Some(16) 'and' is not expected here; write `&&`"]);
        assert_eq!(complaints("event.a = 3")[0], "Some(8) '= ' is not understood; write `==` to compare");
        assert_eq!(complaints("event.a >"), ["Some(9) the expression ends too early"]);
        assert_eq!(complaints("  "), ["Some(0) an expression is wanted, and this is empty"]);
    }

    #[test]
    fn what_is_too_deep_or_too_long_is_refused_and_not_tried() {
        let deep = "the expression is nested deeper than 48 levels";
        let hostile = [
            "(".repeat(4000),
            format!("{}1{}", "(".repeat(900), ")".repeat(90)),
            vec!["1"; 900].join("+"),
            vec!["1"; 900].join("<"),
            vec!["a"; 900].join("."),
            format!("a{}", "[0]".repeat(900)),
            format!("{}1", "a?b:".repeat(900)),
            format!("{}1{}", "[1].map(x,".repeat(300), ")".repeat(300)),
            "[".repeat(999),
            "a.f(".repeat(400),
        ];
        for source in hostile {
            let problems = complaints(&source);
            assert!(problems.iter().any(|problem| problem.contains(deep)), "{source} {problems:?}");
        }
        assert!(complaints(&"a".repeat(5000))[0].contains("longer than 4096"));
    }
}
