//! The expressions of a stage: where each stands, and what it must give.

use std::collections::BTreeMap;

use sidestream_expr::{Problem, Program, Type};
use sidestream_plan::{Expression, Kind, Process, Sink, stage::Encode};

/// One expression of a stage kind.
pub(super) struct Use<'a> {
    /// Fields from the kind down to it.
    pub(super) at: Vec<&'a str>,
    pub(super) expression: &'a Expression,
    pub(super) want: Want,
}

/// What an expression must give.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Anything,
    /// True or false.
    Condition,
    Number,
    Text,
    List,
    /// Something that has a text: no list and no map.
    Plain,
}

/// What compiling an expression found.
pub(super) struct Found {
    pub(super) result: Type,
    /// Whether every type in it was known.
    pub(super) checked: bool,
}

/// Every expression of a kind, in the order of its fields.
pub(super) fn of(kind: &Kind) -> Vec<Use<'_>> {
    let mut uses = Uses(Vec::new());
    match kind {
        Kind::Source(_) => {}
        Kind::Process(process) => uses.process(process),
        Kind::Sink(Sink::Alertmanager(alertmanager)) => {
            uses.map("labels", alertmanager.labels.as_ref(), Want::Plain);
            uses.map("annotations", alertmanager.annotations.as_ref(), Want::Plain);
        }
        Kind::Sink(Sink::Dnpipe(dnpipe)) => uses.add(&["key"], dnpipe.key.as_ref(), Want::Plain),
        Kind::Sink(
            Sink::Console(_)
            | Sink::File(_)
            | Sink::Webhook(_)
            | Sink::Blackhole(_)
            | Sink::Edge(_)
            | Sink::Spill(_),
        ) => {}
    }
    uses.0
}

struct Uses<'a>(Vec<Use<'a>>);

impl<'a> Uses<'a> {
    fn process(&mut self, process: &'a Process) {
        match process {
            Process::Filter(filter) => self.add(&["keep"], Some(&filter.keep), Want::Condition),
            Process::Map(map) => self.add(&["body"], Some(&map.body), Want::Anything),
            Process::Set(set) => self.map("fields", Some(&set.fields), Want::Anything),
            Process::Split(split) => self.add(&["list"], Some(&split.list), Want::List),
            Process::Dedupe(dedupe) => self.add(&["by"], Some(&dedupe.by), Want::Anything),
            Process::Sample(sample) => self.add(&["by"], sample.by.as_ref(), Want::Anything),
            Process::Throttle(throttle) => self.add(&["by"], throttle.by.as_ref(), Want::Anything),
            Process::Window(window) => {
                let emit = &window.emit;
                self.add(&["by"], window.by.as_ref(), Want::Anything);
                self.add(&["emit", "count"], emit.count.as_ref(), Want::Condition);
                self.add(&["emit", "sum"], emit.sum.as_ref(), Want::Number);
                self.add(&["emit", "min"], emit.min.as_ref(), Want::Number);
                self.add(&["emit", "max"], emit.max.as_ref(), Want::Number);
                self.add(&["emit", "mean"], emit.mean.as_ref(), Want::Number);
                self.add(&["emit", "rate"], emit.rate.as_ref(), Want::Number);
                let quantile = emit.quantile.as_ref().map(|quantile| &quantile.of);
                self.add(&["emit", "quantile", "of"], quantile, Want::Number);
            }
            Process::Threshold(threshold) => {
                self.add(&["value"], Some(&threshold.value), Want::Number);
                self.add(&["by"], threshold.by.as_ref(), Want::Anything);
            }
            Process::Encode(Encode::Text(text)) => self.add(&["text", "text"], Some(&text.text), Want::Text),
            Process::Encode(Encode::Json(_) | Encode::Logfmt(_) | Encode::Csv(_)) => {}
            Process::Unset(_) | Process::Rename(_) | Process::Merge(_) | Process::Batch(_) => {}
            Process::Parse(_) | Process::Custom(_) => {}
        }
    }

    fn add(&mut self, at: &[&'a str], expression: Option<&'a Expression>, want: Want) {
        self.0.extend(expression.map(|expression| Use { at: at.to_vec(), expression, want }));
    }

    fn map(&mut self, field: &'a str, expressions: Option<&'a BTreeMap<String, Expression>>, want: Want) {
        for (name, expression) in expressions.into_iter().flatten() {
            self.add(&[field, name], Some(expression), want);
        }
    }
}

impl Want {
    /// Compiles `source` for events of the type `event`.
    pub(super) fn compile(self, source: &str, event: &Type) -> Result<Found, Vec<Problem>> {
        let program = match self {
            Want::Condition => Program::compile_predicate(source, event)?,
            _ => Program::compile(source, event)?,
        };
        let result = program.result().clone();
        if self.takes(&result) {
            return Ok(Found { checked: program.is_checked(), result });
        }
        let message = format!("this gives {result}, and {} belongs here", self.name());
        Err(vec![Problem { message, at: Some(0), help: None }])
    }

    fn takes(self, result: &Type) -> bool {
        let is_dyn = *result == Type::Dyn;
        match self {
            Want::Anything | Want::Condition => true,
            Want::Number => result.may_be_number(),
            Want::Text => is_dyn || matches!(result, Type::Text | Type::Timestamp | Type::Duration),
            Want::List => is_dyn || matches!(result, Type::List(_)),
            Want::Plain => !matches!(result, Type::List(_) | Type::Map(_)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Want::Anything => "anything",
            Want::Condition => "true or false",
            Want::Number => "a number",
            Want::Text => "a text",
            Want::List => "a list",
            Want::Plain => "a text, a number, or true or false",
        }
    }
}
