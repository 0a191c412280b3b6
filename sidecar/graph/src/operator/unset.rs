//! Removes fields.

use sidestream_event::Batch;
use sidestream_plan::stage;

use super::path;
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
                path::take(&mut event.body, path);
            }
        }
        Flow::Continue
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
