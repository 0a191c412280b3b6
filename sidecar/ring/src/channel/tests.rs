//! One thread, both ends: what is accepted, what is refused, who is woken. Races are loom's business.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
};

use super::*;

#[derive(Debug, PartialEq)]
struct Load(usize);

impl Weigh for Load {
    fn weight(&self) -> usize {
        self.0
    }
}

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn hung() -> (Arc<Self>, Waker) {
        let bell = Arc::new(Self::default());
        (bell.clone(), Waker::from(bell))
    }

    fn rings(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn a_heavy_item_overshoots_the_limit_by_itself_at_most() {
    let (mut sender, mut receiver) = channel(8, 10);
    sender.try_send(Load(9)).unwrap();
    sender.try_send(Load(100)).unwrap();
    assert_eq!(sender.try_send(Load(1)), Err(Refused::Full(Load(1))));
    assert_eq!(sender.gauge().depth(), 109);
    receiver.try_recv().unwrap();
    assert!(!sender.has_room());
    receiver.try_recv().unwrap();
    sender.try_send(Load(1)).unwrap();
    assert_eq!((sender.gauge().sent(), sender.gauge().received()), (110, 109));
}

#[test]
fn slots_bound_items_that_weigh_nothing() {
    let (mut sender, mut receiver) = channel(2, 10);
    sender.try_send(Load(0)).unwrap();
    sender.try_send(Load(0)).unwrap();
    assert_eq!(sender.try_send(Load(0)), Err(Refused::Full(Load(0))));
    let (bell, waker) = Bell::hung();
    sender.set_waker(waker);
    assert!(!sender.wait_for_room());
    receiver.try_recv().unwrap();
    assert_eq!(bell.rings(), 1);
    assert!(sender.has_room());
}

#[test]
fn a_blocked_sender_is_woken_once_and_at_half() {
    let (mut sender, mut receiver) = channel(8, 4);
    let (bell, waker) = Bell::hung();
    sender.set_waker(waker);
    (0..4).for_each(|_| sender.try_send(Load(1)).unwrap());
    assert!(!sender.wait_for_room());
    assert_eq!(sender.gauge().blocked_count(), 1);
    receiver.try_recv().unwrap();
    assert_eq!(bell.rings(), 0, "there is room, but for too little");
    receiver.try_recv().unwrap();
    assert_eq!(bell.rings(), 1);
    receiver.try_recv().unwrap();
    assert_eq!(bell.rings(), 0, "it was told");
    assert!(sender.wait_for_room(), "nobody announces himself in vain");
}

#[test]
fn a_raised_limit_wakes_a_blocked_sender() {
    let (mut sender, _receiver) = channel(8, 1);
    let (bell, waker) = Bell::hung();
    sender.set_waker(waker);
    sender.try_send(Load(3)).unwrap();
    assert!(!sender.wait_for_room());
    let gauge = sender.gauge();
    gauge.set_limit(3);
    assert_eq!(bell.rings(), 0);
    gauge.set_limit(4);
    assert_eq!(bell.rings(), 1);
    sender.try_send(Load(1)).unwrap();
}

#[test]
fn an_idle_receiver_is_woken_by_the_first_item_only() {
    let (mut sender, mut receiver) = channel(8, 8);
    let (bell, waker) = Bell::hung();
    receiver.set_waker(waker);
    assert!(!receiver.wait_for_item());
    sender.try_send(Load(1)).unwrap();
    sender.try_send(Load(2)).unwrap();
    assert_eq!(bell.rings(), 1);
    assert!(receiver.wait_for_item());
    assert_eq!(receiver.peek(), Some(&Load(1)));
    assert_eq!(receiver.try_recv(), Some(Load(1)));
}

#[test]
fn either_end_that_goes_wakes_the_other() {
    let (sender, mut receiver) = channel::<Load>(8, 8);
    let (bell, waker) = Bell::hung();
    receiver.set_waker(waker);
    assert!(!receiver.wait_for_item());
    drop(sender);
    assert_eq!(bell.rings(), 1);
    assert!(receiver.is_closed() && receiver.wait_for_item());

    let (mut sender, receiver) = channel(1, 8);
    let (bell, waker) = Bell::hung();
    sender.set_waker(waker);
    sender.try_send(Load(1)).unwrap();
    assert!(!sender.wait_for_room());
    drop(receiver);
    assert_eq!(bell.rings(), 1);
    assert_eq!(sender.try_send(Load(2)), Err(Refused::Closed(Load(2))));
    assert!(sender.wait_for_room(), "there is nothing to wait for");
}

#[test]
fn what_was_sent_before_the_sender_went_is_received() {
    let (mut sender, mut receiver) = channel(8, 8);
    sender.try_send(Load(1)).unwrap();
    drop(sender);
    assert!(receiver.is_closed());
    assert_eq!(receiver.try_recv(), Some(Load(1)));
    assert!(receiver.is_empty());
}

#[test]
fn a_receiver_that_goes_drops_what_was_queued() {
    struct Promise(#[allow(dead_code, reason = "held for its count")] Arc<()>);
    impl Weigh for Promise {
        fn weight(&self) -> usize {
            1
        }
    }
    let token = Arc::new(());
    let (mut sender, receiver) = channel(8, 8);
    assert!(sender.try_send(Promise(token.clone())).is_ok());
    drop(receiver);
    assert_eq!(Arc::strong_count(&token), 1);
    assert_eq!(sender.gauge().depth(), 0);
}

#[test]
fn a_gauge_outlives_both_ends_and_keeps_blocked_time() {
    let (sender, receiver) = channel::<Load>(5, 0);
    let gauge = receiver.gauge();
    sender.gauge().add_blocked_nanos(7);
    drop((sender, receiver));
    assert_eq!((gauge.capacity(), gauge.limit(), gauge.blocked_nanos()), (8, 1, 7));
}
