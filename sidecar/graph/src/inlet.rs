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
    /// Beside a source that is part of the run: what earlier sources of the stage have left in their rings.
    inputs: Vec<Input>,
    next: usize,
}

/// One ring into a run.
pub struct Input {
    /// The stage it comes from. A name, because whoever holds the ring may outlive the plan, and its indices with it.
    pub from: Arc<str>,
    /// The ring.
    pub receiver: Receiver<Batch>,
    /// Whether it carries the errors of that stage, and not its events.
    pub is_letters: bool,
    /// Set when nothing more will come, although the other end still stands: its thread hangs in a read.
    pub abandoned: Arc<AtomicBool>,
    /// Whether all that ever comes by it is older than what comes by others: until it has ended, nothing else is taken.
    pub goes_first: bool,
}

impl Input {
    /// The ring from stage `from`.
    pub fn new(from: impl Into<Arc<str>>, receiver: Receiver<Batch>) -> Self {
        Input { from: from.into(), receiver, is_letters: false, abandoned: Arc::default(), goes_first: false }
    }

    /// The ring that carries the errors of stage `from`.
    pub fn letters(from: impl Into<Arc<str>>, receiver: Receiver<Batch>) -> Self {
        Input { is_letters: true, ..Input::new(from, receiver) }
    }

    /// The ring of a source that was stopped: read to its end, whatever becomes of its thread.
    pub fn left_by(from: impl Into<Arc<str>>, receiver: Receiver<Batch>) -> Self {
        Input { abandoned: Arc::new(AtomicBool::new(true)), ..Input::new(from, receiver) }
    }

    /// Whether nothing more is taken from it than is in it now.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Whether nothing more will come.
    fn is_over(&self) -> bool {
        self.receiver.is_closed() || self.is_abandoned()
    }

    /// Whether nothing is left and nothing will come. Over is asked first: what was sent before the end is seen.
    fn has_ended(&self) -> bool {
        self.is_over() && self.receiver.is_empty()
    }
}

impl Inlet {
    /// The inlet of a run that begins with a source.
    pub fn feed(feed: Box<dyn Feed>) -> Self {
        Self { feed: Some(feed), ..Self::default() }
    }

    /// Takes what earlier sources of the stage have left, before anything else.
    pub fn after(mut self, left: Vec<Input>) -> Self {
        self.inputs.splice(0..0, left);
        self
    }

    /// Takes what comes from stage `from`, and from no other, before anything else, until nothing more comes.
    pub fn put_first(&mut self, from: Option<&str>) {
        self.inputs.iter_mut().for_each(|input| input.goes_first = from == Some(&*input.from));
    }

    /// The inlet of a run that takes from rings.
    pub fn inputs(inputs: Vec<Input>) -> Self {
        Self { inputs, ..Self::default() }
    }

    /// The parts, to be taken elsewhere.
    pub fn into_parts(self) -> (Option<Box<dyn Feed>>, Vec<Input>) {
        (self.feed, self.inputs)
    }

    /// The mark by which the newest ring can be abandoned; none where the inlet has no ring.
    pub fn abandoned(&self) -> Option<Arc<AtomicBool>> {
        self.inputs.last().map(|input| input.abandoned.clone())
    }

    /// Lets go of a source that is part of the run.
    pub fn drop_feed(&mut self) {
        self.feed = None;
    }

    /// The rings. (What a called source has is in none.)
    pub fn rings(&self) -> &[Input] {
        &self.inputs
    }

    /// Whom to wake when something comes.
    pub fn set_waker(&mut self, waker: &Waker) {
        self.inputs.iter_mut().for_each(|input| input.receiver.set_waker(waker.clone()));
    }

    /// The next batch: from each ring in turn, so that none starves.
    pub fn next(&mut self, limit: usize, now: Moment, wall: Timestamp) -> Fed {
        if self.feed.is_none() || !self.inputs.is_empty() {
            match self.next_queued() {
                Fed::Nothing if self.feed.is_some() => {}
                fed => return fed,
            }
        }
        let Some(feed) = &mut self.feed else { return Fed::End };
        let fed = feed.next(limit, now, wall);
        if matches!(fed, Fed::End) {
            self.feed = None;
            return self.next_queued();
        }
        fed
    }

    /// The next batch of the rings alone.
    pub fn next_queued(&mut self) -> Fed {
        let held = self.is_held();
        // A ring that is over is older than any that was laid since: it is read to its end first.
        for input in self.inputs.iter_mut().filter(|input| input.is_over() && (input.goes_first || !held)) {
            if let Some(batch) = input.receiver.try_recv() {
                return Fed::Batch(batch);
            }
        }
        for _ in 0..self.inputs.len() {
            self.next = (self.next + 1) % self.inputs.len().max(1);
            if held && !self.inputs[self.next].goes_first {
                continue;
            }
            if let Some(batch) = self.inputs[self.next].receiver.try_recv() {
                return Fed::Batch(batch);
            }
        }
        self.inputs.retain(|input| !input.has_ended());
        if self.inputs.is_empty() && self.feed.is_none() { Fed::End } else { Fed::Nothing }
    }

    /// Announces that the run waits. True: something came after all.
    pub fn wait(&mut self) -> bool {
        let held = self.is_held();
        let mut inputs = self.inputs.iter_mut().filter(|input| input.goes_first || !held);
        inputs.any(|input| input.receiver.wait_for_item())
    }

    /// Whether some wait for others.
    fn is_held(&self) -> bool {
        self.inputs.iter().any(|input| input.goes_first && !input.has_ended())
    }
}

#[cfg(test)]
mod tests {
    use sidestream_event::Event;
    use sidestream_ring::channel::{Sender, channel_by};

    use super::*;

    struct Once(Option<i64>);

    impl Feed for Once {
        fn next(&mut self, _: usize, _: Moment, _: Timestamp) -> Fed {
            self.0.take().map_or(Fed::End, |number| Fed::Batch(batch(number)))
        }
    }

    fn batch(number: i64) -> Batch {
        Batch::of(vec![Event::new(number)], Default::default())
    }

    fn ring(numbers: &[i64]) -> (Sender<Batch>, Receiver<Batch>) {
        let (mut sender, receiver) = channel_by(8, 8, Batch::len);
        numbers.iter().for_each(|number| sender.try_send(batch(*number)).expect("there is room"));
        (sender, receiver)
    }

    /// What comes until there is nothing, and whether that is the end.
    fn all(inlet: &mut Inlet) -> (Vec<f64>, bool) {
        let mut numbers = Vec::new();
        loop {
            match inlet.next(8, Moment::default(), Timestamp::default()) {
                Fed::Batch(batch) => numbers.extend(batch.events()[0].body.as_f64()),
                fed => return (numbers, matches!(fed, Fed::End)),
            }
        }
    }

    #[test]
    fn what_earlier_sources_left_comes_first_and_a_hanging_one_does_not_hold_up_the_end() {
        let (hangs, left) = ring(&[1, 2]);
        let older = Input::left_by("tick", left);
        let mut inlet = Inlet::feed(Box::new(Once(Some(3)))).after(vec![older]);
        assert_eq!(all(&mut inlet), (vec![1.0, 2.0, 3.0], true));
        drop(hangs);

        let ((_hangs, left), (sender, own)) = (ring(&[1, 2]), ring(&[3]));
        let older = Input::left_by("tick", left);
        let mut inlet = Inlet::inputs(vec![Input::new("tick", own)]).after(vec![older]);
        assert_eq!(all(&mut inlet), (vec![1.0, 2.0, 3.0], false));
        assert_eq!(inlet.rings().len(), 1);
        drop(sender);
        assert_eq!(all(&mut inlet), (vec![], true));
    }

    /// The queue is its regular one again, and does not end: what waited behind it would wait for ever.
    #[test]
    fn what_goes_first_no_more_holds_up_nobody() {
        let ((_stays, first), (other, behind)) = (ring(&[1]), ring(&[3, 4]));
        drop(other);
        let mut inlet = Inlet::inputs(vec![Input::new("tick", behind), Input::new("tell:spilled", first)]);
        inlet.put_first(Some("tell:spilled"));
        assert_eq!(all(&mut inlet), (vec![1.0], false));
        inlet.put_first(None);
        assert_eq!(all(&mut inlet), (vec![3.0, 4.0], false));
    }

    #[test]
    fn what_goes_first_is_taken_to_its_end_though_another_ring_is_over_and_older() {
        let ((mut waits, first), (other, behind)) = (ring(&[1]), ring(&[3, 4]));
        drop(other);
        let mut inlet = Inlet::inputs(vec![Input::new("tick", behind), Input::new("tell:spilled", first)]);
        inlet.put_first(Some("tell:spilled"));
        assert_eq!(all(&mut inlet), (vec![1.0], false));
        assert!(!inlet.wait(), "nothing came");
        waits.try_send(batch(2)).expect("there is room");
        assert_eq!(all(&mut inlet), (vec![2.0], false));
        drop(waits);
        assert_eq!(all(&mut inlet), (vec![3.0, 4.0], true));
    }
}
