//! Events that travel together.

use std::sync::Arc;

use crate::{Event, Mark, Meta, Outcome, Settle, Span, Spares, Value, spares::Shelf};

/// Events of one mark, in order; the unit that stages work on and rings carry.
///
/// Behind the live events stand spares: events that ended, kept for their storage.
///
/// ```text
///   events: [ live 0 │ live 1 │ live 2 ┊ spare │ spare ]
///             └────── len() ─────────┘
/// ```
///
/// A batch that returns to its source is filled again without allocating; see [`Batch::next`].
#[derive(Debug, Default)]
pub struct Batch {
    events: Vec<Event>,
    live: usize,
    /// Behind these, every event is as new.
    used: usize,
    mark: Mark,
    born_nanos: u64,
    spares: Spares,
}

impl Batch {
    /// An empty batch of `mark`.
    pub fn new(mark: Mark) -> Self {
        Self::of(Vec::new(), mark)
    }

    /// An empty batch with room for `capacity` events and no mark.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::of(Vec::with_capacity(capacity), Mark::none())
    }

    /// A batch of these events.
    pub fn of(events: Vec<Event>, mark: Mark) -> Self {
        let live = events.len();
        Self { events, live, used: live, mark, born_nanos: 0, spares: Spares::default() }
    }

    /// How many live events there are.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no live event.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many events, live and spare, it has storage for.
    pub fn capacity(&self) -> usize {
        self.events.capacity()
    }

    /// The live events.
    pub fn events(&self) -> &[Event] {
        &self.events[..self.live]
    }

    /// The live events, to change in place.
    pub fn events_mut(&mut self) -> &mut [Event] {
        &mut self.events[..self.live]
    }

    /// Whose the batch is.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Makes the batch `mark`'s; the mark it had is let go.
    pub fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    /// Makes the batch the source's for `span`, keeping the mark's storage where it can.
    pub fn renew_mark(&mut self, span: Span, settle: &Arc<dyn Settle>) {
        if !self.mark.renew(span, settle) {
            self.mark = Mark::new(span, settle.clone());
        }
    }

    /// When the source took the batch in: monotonic nanoseconds of the process's clock, 0 where nobody said.
    pub fn born_nanos(&self) -> u64 {
        self.born_nanos
    }

    /// Says when the source took the batch in.
    pub fn set_born_nanos(&mut self, nanos: u64) {
        self.born_nanos = nanos;
    }

    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        *self.claim().0 = event;
    }

    /// Adds an empty event and lends it: a spare where there is one. Its body may be an empty map.
    #[allow(clippy::should_implement_trait, reason = "the next event to fill; a batch is no iterator")]
    pub fn next(&mut self) -> &mut Event {
        let (event, spares) = self.claim();
        event.body = spares.stale();
        if let Value::Map(map) = &mut event.body {
            map.clear();
        }
        event
    }

    /// Adds an event that says `text` and lends it; nothing is allocated where a spare has room for it.
    pub fn next_text(&mut self, text: &str) -> &mut Event {
        let (event, spares) = self.claim();
        event.body = spares.text(text);
        event
    }

    /// One more event, as new.
    #[inline]
    fn claim(&mut self) -> (&mut Event, &mut Spares) {
        if self.live == self.events.len() {
            self.events.push(Event::default());
        }
        let event = &mut self.events[self.live];
        if self.live < self.used {
            event.meta = Meta::default();
            self.spares.keep(std::mem::take(&mut event.body));
        }
        self.live += 1;
        self.used = self.used.max(self.live);
        (event, &mut self.spares)
    }

    /// Keeps the events `keep` says yes to, in order; gives how many went. `keep` may change an event it keeps.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Event) -> bool) -> usize {
        self.retain_with(|event, _| keep(event))
    }

    /// As [`Batch::retain`], for a `keep` that makes new bodies: the storage of the old ones goes to and comes from the spares.
    pub fn retain_with(&mut self, mut keep: impl FnMut(&mut Event, &mut Spares) -> bool) -> usize {
        let mut kept = 0;
        for index in 0..self.live {
            if keep(&mut self.events[index], &mut self.spares) {
                if kept != index {
                    self.events.swap(kept, index);
                }
                kept += 1;
            }
        }
        let gone = self.live - kept;
        self.live = kept;
        gone
    }

    /// Forgets the live events (they become spares) and keeps the mark.
    pub fn clear(&mut self) {
        for event in &mut self.events[..self.live] {
            event.meta = Meta::default();
            self.spares.keep_ended(std::mem::take(&mut event.body));
        }
        self.live = 0;
    }

    /// Makes the last live event a spare: it was lent to be filled and is not good.
    pub(crate) fn forget_last(&mut self) {
        self.live = self.live.saturating_sub(1);
    }

    /// Takes the live events out, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Event> + '_ {
        let live = std::mem::take(&mut self.live);
        self.events[..live].iter_mut().map(std::mem::take)
    }

    /// Ends the batch well: lets go of the payloads and the mark, and keeps the storage for whoever fills it next.
    pub fn finish(&mut self) {
        self.clear();
        // What was taken out on the way ends only now.
        for event in &mut self.events[..self.used] {
            event.meta = Meta::default();
            self.spares.keep(std::mem::take(&mut event.body));
        }
        self.used = 0;
        self.mark.settle();
    }

    /// Leaves what the ended batch can spare for others.
    pub(crate) fn shelve(&mut self, shelf: &Shelf) {
        self.spares.shelve(shelf);
    }

    /// A second batch of the same events and mark: payloads are shared, not copied.
    pub fn share(&self) -> Batch {
        let mut second = Batch::of(self.events().to_vec(), self.mark.clone());
        second.born_nanos = self.born_nanos;
        second
    }

    /// Bytes the live events take, as an estimate for memory limits.
    pub fn size_bytes(&self) -> usize {
        self.events().iter().map(Event::size_bytes).sum()
    }
}

/// A batch that is dropped with live events in it was not delivered: whoever ends one well says so, with
/// [`Batch::finish`], [`Batch::clear`] or [`Batch::drain`]. Its events count as dropped, and its source keeps its position
/// before them.
impl Drop for Batch {
    fn drop(&mut self) {
        if self.live == 0 || !self.mark.is_some() {
            return;
        }
        for event in self.events() {
            self.mark.end(event.meta.sequence, Outcome::Dropped);
        }
        self.mark.never_release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(batch: &Batch) -> Vec<i64> {
        batch.events().iter().map(|event| event.body.as_f64().unwrap() as i64).collect()
    }

    #[test]
    fn a_batch_is_small_enough_to_be_given_from_hand_to_hand() {
        assert!(size_of::<Batch>() <= 96, "{}", size_of::<Batch>());
    }

    #[test]
    fn retain_keeps_order_and_what_goes_becomes_a_spare() {
        let mut batch = Batch::of((0..6).map(|n| Event::new(n as i64)).collect(), Mark::none());
        assert_eq!(batch.retain(|event| event.body.as_f64().unwrap() as i64 % 2 == 1), 3);
        assert_eq!(numbers(&batch), [1, 3, 5]);
        batch.push(Event::new(9));
        assert_eq!(numbers(&batch), [1, 3, 5, 9]);
    }

    #[test]
    fn a_spare_is_lent_empty_and_keeps_the_storage_of_its_map() {
        let mut batch = Batch::with_capacity(1);
        batch.next().body.reset_map().insert("a", 1);
        batch.finish();
        let event = batch.next();
        assert_eq!(event.body, Value::Map(crate::Map::new()));
        assert_eq!(event.meta, crate::Meta::default());
    }

    #[test]
    fn a_batch_dropped_with_events_in_it_counts_them_as_dropped_and_is_never_released() {
        #[derive(Default)]
        struct Heard(std::sync::Mutex<(u32, u32)>);
        impl Settle for Heard {
            fn settled(&self, settled: crate::Settled) {
                self.0.lock().unwrap().0 += settled.dropped;
            }
            fn released(&self, _: Span) {
                self.0.lock().unwrap().1 += 1;
            }
        }
        let heard = Arc::new(Heard::default());
        let marked = |first| Mark::new(Span { first, count: 1 }, heard.clone());
        let mut event = Event::new(1);
        drop(Batch::of(vec![event.clone()], marked(0)));
        assert_eq!(*heard.0.lock().unwrap(), (1, 0));
        event.meta.sequence = 1;
        Batch::of(vec![event], marked(1)).finish();
        assert_eq!(*heard.0.lock().unwrap(), (1, 1));
    }

    #[test]
    fn drain_takes_events_in_order_and_leaves_the_batch_empty() {
        let mut batch = Batch::of(vec![Event::new(1), Event::new(2)], Mark::none());
        let taken: Vec<_> = batch.drain().map(|event| event.body).collect();
        assert_eq!(taken, [Value::Int(1), Value::Int(2)]);
        assert!(batch.is_empty());
    }
}
