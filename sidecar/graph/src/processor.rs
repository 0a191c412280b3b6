//! What an operator is: it works on a batch, in place.

use std::fmt;

use sidestream_event::{Batch, Event, Timestamp};
use sidestream_host::Moment;

/// A stage that changes events. Built-in operators and a program's own are the same thing.
///
/// It is called by one worker at a time and never blocks. What it leaves in the batch flows on to the next stage;
/// removing an event from the batch means that the event is done (filtered away, or taken into a state).
pub trait Processor: Send {
    /// Works on `batch` in place. Batches given to [`Output::emit`] flow on before what is left in `batch`.
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow;

    /// Does what is due by `out.now()`, for state that changes with time alone. Called at or after [`Processor::due`].
    fn tick(&mut self, _out: &mut Output) {}

    /// When [`Processor::tick`] is next needed.
    fn due(&self) -> Option<Moment> {
        None
    }

    /// Gives up everything it holds, because its input has ended or the stage leaves the pipeline. Called once, until it
    /// is given events again: a reload may bring its stage a new input.
    fn flush(&mut self, _out: &mut Output) {}
}

/// Whether a processor is done with the batch it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// What is left in the batch flows on.
    Continue,
    /// What is left in the batch must wait: the processor is called with it again at this time, and takes no other input
    /// before. What it emitted flows on.
    Hold(Moment),
}

/// Where a processor says what comes of its work, beside changing the batch; valid for one call.
#[derive(Debug, Default)]
pub struct Output {
    now: Moment,
    wall: Timestamp,
    pub(crate) emitted: Vec<Batch>,
    pub(crate) failed: Vec<(Event, String)>,
    pub(crate) dropped: Vec<(u64, &'static str)>,
}

impl Output {
    /// An output that says it is `now`.
    pub fn at(now: Moment, wall: Timestamp) -> Self {
        Self { now, wall, ..Self::default() }
    }

    /// Monotonic time at the start of this call.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Wall-clock time at the start of this call.
    pub fn wall(&self) -> Timestamp {
        self.wall
    }

    /// Sends a batch to the next stage. Its mark is the processor's to give: the input batch's for events made of its
    /// events, [`sidestream_event::Mark::emitted`] for those of a state.
    pub fn emit(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.emitted.push(batch);
        }
    }

    /// Ends an event of the current batch as an error: it goes to the dead-letter stage with `reason`, or is dropped.
    pub fn fail(&mut self, event: Event, reason: impl fmt::Display) {
        self.failed.push((event, reason.to_string()));
    }

    /// [`Output::fail`] for an event still in its batch: takes it out, leaving an empty one, and gives `false`, which is
    /// what [`Batch::retain`] wants to hear.
    pub fn refuse(&mut self, event: &mut Event, reason: impl fmt::Display) -> bool {
        self.fail(std::mem::take(event), reason);
        false
    }

    /// Ends the event numbered `sequence` of the current batch as dropped on purpose; `reason` is a label of the
    /// `sidestream_stage_dropped_events_total` metric.
    pub fn drop_event(&mut self, sequence: u64, reason: &'static str) {
        self.dropped.push((sequence, reason));
    }

    /// The batches emitted so far; for tests of processors, and for whoever calls one without a run.
    pub fn take_emitted(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.emitted)
    }

    /// The events failed so far, with their reasons.
    pub fn take_failed(&mut self) -> Vec<(Event, String)> {
        std::mem::take(&mut self.failed)
    }

    /// The events dropped so far, with their reasons.
    pub fn take_dropped(&mut self) -> Vec<(u64, &'static str)> {
        std::mem::take(&mut self.dropped)
    }

    /// Whether nothing failed and nothing was dropped since the last look.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.dropped.is_empty()
    }

    /// Moves the time of this output, for a caller that keeps one for many calls.
    pub fn set_time(&mut self, now: Moment, wall: Timestamp) {
        (self.now, self.wall) = (now, wall);
    }
}
