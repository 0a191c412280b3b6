//! A wire that cuts, stalls and tears; a receiver that settles in any order, dies and comes back. Whatever happens:
//! a receiver that lives gets every batch once and in order, credit is never exceeded, nothing is let go of unsettled,
//! and when the weather clears, everything arrives.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use sidestream_edge::link::{FRAME_BYTES_MAX, Frame, FrameReader, Receiving, Sending, Taken, cost};

/// Room for the longest batch here, and not for many.
const WINDOW: u64 = 2 * cost(2000);

#[derive(Clone, Debug)]
enum Step {
    Push {
        bytes: usize,
    },
    Send {
        budget: usize,
    },
    CarryToReceiver {
        bytes: usize,
    },
    CarryToSender {
        bytes: usize,
    },
    Consume,
    Settle(prop::sample::Index),
    Answer,
    Cut,
    /// A new connection opens while the old one still carries, as when a certificate changes.
    Replace,
    ReceiverDies,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (8usize..2000).prop_map(|bytes| Step::Push { bytes }),
        8 => (1usize..4000).prop_map(|budget| Step::Send { budget }),
        10 => (1usize..3000).prop_map(|bytes| Step::CarryToReceiver { bytes }),
        8 => (1usize..60).prop_map(|bytes| Step::CarryToSender { bytes }),
        8 => Just(Step::Consume),
        8 => any::<prop::sample::Index>().prop_map(Step::Settle),
        6 => Just(Step::Answer),
        2 => Just(Step::Cut),
        1 => Just(Step::Replace),
        1 => Just(Step::ReceiverDies),
    ]
}

/// One connection: bytes under way, and the reader at each end.
struct Wire {
    number: u64,
    to_receiver: VecDeque<u8>,
    to_sender: VecDeque<u8>,
    receiver_reads: FrameReader,
    sender_reads: FrameReader,
}

struct World {
    sending: Sending<u64>,
    receiving: Option<Receiving>,
    lives: u128,
    wire: Option<Wire>,
    pushed: u64,
    /// What the sender was told is settled.
    let_go: BTreeSet<u64>,
    /// What the receiver that lives has been given, and of that, what it has not consumed and not settled.
    given: Vec<u64>,
    unconsumed: VecDeque<usize>,
    unsettled: Vec<(u64, u64)>,
    /// Settled by any receiver, ever.
    settled: BTreeSet<u64>,
}

impl World {
    fn new() -> Self {
        World {
            sending: Sending::new(1),
            receiving: None,
            lives: 1,
            wire: None,
            pushed: 0,
            let_go: BTreeSet::new(),
            given: Vec::new(),
            unconsumed: VecDeque::new(),
            unsettled: Vec::new(),
            settled: BTreeSet::new(),
        }
    }

    fn connect(&mut self) {
        let Frame::Hello(hello) = self.sending.hello("shop/orders", "a->b") else { unreachable!() };
        let receiving = self.receiving.get_or_insert_with(|| Receiving::new(self.lives, &hello, WINDOW));
        let (welcome, number) = receiving.open(&hello).unwrap();
        let Frame::Welcome(welcome) = welcome else { unreachable!() };
        let mut done = Vec::new();
        self.sending.open(&welcome, &mut done).unwrap();
        self.let_go_of(done);
        self.wire = Some(Wire {
            number,
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            receiver_reads: FrameReader::new(FRAME_BYTES_MAX),
            sender_reads: FrameReader::new(FRAME_BYTES_MAX),
        });
    }

    fn let_go_of(&mut self, done: Vec<u64>) {
        for token in done {
            assert!(self.settled.contains(&token), "batch {token} was let go of before it was settled");
            assert!(self.let_go.insert(token), "batch {token} was let go of twice");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { bytes } => {
                let mut events = vec![0; bytes];
                events[..8].copy_from_slice(&self.pushed.to_le_bytes());
                self.sending.push(Bytes::from(events), self.pushed);
                self.pushed += 1;
            }
            Step::Send { budget } => {
                let mut out = Vec::new();
                self.sending.transmit(&mut out, budget);
                match &mut self.wire {
                    Some(wire) => wire.to_receiver.extend(out),
                    None => assert!(out.is_empty(), "sent without a connection"),
                }
            }
            Step::CarryToReceiver { bytes } => self.carry_to_receiver(bytes),
            Step::CarryToSender { bytes } => self.carry_to_sender(bytes),
            Step::Consume => {
                if let (Some(receiving), Some(bytes)) = (&mut self.receiving, self.unconsumed.pop_front()) {
                    receiving.consumed(bytes);
                }
            }
            Step::Settle(which) => {
                if let (Some(receiving), false) = (&mut self.receiving, self.unsettled.is_empty()) {
                    let (sequence, token) = self.unsettled.swap_remove(which.index(self.unsettled.len()));
                    receiving.settle(sequence);
                    self.settled.insert(token);
                }
            }
            Step::Answer => {
                if let (Some(receiving), Some(wire)) = (&mut self.receiving, &mut self.wire) {
                    let mut out = Vec::new();
                    receiving.transmit(wire.number, &mut out);
                    wire.to_sender.extend(out);
                }
            }
            Step::Cut => {
                self.sending.close();
                self.wire = None;
                self.connect();
            }
            Step::Replace => {
                // What the old wire still carries reaches a receiver that no longer listens to it.
                let old = self.wire.take().map(|old| old.number);
                self.connect();
                if let (Some(old), Some(receiving)) = (old, &mut self.receiving) {
                    assert_eq!(receiving.take(old, 0, 8), Ok(Taken::Stale));
                }
            }
            Step::ReceiverDies => {
                self.receiving = None;
                self.lives += 1;
                self.sending.close();
                self.wire = None;
                self.given.clear();
                self.unconsumed.clear();
                self.unsettled.clear();
                self.connect();
            }
        }
    }

    fn carry_to_receiver(&mut self, bytes: usize) {
        let (Some(receiving), Some(wire)) = (&mut self.receiving, &mut self.wire) else { return };
        let carried: Vec<u8> = wire.to_receiver.drain(..bytes.min(wire.to_receiver.len())).collect();
        wire.receiver_reads.buffer().extend_from_slice(&carried);
        while let Some(frame) = wire.receiver_reads.next_frame().expect("an honest sender") {
            let Frame::Batch { sequence, events } = frame else { panic!("{frame:?} from a sender") };
            let token = u64::from_le_bytes(events[..8].try_into().unwrap());
            // Overdrawing would be an error here.
            match receiving.take(wire.number, sequence, events.len()).expect("an honest sender") {
                Taken::New => {
                    if let Some(last) = self.given.last() {
                        assert_eq!(token, last + 1, "a living receiver was given {token} after {last}");
                    }
                    self.given.push(token);
                    self.unconsumed.push_back(events.len());
                    self.unsettled.push((sequence, token));
                    assert!(receiving.held_bytes() <= WINDOW, "more is held than was granted");
                }
                other => panic!("an honest sender on one wire repeats nothing: {other:?}"),
            }
        }
    }

    fn carry_to_sender(&mut self, bytes: usize) {
        let Some(wire) = &mut self.wire else { return };
        let carried: Vec<u8> = wire.to_sender.drain(..bytes.min(wire.to_sender.len())).collect();
        wire.sender_reads.buffer().extend_from_slice(&carried);
        let mut done = Vec::new();
        while let Some(frame) = wire.sender_reads.next_frame().expect("an honest receiver") {
            let Frame::Acknowledge { settled, credit } = frame else { panic!("{frame:?} from a receiver") };
            self.sending.acknowledge(settled, credit, &mut done).expect("an honest receiver");
        }
        self.let_go_of(done);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_the_wire_nothing_is_lost_repeated_or_reordered(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new();
        world.connect();
        steps.into_iter().for_each(|step| world.step(step));
        // The weather clears.
        world.step(Step::Cut);
        for _ in 0..1000 {
            world.step(Step::Send { budget: 4 << 20 });
            world.step(Step::CarryToReceiver { bytes: usize::MAX });
            while !world.unconsumed.is_empty() {
                world.step(Step::Consume);
            }
            while let Some((sequence, token)) = world.unsettled.pop() {
                world.settled.insert(token);
                world.receiving.as_mut().unwrap().settle(sequence);
            }
            world.step(Step::Answer);
            world.step(Step::CarryToSender { bytes: usize::MAX });
            if world.sending.kept() == 0 {
                break;
            }
        }
        prop_assert_eq!(world.sending.kept(), 0, "not everything arrived");
        prop_assert_eq!(world.let_go.len() as u64, world.pushed);
        prop_assert_eq!(world.sending.kept_bytes(), 0);
    }
}

fn open() -> (Sending<u64>, Receiving, u64) {
    let mut sending = Sending::new(1);
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let mut receiving = Receiving::new(2, &hello, WINDOW);
    let (Frame::Welcome(welcome), number) = receiving.open(&hello).unwrap() else { unreachable!() };
    sending.open(&welcome, &mut Vec::new()).unwrap();
    (sending, receiving, number)
}

#[test]
fn a_sender_that_overdraws_skips_or_claims_the_impossible_is_refused() {
    use sidestream_edge::link::ProtocolError::{Gap, Impossible, Overdrawn};
    let (_, mut receiving, number) = open();
    assert_eq!(receiving.take(number, 1, 10), Err(Gap { next: 0, found: 1 }));
    let (_, mut receiving, number) = open();
    assert_eq!(receiving.take(number, 0, WINDOW as usize), Err(Overdrawn { credit: WINDOW }));
    let (mut sending, _, _) = open();
    sending.push(Bytes::from_static(b"x"), 0);
    // Not sent yet, so not settled either.
    assert_eq!(sending.acknowledge(1, 0, &mut Vec::new()), Err(Impossible { claimed: 1 }));
    assert_eq!(sending.acknowledge(u64::MAX, 0, &mut Vec::new()), Err(Impossible { claimed: u64::MAX }));
}

#[test]
fn a_repeat_is_passed_over_and_counted() {
    let (_, mut receiving, number) = open();
    assert_eq!(receiving.take(number, 0, 1), Ok(Taken::New));
    assert_eq!(receiving.take(number, 0, 1), Ok(Taken::Repeat));
    assert_eq!(receiving.repeats(), 1);
}

#[test]
fn a_batch_that_the_stages_did_not_take_is_wanted_again() {
    let (mut sending, mut receiving, number) = open();
    (0..3).for_each(|token| sending.push(Bytes::from_static(b"x"), token));
    sending.transmit(&mut Vec::new(), usize::MAX);
    (0..3).for_each(|sequence| assert_eq!(receiving.take(number, sequence, 1), Ok(Taken::New)));
    receiving.settle(0);
    receiving.rewind(1);
    assert_eq!(receiving.take(number, 3, 1), Ok(Taken::Passed));
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let (Frame::Welcome(welcome), _) = receiving.open(&hello).unwrap() else { unreachable!() };
    assert_eq!((welcome.settled, welcome.next), (1, 1));
    let mut done = Vec::new();
    sending.open(&welcome, &mut done).unwrap();
    assert_eq!((done, sending.kept(), sending.resent()), (vec![0], 2, 2));
}

#[test]
fn what_one_peer_never_settled_goes_to_another_and_is_not_asked_for_again() {
    let (mut sending, mut receiving, _) = open();
    (0..3).for_each(|token| sending.push(Bytes::from_static(b"x"), token));
    sending.transmit(&mut Vec::new(), usize::MAX);
    let moved: Vec<u64> = sending.take_kept().map(|(_, token)| token).collect();
    assert_eq!(moved, [0, 1, 2]);
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let (Frame::Welcome(welcome), number) = receiving.open(&hello).unwrap() else { unreachable!() };
    assert_eq!((welcome.next, welcome.settled), (3, 3));
    sending.open(&welcome, &mut Vec::new()).unwrap();
    sending.push(Bytes::from_static(b"y"), 3);
    let mut out = Vec::new();
    assert!(sending.transmit(&mut out, usize::MAX));
    assert_eq!(receiving.take(number, 3, 1), Ok(Taken::New));
}
