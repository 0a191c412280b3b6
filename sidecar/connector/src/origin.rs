//! Where events come in: numbers, marks and the ledger of one source.
//!
//! The ledger is not a set of independent counters: what is in flight is counted from the open spans themselves, so
//! `accepted = completed + dead-lettered + expired + dropped + in flight` can be wrong, and a test can see it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sidestream_event::{Batch, Settle, Settled, Span, Text, Timestamp};
use sidestream_host::Clock;
use tokio::sync::{oneshot, watch};

/// The books of one source, read in one instant. All numbers are events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Taken in.
    pub accepted: u64,
    /// Delivered, filtered away, or taken into a state.
    pub completed: u64,
    /// Given to the dead-letter stage.
    pub dead_lettered: u64,
    /// Ended by their time limit.
    pub expired: u64,
    /// Dropped by an overflow or error policy.
    pub dropped: u64,
    /// Neither of these yet: the sum over the open spans.
    pub in_flight: u64,
    /// Events up to this number need no replay: a replayable source may forget them.
    pub committed: u64,
}

impl Ledger {
    /// Whether the books balance.
    pub fn is_balanced(&self) -> bool {
        self.accepted == self.completed + self.dead_lettered + self.expired + self.dropped + self.in_flight
    }

    /// The books of two sources together (`committed` is a position and is not added).
    pub fn plus(self, other: Ledger) -> Ledger {
        Ledger {
            accepted: self.accepted + other.accepted,
            completed: self.completed + other.completed,
            dead_lettered: self.dead_lettered + other.dead_lettered,
            expired: self.expired + other.expired,
            dropped: self.dropped + other.dropped,
            in_flight: self.in_flight + other.in_flight,
            committed: 0,
        }
    }
}

/// The origin of a source's events. Clones are the same origin.
#[derive(Clone)]
pub struct Origin {
    source: Text,
    /// Events that name another source keep its name.
    keeps_names: bool,
    /// What is lost of its events is for others to bring again.
    relays: bool,
    clock: Clock,
    books: Arc<Books>,
    /// The same books, as batches see them.
    settle: Arc<dyn Settle>,
}

impl Origin {
    /// The origin of source stage `source`, whose events are numbered from 0.
    pub fn new(source: impl Into<Text>, clock: Clock) -> Self {
        let books: Arc<Books> = Arc::default();
        Self { source: source.into(), keeps_names: false, relays: false, clock, settle: books.clone(), books }
    }

    /// The same books for a source stage of another name, which goes on where this one stopped.
    pub fn renamed(&self, source: impl Into<Text>) -> Self {
        Self { source: source.into(), ..self.clone() }
    }

    /// The same books for a source that brings events of others: those keep the name of the source they came from, and
    /// what is lost of them is for those to bring again, so that it does not hold the position back.
    pub fn relaying(&self) -> Self {
        Self { relays: true, ..self.keeping_names() }
    }

    /// The same books for a source whose events keep the name of the source they came from, where they have one.
    pub fn keeping_names(&self) -> Self {
        Self { keeps_names: true, ..self.clone() }
    }

    /// Takes a batch in: numbers its events, names their source, gives those without one the present time, and marks
    /// the batch. The span stays in flight until every share of the mark is gone.
    pub fn accept(&self, batch: &mut Batch) -> Span {
        self.accept_with(batch, None)
    }

    /// Like [`Origin::accept`], and tells `answer` how the span ended.
    pub fn accept_with(&self, batch: &mut Batch, answer: Option<oneshot::Sender<Settled>>) -> Span {
        let count = u32::try_from(batch.len()).expect("a batch holds fewer than 2^32 events");
        let span = self.books.open(count, answer, self.relays);
        let wall = Timestamp::from_nanos(self.clock.wall_nanos());
        for (sequence, event) in (span.first..).zip(batch.events_mut()) {
            event.meta.sequence = sequence;
            let is_named = self.keeps_names && !event.meta.source.is_empty();
            if !is_named && event.meta.source != self.source {
                event.meta.source = self.source.clone();
            }
            if event.meta.time == Timestamp::default() {
                event.meta.time = wall;
            }
        }
        batch.set_born_nanos(self.clock.now().as_nanos());
        batch.renew_mark(span, &self.settle);
        span
    }

    /// The books now.
    pub fn ledger(&self) -> Ledger {
        self.books.ledger()
    }

    /// How many events from the first need no replay any more.
    pub fn committed(&self) -> u64 {
        self.books.lock().committed
    }

    /// The news of [`Origin::committed`], until no batch can move it any more.
    pub fn positions(&self) -> watch::Receiver<u64> {
        self.books.moved.subscribe()
    }
}

#[derive(Default)]
struct Books {
    state: Mutex<State>,
    /// Says where `committed` is, to those who listen.
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// Spans without an outcome yet, in order; settled ones leave from the front.
    open: VecDeque<Open>,
    totals: Ledger,
    /// Everything before this is released.
    committed: u64,
    /// Released spans beyond a held one: first -> end. Neighbours are merged, so it stays small.
    released: BTreeMap<u64, u64>,
}

struct Open {
    span: Span,
    settled: bool,
    /// Whether what is lost of it is brought again by another.
    relayed: bool,
    answer: Option<oneshot::Sender<Settled>>,
}

impl Books {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, count: u32, answer: Option<oneshot::Sender<Settled>>, relayed: bool) -> Span {
        let mut state = self.lock();
        let span = Span { first: state.totals.accepted, count };
        state.totals.accepted += u64::from(count);
        if count > 0 {
            state.open.push_back(Open { span, settled: false, relayed, answer });
        }
        span
    }

    fn ledger(&self) -> Ledger {
        let state = self.lock();
        let in_flight =
            state.open.iter().filter(|open| !open.settled).map(|open| u64::from(open.span.count)).sum();
        Ledger { in_flight, committed: state.committed, ..state.totals }
    }
}

impl Settle for Books {
    fn settled(&self, settled: Settled) {
        let (answer, is_anothers) = {
            let mut state = self.lock();
            let Ok(index) = state.open.binary_search_by_key(&settled.span.first, |open| open.span.first)
            else {
                return;
            };
            let open = &mut state.open[index];
            open.settled = true;
            let (answer, is_anothers) = (open.answer.take(), open.relayed && settled.is_lost);
            state.totals.completed += u64::from(settled.completed());
            state.totals.dead_lettered += u64::from(settled.dead_lettered);
            state.totals.expired += u64::from(settled.expired);
            state.totals.dropped += u64::from(settled.dropped);
            while state.open.front().is_some_and(|open| open.settled) {
                state.open.pop_front();
            }
            (answer, is_anothers)
        };
        if let Some(answer) = answer {
            // Nobody listens any more when the one who asked has gone.
            let _ = answer.send(settled);
        }
        if is_anothers {
            self.released(settled.span);
        }
    }

    fn released(&self, span: Span) {
        let mut state = self.lock();
        state.release(span);
        // Under the lock, so that an older position never follows a newer one.
        if self.moved.receiver_count() > 0 && *self.moved.borrow() != state.committed {
            self.moved.send_replace(state.committed);
        }
    }
}

impl State {
    fn release(&mut self, span: Span) {
        let end = span.first + u64::from(span.count);
        if span.first != self.committed {
            self.released.insert(span.first, end);
            merge_neighbours(&mut self.released, span.first, end);
            return;
        }
        self.committed = end;
        while let Some((&first, &end)) = self.released.first_key_value()
            && first <= self.committed
        {
            self.released.pop_first();
            self.committed = self.committed.max(end);
        }
    }
}

fn merge_neighbours(released: &mut BTreeMap<u64, u64>, first: u64, mut end: u64) {
    if let Some(&next_end) = released.get(&end) {
        released.remove(&end);
        end = next_end;
        released.insert(first, end);
    }
    if let Some((&before, &before_end)) = released.range(..first).next_back()
        && before_end == first
    {
        released.remove(&first);
        released.insert(before, end);
    }
}

#[cfg(test)]
mod tests {
    use sidestream_event::{Event, Mark, Outcome};

    use super::*;

    fn batch(count: usize) -> Batch {
        Batch::of((0..count).map(|n| Event::new(n as i64)).collect(), Mark::none())
    }

    fn origin() -> Origin {
        Origin::new("tick", Clock::machine())
    }

    #[test]
    fn the_news_of_the_position_come_in_order_and_end_when_no_batch_can_move_it() {
        let origin = Origin::new("tick", Clock::machine());
        let mut positions = origin.positions();
        let (mut first, mut second) = (batch(2), batch(3));
        origin.accept(&mut first);
        origin.accept(&mut second);
        second.finish();
        assert_eq!(*positions.borrow_and_update(), 0);
        first.finish();
        assert!(positions.has_changed().unwrap());
        assert_eq!(*positions.borrow_and_update(), 5);
        drop((origin, first, second));
        assert!(positions.has_changed().is_err());
    }

    #[test]
    fn what_a_relaying_source_lost_does_not_hold_its_position_and_what_another_lost_does() {
        for (origin, committed) in [
            (Origin::new("edge", Clock::machine()).relaying(), 3),
            (Origin::new("file", Clock::machine()), 0),
        ] {
            let (mut first, mut second) = (batch(2), batch(1));
            origin.accept(&mut first);
            origin.accept(&mut second);
            first.mark().never_release();
            first.finish();
            second.finish();
            assert_eq!(origin.committed(), committed);
        }
    }

    #[test]
    fn the_books_balance_at_every_step_of_a_batch() {
        let origin = origin();
        let mut first = batch(3);
        let mut second = batch(2);
        origin.accept(&mut first);
        origin.accept(&mut second);
        assert_eq!(origin.ledger(), Ledger { accepted: 5, in_flight: 5, ..Ledger::default() });
        second.mark().end(4, Outcome::DeadLettered);
        second.finish();
        let ledger = origin.ledger();
        assert_eq!((ledger.completed, ledger.dead_lettered, ledger.in_flight), (1, 1, 3));
        assert!(ledger.is_balanced());
        first.finish();
        assert_eq!(origin.ledger().in_flight, 0);
        assert_eq!(origin.committed(), 5);
    }

    #[test]
    fn the_position_trails_the_oldest_hold_and_then_catches_up_at_once() {
        let origin = origin();
        let mut batches: Vec<_> = (0..100).map(|_| batch(2)).collect();
        for batch in &mut batches {
            origin.accept(batch);
        }
        let hold = batches[10].mark().hold();
        batches.reverse();
        batches.iter_mut().for_each(Batch::finish);
        assert_eq!(origin.committed(), 20);
        assert_eq!(origin.books.lock().released.len(), 1, "neighbours are merged");
        assert_eq!(origin.ledger().in_flight, 0);
        drop(hold);
        assert_eq!(origin.committed(), 200);
    }

    #[test]
    fn events_are_numbered_without_gaps_and_keep_a_time_of_their_own() {
        let origin = origin();
        let mut first = batch(2);
        first.events_mut()[1].meta.time = Timestamp::from_nanos(7);
        origin.accept(&mut first);
        let mut second = batch(1);
        origin.accept(&mut second);
        assert_eq!(first.events()[1].meta.sequence, 1);
        assert_eq!(first.events()[1].meta.time, Timestamp::from_nanos(7));
        assert!(first.events()[0].meta.time > Timestamp::default());
        assert_eq!((second.events()[0].meta.sequence, second.events()[0].meta.source.as_str()), (2, "tick"));
    }

    #[test]
    fn whoever_asked_hears_how_the_span_ended() {
        let origin = origin();
        let (answer, mut heard) = oneshot::channel();
        let mut one = batch(1);
        origin.accept_with(&mut one, Some(answer));
        assert!(heard.try_recv().is_err());
        one.mark().end(0, Outcome::Dropped);
        one.finish();
        assert_eq!(heard.try_recv().unwrap().dropped, 1);
    }
}
