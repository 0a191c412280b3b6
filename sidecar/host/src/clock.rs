//! What time it is: monotonic for intervals, wall for time stamps.

use std::{
    ops::Add,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// A point of monotonic time: nanoseconds since the clock was made. Meaningless outside the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// From nanoseconds since the clock was made.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock was made.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero where it is not after.
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The clock of this machine, or one that a test steps. Clones tell the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Machine { start: Instant },
    Simulated(Arc<Mutex<Simulated>>),
}

#[derive(Debug)]
struct Simulated {
    elapsed_nanos: u64,
    wall_nanos: i64,
}

/// The hand that moves a simulated [`Clock`].
#[derive(Clone, Debug)]
pub struct SimulatedClock(Arc<Mutex<Simulated>>);

impl Clock {
    /// The clock of this machine.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    pub fn machine() -> Self {
        Self(Source::Machine { start: Instant::now() })
    }

    /// A clock that stands at `wall_nanos` since the epoch until it is moved.
    pub fn simulated(wall_nanos: i64) -> (Self, SimulatedClock) {
        let state = Arc::new(Mutex::new(Simulated { elapsed_nanos: 0, wall_nanos }));
        (Self(Source::Simulated(state.clone())), SimulatedClock(state))
    }

    /// Monotonic time: never goes back, not even when the wall clock is set.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    #[inline]
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::Machine { start } => Moment(start.elapsed().as_nanos() as u64),
            Source::Simulated(state) => Moment(lock(state).elapsed_nanos),
        }
    }

    /// Wall-clock time in nanoseconds since 1970-01-01T00:00:00Z; may jump either way.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    #[inline]
    pub fn wall_nanos(&self) -> i64 {
        match &self.0 {
            Source::Machine { .. } => match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
                Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
            },
            Source::Simulated(state) => lock(state).wall_nanos,
        }
    }
}

impl SimulatedClock {
    /// Lets `span` pass on both clocks.
    pub fn advance(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let mut state = lock(&self.0);
        state.elapsed_nanos = state.elapsed_nanos.saturating_add(nanos);
        state.wall_nanos = state.wall_nanos.saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX));
    }

    /// Sets the wall clock, as an operator or a time service does; monotonic time does not move.
    pub fn set_wall(&self, wall_nanos: i64) {
        lock(&self.0).wall_nanos = wall_nanos;
    }
}

fn lock(state: &Mutex<Simulated>) -> std::sync::MutexGuard<'_, Simulated> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_moves_only_when_it_is_moved() {
        let (clock, hand) = Clock::simulated(1_000);
        let before = clock.now();
        hand.advance(Duration::from_secs(2));
        assert_eq!(clock.now().since(before), Duration::from_secs(2));
        assert_eq!(clock.wall_nanos(), 2_000_001_000);
        hand.set_wall(5);
        assert_eq!((clock.now().since(before), clock.wall_nanos()), (Duration::from_secs(2), 5));
    }

    #[test]
    fn the_machines_clock_goes_forward() {
        let clock = Clock::machine();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert!(clock.wall_nanos() > 1_700_000_000_000_000_000);
    }
}
