use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use loom::{sync::Notify, thread};
use sidestream_ring::{Receiver, Refused, Sender, Weigh, channel};

use crate::explore;

struct Load(usize);

impl Weigh for Load {
    fn weight(&self) -> usize {
        self.0
    }
}

/// A waker one thread can sleep on. Not woken means asleep for ever, which loom reports.
#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (bell.clone(), Waker::from(bell))
}

/// Sends `item`, asleep while there is no room. `false`: the receiver went.
fn send(sender: &mut Sender<Load>, bell: &Bell, mut item: Load) -> bool {
    loop {
        match sender.try_send(item) {
            Ok(()) => return true,
            Err(Refused::Closed(_)) => return false,
            Err(Refused::Full(back)) => item = back,
        }
        if !sender.wait_for_room() {
            bell.0.wait();
        }
    }
}

/// The next item, asleep while there is none. `None`: the sender went and everything it sent was received.
fn receive(receiver: &mut Receiver<Load>, bell: &Bell) -> Option<Load> {
    loop {
        // Asked first: what was sent before the end is still there after it.
        let closed = receiver.is_closed();
        if let Some(item) = receiver.try_recv() {
            return Some(item);
        }
        if closed {
            return None;
        }
        if !receiver.wait_for_item() {
            bell.0.wait();
        }
    }
}

/// Mutants: no fence in `announce`, in `wake_receiver_if_waiting` or in `wake_sender_if_drained`; `close` without a
/// wake-up; `wake_receiver_if_waiting` called before the push.
#[test]
fn neither_end_sleeps_through_what_it_waits_for() {
    explore(2, || {
        let (mut sender, mut receiver) = channel(2, 1);
        let sending = thread::spawn(move || {
            let (bell, waker) = bell();
            sender.set_waker(waker);
            (1..=3).for_each(|i| assert!(send(&mut sender, &bell, Load(i))));
        });
        let (bell, waker) = bell();
        receiver.set_waker(waker);
        (1..=3).for_each(|i| assert_eq!(receive(&mut receiver, &bell).map(|l| l.0), Some(i)));
        assert!(receive(&mut receiver, &bell).is_none());
        sending.join().unwrap();
    });
}

/// One slot and items that weigh nothing: only the slots say no. Mutant: `queued() < capacity / 2`.
#[test]
fn a_sender_out_of_slots_is_woken_by_the_take_that_empties_the_ring() {
    explore(3, || {
        let (mut sender, mut receiver) = channel(1, 9);
        let sending = thread::spawn(move || {
            let (bell, waker) = bell();
            sender.set_waker(waker);
            (0..2).for_each(|_| assert!(send(&mut sender, &bell, Load(0))));
        });
        let mut left = 2;
        while left > 0 {
            match receiver.try_recv() {
                Some(_) => left -= 1,
                None => thread::yield_now(),
            }
        }
        sending.join().unwrap();
    });
}

/// Mutant: no fence in `close`.
#[test]
fn a_blocked_sender_is_told_when_the_receiver_goes() {
    explore(3, || {
        let (mut sender, receiver) = channel(1, 1);
        let sending = thread::spawn(move || {
            let (bell, waker) = bell();
            sender.set_waker(waker);
            while send(&mut sender, &bell, Load(1)) {}
        });
        drop(receiver);
        sending.join().unwrap();
    });
}

#[test]
fn an_idle_receiver_is_told_when_the_sender_goes() {
    explore(3, || {
        let (sender, mut receiver) = channel(1, 1);
        let receiving = thread::spawn(move || {
            let (bell, waker) = bell();
            receiver.set_waker(waker);
            assert!(receive(&mut receiver, &bell).is_none());
        });
        drop(sender);
        receiving.join().unwrap();
    });
}

/// Mutant: no fence in `set_limit`.
#[test]
fn a_blocked_sender_is_told_when_the_limit_rises() {
    explore(3, || {
        let (mut sender, receiver) = channel(2, 1);
        let gauge = sender.gauge();
        let sending = thread::spawn(move || {
            let (bell, waker) = bell();
            sender.set_waker(waker);
            (0..2).for_each(|_| assert!(send(&mut sender, &bell, Load(1))));
        });
        gauge.set_limit(2);
        sending.join().unwrap();
        drop(receiver);
    });
}

#[test]
fn a_limit_that_moves_while_items_flow_strands_nobody() {
    explore(2, || {
        let (mut sender, mut receiver) = channel(2, 1);
        let gauge = sender.gauge();
        let sending = thread::spawn(move || {
            let (bell, waker) = bell();
            sender.set_waker(waker);
            (0..2).for_each(|_| assert!(send(&mut sender, &bell, Load(1))));
        });
        let control = thread::spawn(move || {
            gauge.set_limit(2);
            gauge.set_limit(1);
        });
        let (bell, waker) = bell();
        receiver.set_waker(waker);
        (0..2).for_each(|_| assert!(receive(&mut receiver, &bell).is_some()));
        sending.join().unwrap();
        control.join().unwrap();
    });
}
