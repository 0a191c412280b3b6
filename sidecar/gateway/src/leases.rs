//! What was pulled and not yet handed out: a reset is over when nobody hands out anything older any more.
//!
//! ```text
//!   a reader   asks ──────────────── has an answer ─ hands out ─ hands out ─┤ asks again before it hands out more
//!              ├──────────── HANDED_OUT_WITHIN ────────────────────────────┤
//!   here            pulled, noted, looked at again                            a reset that came after is answered now
//! ```
//!
//! A reader counts from when it asked, which was before it was noted here: so clocks need not agree, only go about as fast.
//! Whoever notes looks again whether a reset came between; so either the reset waits for this answer, or this answer is of
//! the epoch after it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sidestream_broker::Broker;
use sidestream_event::native::{DnpipeName, HANDED_OUT_WITHIN};
use tokio::time::{Instant, sleep, sleep_until};

/// When the last answer with records of each dnpipe is handed out.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<DnpipeName, Instant>>);

impl Leases {
    /// Notes that records of an epoch are about to be given. Whether the dnpipe is in that epoch still; else they are not to be.
    pub(crate) fn give(&self, broker: &Broker, name: &DnpipeName, epoch: u32) -> bool {
        {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() >= NAMES_MAX {
                let now = after(Duration::ZERO);
                last.retain(|_, until| *until > now);
            }
            last.insert(name.clone(), after(HANDED_OUT_WITHIN + MARGIN));
        }
        broker.epoch(name) == Some(epoch)
    }

    /// Waits until what was given before this call is handed out.
    pub(crate) async fn end(&self, name: &DnpipeName) {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some(until) = last {
            sleep_until(until).await;
        }
    }
}

/// By the runtime's own clock, which its timers go by.
pub(crate) fn after(span: Duration) -> Instant {
    sleep(span).deadline()
}

/// For clocks that go faster than others.
pub(crate) const MARGIN: Duration = Duration::from_millis(10);
/// Names that are remembered before those are looked for that need not be.
const NAMES_MAX: usize = 4096;
