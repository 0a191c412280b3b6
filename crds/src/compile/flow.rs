//! What is in the events at every stage, and whether the stage can do its work on them.

use std::collections::HashMap;

use sidestream_expr::{Problem, Type};
use sidestream_plan::{Expression, Kind, Process, Sink};

use super::{
    Report,
    expressions::{self, Want},
    mend::Doubts,
    shape,
};
use crate::{
    diagnostic::{Code, Diagnostic},
    path::Path,
    pipeline::PipelineSpec,
    suggest::nearest,
};

/// Checks every stage against the events that reach it, and fills in the settings that depend on them. Of a stage whose
/// inputs are not known, nothing is known of its events either.
pub(super) fn check(
    spec: &PipelineSpec,
    kinds: &mut [Kind],
    inputs: &[Vec<usize>],
    doubts: &Doubts,
    report: &mut Report,
) {
    let mut outputs: Vec<Type> = Vec::new();
    let mut is_doubtful = false;
    for (index, kind) in kinds.iter_mut().enumerate() {
        let arriving = inputs[index].iter().map(|input| outputs[*input].clone()).reduce(Type::or);
        // Of an input with a wrong name nothing is known, so nothing is known of what comes together.
        let named = spec.stages[index].from.as_ref().map_or(inputs[index].len(), Vec::len);
        let is_known = named == inputs[index].len() && !doubts.takes_unknown(index);
        let arriving = arriving.filter(|_| is_known).unwrap_or(Type::Dyn);
        fill_in(kind, &arriving);
        let path = Path::stage(index);
        let kind_path = path.fields(&[kind.role(), kind.name()]);
        let mut stage = Stage { arriving: &arriving, unknown: Vec::new(), report };
        if let Some(when) = &spec.stages[index].when {
            stage.compile(path.field("when"), when, Want::Condition);
        }
        let mut results = HashMap::new();
        for each in expressions::of(kind) {
            let result = stage.compile(kind_path.fields(&each.at), each.expression, each.want);
            results.extend(result.map(|result| (each.at.join("."), result)));
        }
        stage.check_events(kind, kind_path);
        stage.note(kind, &path);
        is_doubtful |= !is_known || doubts.gives_unknown(index);
        // What would have been filled in is not known either.
        let is_unsettled = is_doubtful && arriving == Type::Dyn && may_be_filled_in(kind);
        let gives_unknown = is_unsettled || doubts.gives_unknown(index);
        outputs.push(if gives_unknown { Type::Dyn } else { shape::output(kind, &arriving, &results) });
    }
}

fn fill_in(kind: &mut Kind, arriving: &Type) {
    if let Kind::Process(Process::Threshold(threshold)) = kind
        && threshold.by.is_none()
        && shape::has_keys_of_a_window(arriving)
    {
        threshold.by = Some(Expression::from("event.by"));
    }
}

/// Whether [`fill_in`] may still have something to do for it.
fn may_be_filled_in(kind: &Kind) -> bool {
    matches!(kind, Kind::Process(Process::Threshold(threshold)) if threshold.by.is_none())
}

struct Stage<'a> {
    arriving: &'a Type,
    /// Fields whose expressions are checked when they run.
    unknown: Vec<String>,
    report: &'a mut Report,
}

impl Stage<'_> {
    fn compile(&mut self, path: Path, expression: &Expression, want: Want) -> Option<Type> {
        let source = expression.source();
        match want.compile(source, self.arriving) {
            Ok(found) => {
                if !found.checked {
                    let field = path.steps().last().map(|_| path.to_string());
                    self.unknown.extend(
                        field.and_then(|path| path.split_once("].").map(|(_, field)| field.to_string())),
                    );
                }
                Some(found.result)
            }
            Err(problems) => {
                // What is wrong for any event is wrong in itself.
                let fits_others = want.compile(source, &Type::Dyn).is_ok();
                for problem in problems {
                    let code = if fits_others { Code::UnfitExpression } else { Code::BadExpression };
                    self.say(code, path.clone(), source, problem);
                }
                None
            }
        }
    }

    fn say(&mut self, code: Code, path: Path, source: &str, problem: Problem) {
        let cure = match problem.help {
            Some(help) => help,
            None if code == Code::UnfitExpression => format!("the events here are {}", self.arriving),
            None => "mend the expression; in it, `event` is the body and `meta` the envelope".into(),
        };
        let diagnostic = Diagnostic::new(code, path, problem.message, cure);
        let inside = problem.at.map(|at| (source.to_string(), at));
        self.report.diagnostics.push(Diagnostic { inside, ..diagnostic });
    }

    /// Whether the body is what the kind works on.
    fn check_events(&mut self, kind: &Kind, path: Path) {
        let is_map = matches!(self.arriving, Type::Map(_) | Type::Dyn);
        let (fits, asks) = match kind {
            Kind::Process(Process::Set(_) | Process::Unset(_) | Process::Rename(_)) => (is_map, "fields"),
            Kind::Process(Process::Parse(parse)) => return self.check_text(shape::text_field(parse), path),
            Kind::Sink(Sink::Alertmanager(_)) => {
                let has_state = match self.arriving {
                    Type::Map(shape) => shape.get("state").is_some(),
                    other => *other == Type::Dyn,
                };
                (has_state, "a field `state`, which a `threshold` gives")
            }
            _ => return,
        };
        if !fits {
            let reason = format!("this needs events with {asks}, and here they are {}", self.arriving);
            let cure = match kind {
                Kind::Sink(_) => "put a `threshold` before it",
                _ => "put a `parse` or a `map` before it",
            };
            self.report.say(Code::UnfitEvents, path, reason, cure);
        }
    }

    fn check_text(&mut self, field: Option<&str>, path: Path) {
        let mut body = self.arriving.clone();
        for name in field.into_iter().flat_map(|field| field.split('.')) {
            body = match body {
                Type::Map(shape) => match shape.get(name) {
                    Some(field) => field.kind,
                    None => {
                        let reason =
                            format!("the events here have no field `{name}`: they are {}", self.arriving);
                        let cure = match nearest(name, shape.fields().map(|(name, _)| name.as_str())) {
                            Some(name) => format!("write `{name}`"),
                            None => "name a field that holds text".into(),
                        };
                        return self.report.say(Code::UnfitEvents, path, reason, cure);
                    }
                },
                Type::Dyn => Type::Dyn,
                other => other,
            };
        }
        if !matches!(body, Type::Text | Type::Bytes | Type::Dyn) {
            let reason = format!("this parses text, and here it would get {body}");
            let cure = match field {
                None if matches!(body, Type::Map(_)) => {
                    "say which field holds the text: `field: message`, or take the stage out"
                }
                _ => "name a field that holds text, or take the stage out",
            };
            self.report.say(Code::UnfitEvents, path, reason, cure);
        }
    }

    fn note(&mut self, kind: &Kind, path: &Path) {
        if !self.unknown.is_empty() {
            let fields =
                self.unknown.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" and ");
            let reason = format!(
                "what {fields} reads is known only when it runs; an event it does not fit is an error event"
            );
            let cure =
                "nothing need be done; to have it checked now, give the events a shape with `parse` or `map`";
            self.report.say(Code::CheckedWhenRun, path.clone(), reason, cure);
        }
        let Kind::Process(process) = kind else { return };
        let loses = match process {
            Process::Window(_) => "what open windows have counted, where the source can't send it again",
            Process::Dedupe(_) => "which events have passed, so that repeats may pass once more",
            Process::Threshold(_) => "which states are firing, so that the end of one may not be told",
            _ => return,
        };
        let reason = format!("a crash loses {loses}");
        self.report.say(
            Code::StateInMemory,
            path.clone(),
            reason,
            "nothing need be done where that may be lost",
        );
    }
}
