//! What a sink is, by how it wants to be run.
//!
//! Delivery, retry and dead letters are split: a sink tries once and says what happened; the sidecar decides whether it
//! is asked again.

use std::time::Duration;

use sidestream_event::Batch;

use crate::{BoxFuture, Undelivered};

/// A sink, ready to run.
pub enum Sink {
    /// A worker calls it, fused with the stages before it.
    Inline(Box<dyn InlineSink>),
    /// It gets a thread of its own, because it blocks.
    Blocking(Box<dyn BlockingSink>),
    /// It gets a task on the socket runtime.
    Async(Box<dyn AsyncSink>),
}

/// A sink that cannot fail and never waits.
pub trait InlineSink: Send {
    /// Takes the events of `batch`.
    fn take(&mut self, batch: &mut Batch);
}

/// A sink that blocks.
pub trait BlockingSink: Send {
    /// Delivers a batch, all of it or as the error says. Called again with the same batch after a retry.
    fn deliver(&mut self, batch: &Batch) -> Result<(), Undelivered>;
}

/// A sink that waits without blocking.
pub trait AsyncSink: Send {
    /// Delivers a batch, all of it or as the error says. Called again with the same batch after a retry.
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>>;

    /// The batch of the last retry will not come again: what is remembered of it may go.
    fn give_up(&mut self) {}

    /// No more batches will come: waits for what was taken and is still on its way.
    fn finish(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// It was removed, and is dropped after this: what it took and has not delivered ends as dropped. Says how many events
    /// that were.
    fn abandon(&mut self) -> u64 {
        0
    }

    /// How long from now it may be left without a batch before [`AsyncSink::tend`] is called; zero: now.
    fn tend_after(&self) -> Option<Duration> {
        None
    }

    /// Does what is due without events, such as sending standing alerts again.
    fn tend(&mut self) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async { Ok(()) })
    }
}
