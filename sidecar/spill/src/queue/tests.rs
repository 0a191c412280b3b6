use std::sync::{Arc, Mutex};

use sidestream_event::{Batch, Event, Mark, Settle, Span};

use super::*;
use crate::encode::Encoder;

/// Who sent the events, and what it heard.
#[derive(Default)]
struct Heard(Mutex<(Vec<Settled>, Vec<u64>)>);

impl Settle for Heard {
    fn settled(&self, settled: Settled) {
        self.0.lock().unwrap().0.push(settled);
    }
    fn released(&self, span: Span) {
        self.0.lock().unwrap().1.push(span.first);
    }
}

impl Heard {
    /// The batches that were answered, by their first events.
    fn answered(&self) -> Vec<u64> {
        self.0.lock().unwrap().0.iter().map(|settled| settled.span.first).collect()
    }

    fn released(&self) -> Vec<u64> {
        self.0.lock().unwrap().1.clone()
    }
}

/// A batch of two events, the first of which is `first`.
fn two(first: u64, heard: &Arc<Heard>) -> Parcel {
    let mark = Mark::new(Span { first, count: 2 }, heard.clone());
    let mut batch = Batch::of(vec![Event::new(first as i64), Event::new(first as i64 + 1)], mark);
    for (sequence, event) in (first..).zip(batch.events_mut()) {
        event.meta.sequence = sequence;
    }
    let (mut parcels, refused) = Encoder::default().encode(&batch);
    assert!(refused.is_empty());
    batch.finish();
    parcels.remove(0)
}

fn queue(capacity: usize) -> Queue {
    let mut queue = Queue::of(0..0);
    queue.set_capacity(capacity);
    queue.begin_reader();
    queue
}

/// Hands out what comes next from memory, and sends it on to `end`.
fn hand(queue: &mut Queue, end: u64) -> u64 {
    let Hand::Frame { id, .. } = queue.hand() else { panic!("nothing in memory is next") };
    queue.sent(queue.reader, id, end);
    id
}

/// Stores what is due, at offsets from `next` on.
fn store(queue: &mut Queue, next: &mut u64) -> usize {
    let chunk = queue.begin_store(Moment::default(), usize::MAX, 0);
    for (id, _, count) in &chunk {
        drop(queue.stored(*id, *next..*next + u64::from(*count)));
        *next += u64::from(*count);
    }
    chunk.len()
}

fn well(first: u64) -> Settled {
    Settled { span: Span { first, count: 2 }, ..Settled::default() }
}

#[test]
fn what_the_stage_keeps_up_with_is_not_stored_and_its_source_hears_how_it_ended() {
    let (mut queue, heard) = (queue(100), Arc::<Heard>::default());
    queue.push(two(0, &heard), Moment::default());
    let id = hand(&mut queue, 2);
    assert!(queue.begin_store(Moment::default(), 1 << 20, 0).is_empty());
    drop(queue.settled(id, &Settled { dropped: 1, unfit: 1, ..well(0) }));
    assert_eq!((heard.answered(), heard.released()), (vec![0], vec![]));
    let first = heard.0.lock().unwrap().0[0];
    assert_eq!((first.dropped, first.unfit), (1, 1));
    drop(queue.passed(1, 2));
    assert_eq!(heard.released(), [0], "no state holds it any more");
    assert!(queue.is_safe() && queue.is_handed_out());
}

#[test]
fn when_too_much_waits_all_that_is_not_settled_is_stored_in_order_and_comes_back_in_it() {
    let (mut queue, heard, mut next) = (queue(4), Arc::<Heard>::default(), 10);
    for first in [0, 2, 4] {
        queue.push(two(first, &heard), Moment::default());
        if first == 0 {
            hand(&mut queue, 2);
        }
    }
    assert!(!queue.has_room());
    assert_eq!(store(&mut queue, &mut next), 3, "also what was handed out");
    assert_eq!(heard.answered(), [0, 2, 4], "stored is as good as delivered to whoever sent it");
    assert_eq!(heard.released(), [0, 2, 4]);
    // The first was handed out, and is kept until it is done; the others come from the disk.
    assert_eq!((queue.needed_from(), queue.hand()), (10, Hand::Stored(12)));
    queue.push(two(6, &heard), Moment::default());
    assert_eq!(queue.hand(), Hand::Stored(12), "what came later waits its turn");
    assert_eq!(store(&mut queue, &mut next), 1, "on the disk as well");
    for offset in [12, 14, 16] {
        assert_eq!(queue.hand(), Hand::Stored(offset));
        let id = queue.hand_stored(queue.reader, offset..offset + 2, Moment::default()).unwrap();
        queue.sent(queue.reader, id, offset);
    }
    assert_eq!(queue.hand(), Hand::Nothing);
    queue.push(two(8, &heard), Moment::default());
    hand(&mut queue, 18);
    assert_eq!(heard.answered().len(), 4, "the disk is empty, so memory does again");
}

#[test]
fn what_is_stored_is_kept_until_no_state_holds_it_and_no_longer() {
    let mut queue = Queue::of(10..16);
    let reader = queue.begin_reader();
    let ids: Vec<u64> = (10..16)
        .step_by(2)
        .map(|offset| {
            let id = queue.hand_stored(queue.reader, offset..offset + 2, Moment::default()).unwrap();
            queue.sent(queue.reader, id, offset - 8);
            id
        })
        .collect();
    assert_eq!(queue.needed_from(), 10);
    for id in &ids {
        drop(queue.settled(*id, &well(0)));
    }
    assert_eq!(queue.needed_from(), 10, "they are in a state, perhaps");
    queue.passed(reader, 4);
    assert_eq!(queue.needed_from(), 14);
    queue.passed(reader, 6);
    assert_eq!(queue.needed_from(), 16);
    assert!(queue.hand_stored(queue.reader, 16..18, Moment::default()).is_none(), "there is nothing");
}

#[test]
fn what_has_passed_before_it_was_said_to_have_settled_is_let_go_when_it_is() {
    let (mut queue, heard) = (queue(100), Arc::<Heard>::default());
    queue.push(two(0, &heard), Moment::default());
    let id = hand(&mut queue, 2);
    assert!(queue.passed(1, 2).is_empty());
    drop(queue.settled(id, &Settled { dead_lettered: 2, ..well(0) }));
    assert_eq!(heard.0.lock().unwrap().0[0].dead_lettered, 2);
    assert_eq!(heard.released(), [0]);
}

#[test]
fn what_waits_for_seconds_is_stored_however_little_it_is_and_at_the_end_at_once() {
    let (mut queue, heard) = (queue(100), Arc::<Heard>::default());
    let now = Moment::default() + Duration::from_secs(1);
    queue.push(two(0, &heard), now);
    assert_eq!(queue.store_at(), Some(now + WAITS_MAX));
    assert!(queue.begin_store(now, 1 << 20, 0).is_empty());
    assert_eq!(queue.begin_store(now + WAITS_MAX, 1 << 20, 0).len(), 1);
    queue.not_stored();
    queue.force(true);
    assert!(!queue.is_safe());
    let mut next = 0;
    assert_eq!(store(&mut queue, &mut next), 1);
    assert!(queue.is_safe() && !queue.is_handed_out());
}

#[test]
fn what_is_being_stored_is_not_handed_out_and_what_was_refused_is_stored_again_in_its_place() {
    let (mut queue, heard, mut next) = (queue(2), Arc::<Heard>::default(), 0);
    queue.push(two(0, &heard), Moment::default());
    queue.push(two(2, &heard), Moment::default());
    assert_eq!(queue.begin_store(Moment::default(), 1 << 20, 0).len(), 2);
    assert_eq!(queue.hand(), Hand::Nothing);
    assert!(queue.begin_store(Moment::default(), 1 << 20, 0).is_empty());
    queue.not_stored();
    assert!(heard.answered().is_empty());
    assert_eq!(store(&mut queue, &mut next), 2);
    assert_eq!(queue.hand(), Hand::Stored(0));
}

#[test]
fn a_batch_that_was_not_sent_on_is_the_next_again_wherever_it_is_by_then() {
    let (mut queue, heard, mut next) = (queue(4), Arc::<Heard>::default(), 0);
    (0..3).for_each(|n| queue.push(two(2 * n, &heard), Moment::default()));
    let Hand::Frame { id, .. } = queue.hand() else { panic!("the first") };
    queue.give_back(queue.reader, id);
    let Hand::Frame { id: again, .. } = queue.hand() else { panic!("the first again") };
    assert_eq!(again, id);
    assert_eq!(store(&mut queue, &mut next), 3);
    queue.give_back(queue.reader, id);
    assert_eq!(queue.hand(), Hand::Stored(0), "it was stored meanwhile");
    let id = queue.hand_stored(queue.reader, 0..2, Moment::default()).unwrap();
    // Whoever had it is gone without a word.
    queue.begin_reader();
    assert_eq!((queue.hand(), id > 0), (Hand::Stored(0), true));
}

#[test]
fn what_is_lost_behind_or_dropped_because_the_stage_was_removed_comes_again_with_the_next_one() {
    let mut queue = Queue::of(0..6);
    let reader = queue.begin_reader();
    let ids: Vec<u64> = (0..6)
        .step_by(2)
        .map(|offset| {
            let id = queue.hand_stored(queue.reader, offset..offset + 2, Moment::default()).unwrap();
            queue.sent(queue.reader, id, offset + 2);
            id
        })
        .collect();
    drop(queue.settled(ids[0], &well(0)));
    drop(queue.settled(ids[1], &Settled { is_lost: true, ..well(0) }));
    queue.leave(reader);
    drop(queue.settled(ids[2], &Settled { dropped: 2, ..well(0) }));
    queue.passed(reader, 6);
    assert_eq!(queue.needed_from(), 2, "the position passes neither");
    queue.begin_reader();
    assert_eq!(queue.hand(), Hand::Stored(2));
}

#[test]
fn what_is_dropped_behind_after_another_reader_has_begun_stays_for_the_next_one() {
    let mut queue = Queue::of(0..2);
    let reader = queue.begin_reader();
    let id = queue.hand_stored(reader, 0..2, Moment::default()).unwrap();
    queue.sent(reader, id, 2);
    queue.leave(reader);
    queue.begin_reader();
    drop(queue.settled(id, &Settled { dropped: 2, ..well(0) }));
    queue.passed(reader, 2);
    assert_eq!((queue.needed_from(), queue.hand()), (0, Hand::Nothing));
    queue.begin_reader();
    assert_eq!(queue.hand(), Hand::Stored(0));
}

#[test]
fn what_comes_back_and_is_not_stored_yet_is_handed_out_by_the_next_reader() {
    let (mut queue, heard) = (queue(100), Arc::<Heard>::default());
    queue.push(two(0, &heard), Moment::default());
    let id = hand(&mut queue, 2);
    queue.leave(queue.reader);
    drop(queue.settled(id, &Settled { dropped: 2, ..well(0) }));
    queue.begin_reader();
    assert_eq!(hand(&mut queue, 2), id);
    drop(queue.settled(id, &well(2)));
    drop(queue.passed(queue.reader, 2));
    assert_eq!(heard.released(), [0]);
}

#[test]
fn whoever_was_replaced_neither_takes_nor_gives_back() {
    let mut queue = Queue::of(0..4);
    let old = queue.begin_reader();
    let id = queue.hand_stored(old, 0..2, Moment::default()).unwrap();
    let new = queue.begin_reader();
    assert_eq!(queue.hand_stored(old, 0..2, Moment::default()), None);
    let again = queue.hand_stored(new, 0..2, Moment::default()).unwrap();
    queue.sent(new, again, 2);
    queue.sent(old, again, 9);
    queue.give_back(old, again);
    assert!(queue.forget(old, id).is_none());
    assert_eq!(queue.hand(), Hand::Stored(2));
    drop(queue.settled(again, &well(2)));
    queue.passed(new, 2);
    assert_eq!(queue.needed_from(), 2);
}

#[test]
fn what_cannot_be_read_is_skipped_and_counted() {
    let mut queue = Queue::of(10..20);
    queue.begin_reader();
    assert_eq!((queue.skip(14), queue.hand()), (4, Hand::Stored(14)));
    assert_eq!((queue.skip(99), queue.hand()), (6, Hand::Nothing));
}

#[test]
fn what_a_long_window_holds_takes_little_room_and_is_let_go_as_one() {
    let mut queue = Queue::of(0..4000);
    let reader = queue.begin_reader();
    let ids: Vec<u64> = (0..4000)
        .step_by(2)
        .map(|offset| {
            let id = queue.hand_stored(queue.reader, offset..offset + 2, Moment::default()).unwrap();
            queue.sent(queue.reader, id, offset + 2);
            id
        })
        .collect();
    ids.iter().for_each(|id| drop(queue.settled(*id, &well(0))));
    assert!(queue.out.len() <= JOINED_FROM, "{}", queue.out.len());
    assert_eq!(queue.needed_from(), 0);
    queue.passed(reader, 4000);
    assert_eq!((queue.needed_from(), queue.out.len()), (4000, 0));
}
