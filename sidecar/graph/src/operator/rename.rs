//! Renames fields of the body.

use sidestream_event::{Batch, Text, Value};
use sidestream_plan::stage;

use super::path;
use crate::{Flow, Output, Processor};

/// `rename`: a field keeps its place, and one that had the new name goes; by dotted paths a field moves from one map to
/// another. All renames happen at once, so that two fields can swap their names.
pub(super) struct Rename {
    /// The steps, in order.
    steps: Vec<Step>,
}

struct Step {
    from: Text,
    to: Text,
    /// Whether one of the two is a dotted path.
    dotted: bool,
}

impl Rename {
    pub(super) fn new(config: &stage::Rename) -> Self {
        let pairs = || config.fields.iter().map(|(from, to)| (Text::from(from), Text::from(to)));
        let chained = config.fields.values().any(|to| config.fields.contains_key(to));
        let steps: Vec<_> = if chained {
            // By way of names no field has, so that no step undoes another's work.
            let between = |index: usize| Text::from(format!("\0{index}"));
            let away = pairs().enumerate().map(|(index, (from, _))| (from, between(index)));
            let back = pairs().enumerate().map(|(index, (_, to))| (between(index), to));
            away.chain(back).collect()
        } else {
            pairs().collect()
        };
        let dotted = |name: &Text| name.contains('.');
        let step = |(from, to)| Step { dotted: dotted(&from) || dotted(&to), from, to };
        Self { steps: steps.into_iter().map(step).collect() }
    }
}

impl Processor for Rename {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        batch.retain(|event| {
            for Step { to, .. } in
                self.steps.iter().filter(|step| step.dotted && event.body.at(&step.from).is_some())
            {
                if let Err(reason) = path::check(&event.body, to) {
                    return out.refuse(event, reason);
                }
            }
            for Step { from, to, dotted } in &self.steps {
                match &mut event.body {
                    Value::Map(map) if !dotted => {
                        map.rename(from, to.clone());
                    }
                    body => {
                        if let Some(value) = path::take(body, from) {
                            path::put(body, to, value);
                        }
                    }
                }
            }
            true
        });
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

    #[test]
    fn by_dotted_paths_a_field_moves_from_one_map_to_another() {
        let mut stage = Stage::of(r#"{"rename": {"fields": {"labels.route": "route", "ms": "took.ms"}}}"#);
        stage.push([event(r#"{"labels":{"route":"/","x":1},"ms":5}"#), event(r#"{"labels":7}"#)]);
        stage.push([event(r#"{"ms":5,"took":"long"}"#)]);
        assert_eq!(stage.bodies(), [r#"{"labels":{"x":1},"route":"/","took":{"ms":5}}"#, r#"{"labels":7}"#]);
        let failed = stage.failed();
        assert_eq!(failed[0].0, r#"{"ms":5,"took":"long"}"#);
        assert!(failed[0].1.starts_with("`took` is text"), "{}", failed[0].1);
    }
}
