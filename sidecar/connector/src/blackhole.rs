//! Nowhere: events end here, delivered.

use sidestream_event::Batch;

use crate::InlineSink;

pub(crate) struct Blackhole;

impl InlineSink for Blackhole {
    fn take(&mut self, batch: &mut Batch) {
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use sidestream_event::{Event, Mark};

    use super::*;

    #[test]
    fn what_it_takes_is_gone() {
        let mut batch = Batch::of(vec![Event::new(1), Event::new(2)], Mark::none());
        Blackhole.take(&mut batch);
        assert!(batch.is_empty());
    }
}
