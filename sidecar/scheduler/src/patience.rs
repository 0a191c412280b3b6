//! How long a worker looks around before it sleeps, learnt from how long it then slept: KVM's halt polling
//! (Linux, `Documentation/virt/kvm/halt-polling.rst`).
//!
//! Work that comes soon after a worker fell asleep would have been cheaper to wait for; work that comes late would not.
//! So a short sleep doubles the patience and a long one ends it: a steady stream finds a worker awake, and an idle
//! process burns nothing.

use std::time::Duration;

/// A worker's patience. Its own: never shared.
#[derive(Debug, Default)]
pub(crate) struct Patience(Duration);

impl Patience {
    /// How long to look around now.
    pub(crate) fn window(&self) -> Duration {
        self.0
    }

    /// Learns from a sleep of this length.
    pub(crate) fn slept(&mut self, length: Duration) {
        self.0 = match length < LONGEST {
            true => (self.0 * 2).clamp(SHORTEST, LONGEST),
            false => Duration::ZERO,
        };
    }
}

/// A look costs some hundred nanoseconds: a few of them.
const SHORTEST: Duration = Duration::from_micros(2);
/// About twice what falling asleep and being woken costs the two threads: waiting longer never pays back.
const LONGEST: Duration = Duration::from_micros(50);

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn short_sleeps_make_it_patient_and_a_long_one_ends_that() {
        let mut patience = Patience::default();
        assert_eq!(patience.window(), Duration::ZERO);
        for _ in 0..10 {
            patience.slept(Duration::from_micros(10));
        }
        assert_eq!(patience.window(), LONGEST);
        patience.slept(Duration::from_millis(1));
        assert_eq!(patience.window(), Duration::ZERO);
    }
}
