//! Where in a resource something is: `spec.stages[2].process.window.tumbling`.

use std::fmt;

use serde::{Serialize, Serializer};

/// The way from the top of a resource to one field.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Step>);

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Into the field of a map.
    Field(String),
    /// To an element of a list, counted from 0.
    Element(usize),
}

impl Path {
    /// The top of the resource.
    pub fn top() -> Self {
        Self::default()
    }

    /// The stage at `index`.
    pub fn stage(index: usize) -> Self {
        Self::top().field("spec").field("stages").element(index)
    }

    /// This path and then the field `name`.
    pub fn field(&self, name: &str) -> Self {
        self.then(Step::Field(name.into()))
    }

    /// This path and then the fields `names`, one in the other.
    pub fn fields(&self, names: &[&str]) -> Self {
        names.iter().fold(self.clone(), |path, name| path.field(name))
    }

    /// This path and then the element at `index`.
    pub fn element(&self, index: usize) -> Self {
        self.then(Step::Element(index))
    }

    /// The steps from the top.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(crate) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    fn then(&self, step: Step) -> Self {
        let mut path = self.clone();
        path.push(step);
        path
    }
}

impl From<&[Step]> for Path {
    fn from(steps: &[Step]) -> Self {
        Self(steps.to_vec())
    }
}

/// Names that would be misread with a dot in front are written in brackets: `labels["a.b/c"]`.
impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Element(element) => write!(out, "[{element}]")?,
                Step::Field(name) if is_plain(name) && index == 0 => out.write_str(name)?,
                Step::Field(name) if is_plain(name) => write!(out, ".{name}")?,
                Step::Field(name) => write!(out, "[{}]", quoted(name))?,
            }
        }
        Ok(())
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// At most 64 characters of `text`, in quotes, with control characters escaped: fit for a message of one line.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// At most 64 characters of `text`, on one line: fit for a message.
pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(SHOWN_MAX)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        short.push_str("...");
    }
    short
}

/// Characters of what the user wrote that a message repeats.
const SHOWN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_in_kubernetes() {
        let path = Path::stage(2).fields(&["process", "window"]);
        assert_eq!(path.to_string(), "spec.stages[2].process.window");
        assert_eq!(
            path.field("a.b/c").field("").to_string(),
            r#"spec.stages[2].process.window["a.b/c"][""]"#
        );
        assert_eq!(Path::top().field("kind").to_string(), "kind");
    }

    #[test]
    fn a_message_repeats_no_more_than_a_line_of_what_was_written() {
        assert_eq!(shortened("a\nb"), "a\u{fffd}b");
        assert_eq!(shortened(&"x".repeat(1000)).len(), SHOWN_MAX + 3);
    }
}
