//! What time it is in the stream of events, and which windows are closed by then.
//!
//! Time is cut into panes of one length, numbered from the epoch; windows begin and end where panes do.
//!
//! ```text
//!        lateness
//!      ├──────────┤
//!   ───┴──────────●──▶       ●  the newest event's time, and no later than the wall clock
//!   watermark                   once no event has come for a while it moves on as the monotonic clock does
//!
//!   panes  … │  6  │  7  │  8  │ …     frontier 8: what ends with pane 7 or before is closed
//! ```
//!
//! The wall clock alone closes nothing, so that yesterday's events can be read today: with none coming for
//! [`PATIENCE`], the stream's time goes on from its newest event. Nor can one event from the future close windows for
//! the others: the wall clock is the watermark's limit, and an event more than [`AHEAD_MAX`] ahead of it is refused.
//! Where the wall clock itself was wrong and is set back, [`StreamTime::was_set_back`] says so and time starts anew.

use std::time::Duration;

use sidestream_event::Timestamp;
use sidestream_host::Moment;

/// The clock of a stream.
pub(super) struct StreamTime {
    pane_nanos: i64,
    lateness_nanos: i64,
    /// The newest time an event had, and when it came.
    newest: Option<(i64, Moment)>,
    /// Panes before this one are complete; `i64::MIN` before the first event.
    pub(super) frontier: i64,
}

impl StreamTime {
    /// Panes of a length of at least a nanosecond.
    pub(super) fn new(pane: Duration, lateness: Duration) -> Self {
        Self {
            pane_nanos: nanos(pane).max(1),
            lateness_nanos: nanos(lateness),
            newest: None,
            frontier: i64::MIN,
        }
    }

    /// The pane `time` falls in.
    pub(super) fn pane_of(&self, time: Timestamp) -> i64 {
        time.as_nanos().div_euclid(self.pane_nanos)
    }

    /// When pane `pane` begins.
    pub(super) fn start_of(&self, pane: i64) -> Timestamp {
        Timestamp::from_nanos(pane.saturating_mul(self.pane_nanos))
    }

    /// Takes note of an event. Gives the frontier that follows, where it is a new one.
    pub(super) fn see(&mut self, time: Timestamp, now: Moment, wall: Timestamp) -> Option<i64> {
        if self.newest.is_some_and(|(newest, _)| time.as_nanos() <= newest) {
            return None;
        }
        self.newest = Some((time.as_nanos(), now));
        self.frontier_at(time.as_nanos().min(wall.as_nanos()))
    }

    /// The frontier that follows from time having passed, where it is a new one.
    pub(super) fn pass(&self, now: Moment, wall: Timestamp) -> Option<i64> {
        self.frontier_at(self.reckoned(now)?.min(wall.as_nanos()))
    }

    /// How long until the windows that end where pane `end` begins are closed, if no event comes.
    pub(super) fn until_closed(&self, end: i64, now: Moment, wall: Timestamp) -> Option<Duration> {
        let closes = self.start_of(end).as_nanos().saturating_add(self.lateness_nanos);
        let (_, came) = self.newest?;
        let reached = self.reckoned(now)?.min(wall.as_nanos());
        let left = Duration::from_nanos(u64::try_from(closes.saturating_sub(reached)).unwrap_or(0));
        Some(left + PATIENCE.saturating_sub(now.since(came)))
    }

    /// Whether the frontier lies ahead of the wall clock, which it never is set to: the clock has gone back since.
    pub(super) fn was_set_back(&self, wall: Timestamp) -> bool {
        self.frontier != i64::MIN && self.start_of(self.frontier) > wall.plus(STEP_MAX)
    }

    /// Forgets all, as if no event had come.
    pub(super) fn restart(&mut self) {
        (self.newest, self.frontier) = (None, i64::MIN);
    }

    /// The newest event's time, and what has passed since it came and patience ended.
    fn reckoned(&self, now: Moment) -> Option<i64> {
        self.newest
            .map(|(newest, came)| newest.saturating_add(nanos(now.since(came).saturating_sub(PATIENCE))))
    }

    fn frontier_at(&self, time: i64) -> Option<i64> {
        let frontier = time.saturating_sub(self.lateness_nanos).div_euclid(self.pane_nanos);
        (frontier > self.frontier).then_some(frontier)
    }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// How long no event must come before time goes on without one: events that a full ring or a reload holds up for a
/// moment are not late for it.
const PATIENCE: Duration = Duration::from_millis(500);
/// How far an event's time may be ahead of the wall clock: more than clocks of one system are apart, and little enough
/// that its window closes soon.
pub(super) const AHEAD_MAX: Duration = Duration::from_secs(3600);
/// How far the wall clock may go back before time starts anew; until then events are late for as long as it went back.
const STEP_MAX: Duration = Duration::from_secs(60);
