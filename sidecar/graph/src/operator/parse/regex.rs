//! The named groups of a regular expression, as text. Matching takes time linear in the length of the text.

use regex::CaptureLocations;
use sidestream_event::{Text, Value};
use sidestream_plan::stage;

use super::{Format, Malformed};
use crate::operator::BuildError;

pub(super) struct Regex {
    pattern: regex::Regex,
    /// Index and name of each named group.
    groups: Vec<(usize, Text)>,
    /// Where the groups are in the text at hand, kept for its storage.
    found: CaptureLocations,
}

impl Regex {
    pub(super) fn new(config: &stage::ParseRegex) -> Result<Self, BuildError> {
        let pattern = regex::Regex::new(&config.pattern)
            .map_err(|error| BuildError::Pattern { reason: error.to_string() })?;
        let named = pattern.capture_names().enumerate();
        let groups: Vec<_> = named.filter_map(|(index, name)| Some((index, Text::from(name?)))).collect();
        if groups.is_empty() {
            let reason = "it has no named group; name what becomes a field: `(?<path>[^ ]+)`".into();
            return Err(BuildError::Pattern { reason });
        }
        Ok(Self { found: pattern.capture_locations(), pattern, groups })
    }
}

impl Format for Regex {
    /// A group that took no part in the match is no field.
    fn parse(&mut self, text: &str, body: &mut Value) -> Result<(), Malformed> {
        if self.pattern.captures_read(&mut self.found, text).is_none() {
            return Err(Malformed::new(
                "the pattern matches nowhere",
                text,
                "a `when` with `event.matches(...)` can keep such events away",
            ));
        }
        let fields = body.reset_map();
        for (index, name) in &self.groups {
            if let Some((start, end)) = self.found.get(*index) {
                fields.push_new(name.clone(), Value::from(&text[start..end]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn named_groups_become_fields_and_one_that_took_no_part_does_not() {
        let mut stage = Stage::of(
            r#"{"parse": {"regex": {"pattern": "^(?<method>[A-Z]+) (?<path>[^ ?]+)(\\?(?<query>.*))?"}}}"#,
        );
        stage.push([event(r#""GET /cart?id=7""#), event(r#""PUT /x""#)]);
        assert_eq!(
            stage.bodies(),
            [r#"{"method":"GET","path":"/cart","query":"id=7"}"#, r#"{"method":"PUT","path":"/x"}"#]
        );
    }

    #[test]
    fn a_text_it_does_not_match_is_an_error_event() {
        let mut stage = Stage::of(r#"{"parse": {"regex": {"pattern": "^(?<n>[0-9]+)$"}}}"#);
        stage.push([event("\"x1\""), event("\"12\"")]);
        assert_eq!(stage.bodies(), [r#"{"n":"12"}"#]);
        assert!(stage.failed()[0].1.starts_with("the pattern matches nowhere, in `x1`; "));
    }

    #[test]
    fn a_pattern_that_cannot_be_used_is_refused() {
        let refused = |pattern| {
            Stage::refused(&format!(r#"{{"parse": {{"regex": {{"pattern": "{pattern}"}}}}}}"#)).to_string()
        };
        assert!(refused("(").contains("unclosed group"));
        assert!(refused("a(b)c").contains("no named group"));
    }
}
