use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience { max_deliveries: Some(3), backoff: Duration::from_nanos(10) };

fn at(nanos: u64) -> Moment {
    Moment::from_nanos(nanos)
}

fn claim(range: Range<u64>, delivery: u32) -> Claim {
    Claim { range, delivery }
}

#[test]
fn what_is_acknowledged_out_of_order_moves_the_cursor_when_the_gap_closes() {
    let mut share = Share::at(10);
    assert_eq!(share.claim(20, 6, at(0), at(100)), [claim(10..16, 1)]);
    share.settle(13..16);
    assert_eq!((share.cursor(), share.lag(20)), (10, 7));
    share.settle(10..13);
    assert_eq!((share.cursor(), share.lag(20)), (16, 4));
    assert_eq!(share.write(), Written { cursor: 16, ..Written::default() });
}

#[test]
fn what_is_given_back_comes_again_later_and_then_dies() {
    let mut share = Share::at(0);
    share.claim(5, 5, at(0), at(100));
    share.settle(0..2);
    share.settle(3..5);
    share.fail(2..3, at(0), PATIENCE);
    assert_eq!(share.claim(5, 5, at(9), at(100)), []);
    assert_eq!(share.next_due(), Some(at(10)));
    assert_eq!(share.claim(5, 5, at(10), at(100)), [claim(2..3, 2)]);
    share.fail(0..5, at(10), PATIENCE);
    assert_eq!(share.claim(5, 5, at(29), at(100)), [], "the second wait is twice the first");
    assert_eq!(share.claim(5, 5, at(30), at(100)), [claim(2..3, 3)]);
    share.fail(2..3, at(30), PATIENCE);
    assert_eq!((share.claim(5, 5, at(u64::MAX), at(u64::MAX)), share.dying()), (vec![], vec![(2..3, 3)]));
    share.settle(2..3);
    assert_eq!((share.cursor(), share.dying()), (5, vec![]));
}

#[test]
fn what_is_out_for_too_long_was_not_taken() {
    let mut share = Share::at(0);
    share.claim(5, 2, at(0), at(100));
    share.claim(5, 3, at(50), at(150));
    assert!(!share.expire(at(99), PATIENCE));
    assert!(share.expire(at(100), PATIENCE));
    assert_eq!(share.claim(5, 9, at(110), at(200)), [claim(0..2, 2)]);
}

#[test]
fn what_a_member_had_that_is_gone_is_due_at_once_and_was_a_delivery() {
    let mut share = Share::at(0);
    share.claim(5, 2, at(0), at(100));
    share.release(at(1), Some(3));
    assert!(!share.is_out());
    assert_eq!(share.claim(5, 9, at(1), at(100)), [claim(0..2, 2), claim(2..5, 1)]);
    share.release(at(2), Some(2));
    assert_eq!(share.dying(), [(0..2, 2)]);
}

#[test]
fn what_was_never_delivered_was_no_delivery() {
    let mut share = Share::at(0);
    let claims = share.claim(9, 4, at(0), at(100));
    share.unclaim(&claim(1..4, 1), at(0));
    assert_eq!(share.claim(9, 9, at(0), at(100)), [claim(1..9, 1)]);
    assert_eq!(claims, [claim(0..4, 1)]);
    share.fail(0..9, at(0), PATIENCE);
    let again = share.claim(9, 9, at(10), at(100)).remove(0);
    share.unclaim(&again, at(10));
    assert_eq!(share.claim(9, 9, at(10), at(100)), [again]);
}

/// A read that took long: what it read may be with another by then.
#[test]
fn what_was_handed_out_again_meanwhile_stays_with_whom_it_is() {
    let mut share = Share::at(0);
    let first = share.claim(4, 4, at(0), at(10)).remove(0);
    assert!(share.has_out(0..4, 1) && share.has_out(1..3, 1));
    assert!(!share.has_out(0..4, 2) && !share.has_out(0..5, 1));
    share.expire(at(10), PATIENCE);
    assert!(!share.has_out(0..4, 1));
    let second = share.claim(4, 2, at(100), at(200)).remove(0);
    assert_eq!((second.delivery, share.has_out(0..2, 2), share.has_out(0..4, 2)), (2, true, false));
    share.unclaim(&first, at(100));
    assert!(share.has_out(0..2, 2), "it is another's");
    // What nobody has since was no delivery.
    assert_eq!(share.claim(4, 4, at(100), at(200)), [claim(2..4, 1)]);
}

#[test]
fn what_can_not_be_had_is_done_also_where_nobody_was_given_it() {
    let mut share = Share::at(0);
    share.claim(1 << 50, 10, at(0), at(100));
    share.pass_over(5..1 << 45);
    assert_eq!(share.claim(1 << 50, 3, at(0), at(100)), [claim(1 << 45..(1 << 45) + 3, 1)]);
    share.settle(0..5);
    assert_eq!(share.cursor(), 1 << 45);
    share.pass_over(1 << 46..1 << 47);
    assert_eq!(share.claim(1 << 50, 1, at(0), at(100)), [claim((1 << 45) + 3..(1 << 45) + 4, 1)]);
}

#[test]
fn a_fence_ends_everything_below_it() {
    let mut share = Share::at(0);
    share.claim(9, 9, at(0), at(100));
    share.settle(5..8);
    share.fence(4);
    assert_eq!((share.cursor(), share.lag(9)), (4, 2));
    share.fence(6);
    assert_eq!((share.cursor(), share.lag(9)), (8, 1), "what was done up to 8 counts");
    share.fence(20);
    assert_eq!((share.cursor(), share.lag(22), share.is_out()), (20, 2, false));
    share.fence(3);
    assert_eq!(share.cursor(), 20);
    share.settle(0..30);
    assert_eq!(share.lag(30), 10, "what was never handed out can't be acknowledged");
}

#[test]
fn what_is_revived_is_delivered_as_if_for_the_first_time() {
    let mut share = Share::at(0);
    share.claim(9, 9, at(0), at(100));
    share.settle(0..9);
    share.revive(3..4, at(5));
    share.revive(3..4, at(5));
    assert_eq!((share.cursor(), share.lag(9)), (3, 1));
    assert_eq!(share.claim(9, 9, at(5), at(100)), [claim(3..4, 1)]);
    share.settle(3..4);
    assert_eq!(share, Share { fresh: 9, ..Share::at(9) });
    share.revive(20..30, at(5));
    assert_eq!(share.lag(9), 0, "what was never handed out needs no reviving");
}

#[test]
fn a_reader_that_acknowledges_nothing_gets_no_more_than_may_be_out() {
    let mut share = Share::at(0);
    let most = limits::PENDING_RECORDS_MAX;
    assert_eq!(share.claim(u64::MAX, u64::MAX, at(0), at(100)), [claim(0..most, 1)]);
    assert_eq!(share.claim(u64::MAX, u64::MAX, at(0), at(100)), []);
    share.settle(5..6);
    assert_eq!(share.claim(u64::MAX, u64::MAX, at(0), at(100)), [claim(most..most + 1, 1)]);
}

#[test]
fn who_holds_gets_more_in_one_piece_and_is_hurried_by_no_lease() {
    let (mut share, held) = (Share::at(0), at(0) + Duration::MAX);
    let most = limits::HELD_RECORDS_MAX;
    for from in (0..most).step_by(1 << 10) {
        assert_eq!(share.claim(u64::MAX, 1 << 10, at(0), held), [claim(from..from + (1 << 10), 1)]);
    }
    assert_eq!(share.claim(u64::MAX, u64::MAX, at(0), held), []);
    assert_eq!((share.pending.len(), share.next_due()), (1, None));
    assert!(!share.expire(at(1_000_000), PATIENCE));
    share.settle(0..10);
    assert_eq!((share.cursor(), share.pending.len()), (10, 1));
    // The next to own it does not hold: it gets of it what it may have out.
    share.release(at(5), None);
    let first = limits::PENDING_RECORDS_MAX + 10;
    assert_eq!(share.claim(u64::MAX, u64::MAX, at(5), at(100)), [claim(10..first, 2)]);
    assert_eq!(share.claim(u64::MAX, u64::MAX, at(5), at(100)), []);
    share.settle(10..11);
    assert_eq!(share.claim(u64::MAX, u64::MAX, at(5), at(100)), [claim(first..first + 1, 2)]);
}

#[derive(Clone, Debug)]
enum Step {
    Claim(u64),
    Settle(Range<u64>),
    Fail(Range<u64>),
    Release,
    Fence(u64),
    Revive(u64),
    Pass(u64),
    WriteDown,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0u64..60, 1u64..12).prop_map(|(start, length)| start..start + length);
    prop_oneof![
        4 => (1u64..10).prop_map(Step::Claim),
        4 => range().prop_map(Step::Settle),
        2 => range().prop_map(Step::Fail),
        1 => Just(Step::Release),
        1 => (0u64..60).prop_map(Step::Fence),
        1 => (0u64..60).prop_map(Step::Revive),
        2 => (0u64..40).prop_map(Step::Pass),
        1 => Just(Step::WriteDown),
    ]
}

/// One offset, as simply as can be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum One {
    Fresh,
    Out(u32),
    Waiting(u32),
    Dying,
    Done,
}

proptest! {
    /// Against a model that keeps each offset by itself.
    #[test]
    fn a_share_is_what_happened_to_each_offset(steps in prop::collection::vec(step(), 0..80)) {
        const END: u64 = 60;
        let mut model = vec![One::Fresh; END as usize];
        let (mut share, mut now) = (Share::at(0), 0u64);
        for step in steps {
            match step {
                Step::Claim(most) => {
                    let claims = share.claim(END, most, at(now), at(u64::MAX));
                    let mut count = 0;
                    for claim in claims {
                        for offset in claim.range {
                            count += 1;
                            let one = &mut model[offset as usize];
                            match *one {
                                One::Fresh => prop_assert_eq!(claim.delivery, 1),
                                One::Waiting(before) => prop_assert_eq!(claim.delivery, before + 1),
                                other => prop_assert!(false, "{} is {:?} and was handed out", offset, other),
                            }
                            *one = One::Out(claim.delivery);
                        }
                    }
                    prop_assert!(count <= most);
                    let fresh = model.iter().filter(|one| **one == One::Fresh).count();
                    prop_assert!(count == most || fresh == 0, "there was more to hand out");
                }
                Step::Settle(range) => {
                    share.settle(range.clone());
                    for one in model.iter_mut().take(range.end as usize).skip(range.start as usize) {
                        if *one != One::Fresh {
                            *one = One::Done;
                        }
                    }
                }
                Step::Fail(range) => {
                    share.fail(range.clone(), at(now), PATIENCE);
                    for one in model.iter_mut().take(range.end as usize).skip(range.start as usize) {
                        fail(one);
                    }
                }
                Step::Release => {
                    share.release(at(now), PATIENCE.max_deliveries);
                    model.iter_mut().for_each(fail);
                }
                Step::Fence(start) => {
                    share.fence(start);
                    model.iter_mut().take(start as usize).for_each(|one| *one = One::Done);
                }
                Step::Revive(offset) => {
                    share.revive(offset..offset + 1, at(now));
                    let one = &mut model[offset as usize];
                    if *one != One::Fresh {
                        *one = One::Waiting(0);
                    }
                }
                Step::Pass(nanos) => now += nanos,
                Step::WriteDown => {
                    let text = serde_json::to_string(&share.write()).unwrap();
                    share = Share::read(&serde_json::from_str(&text).unwrap(), at(now), PATIENCE.max_deliveries);
                    // Who had something is gone.
                    model.iter_mut().for_each(fail);
                    let fresh = model.iter().rposition(|one| !matches!(one, One::Fresh | One::Waiting(0)));
                    let fresh = fresh.map_or(0, |last| last + 1);
                    for one in model.iter_mut().skip(fresh) {
                        *one = One::Fresh;
                    }
                }
            }
            let cursor = model.iter().position(|one| *one != One::Done).unwrap_or(model.len()) as u64;
            prop_assert_eq!(share.cursor(), cursor);
            let done = model.iter().filter(|one| **one == One::Done).count() as u64;
            prop_assert_eq!(share.lag(END), END - done);
            let dying: Vec<u64> = share.dying().into_iter().flat_map(|(range, _)| range).collect();
            let expected: Vec<u64> = (0..END).filter(|offset| model[*offset as usize] == One::Dying).collect();
            prop_assert_eq!(dying, expected);
            prop_assert_eq!(share.is_out(), model.iter().any(|one| matches!(one, One::Out(_))));
        }
    }
}

fn fail(one: &mut One) {
    if let One::Out(deliveries) = *one {
        *one = if deliveries >= 3 { One::Dying } else { One::Waiting(deliveries) };
    }
}

/// What can't be written down as one record would be lost in a crash.
#[test]
fn a_share_with_as_many_gaps_as_there_may_be_fits_into_a_record() {
    let start = u64::MAX / 2;
    let mut share = Share::at(start);
    let most = limits::PENDING_RECORDS_MAX;
    let mut out = 0;
    while out < most {
        let claims = share.claim(u64::MAX, most, at(0), at(1));
        let Some(last) = claims.last() else { break };
        // Every other one is done: what is left of the room is handed out, and so on.
        for offset in claims[0].range.start..last.range.end {
            if offset.is_multiple_of(2) {
                share.settle(offset..offset + 1);
            }
        }
        out = share.lag(share.fresh);
    }
    let bytes = serde_json::to_vec(&share.write()).unwrap().len();
    let gaps = share.write().delivered.len() as u64;
    assert!(
        gaps >= most - 1 && bytes < sidestream_event::record::RECORD_BYTES_MAX,
        "{gaps} gaps, {bytes} bytes"
    );
}
