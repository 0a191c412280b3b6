//! Calls of functions: which there are, what they take, and what they will make of what is written out.

use cel::IdedExpr;
use regex::Regex;

use super::Checker;
use crate::{
    Problem, Type, ast,
    functions::{FUNCTIONS, MACROS},
    problem::nearest,
};

impl<'p> Checker<'p> {
    pub(super) fn function(
        &mut self,
        node: &'p IdedExpr,
        name: &'p str,
        target: Option<&'p IdedExpr>,
        args: &'p [IdedExpr],
    ) -> Type {
        // A macro that stayed a call has the wrong number of arguments, whose names would only be told as unknown.
        if let Some((name, usage)) = MACROS.iter().find(|(own, _)| *own == name) {
            let problem = Problem::new(format!("`{name}` is not called like this"));
            return self.wrong(node, problem.help(format!("write `{usage}`")));
        }
        let known: Vec<_> = FUNCTIONS.iter().filter(|overload| overload.name == name).collect();
        if known.is_empty() {
            let names =
                FUNCTIONS.iter().map(|overload| overload.name).chain(MACROS.iter().map(|(name, _)| *name));
            let problem = Problem::new(format!("there is no function `{name}`"));
            let problem = match nearest(name, names) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem,
            };
            args.iter().chain(target).for_each(|arg| drop(self.of(arg)));
            return self.wrong(node, problem);
        }
        let receiver = target.map(|target| self.of(target));
        let kinds: Vec<Type> = args.iter().map(|arg| self.of(arg)).collect();
        let fitting: Vec<_> = known
            .iter()
            .filter(|overload| {
                overload.receiver.is_some() == receiver.is_some()
                    && overload.receiver.iter().zip(&receiver).all(|(wanted, kind)| wanted.takes(kind))
                    && overload.args.len() == kinds.len()
                    && overload.args.iter().zip(&kinds).all(|(wanted, kind)| wanted.takes(kind))
            })
            .collect();
        let Some(first) = fitting.first() else {
            let given: Vec<String> = kinds.iter().map(Type::to_string).collect();
            let on = receiver.map(|kind| format!("{kind}.")).unwrap_or_default();
            let mut ways: Vec<String> =
                known.iter().map(|overload| format!("`{}`", overload.signature())).collect();
            ways.dedup();
            let problem = Problem::new(format!("there is no `{on}{name}({})`", given.join(", ")));
            return self.wrong(node, problem.help(format!("there is {}", ways.join(", "))));
        };
        let result = if fitting.iter().all(|overload| overload.result == first.result) {
            first.result.as_type()
        } else {
            Type::Dyn
        };
        self.literals(node, name, target.into_iter().chain(args).collect::<Vec<_>>().as_slice());
        result
    }

    /// Checks what a function will make of arguments that are written out.
    fn literals(&mut self, node: &'p IdedExpr, name: &str, args: &[&'p IdedExpr]) {
        match (name, args) {
            ("matches", [_, pattern]) => match ast::text_literal(pattern).map(Regex::new) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let reason = error.to_string();
                    let reason =
                        reason.lines().last().unwrap_or("").trim_start_matches("error: ").to_string();
                    let problem = Problem::new(format!("the pattern is no regular expression: {reason}"));
                    self.wrong(
                        pattern,
                        problem.help("the syntax is RE2's; write it as r'...' to keep backslashes"),
                    );
                }
                None => {
                    let problem = Problem::new("the pattern of `matches` is computed");
                    self.wrong(
                        pattern,
                        problem.help("write the pattern out: patterns are compiled once, before any event"),
                    );
                }
            },
            ("timestamp" | "duration", [text]) if ast::text_literal(text).is_some() && !has_value(node) => {
                let example = if name == "timestamp" { "2026-01-31T12:00:00Z" } else { "1h30m" };
                let problem = Problem::new(format!("this is no {name}"));
                self.wrong(text, problem.help(format!("write it as \"{example}\"")));
            }
            _ => {}
        }
    }
}

/// Whether a call of constants has a value.
fn has_value(call: &IdedExpr) -> bool {
    cel::Value::resolve(call, &cel::Context::default()).is_ok()
}
