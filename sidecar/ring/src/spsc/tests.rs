//! One thread, both ends: order, room, batches, and who drops what. Races are loom's business.

use super::*;

#[test]
fn items_come_out_in_the_order_they_went_in() {
    let (mut producer, mut consumer) = ring(4);
    for round in 0..5 {
        (0..4).for_each(|i| producer.push(round * 10 + i).unwrap());
        (0..4).for_each(|i| assert_eq!(consumer.pop(), Some(round * 10 + i)));
        assert_eq!(consumer.pop(), None);
    }
}

#[test]
fn a_full_ring_gives_the_item_back() {
    let (mut producer, mut consumer) = ring(2);
    producer.push("a".to_owned()).unwrap();
    producer.push("b".to_owned()).unwrap();
    assert_eq!(producer.push("c".to_owned()), Err("c".to_owned()));
    assert_eq!(consumer.pop().as_deref(), Some("a"));
    producer.push("c".to_owned()).unwrap();
}

#[test]
fn a_lower_limit_refuses_at_once_and_a_higher_one_accepts_at_once() {
    let (mut producer, mut consumer) = ring(8);
    let limit = producer.limit();
    limit.set(2);
    assert_eq!(producer.claim(8).len(), 2);
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    producer.push(3).unwrap_err();
    limit.set(0);
    assert_eq!(limit.get(), 1, "a ring that accepts nothing would never move again");
    consumer.pop();
    producer.push(3).unwrap_err();
    limit.set(100);
    assert_eq!(limit.get(), 8);
    assert_eq!(producer.room(100), 7);
}

#[test]
fn a_batch_is_written_and_read_in_place() {
    let (mut producer, mut consumer) = ring(8);
    let mut claim = producer.claim(5);
    assert_eq!(claim.copy_from(&[1, 2]), 2);
    claim.push(3).unwrap();
    let mut next = 4;
    claim.fill(|| {
        next += 1;
        next - 1
    });
    assert_eq!(claim.push(9), Err(9));
    assert_eq!(claim.publish(), 5);
    let seen = consumer.peek(4);
    assert_eq!(seen, [1, 2, 3, 4]);
    seen[1] = 20;
    assert_eq!(consumer.release(1), 1);
    assert_eq!(consumer.drain(2).collect::<Vec<_>>(), [20, 3]);
    assert_eq!(consumer.peek(9), [4, 5]);
}

#[test]
fn a_batch_stops_at_the_wrap_and_goes_on_behind_it() {
    let (mut producer, mut consumer) = ring(4);
    (0..3).for_each(|i| producer.push(i).unwrap());
    consumer.release(3);
    assert_eq!(producer.claim(4).len(), 1, "one slot is left before the wrap");
    producer.push(3).unwrap();
    assert_eq!(producer.claim(4).len(), 3);
    producer.push(4).unwrap();
    assert_eq!(consumer.peek(4), [3]);
    assert_eq!(consumer.drain(4).collect::<Vec<_>>(), [3, 4], "a drain passes the wrap");
}

#[test]
fn what_a_claim_did_not_publish_is_dropped_and_never_seen() {
    let token = std::sync::Arc::new(());
    let (mut producer, consumer) = ring(4);
    let mut claim = producer.claim(3);
    claim.push(token.clone()).unwrap();
    claim.push(token.clone()).unwrap();
    drop(claim);
    assert_eq!(std::sync::Arc::strong_count(&token), 1);
    assert!(consumer.is_empty());
}

#[test]
fn every_item_is_dropped_once_whichever_end_goes_first() {
    for consumer_first in [true, false] {
        let token = std::sync::Arc::new(());
        let (mut producer, mut consumer) = ring(4);
        (0..4).for_each(|_| producer.push(token.clone()).unwrap());
        drop(consumer.pop());
        assert_eq!(std::sync::Arc::strong_count(&token), 4);
        if consumer_first {
            drop(consumer);
            assert!(producer.is_closed());
            assert_eq!(std::sync::Arc::strong_count(&token), 1, "the consumer takes its items with it");
            producer.push(token.clone()).unwrap();
            drop(producer);
        } else {
            drop(producer);
            assert!(consumer.is_closed());
            assert_eq!(consumer.len(), 3);
            drop(consumer);
        }
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    }
}

#[test]
fn a_drain_dropped_half_way_keeps_the_rest() {
    let (mut producer, mut consumer) = ring(4);
    (0..4).for_each(|i| producer.push(i).unwrap());
    assert_eq!(consumer.drain(3).next(), Some(0));
    assert_eq!(consumer.len(), 3);
    assert_eq!(consumer.pop(), Some(1));
}

#[test]
fn a_panic_in_drop_neither_drops_twice_nor_blocks_the_ring() {
    struct Bomb(#[allow(dead_code, reason = "held for its count")] std::sync::Arc<()>, bool);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.1, "boom");
        }
    }
    let token = std::sync::Arc::new(());
    let (mut producer, mut consumer) = ring(2);
    assert!(producer.push(Bomb(token.clone(), true)).is_ok());
    assert!(producer.push(Bomb(token.clone(), false)).is_ok());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| consumer.release(2))).unwrap_err();
    assert_eq!(std::sync::Arc::strong_count(&token), 1);
    assert_eq!(producer.room(9), 2);
}

#[test]
fn items_without_size_are_counted_like_any_other() {
    let (mut producer, mut consumer) = ring(2);
    producer.push(()).unwrap();
    producer.push(()).unwrap();
    producer.push(()).unwrap_err();
    assert_eq!(consumer.peek(9).len(), 2);
    assert_eq!(consumer.release(9), 2);
    assert!(consumer.is_empty());
}
