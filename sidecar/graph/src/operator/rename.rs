//! Renames fields of the body.

use sidestream_event::{Batch, Text, Value};
use sidestream_plan::stage;

use crate::{Flow, Output, Processor};

/// `rename`: a field keeps its place, and one that had the new name goes. All renames happen at once, so that two
/// fields can swap their names.
pub(super) struct Rename {
    /// The steps, in order.
    steps: Vec<(Text, Text)>,
}

impl Rename {
    pub(super) fn new(config: &stage::Rename) -> Self {
        let pairs = || config.fields.iter().map(|(from, to)| (Text::from(from), Text::from(to)));
        let chained = config.fields.values().any(|to| config.fields.contains_key(to));
        let steps = if chained {
            // By way of names no field has, so that no step undoes another's work.
            let between = |index: usize| Text::from(format!("\0{index}"));
            let away = pairs().enumerate().map(|(index, (from, _))| (from, between(index)));
            let back = pairs().enumerate().map(|(index, (_, to))| (between(index), to));
            away.chain(back).collect()
        } else {
            pairs().collect()
        };
        Self { steps }
    }
}

impl Processor for Rename {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        for event in batch.events_mut() {
            if let Value::Map(map) = &mut event.body {
                for (from, to) in &self.steps {
                    map.rename(from, to.clone());
                }
            }
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn a_field_keeps_its_place_under_its_new_name() {
        let mut stage = Stage::of(r#"{"rename": {"fields": {"b": "x", "none": "y"}}}"#);
        stage.push([event(r#"{"a":1,"b":2,"c":3}"#), event(r#"{"x":1,"b":2}"#), event("5")]);
        assert_eq!(stage.bodies(), [r#"{"a":1,"x":2,"c":3}"#, r#"{"x":2}"#, "5"]);
    }

    #[test]
    fn two_fields_can_swap_their_names() {
        let mut stage = Stage::of(r#"{"rename": {"fields": {"a": "b", "b": "a"}}}"#);
        stage.push([event(r#"{"a":1,"b":2}"#), event(r#"{"a":1}"#)]);
        assert_eq!(stage.bodies(), [r#"{"b":1,"a":2}"#, r#"{"b":1}"#]);
    }

    #[test]
    fn a_chain_moves_every_field_one_step() {
        let mut stage = Stage::of(r#"{"rename": {"fields": {"a": "b", "b": "c"}}}"#);
        stage.push([event(r#"{"a":1,"b":2,"c":3}"#)]);
        assert_eq!(stage.bodies(), [r#"{"b":1,"c":2}"#]);
    }
}
