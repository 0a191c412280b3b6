//! A wire that cuts, stalls and tears; a receiver that settles and releases in any order, dies with its state and comes
//! back. Whatever happens: a receiver that lives gets every batch once and in order, one that is new gets all that is not
//! released, credit is never exceeded, nothing is answered unsettled or let go of unreleased, and when the weather
//! clears, everything arrives.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use sidestream_edge::link::{
    Done, Ended, FRAME_BYTES_MAX, Frame, FrameReader, HELD_BYTES_MAX, Held, Hello, Kept, Receiving, Sending,
    Taken, Welcome, cost,
};

/// Room for the longest batch here, and not for many.
const WINDOW: u64 = 2 * cost(2000);

/// What is owed when a batch is released.
#[derive(Debug, PartialEq)]
struct Share(Vec<u64>);

impl Held for Share {
    fn join(&mut self, mut later: Share) {
        self.0.append(&mut later.0);
    }
}

/// A batch that is number `token` for whoever looks.
fn batch(token: u64, bytes: usize) -> Kept<u64, Share> {
    let mut events = vec![0; bytes.max(8)];
    events[..8].copy_from_slice(&token.to_le_bytes());
    Kept { events: events.into(), settle: Some(token), release: Share(vec![token]) }
}

fn number(events: &Bytes) -> u64 {
    u64::from_le_bytes(events[..8].try_into().unwrap())
}

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
    Release(prop::sample::Index),
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
        8 => any::<prop::sample::Index>().prop_map(Step::Release),
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

/// Some batches do not end well, and their sender hears of it whatever happens to the wire.
fn ended_of(token: u64) -> Ended {
    Ended { unfit: u32::from(token % 3 == 1), ..Ended::default() }
}

struct World {
    sending: Sending<u64, Share>,
    receiving: Option<Receiving>,
    lives: u128,
    wire: Option<Wire>,
    pushed: u64,
    /// What the sender was told is settled, and released.
    answered: BTreeSet<u64>,
    let_go: Vec<u64>,
    /// What the receiver that lives has been given, and of that, what it has not consumed and not settled.
    given: Vec<u64>,
    unconsumed: VecDeque<usize>,
    unsettled: Vec<(u64, u64)>,
    /// What its state holds.
    in_state: Vec<(u64, u64)>,
    /// Settled, and released, by any receiver, ever.
    settled: BTreeSet<u64>,
    released: BTreeSet<u64>,
}

impl World {
    fn new() -> Self {
        World {
            sending: Sending::new(1),
            receiving: None,
            lives: 1,
            wire: None,
            pushed: 0,
            answered: BTreeSet::new(),
            let_go: Vec::new(),
            given: Vec::new(),
            unconsumed: VecDeque::new(),
            unsettled: Vec::new(),
            in_state: Vec::new(),
            settled: BTreeSet::new(),
            released: BTreeSet::new(),
        }
    }

    fn connect(&mut self) {
        let Frame::Hello(hello) = self.sending.hello("shop/orders", "a->b") else { unreachable!() };
        let receiving = self.receiving.get_or_insert_with(|| Receiving::new(self.lives, &hello, WINDOW));
        let (welcome, number) = receiving.open(&hello).unwrap();
        let mut done = Done::default();
        self.sending.open(&welcome, &mut done).unwrap();
        self.end(done);
        self.wire = Some(Wire {
            number,
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            receiver_reads: FrameReader::new(FRAME_BYTES_MAX),
            sender_reads: FrameReader::new(FRAME_BYTES_MAX),
        });
    }

    fn end(&mut self, done: Done<u64, Share>) {
        for (token, ended) in done.settled {
            assert_eq!(ended, ended_of(token), "batch {token}");
            assert!(self.settled.contains(&token), "batch {token} was answered before it was settled");
            assert!(self.answered.insert(token), "batch {token} was answered twice");
        }
        for Share(tokens) in done.released {
            let [token] = tokens[..] else { panic!("{tokens:?} were joined") };
            assert!(self.released.contains(&token), "batch {token} was let go of before it was released");
            assert_eq!(token, self.let_go.len() as u64, "let go of out of order");
            self.let_go.push(token);
        }
        assert_eq!(done.lost, [], "so little is always kept");
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { bytes } => {
                self.sending.push(batch(self.pushed, bytes));
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
                    receiving.end(sequence, ended_of(token));
                    receiving.settle(sequence);
                    self.settled.insert(token);
                    self.in_state.push((sequence, token));
                }
            }
            Step::Release(which) => {
                if let (Some(receiving), false) = (&mut self.receiving, self.in_state.is_empty()) {
                    let (sequence, token) = self.in_state.swap_remove(which.index(self.in_state.len()));
                    receiving.release(sequence..=sequence);
                    self.released.insert(token);
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
                self.in_state.clear();
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
            let token = number(&events);
            // Overdrawing would be an error here.
            match receiving.take(wire.number, sequence, events.len()).expect("an honest sender") {
                Taken::New => {
                    match self.given.last() {
                        Some(last) => {
                            assert_eq!(token, last + 1, "a living receiver was given it after {last}")
                        }
                        None => assert!(token <= self.let_go.len() as u64, "a new one begins at {token}"),
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
        let mut done = Done::default();
        while let Some(frame) = wire.sender_reads.next_frame().expect("an honest receiver") {
            let taken = match frame {
                Frame::Acknowledge { settled, released, credit } => {
                    self.sending.acknowledge(settled, released, credit, &mut done)
                }
                Frame::Ended { sequence, ended } => self.sending.ended(sequence, ended),
                other => panic!("{other:?} from a receiver"),
            };
            taken.expect("an honest receiver");
        }
        self.end(done);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_the_wire_nothing_is_lost_repeated_or_reordered(
        steps in prop::collection::vec(step(), 1..150),
        any in any::<prop::sample::Index>(),
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
            while !world.unsettled.is_empty() {
                world.step(Step::Settle(any));
            }
            while !world.in_state.is_empty() {
                world.step(Step::Release(any));
            }
            world.step(Step::Answer);
            world.step(Step::CarryToSender { bytes: usize::MAX });
            if world.sending.is_empty() {
                break;
            }
        }
        prop_assert!(world.sending.is_empty(), "not everything arrived and was released");
        prop_assert_eq!((world.answered.len() as u64, world.let_go.len() as u64), (world.pushed, world.pushed));
        prop_assert_eq!((world.sending.unsettled(), world.sending.unsettled_bytes()), (0, 0));
        prop_assert!(world.receiving.is_some_and(|receiving| receiving.is_released()));
    }
}

fn open() -> (Sending<u64, Share>, Receiving, u64) {
    let mut sending = Sending::new(1);
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let mut receiving = Receiving::new(2, &hello, WINDOW);
    let number = join(&mut sending, &mut receiving).1;
    (sending, receiving, number)
}

/// Opens a connection; gives what was owed no longer and the connection's number.
fn join(sending: &mut Sending<u64, Share>, receiving: &mut Receiving) -> (Done<u64, Share>, u64) {
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let (welcome, number) = receiving.open(&hello).unwrap();
    let mut done = Done::default();
    sending.open(&welcome, &mut done).unwrap();
    (done, number)
}

/// Sends what may go; all of it is taken.
fn carry(sending: &mut Sending<u64, Share>, receiving: &mut Receiving, number_: u64) -> Vec<u64> {
    let (mut out, mut reader) = (Vec::new(), FrameReader::new(FRAME_BYTES_MAX));
    sending.transmit(&mut out, usize::MAX);
    reader.buffer().extend_from_slice(&out);
    let mut taken = Vec::new();
    while let Some(Frame::Batch { sequence, events }) = reader.next_frame().unwrap() {
        assert_eq!(receiving.take(number_, sequence, events.len()), Ok(Taken::New));
        receiving.consumed(events.len());
        taken.push(number(&events));
    }
    taken
}

fn tokens(done: &Done<u64, Share>) -> Vec<u64> {
    done.settled.iter().map(|(token, _)| *token).collect()
}

#[test]
fn a_sender_that_overdraws_skips_or_claims_the_impossible_is_refused() {
    use sidestream_edge::link::ProtocolError::{Gap, Impossible, Overdrawn};
    let (_, mut receiving, number) = open();
    assert_eq!(receiving.take(number, 1, 10), Err(Gap { next: 0, found: 1 }));
    let (_, mut receiving, number) = open();
    assert_eq!(receiving.take(number, 0, WINDOW as usize), Err(Overdrawn { credit: WINDOW }));
    let (mut sending, _, _) = open();
    sending.push(batch(0, 8));
    let mut done = Done::default();
    // Not sent yet, so not settled either.
    assert_eq!(sending.acknowledge(1, 0, 0, &mut done), Err(Impossible { claimed: 1 }));
    assert_eq!(sending.acknowledge(u64::MAX, 0, 0, &mut done), Err(Impossible { claimed: u64::MAX }));
    assert_eq!(sending.acknowledge(0, 1, 0, &mut done), Err(Impossible { claimed: 1 }));
}

#[test]
fn a_sender_of_the_version_before_hears_nothing_of_how_events_ended() {
    let (mut sending, _, _) = open();
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let old = Hello { version: 1, ..hello };
    let mut receiving = Receiving::new(2, &old, WINDOW);
    let (welcome, number) = receiving.open(&old).unwrap();
    assert_eq!(welcome.version, 1);
    assert_eq!(receiving.take(number, 0, 1), Ok(Taken::New));
    receiving.end(0, Ended { unfit: 1, ..Ended::default() });
    receiving.settle(0);
    let (mut out, mut reader) = (Vec::new(), FrameReader::new(FRAME_BYTES_MAX));
    receiving.transmit(number, &mut out);
    reader.buffer().extend_from_slice(&out);
    let Some(Frame::Acknowledge { settled: 1, .. }) = reader.next_frame().unwrap() else { panic!("{out:?}") };
    // A receiver of that version is understood as well.
    let mut done = Done::default();
    sending.push(batch(0, 8));
    sending.open(&Welcome { settled: 0, released: 0, next: 0, ..welcome }, &mut done).unwrap();
    assert!(sending.is_open());
}

#[test]
fn how_a_batch_ended_that_was_never_sent_is_not_taken() {
    let (mut sending, _, _) = open();
    let ended = Ended { dropped: u32::MAX, ..Ended::default() };
    assert!(sending.ended(0, ended).is_err());
}

#[test]
fn how_a_later_batch_ended_is_taken_while_an_earlier_one_comes_again() {
    let (mut sending, mut receiving, number) = open();
    (0..3).for_each(|token| sending.push(batch(token, 8)));
    carry(&mut sending, &mut receiving, number);
    let unfit = Ended { unfit: 1, ..Ended::default() };
    receiving.end(2, unfit);
    receiving.settle(2);
    receiving.lose(0);
    let number = join(&mut sending, &mut receiving).1;
    let (mut out, mut reader) = (Vec::new(), FrameReader::new(FRAME_BYTES_MAX));
    receiving.transmit(number, &mut out);
    reader.buffer().extend_from_slice(&out);
    assert_eq!(reader.next_frame().unwrap(), Some(Frame::Ended { sequence: 2, ended: unfit }));
    // Said before the sender has come as far on this connection.
    assert_eq!(sending.ended(2, unfit), Ok(()));
}

#[test]
fn what_is_settled_a_second_time_keeps_nobody_waiting() {
    let (mut sending, mut receiving, number) = open();
    sending.push(batch(0, 8));
    carry(&mut sending, &mut receiving, number);
    let mut done = Done::default();
    sending.acknowledge(1, 0, WINDOW, &mut done).unwrap();
    assert!(tokens(&done) == [0] && !sending.is_settled(), "settled before it was paid");
    sending.paid();
    assert!(sending.is_settled());
    // The peer dies with its state; the next one gets it again, and settles it again.
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let mut next = Receiving::new(3, &hello, WINDOW);
    let number = join(&mut sending, &mut next).1;
    assert!(!sending.is_settled());
    carry(&mut sending, &mut next, number);
    let mut done = Done::default();
    sending.acknowledge(1, 0, WINDOW, &mut done).unwrap();
    assert!(tokens(&done).is_empty() && sending.is_settled());
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
    (0..3).for_each(|token| sending.push(batch(token, 8)));
    carry(&mut sending, &mut receiving, number);
    receiving.settle(0);
    receiving.rewind(1);
    assert_eq!(receiving.take(number, 3, 1), Ok(Taken::Passed));
    let (done, number) = join(&mut sending, &mut receiving);
    assert_eq!((tokens(&done), sending.unsettled(), sending.resent()), (vec![0], 2, 2));
    receiving.lose(2);
    assert_eq!(carry(&mut sending, &mut receiving, number), [1, 2]);
}

#[test]
fn what_one_peer_never_settled_goes_to_another_and_is_not_asked_for_again() {
    let (mut sending, mut receiving, number) = open();
    (0..3).for_each(|token| sending.push(batch(token, 8)));
    carry(&mut sending, &mut receiving, number);
    let moved: Vec<_> = sending.take_kept(&mut Vec::new()).map(|kept| kept.settle).collect();
    assert_eq!(moved, [Some(0), Some(1), Some(2)]);
    let (_, number) = join(&mut sending, &mut receiving);
    sending.push(batch(3, 8));
    assert_eq!(carry(&mut sending, &mut receiving, number), [3]);
    // What went elsewhere does not hold up what did not.
    receiving.settle(3);
    receiving.release(3..=3);
    assert!(receiving.is_released());
    let (done, _) = join(&mut sending, &mut receiving);
    assert_eq!((tokens(&done), done.released), (vec![3], vec![Share(vec![3])]));
}

#[test]
fn what_a_state_held_comes_again_to_the_peer_that_follows_and_is_answered_once() {
    let (mut sending, mut receiving, number) = open();
    (0..4).for_each(|token| sending.push(batch(token, 8)));
    carry(&mut sending, &mut receiving, number);
    (0..4).for_each(|sequence| receiving.settle(sequence));
    receiving.release(0..=0);
    // Released after one that is not: it is wanted again with it.
    receiving.release(2..=2);
    let (done, _) = join(&mut sending, &mut receiving);
    assert_eq!((tokens(&done), done.released), (vec![0, 1, 2, 3], vec![Share(vec![0])]));
    assert_eq!((sending.unsettled(), sending.unreleased()), (0, 3));

    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let mut next = Receiving::new(3, &hello, WINDOW);
    let (done, number) = join(&mut sending, &mut next);
    assert!(done.settled.is_empty() && done.released.is_empty() && done.lost.is_empty());
    assert_eq!(carry(&mut sending, &mut next, number), [1, 2, 3]);
    (1..4).for_each(|sequence| next.settle(sequence));
    next.release(1..=3);
    let (done, _) = join(&mut sending, &mut next);
    assert_eq!((done.settled.len(), done.released.len()), (0, 3));
    assert!(sending.is_empty());
}

#[test]
fn of_what_a_state_holds_for_long_only_the_newest_is_kept_and_the_rest_is_held_at_its_source() {
    let (mut sending, mut receiving, mut number) = open();
    let batches = 1 << 15;
    for token in 0..batches {
        sending.push(batch(token, 1500));
        assert_eq!(carry(&mut sending, &mut receiving, number), [token]);
        receiving.settle(token);
        // Every so often, or the credit of the connection would be used up.
        number = join(&mut sending, &mut receiving).1;
    }
    assert_eq!((sending.unsettled_bytes(), sending.unreleased()), (0, batches));
    let Frame::Hello(hello) = sending.hello("p", "e") else { unreachable!() };
    let kept = (batches - hello.first) * cost(1500);
    assert!((HELD_BYTES_MAX - cost(1500)..=HELD_BYTES_MAX).contains(&kept), "{kept} bytes are kept");
    // Half of it is released: what was joined across the border waits for the other half.
    receiving.release(0..=batches / 4 - 1);
    let (done, _) = join(&mut sending, &mut receiving);
    let released: usize = done.released.iter().map(|share| share.0.len()).sum();
    assert!(released as u64 > batches / 5 && released as u64 <= batches / 4, "{released}");
    // The peer dies: what is kept goes to the next, the rest is lost to all but the source.
    let mut next = Receiving::new(3, &hello, WINDOW);
    let (done, number) = join(&mut sending, &mut next);
    let lost: usize = done.lost.iter().map(|share| share.0.len()).sum();
    assert_eq!(lost as u64 + released as u64, hello.first);
    assert_eq!(carry(&mut sending, &mut next, number)[0], hello.first);
}
