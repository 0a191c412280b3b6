//! When which push is due: a ticket for each, drawn by whichever producer has room.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use sidestream_host::{Clock, Moment};
use tokio::sync::Semaphore;

/// The pushes of a run, in order.
pub(super) struct Schedule {
    clock: Clock,
    begun: Moment,
    /// Nanoseconds between pushes; none where each is due when there is room for it.
    every: Option<f64>,
    /// How many records a push has.
    batch: u64,
    /// How many may be drawn that are due.
    due: Semaphore,
    drawn: Mutex<Drawn>,
}

struct Drawn {
    pushes: u64,
    records: u64,
    records_max: u64,
    released: u64,
    is_over: bool,
}

/// One push.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ticket {
    /// Its place among all.
    pub(super) number: u64,
    pub(super) records: u64,
    /// When it should be sent.
    pub(super) due: Moment,
}

impl Schedule {
    /// Pushes of `batch` records each, `rate` records a second where one is given, `records_max` in all at most.
    pub(super) fn new(clock: Clock, rate: Option<u64>, batch: u64, records_max: Option<u64>) -> Schedule {
        let drawn = Drawn {
            pushes: 0,
            records: 0,
            records_max: records_max.unwrap_or(u64::MAX),
            released: 0,
            is_over: false,
        };
        Schedule {
            begun: clock.now(),
            clock,
            every: rate.map(|rate| 1e9 * batch as f64 / rate as f64),
            batch,
            due: Semaphore::new(0),
            drawn: Mutex::new(drawn),
        }
    }

    /// The next push, when it is due; none when there are no more.
    pub(super) async fn next(&self) -> Option<Ticket> {
        if self.every.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        let mut drawn = self.lock();
        let records = self.batch.min(drawn.records_max - drawn.records);
        if drawn.is_over || records == 0 {
            return None;
        }
        let number = drawn.pushes;
        drawn.pushes += 1;
        drawn.records += records;
        let due = match self.every {
            Some(_) => self.due_at(number),
            None => self.clock.now(),
        };
        Some(Ticket { number, records, due })
    }

    fn due_at(&self, number: u64) -> Moment {
        let every = self.every.unwrap_or_default();
        self.begun + Duration::from_nanos((every * number as f64) as u64)
    }

    /// Lets what has become due be drawn. How long until more is, while there will be more.
    fn release(&self) -> Option<Duration> {
        let every = self.every?;
        let mut drawn = self.lock();
        if drawn.is_over {
            return None;
        }
        let now = self.clock.now();
        let due = (now.since(self.begun).as_nanos() as f64 / every) as u64 + 1;
        let more = due - drawn.released.min(due);
        drawn.released += more;
        self.due.add_permits(more as usize);
        if drawn.released.saturating_mul(self.batch) >= drawn.records_max {
            // Whoever waits in vain hears so.
            self.due.add_permits(WAITERS_MAX);
            return None;
        }
        Some(self.due_at(drawn.released).since(now))
    }

    /// Releases by the clock until all is released or it is over. Its own thread: a runtime's timers know milliseconds only.
    pub(super) fn pace(&self) {
        while let Some(rest) = self.release() {
            thread::sleep(rest.clamp(REST_MIN, REST_MAX));
        }
    }

    /// Draws no more. How many records were due by then and not drawn.
    pub(super) fn end(&self) -> u64 {
        let mut drawn = self.lock();
        drawn.is_over = true;
        self.due.close();
        let due = drawn.released.saturating_mul(self.batch).min(drawn.records_max);
        due.saturating_sub(drawn.records)
    }

    fn lock(&self) -> MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waking more often costs more than it tells.
const REST_MIN: Duration = Duration::from_micros(20);
/// So often it looks whether it is over.
const REST_MAX: Duration = Duration::from_millis(50);
/// More producers there are not.
const WAITERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(schedule: &Schedule) -> Option<Ticket> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(schedule.next())
    }

    #[test]
    fn what_is_due_is_due_by_the_clock_and_not_by_whoever_draws_it() {
        let (clock, hand) = Clock::simulated(0);
        let schedule = Schedule::new(clock.clone(), Some(1000), 10, None);
        assert_eq!(schedule.release(), Some(Duration::from_millis(10)));
        hand.advance(Duration::from_millis(25));
        assert_eq!(schedule.release(), Some(Duration::from_millis(5)));
        let due: Vec<_> = (0..3).map(|_| drawn(&schedule).unwrap().due.as_nanos() / 1_000_000).collect();
        assert_eq!(due, [0, 10, 20]);
        hand.advance(Duration::from_millis(30));
        schedule.release();
        assert_eq!(schedule.end(), 30);
        assert_eq!((drawn(&schedule), schedule.release()), (None, None));
    }

    #[test]
    fn there_are_as_many_records_as_were_asked_for() {
        for rate in [None, Some(1_000_000_000)] {
            let schedule = Schedule::new(Clock::machine(), rate, 10, Some(25));
            schedule.pace();
            let drawn: Vec<_> = (0..4).map(|_| drawn(&schedule).map(|ticket| ticket.records)).collect();
            assert_eq!(drawn, [Some(10), Some(10), Some(5), None], "{rate:?}");
        }
    }
}
