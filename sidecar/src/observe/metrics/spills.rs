//! The metrics of queues that go to disk.

use sidestream_spill::View;

use super::{
    Page, SPILL_AGE, SPILL_FULL, SPILL_LEFT, SPILL_LOST, SPILL_MEMORY, SPILL_SIZE, SPILL_STORED, SPILLED,
};

impl Page {
    pub(super) fn add_spills(&mut self, views: &[View]) {
        for own in views {
            let labels = [own.name.pipeline.as_str(), &own.name.stage];
            self.add(&SPILL_STORED, &labels, own.stored_events as f64);
            self.add(&SPILL_SIZE, &labels, own.stored_bytes as f64);
            self.add(&SPILL_MEMORY, &labels, own.memory_events as f64);
            self.add(&SPILL_AGE, &labels, own.oldest_seconds);
            self.add(&SPILLED, &labels, own.spilled_events as f64);
            self.add(&SPILL_LOST, &labels, own.lost_events as f64);
            self.add(&SPILL_FULL, &labels, f64::from(u8::from(own.is_full)));
            self.add(&SPILL_LEFT, &labels, f64::from(u8::from(own.is_left)));
        }
    }
}
