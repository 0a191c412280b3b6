//! How often a pod may have a certificate: a sidecar needs one in hours, one that has gone wrong might ask without end.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sidestream_host::Moment;

/// Certificates of a pod in [`PERIOD`]: a sidecar that is never content asks for fewer.
const ASKED_MAX: u32 = 20;
const PERIOD: Duration = Duration::from_secs(60);
/// Pods that are remembered before those are forgotten that have not asked for a while.
const PODS_KEPT: usize = 4096;

/// Who has asked. There are never more than the cluster has pods: the API server has vouched for each.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<HashMap<String, (Moment, u32)>>);

impl Limit {
    /// The pod with this uid asks: whether it may.
    pub(super) fn permits(&self, pod_uid: &str, now: Moment) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= PODS_KEPT {
            asked.retain(|_, (since, _)| now.since(*since) < PERIOD);
        }
        let (since, count) = asked.entry(pod_uid.to_owned()).or_insert((now, 0));
        if now.since(*since) >= PERIOD {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= ASKED_MAX
    }
}

#[cfg(test)]
mod tests {
    use sidestream_host::Clock;

    use super::*;

    #[test]
    fn a_pod_that_asks_without_end_is_refused_for_a_while_and_no_other_is() {
        let (clock, hand) = Clock::simulated(0);
        let limit = Limit::default();
        let permitted = |pod: &str| (0..100).filter(|_| limit.permits(pod, clock.now())).count();
        assert_eq!((permitted("a"), permitted("b")), (20, 20));
        hand.advance(PERIOD);
        assert_eq!(permitted("a"), 20);
    }
}
