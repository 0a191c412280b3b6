//! What a source is, by how it wants to be run.

use std::any::Any;

use sidestream_event::{Batch, Timestamp};
use sidestream_host::Moment;

use crate::{BoxFuture, Failure, Intake};

/// A source, ready to run.
pub enum Source {
    /// A worker calls it, fused with the stages behind it.
    Polled(Box<dyn PolledSource>),
    /// It gets a thread of its own, because it blocks.
    Blocking(Box<dyn BlockingSource>),
    /// It gets a task on the socket runtime.
    Async(Box<dyn AsyncSource>),
}

impl Source {
    /// Takes what others may have, before its first run: see [`AsyncSource::open`].
    pub fn open(&mut self) -> Result<(), Failure> {
        match self {
            Source::Polled(_) => Ok(()),
            Source::Blocking(source) => source.open(),
            Source::Async(source) => source.open(),
        }
    }
}

/// A source that never waits.
pub trait PolledSource: Send {
    /// Fills `batch` with at most `limit` events that are there now.
    fn fill(&mut self, batch: &mut Batch, limit: usize, now: Moment, wall: Timestamp) -> Filled;
}

/// What came of asking a polled source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It may have more at once.
    More,
    /// It has nothing before this time.
    Until(Moment),
    /// It has ended for good.
    End,
}

/// A source that blocks.
pub trait BlockingSource: Any + Send {
    /// Looks whether what it is to read is there; see [`AsyncSource::open`].
    fn open(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Brings events in until the input ends (`Ok`) or the intake is stopped (`Ok`). Called again after a failure.
    fn run(&mut self, intake: &mut Intake) -> Result<(), Failure>;

    /// Hears, after `run` has returned and the pipeline has drained, how many events need no replay: the last chance to
    /// remember a position.
    fn drained(&mut self, committed: u64) {
        let _ = committed;
    }

    /// Goes on where `before` stopped, a source whose `run` has returned and whose place this one takes before its own
    /// first `run`: its events follow in the same numbering. Gives it back where it has nothing to go on with.
    fn take_over(&mut self, before: Box<dyn BlockingSource>) -> Option<Box<dyn BlockingSource>> {
        Some(before)
    }
}

/// A source that waits without blocking.
pub trait AsyncSource: Send {
    /// Takes what it needs and others may have, such as a port, so that a plan that cannot run is refused before anything
    /// of it runs. Called once at most, before the first `run`; not where another source has what it needs until then:
    /// `run` takes it too where it has not been taken. A failure here is final.
    fn open(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Brings events in until the input ends (`Ok`) or the intake is stopped (`Ok`). Called again after a failure.
    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>>;

    /// Stays, after `run` has returned for good, until what it brought in needs it no more; soon after `given_up`, it ends
    /// however things are.
    fn drained<'a>(&'a mut self, given_up: BoxFuture<'a, ()>) -> BoxFuture<'a, ()> {
        drop(given_up);
        Box::pin(async {})
    }
}
