//! Brings branches together: the work is the graph's, and nothing is left to do here.

use sidestream_event::Batch;

use crate::{Flow, Output, Processor};

/// `merge`: passes every batch as it comes.
pub(super) struct Merge;

impl Processor for Merge {
    fn process(&mut self, _: &mut Batch, _: &mut Output) -> Flow {
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, event};

    #[test]
    fn every_event_passes_as_it_is() {
        let mut stage = Stage::of(r#"{"merge": {}}"#);
        stage.push([event("1"), event("2")]);
        assert_eq!(stage.bodies(), ["1", "2"]);
    }
}
