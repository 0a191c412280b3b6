//! How long to wait before trying again: twice as long each time, with jitter, so that many who failed together do not
//! come back together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015: equal jitter).

use std::time::Duration;

use sidestream_host::Random;
use sidestream_plan::Retry;

pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    limit: Option<u32>,
    tries: u32,
    random: Random,
}

impl Backoff {
    /// As a stage's `onError.retry` says; without it, without end.
    pub(crate) fn new(retry: Option<&Retry>) -> Self {
        let initial = retry.and_then(|retry| retry.initial).map_or(INITIAL, |wait| wait.get());
        let max = retry.and_then(|retry| retry.max).map_or(MAX, |wait| wait.get());
        let limit = retry.and_then(|retry| retry.limit);
        Self { initial, max: max.max(initial), limit, tries: 0, random: Random::from_entropy() }
    }

    /// How long to wait before the next try, `None` when there have been enough; at least `asked`, where the peer asked.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.limit.is_some_and(|limit| self.tries >= limit) {
            return None;
        }
        let doubled =
            self.initial.saturating_mul(1u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        let jittered = doubled.mul_f64(0.5 + self.random.next_f64() / 2.0);
        Some(jittered.max(asked.unwrap_or_default().min(LONGEST_ASKED)))
    }

    /// It worked: the next trouble starts from the beginning.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

const INITIAL: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(30);
/// A peer that asks for more than this is not obeyed.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_stay_within_their_jitter() {
        let mut backoff = Backoff::new(None);
        for doubled in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000] {
            let wait = backoff.next(None).unwrap().as_millis();
            assert!((doubled / 2..=doubled).contains(&wait), "{wait} of {doubled}");
        }
        backoff.reset();
        assert!(backoff.next(None).unwrap() <= INITIAL);
        assert!(backoff.next(Some(Duration::from_secs(7))).unwrap() >= Duration::from_secs(7));
    }

    #[test]
    fn a_limit_of_two_is_two_tries_after_the_first() {
        let mut backoff = Backoff::new(Some(&Retry { limit: Some(2), ..Retry::default() }));
        assert!(backoff.next(None).is_some());
        assert!(backoff.next(None).is_some());
        assert!(backoff.next(None).is_none());
    }
}
