//! Whose a batch is: the promise of a source, settled when the last holder lets go.
//!
//! ```text
//!   source ──Mark──▶ batch ──clone──▶ branch 1 ──drop──┐
//!                      └────clone───▶ branch 2 ──drop──┴▶ Settle::settled   every event has its outcome
//!                      window ──Hold──────────────drop──▶ Settle::released  nothing needs a replay any more
//! ```
//!
//! Letting go means success: delivered, filtered away, or taken into a state. Whoever ends an event otherwise says so
//! first with [`Mark::end`]. Reference counts do the bookkeeping, so a promise can be neither forgotten nor kept twice.

use std::sync::{Arc, Mutex, PoisonError};

/// The source events a mark answers for: `count` of them, numbered from `first`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// `meta.sequence` of the first.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// How a source event ended, other than well. Later ones outweigh earlier ones where two branches disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It outlived its time limit.
    Expired,
    /// An overflow or error policy dropped it; it might fare better another time.
    Dropped,
    /// A stage could not handle it, and no dead-letter stage takes it: dropped, and it would be again.
    Unfit,
    /// It went to the dead-letter stage.
    DeadLettered,
}

/// The end of a span: how many of its events ended how. The rest of `span.count` completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The events this is about.
    pub span: Span,
    /// How many expired.
    pub expired: u32,
    /// How many a policy dropped, those included that no stage could handle.
    pub dropped: u32,
    /// How many of those were dropped because a stage could not handle them, and would be again.
    pub unfit: u32,
    /// How many were dead-lettered.
    pub dead_lettered: u32,
    /// Whether some were lost on the way, by [`Mark::never_release`]: only who has them still can bring them again.
    pub is_lost: bool,
}

impl Settled {
    /// How many were delivered, filtered away or taken into a state.
    pub fn completed(&self) -> u32 {
        self.span.count - self.expired - self.dropped - self.dead_lettered
    }
}

/// The source's side of the promise. Called on whatever thread lets go last: keep it short.
pub trait Settle: Send + Sync {
    /// Every event of the span has ended: answer the one who sent it, count it.
    fn settled(&self, settled: Settled);
    /// No state holds the span any more: a replayable source may move its position past it. Comes after `settled`.
    fn released(&self, span: Span);
}

/// A batch's share in a promise. A clone is one more share; [`Mark::none`] promises nothing to anybody.
#[derive(Clone, Default)]
pub struct Mark(Option<Arc<Promise>>);

/// A state's share in promises: it delays `released`, not `settled`. An empty one holds nothing.
#[derive(Clone, Default)]
pub struct Hold {
    replays: Vec<Arc<Replay>>,
}

impl Mark {
    /// A mark without a promise: events made by a stage, whose ancestors have been answered already.
    pub const fn none() -> Self {
        Mark(None)
    }

    /// The mark of a source batch; `settle` hears when it ends.
    pub fn new(span: Span, settle: Arc<dyn Settle>) -> Self {
        let replays = vec![Arc::new(Replay { span, settle: settle.clone() })];
        Mark(Some(Arc::new(Promise {
            ended: Mutex::default(),
            parts: Parts::Source { span, settle },
            replays,
        })))
    }

    /// One mark for an event made of many, such as a list of them: of each batch it took events from, the mark and the
    /// numbers of those events. They end as the one event ends.
    pub fn join(parts: Vec<(Mark, Vec<u64>)>) -> Self {
        let parts: Vec<(Arc<Promise>, Vec<u64>)> =
            parts.into_iter().filter_map(|(mark, sequences)| Some((mark.0?, sequences))).collect();
        if parts.is_empty() {
            return Mark(None);
        }
        let replays = parts.iter().flat_map(|(part, _)| part.replays.iter().cloned()).collect();
        Mark(Some(Arc::new(Promise { ended: Mutex::default(), parts: Parts::Joined(parts), replays })))
    }

    /// A mark for events a state emits: nothing waits for an answer, but the position stays behind `holds` until they
    /// have been delivered.
    pub fn emitted(holds: impl IntoIterator<Item = Hold>) -> Self {
        let replays: Vec<_> = holds.into_iter().flat_map(|hold| hold.replays).collect();
        if replays.is_empty() {
            return Mark(None);
        }
        Mark(Some(Arc::new(Promise { ended: Mutex::default(), parts: Parts::Emitted, replays })))
    }

    /// Says that the event numbered `sequence` ends as `outcome`; rare, so it takes a lock.
    ///
    /// Said twice for one event, by two branches, it counts once, as the heavier outcome.
    pub fn end(&self, sequence: u64, outcome: Outcome) {
        if let Some(promise) = &self.0 {
            promise.end(sequence, outcome);
        }
    }

    /// A share that keeps the source's position behind this batch while a state holds its events.
    pub fn hold(&self) -> Option<Hold> {
        self.0.as_ref().map(|promise| Hold { replays: promise.replays.clone() })
    }

    /// Whether somebody waits for this mark.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Lets go now, and readies the storage for the source's next span where this was the last share: what keeps a
    /// batch that returns to its source free of allocation. False where somebody else still holds it, or where it was
    /// another source's.
    pub fn renew(&mut self, span: Span, settle: &Arc<dyn Settle>) -> bool {
        let Some(promise) = self.0.as_mut().and_then(Arc::get_mut) else {
            return false;
        };
        promise.renew(span, settle)
    }

    /// Says that the position must never move past this batch: what it held is gone, and only a replay brings it back.
    pub fn never_release(&self) {
        std::mem::forget(self.hold());
        if let Some(promise) = &self.0 {
            promise.lose();
        }
    }

    /// Settles now where this is the last share, keeping the storage for [`Mark::renew`]; else lets go.
    pub fn settle(&mut self) {
        match self.0.as_mut().map(Arc::get_mut) {
            Some(Some(promise)) => promise.finish(),
            _ => self.0 = None,
        }
    }
}

impl Hold {
    /// Holds what `mark` promises too, of each source only the earliest span: a source's position cannot pass that one,
    /// so a state that holds events of many batches needs no more. Allocates nothing for a source it holds already.
    pub fn extend(&mut self, mark: &Mark) {
        if let Some(promise) = &mark.0 {
            promise.replays.iter().for_each(|replay| self.add(replay));
        }
    }

    /// Holds what `other` holds too, of each source only the earliest span.
    pub fn merge(&mut self, other: &Hold) {
        other.replays.iter().for_each(|replay| self.add(replay));
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.replays.is_empty()
    }

    fn add(&mut self, replay: &Arc<Replay>) {
        match self
            .replays
            .iter_mut()
            .find(|own| std::ptr::addr_eq(Arc::as_ptr(&own.settle), Arc::as_ptr(&replay.settle)))
        {
            Some(own) if own.span.first <= replay.span.first => {}
            Some(own) => *own = replay.clone(),
            None => self.replays.push(replay.clone()),
        }
    }
}

impl std::fmt::Debug for Mark {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self.0.as_ref().map(|promise| match &promise.parts {
            Parts::Source { span, .. } => format!("{span:?}"),
            Parts::Joined(parts) => format!("join of {}", parts.len()),
            Parts::Emitted => "emitted".into(),
            Parts::Finished { .. } => "settled".into(),
        });
        out.debug_tuple("Mark").field(&parts).finish()
    }
}

struct Promise {
    ended: Mutex<Ended>,
    parts: Parts,
    replays: Vec<Arc<Replay>>,
}

/// What did not end well.
#[derive(Default)]
struct Ended {
    /// Outcomes other than completion, by sequence; without storage while all goes well.
    outcomes: Vec<(u64, Outcome)>,
    is_lost: bool,
}

enum Parts {
    Source { span: Span, settle: Arc<dyn Settle> },
    Joined(Vec<(Arc<Promise>, Vec<u64>)>),
    Emitted,
    Finished { settle: Arc<dyn Settle> },
}

/// Its drop is the release of a span.
struct Replay {
    span: Span,
    settle: Arc<dyn Settle>,
}

impl Promise {
    fn end(&self, sequence: u64, outcome: Outcome) {
        let ended = &mut self.ended.lock().unwrap_or_else(PoisonError::into_inner).outcomes;
        match ended.binary_search_by_key(&sequence, |(own, _)| *own) {
            Ok(index) => ended[index].1 = ended[index].1.max(outcome),
            Err(index) => ended.insert(index, (sequence, outcome)),
        }
    }

    fn lose(&self) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_lost = true;
    }

    fn finish(&mut self) {
        let Ended { outcomes: ended, is_lost } =
            std::mem::take(self.ended.get_mut().unwrap_or_else(PoisonError::into_inner));
        match std::mem::replace(&mut self.parts, Parts::Emitted) {
            Parts::Source { span, settle } => {
                let within = span.first..span.first + u64::from(span.count);
                let of_span = ended.iter().filter(|(sequence, _)| within.contains(sequence));
                let count = |outcome| of_span.clone().filter(|(_, own)| *own == outcome).count() as u32;
                let unfit = count(Outcome::Unfit);
                settle.settled(Settled {
                    span,
                    expired: count(Outcome::Expired),
                    dropped: count(Outcome::Dropped) + unfit,
                    unfit,
                    dead_lettered: count(Outcome::DeadLettered),
                    is_lost,
                });
                self.release_in_place();
                self.parts = Parts::Finished { settle };
            }
            Parts::Joined(parts) => {
                // The one event made of them all ended badly: so did each of them.
                if is_lost {
                    parts.iter().for_each(|(part, _)| part.lose());
                }
                if let Some(worst) = ended.iter().map(|(_, outcome)| *outcome).max() {
                    for (part, sequences) in parts {
                        sequences.into_iter().for_each(|sequence| part.end(sequence, worst));
                    }
                }
                self.replays.clear();
            }
            // The storage may be kept for long; what it held must not be.
            Parts::Emitted => self.replays.clear(),
            finished @ Parts::Finished { .. } => self.parts = finished,
        }
    }

    /// Releases the span without giving up the replay's storage, where no state holds it.
    fn release_in_place(&mut self) {
        if let [replay] = self.replays.as_mut_slice()
            && let Some(own) = Arc::get_mut(replay)
        {
            own.release();
        } else {
            self.replays.clear();
        }
    }

    fn renew(&mut self, span: Span, source: &Arc<dyn Settle>) -> bool {
        self.finish();
        let Parts::Finished { settle } = &self.parts else {
            return false;
        };
        // A spare batch may come from another source of the pipeline, or from one that a reload replaced.
        if !std::ptr::addr_eq(Arc::as_ptr(settle), Arc::as_ptr(source)) {
            return false;
        }
        let settle = settle.clone();
        match self.replays.as_mut_slice() {
            [replay] => match Arc::get_mut(replay) {
                Some(own) => own.span = span,
                None => return false,
            },
            _ => self.replays.push(Arc::new(Replay { span, settle: settle.clone() })),
        }
        self.parts = Parts::Source { span, settle };
        true
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Replay {
    fn release(&mut self) {
        let span = std::mem::take(&mut self.span);
        if span.count > 0 {
            self.settle.released(span);
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<(Vec<Settled>, Vec<Span>)>);

    impl Heard {
        fn settled(&self) -> Vec<Settled> {
            self.0.lock().unwrap().0.clone()
        }
        fn released(&self) -> Vec<Span> {
            self.0.lock().unwrap().1.clone()
        }
    }

    impl Settle for Heard {
        fn settled(&self, settled: Settled) {
            self.0.lock().unwrap().0.push(settled);
        }
        fn released(&self, span: Span) {
            self.0.lock().unwrap().1.push(span);
        }
    }

    fn mark(first: u64, count: u32) -> (Mark, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        (Mark::new(Span { first, count }, heard.clone()), heard)
    }

    #[test]
    fn a_promise_settles_when_the_last_branch_lets_go() {
        let (first, heard) = mark(7, 3);
        let second = first.clone();
        drop(first);
        assert!(heard.settled().is_empty());
        drop(second);
        assert_eq!(heard.settled(), [Settled { span: Span { first: 7, count: 3 }, ..Settled::default() }]);
        assert_eq!(heard.released(), [Span { first: 7, count: 3 }]);
    }

    #[test]
    fn an_event_two_branches_disagree_about_counts_once_as_the_heavier_outcome() {
        let (mark, heard) = mark(0, 4);
        mark.end(1, Outcome::DeadLettered);
        mark.clone().end(1, Outcome::Dropped);
        mark.end(3, Outcome::Expired);
        drop(mark);
        let settled = heard.settled()[0];
        assert_eq!(
            (settled.completed(), settled.dead_lettered, settled.dropped, settled.expired),
            (2, 1, 0, 1)
        );
    }

    #[test]
    fn what_no_stage_could_handle_counts_among_the_dropped_and_by_itself() {
        let (mark, heard) = mark(0, 4);
        mark.end(0, Outcome::Unfit);
        mark.end(1, Outcome::Unfit);
        mark.end(1, Outcome::Dropped);
        mark.end(2, Outcome::Dropped);
        drop(mark);
        let settled = heard.settled()[0];
        assert_eq!((settled.dropped, settled.unfit, settled.completed()), (3, 2, 1));
    }

    #[test]
    fn a_hold_answers_the_source_but_keeps_its_position_until_the_emission_is_delivered() {
        let (mark, heard) = mark(0, 1);
        let hold = mark.hold().unwrap();
        drop(mark);
        assert_eq!(heard.settled().len(), 1);
        assert!(heard.released().is_empty());
        let emitted = Mark::emitted([hold]);
        assert!(heard.released().is_empty());
        drop(emitted);
        assert_eq!(heard.released(), [Span { first: 0, count: 1 }]);
    }

    #[test]
    fn a_hold_keeps_the_earliest_span_of_each_source_and_no_other() {
        let heard = Arc::new(Heard::default());
        let of = |first| Mark::new(Span { first, count: 1 }, heard.clone());
        let (other, heard_other) = mark(9, 1);
        let mut hold = Hold::default();
        assert!(hold.is_empty());
        for mark in [of(5), of(3), of(7), other] {
            hold.extend(&mark);
        }
        assert_eq!(heard.released().iter().map(|span| span.first).collect::<Vec<_>>(), [5, 7]);
        let mut merged = Hold::default();
        merged.merge(&hold);
        merged.extend(&of(2));
        drop(hold);
        assert_eq!(heard.released().iter().map(|span| span.first).collect::<Vec<_>>(), [5, 7, 3]);
        assert!(heard_other.released().is_empty());
        drop(merged);
        assert_eq!((heard.released().len(), heard_other.released().len()), (4, 1));
    }

    #[test]
    fn an_emission_or_a_join_that_is_settled_holds_nothing_though_its_storage_is_kept() {
        let (first, heard) = mark(0, 1);
        let mut emitted = Mark::emitted(first.hold());
        drop(first);
        assert!(heard.released().is_empty());
        emitted.settle();
        assert_eq!(heard.released().len(), 1);
        let (second, heard) = mark(0, 1);
        let mut joined = Mark::join(vec![(second, vec![0])]);
        assert!(heard.settled().is_empty());
        joined.settle();
        assert_eq!((heard.settled().len(), heard.released().len()), (1, 1));
        // What is settled twice ends once.
        emitted.settle();
        joined.settle();
        assert_eq!((heard.settled().len(), heard.released().len()), (1, 1));
    }

    #[test]
    fn a_joined_mark_ends_all_its_parts_as_the_event_made_of_them() {
        let (first, heard_first) = mark(0, 3);
        let (second, heard_second) = mark(5, 1);
        let joined =
            Mark::join(vec![(first.clone(), vec![1, 2]), (second, vec![5]), (Mark::none(), vec![9])]);
        let twice = Mark::join(vec![(first, vec![0]), (joined, vec![1])]);
        twice.end(0, Outcome::Dropped);
        assert!(heard_first.settled().is_empty());
        drop(twice);
        assert_eq!(heard_first.settled()[0].dropped, 3);
        assert_eq!(heard_second.settled()[0].dropped, 1);
    }

    #[test]
    fn of_a_batch_only_the_events_that_were_joined_end_as_the_joined_one() {
        let (mark, heard) = mark(0, 64);
        let joined = Mark::join(vec![(mark.clone(), vec![7, 9])]);
        let rest = Mark::join(vec![(mark, (10..64).collect())]);
        joined.end(7, Outcome::DeadLettered);
        drop((joined, rest));
        assert_eq!((heard.settled()[0].dead_lettered, heard.settled()[0].completed()), (2, 62));
    }

    #[test]
    fn a_renewed_mark_settles_each_span_once_and_a_shared_one_is_not_renewed() {
        let (mut mark, heard) = mark(0, 2);
        let settle: Arc<dyn Settle> = heard.clone();
        assert!(mark.renew(Span { first: 2, count: 5 }, &settle));
        assert_eq!(heard.settled().len(), 1);
        mark.settle();
        assert_eq!(heard.settled().len(), 2);
        assert!(mark.renew(Span { first: 7, count: 1 }, &settle));
        assert_eq!(heard.settled().len(), 2, "a settled span is not settled again");
        let share = mark.clone();
        assert!(!mark.renew(Span { first: 8, count: 1 }, &settle));
        drop(mark);
        drop(share);
        let spans: Vec<_> = heard.settled().iter().map(|settled| settled.span.first).collect();
        assert_eq!(spans, [0, 2, 7]);
        assert_eq!(heard.released().len(), 3);
    }

    #[test]
    fn a_mark_of_one_source_is_not_renewed_for_another() {
        let (mut mark, first) = mark(0, 2);
        mark.settle();
        let second = Arc::new(Heard::default());
        let settle: Arc<dyn Settle> = second.clone();
        assert!(!mark.renew(Span { first: 0, count: 1 }, &settle));
        drop(mark);
        assert_eq!((first.settled().len(), second.settled().len()), (1, 0));
    }

    #[test]
    fn an_end_said_of_an_event_that_is_not_of_the_span_does_not_count() {
        let (mark, heard) = mark(10, 2);
        mark.end(3, Outcome::Dropped);
        mark.end(10, Outcome::Dropped);
        drop(mark);
        assert_eq!((heard.settled()[0].completed(), heard.settled()[0].dropped), (1, 1));
    }

    #[test]
    fn whoever_answers_for_a_span_hears_that_a_part_of_it_was_lost_also_by_way_of_a_join() {
        let (plain, heard) = mark(0, 1);
        plain.never_release();
        drop(plain);
        assert!(heard.settled()[0].is_lost && heard.released().is_empty());
        let (first, heard) = mark(0, 1);
        let joined = Mark::join(vec![(first, vec![0])]);
        joined.never_release();
        drop(joined);
        assert!(heard.settled()[0].is_lost && heard.released().is_empty());
    }
}
