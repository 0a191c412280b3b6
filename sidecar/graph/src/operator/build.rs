//! From the plan's word for an operator to the operator.

use std::fmt;

use sidestream_expr::{Problem, Type};
use sidestream_plan::Process;

use super::{
    batch::Gather, dedupe::Dedupe, encode, filter::Filter, map::Map, merge::Merge, parse, rename::Rename,
    sample, set::Set, split::Split, threshold::Threshold, throttle::Throttle, unset::Unset, window::Window,
};
use crate::Processor;

/// The operator that does what `process` says to events of the shape `input`.
///
/// # Errors
/// Where the settings contradict themselves. The compiler of a Pipeline finds most of these first, with their place in
/// the file; a plan made in code meets them here.
pub fn build(process: &Process, input: &Type) -> Result<Box<dyn Processor>, BuildError> {
    Ok(match process {
        Process::Filter(config) => Box::new(Filter::new(config, input)?),
        Process::Map(config) => Box::new(Map::new(config, input)?),
        Process::Set(config) => Box::new(Set::new(config, input)?),
        Process::Unset(config) => Box::new(Unset::new(config)),
        Process::Rename(config) => Box::new(Rename::new(config)),
        Process::Split(config) => Box::new(Split::new(config, input)?),
        Process::Merge(_) => Box::new(Merge),
        Process::Dedupe(config) => Box::new(Dedupe::new(config, input)?),
        Process::Sample(config) => sample::build(config, input)?,
        Process::Throttle(config) => Box::new(Throttle::new(config, input)?),
        Process::Batch(config) => Box::new(Gather::new(config)),
        Process::Window(config) => Box::new(Window::new(config, input)?),
        Process::Threshold(config) => Box::new(Threshold::new(config, input)?),
        Process::Parse(config) => parse::build(config)?,
        Process::Encode(config) => encode::build(config, input)?,
        Process::Custom(config) => return Err(BuildError::Custom { processor: config.processor.clone() }),
    })
}

/// Why an operator cannot be made: what is wrong in its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildError {
    /// An expression does not compile.
    Expression {
        /// The setting it stands in, such as `emit.max`.
        setting: String,
        /// What it says.
        source: String,
        /// All that is wrong with it.
        problems: Vec<Problem>,
    },
    /// A regular expression does not compile, or has no named group.
    Pattern {
        /// What is wrong with it.
        reason: String,
    },
    /// A setting has a value it cannot have, or two settings contradict each other.
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// The processor is the embedding program's own, which this room does not know.
    Custom {
        /// The name it was registered under.
        processor: String,
    },
}

impl BuildError {
    pub(super) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        BuildError::Setting { setting, reason: reason.into() }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Expression { setting, source, problems } => {
                write!(out, "the expression of `{setting}`, `{source}`, does not compile")?;
                problems.iter().try_for_each(|problem| write!(out, ": {problem}"))
            }
            BuildError::Pattern { reason } => {
                write!(out, "the pattern is no regular expression to parse with: {reason}")
            }
            BuildError::Setting { setting, reason } => write!(out, "`{setting}` {reason}"),
            BuildError::Custom { processor } => {
                write!(
                    out,
                    "the processor `{processor}` is made by the program that registered it, not from a plan"
                )
            }
        }
    }
}

impl std::error::Error for BuildError {}

#[cfg(test)]
mod tests {
    use sidestream_plan::stage;

    use super::*;

    #[test]
    fn a_custom_processor_is_left_to_whoever_registered_it() {
        let process = Process::Custom(stage::Custom { processor: "mine".into() });
        let error = build(&process, &Type::Dyn).err().unwrap();
        assert_eq!(error, BuildError::Custom { processor: "mine".into() });
        assert!(error.to_string().contains("`mine` is made by the program"));
    }

    #[test]
    fn an_expression_that_does_not_compile_names_its_setting_and_its_problems() {
        let process = Process::Filter(stage::Filter { keep: "event.status >=".into() });
        let error = build(&process, &Type::Dyn).err().unwrap().to_string();
        assert!(
            error.starts_with("the expression of `keep`, `event.status >=`, does not compile: "),
            "{error}"
        );
    }
}
