//! How long to leave alone what fails: each object for itself, twice as long every time, never all at once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sidestream_host::Random;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_secs(120);
/// How much a wait may be off, either way.
const JITTER: f64 = 0.25;

/// The failures in a row of each object.
#[derive(Debug)]
pub struct Backoff(Mutex<(HashMap<String, u32>, Random)>);

impl Default for Backoff {
    fn default() -> Self {
        Self(Mutex::new((HashMap::new(), Random::from_entropy())))
    }
}

impl Backoff {
    /// `name` has failed: how long to wait.
    pub fn failed(&self, name: &str) -> Duration {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (failures, random) = &mut *inner;
        let count = failures.entry(name.to_owned()).or_default();
        let wait = FIRST.saturating_mul(1 << (*count).min(16)).min(LONGEST);
        *count = count.saturating_add(1);
        wait.mul_f64(1.0 + (random.next_f64() * 2.0 - 1.0) * JITTER)
    }

    /// `name` is well, or gone.
    pub fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_after_success() {
        let backoff = Backoff::default();
        let waits: Vec<f64> = (0..20).map(|_| backoff.failed("a").as_secs_f64()).collect();
        assert!((0.37..0.63).contains(&waits[0]) && (0.75..1.26).contains(&waits[1]), "{waits:?}");
        assert!(waits[19] <= LONGEST.as_secs_f64() * 1.25);
        assert!(
            backoff.failed("b") < Duration::from_secs(1),
            "another object waits for its own failures only"
        );
        backoff.forget("a");
        assert!(backoff.failed("a") < Duration::from_secs(1));
    }
}
