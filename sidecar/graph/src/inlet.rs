//! Where a run's events come from: the rings of the stages before it, in turn, or a source that is called.

use std::{sync::Arc, task::Waker};

use sidestream_event::{Batch, Timestamp};
use sidestream_host::Moment;
use sidestream_ring::{
    Receiver,
    sync::{AtomicBool, Ordering},
};

/// A source that a run calls: it numbers and marks its batches itself.
pub trait Feed: Send {
    /// The next batch, of at most `limit` events.
    fn next(&mut self, limit: usize, now: Moment, wall: Timestamp) -> Fed;
}

/// What came of asking for a batch.
pub enum Fed {
    /// A batch; there may be more.
    Batch(Batch),
    /// Nothing before this time.
    Until(Moment),
    /// Nothing until the run is woken.
    Nothing,
    /// Nothing ever again.
    End,
}

/// The ways into a run.
#[derive(Default)]
pub struct Inlet {
    /// A source that is part of the run.
    feed: Option<Box<dyn Feed>>,
    inputs: Vec<Input>,
    next: usize,
}

/// One ring into a run.
pub struct Input {
    /// Index of the stage it comes from.
    pub from: usize,
    /// The ring.
    pub receiver: Receiver<Batch>,
    /// Whether it carries the errors of that stage, and not its events.
    pub is_letters: bool,
    /// Set when nothing more will come, although the other end still stands: its thread hangs in a read.
    pub abandoned: Arc<AtomicBool>,
}

impl Input {
    /// The ring from stage `from`.
    pub fn new(from: usize, receiver: Receiver<Batch>) -> Self {
        Input { from, receiver, is_letters: false, abandoned: Arc::default() }
    }

    /// The ring that carries the errors of stage `from`.
    pub fn letters(from: usize, receiver: Receiver<Batch>) -> Self {
        Input { is_letters: true, ..Input::new(from, receiver) }
    }

    /// Whether nothing is left and nothing will come. Closed is asked first: what was sent before the end is seen.
    fn has_ended(&mut self) -> bool {
        let closed = self.receiver.is_closed() || self.abandoned.load(Ordering::Acquire);
        closed && self.receiver.is_empty()
    }
}

impl Inlet {
    /// The inlet of a run that begins with a source.
    pub fn feed(feed: Box<dyn Feed>) -> Self {
        Self { feed: Some(feed), ..Self::default() }
    }

    /// The inlet of a run that takes from rings.
    pub fn inputs(inputs: Vec<Input>) -> Self {
        Self { inputs, ..Self::default() }
    }

    /// The parts, to be taken elsewhere.
    pub fn into_parts(self) -> (Option<Box<dyn Feed>>, Vec<Input>) {
        (self.feed, self.inputs)
    }

    /// The mark by which the first ring can be abandoned; none where the inlet has no ring.
    pub fn abandoned(&self) -> Option<Arc<AtomicBool>> {
        self.inputs.first().map(|input| input.abandoned.clone())
    }

    /// Lets go of a source that is part of the run.
    pub fn drop_feed(&mut self) {
        self.feed = None;
    }

    /// The stages the rings come from.
    pub fn froms(&self) -> impl Iterator<Item = usize> + '_ {
        self.inputs.iter().map(|input| input.from)
    }

    /// Whether every ring is empty. (What a called source has does not count.)
    pub fn is_empty(&mut self) -> bool {
        self.inputs.iter_mut().all(|input| input.receiver.is_empty())
    }

    /// Whom to wake when something comes.
    pub fn set_waker(&mut self, waker: &Waker) {
        self.inputs.iter_mut().for_each(|input| input.receiver.set_waker(waker.clone()));
    }

    /// The next batch: from each ring in turn, so that none starves.
    pub fn next(&mut self, limit: usize, now: Moment, wall: Timestamp) -> Fed {
        if let Some(feed) = &mut self.feed {
            return match feed.next(limit, now, wall) {
                Fed::End => {
                    self.feed = None;
                    Fed::End
                }
                fed => fed,
            };
        }
        self.next_queued()
    }

    /// The next batch of the rings alone.
    pub fn next_queued(&mut self) -> Fed {
        // A ring whose sender has gone is older than any that was laid since: it is read to its end first.
        for input in self.inputs.iter_mut().filter(|input| input.receiver.is_closed()) {
            if let Some(batch) = input.receiver.try_recv() {
                return Fed::Batch(batch);
            }
        }
        for _ in 0..self.inputs.len() {
            self.next = (self.next + 1) % self.inputs.len().max(1);
            if let Some(batch) = self.inputs[self.next].receiver.try_recv() {
                return Fed::Batch(batch);
            }
        }
        self.inputs.retain_mut(|input| !input.has_ended());
        if self.inputs.is_empty() && self.feed.is_none() { Fed::End } else { Fed::Nothing }
    }

    /// Announces that the run waits. True: something came after all.
    pub fn wait(&mut self) -> bool {
        self.inputs.iter_mut().any(|input| input.receiver.wait_for_item())
    }
}
