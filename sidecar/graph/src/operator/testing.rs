//! A stage alone, with a hand on its clocks, so that a test of an operator reads as a story.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sidestream_event::{Batch, Event, Mark, Settle, Settled, Span, Timestamp, json};
use sidestream_expr::Type;
use sidestream_host::Moment;

use super::{BuildError, build};
use crate::{Flow, Output, Processor};

/// An operator between a source that numbers its events and a sink that keeps all.
pub(super) struct Stage {
    processor: Box<dyn Processor>,
    now: Moment,
    wall: Timestamp,
    next_sequence: u64,
    /// What a [`Flow::Hold`] left behind.
    held: Option<(Batch, Moment)>,
    batches: Vec<Batch>,
    failed: Vec<(String, String)>,
    dropped: Vec<(u64, &'static str)>,
    heard: Arc<Heard>,
}

/// An event whose body is this JSON.
pub(super) fn event(body: &str) -> Event {
    Event::new(json::read(body.as_bytes()).unwrap())
}

/// An event of a time in seconds.
pub(super) fn event_at(seconds: f64, body: &str) -> Event {
    let mut event = event(body);
    event.meta.time = Timestamp::from_seconds(seconds);
    event
}

/// Ends batches as a sink does that has delivered them.
pub(super) fn deliver(batches: impl IntoIterator<Item = Batch>) {
    batches.into_iter().for_each(|mut batch| batch.finish());
}

impl Stage {
    /// The operator of a `process` written as JSON. Its wall clock stands at 1,000,000 seconds.
    pub(super) fn of(config: &str) -> Self {
        let process = serde_json::from_str(config).unwrap();
        Self {
            processor: build(&process, &Type::Dyn).unwrap_or_else(|error| panic!("{error}")),
            now: Moment::default(),
            wall: Timestamp::from_seconds(1e6),
            next_sequence: 0,
            held: None,
            batches: Vec::new(),
            failed: Vec::new(),
            dropped: Vec::new(),
            heard: Arc::default(),
        }
    }

    /// Why there is no such operator.
    pub(super) fn refused(config: &str) -> BuildError {
        build(&serde_json::from_str(config).unwrap(), &Type::Dyn).err().expect("it should have been refused")
    }

    /// Gives it a batch, which it may not hold.
    pub(super) fn push(&mut self, events: impl IntoIterator<Item = Event>) {
        assert!(self.held.is_none(), "it holds a batch and takes no other before");
        let mut events: Vec<Event> = events.into_iter().collect();
        let span = Span { first: self.next_sequence, count: events.len() as u32 };
        for (event, sequence) in events.iter_mut().zip(span.first..) {
            event.meta.sequence = sequence;
        }
        self.next_sequence += events.len() as u64;
        self.process(Batch::of(events, Mark::new(span, self.heard.clone())));
    }

    /// Gives it the batch it held once more.
    pub(super) fn resume(&mut self) {
        if let Some((batch, _)) = self.held.take() {
            self.process(batch);
        }
    }

    pub(super) fn held_until(&self) -> Option<Moment> {
        self.held.as_ref().map(|(_, until)| *until)
    }

    pub(super) fn tick(&mut self) {
        self.with_output(|processor, out| processor.tick(out));
    }

    pub(super) fn flush(&mut self) {
        self.with_output(|processor, out| processor.flush(out));
    }

    pub(super) fn due(&self) -> Option<Moment> {
        self.processor.due()
    }

    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// Lets time pass on both clocks.
    pub(super) fn advance(&mut self, seconds: f64) {
        let span = Duration::from_secs_f64(seconds);
        (self.now, self.wall) = (self.now + span, self.wall.plus(span));
    }

    pub(super) fn advance_to(&mut self, moment: Moment) {
        let span = moment.since(self.now);
        (self.now, self.wall) = (self.now + span, self.wall.plus(span));
    }

    /// Sets the wall clock alone.
    pub(super) fn set_wall(&mut self, seconds: f64) {
        self.wall = Timestamp::from_seconds(seconds);
    }

    /// Takes what came out, batch by batch.
    pub(super) fn take_batches(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.batches)
    }

    /// Takes what came out, event by event.
    pub(super) fn events(&mut self) -> Vec<Event> {
        self.take_batches().iter_mut().flat_map(|batch| batch.drain().collect::<Vec<_>>()).collect()
    }

    /// Takes what came out: the bodies as JSON.
    pub(super) fn bodies(&mut self) -> Vec<String> {
        self.events().into_iter().map(|event| event.body.to_string()).collect()
    }

    /// Takes what failed: bodies and reasons.
    pub(super) fn failed(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.failed)
    }

    /// Takes what was dropped: sequences and reasons.
    pub(super) fn dropped(&mut self) -> Vec<(u64, &'static str)> {
        std::mem::take(&mut self.dropped)
    }

    /// How many source batches have been settled.
    pub(super) fn settled(&self) -> usize {
        self.heard.0.lock().unwrap().0
    }

    /// The first sequences of the source batches nothing needs a replay of any more, sorted.
    pub(super) fn released(&self) -> Vec<u64> {
        let mut released = self.heard.0.lock().unwrap().1.clone();
        released.sort_unstable();
        released
    }

    fn process(&mut self, mut batch: Batch) {
        let flow = self.with_output(|processor, out| processor.process(&mut batch, out));
        match flow {
            Flow::Continue if batch.is_empty() => {}
            Flow::Continue => self.batches.push(batch),
            Flow::Hold(until) => self.held = Some((batch, until)),
        }
    }

    fn with_output<R>(&mut self, call: impl FnOnce(&mut dyn Processor, &mut Output) -> R) -> R {
        let mut out = Output::at(self.now, self.wall);
        let result = call(&mut *self.processor, &mut out);
        self.batches.extend(out.take_emitted());
        self.failed
            .extend(out.take_failed().into_iter().map(|(event, reason)| (event.body.to_string(), reason)));
        self.dropped.extend(out.take_dropped());
        result
    }
}

/// How many promises were settled, and which were released.
#[derive(Default)]
struct Heard(Mutex<(usize, Vec<u64>)>);

impl Settle for Heard {
    fn settled(&self, _: Settled) {
        self.0.lock().unwrap().0 += 1;
    }
    fn released(&self, span: Span) {
        self.0.lock().unwrap().1.push(span.first);
    }
}
