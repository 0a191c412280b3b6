//! Removes fields.

use sidestream_event::{Batch, Value};
use sidestream_plan::stage;

use crate::{Flow, Output, Processor};

/// `unset`: what is not there is removed already.
pub(super) struct Unset {
    paths: Vec<String>,
}

impl Unset {
    pub(super) fn new(config: &stage::Unset) -> Self {
        Self { paths: config.fields.clone() }
    }
}

impl Processor for Unset {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        for event in batch.events_mut() {
            for path in &self.paths {
                // Looked at first: reaching in to change would copy a map that another branch shares, for nothing.
                if event.body.at(path).is_some() {
                    remove(&mut event.body, path);
                }
            }
        }
        Flow::Continue
    }
}

fn remove(value: &mut Value, path: &str) {
    let Value::Map(map) = value else { return };
    match path.split_once('.') {
        None => {
            map.remove(path);
        }
        Some((name, rest)) => {
            if let Some(inner) = map.get_mut(name) {
                remove(inner, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn fields_and_dotted_paths_go_and_missing_ones_are_no_error() {
        let mut stage = Stage::of(r#"{"unset": {"fields": ["a", "b.c", "b.x.y", "none"]}}"#);
        stage.push([event(r#"{"a":1,"b":{"c":2,"d":3},"e":4}"#), event("7")]);
        assert_eq!(stage.bodies(), [r#"{"b":{"d":3},"e":4}"#, "7"]);
        assert!(stage.failed().is_empty());
    }
}
