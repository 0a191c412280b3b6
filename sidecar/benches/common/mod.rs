//! What the benches of latency share: the last stage, which says how long after they were due events came.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use hdrhistogram::Histogram;
use sidestream_event::{Batch, Value};
use sidestream_sidecar::{Flow, Output, Processor};

/// Records the age of every event that counts, and ends it. `due` in an event is in nanoseconds since `begun`.
pub(crate) struct ClockStage {
    pub(crate) begun: Instant,
    pub(crate) seen: Arc<Mutex<Histogram<u64>>>,
}

impl Processor for ClockStage {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        let now = self.begun.elapsed().as_nanos() as u64;
        let mut seen = self.seen.lock().expect("nobody panics with it");
        for event in batch.events() {
            if let (Some(Value::Int(due)), Some(Value::Bool(true))) =
                (event.body.field("due"), event.body.field("counted"))
            {
                seen.record(now.saturating_sub(*due as u64).max(1)).expect("within the histogram");
            }
        }
        batch.clear();
        Flow::Continue
    }
}
