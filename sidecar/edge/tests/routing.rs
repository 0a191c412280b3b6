//! Which of several receivers gets what: a near one, the least loaded, or the one that owns the slot of a key.

mod world;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use sidestream_edge::{EdgeReceiver, EdgeSender, Peering, Place, Slot, Slots, Target, Transport};
use sidestream_event::{Batch, Event, Value};
use world::{SERVICE, Seen, Source, World, edge, id, receive, send, until, world};

/// What carries the edges; the tests for QUIC include this file and say otherwise.
#[allow(dead_code, reason = "where this file is included, the root says it")]
const TRANSPORT: Transport = Transport::Tcp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_on_the_same_machine_gets_everything_until_it_is_busy() {
    let world = world();
    let app = world.process_on("node-b", world.identity("app")).await;
    let far = world.process_on("node-a", world.identity("hub")).await;
    let near = world.process_on("node-b", world.identity("hub")).await;
    world.dns.set(SERVICE, [far.address(), near.address()]);
    let seen = Seen::default();
    let _watching = seen.watch(receive(&far, "app"));
    // It takes what comes, and ends nothing.
    let mut busy = receive(&near, "app");
    let in_stages = Arc::new(Mutex::new(Vec::new()));
    let held = in_stages.clone();
    tokio::spawn(async move {
        loop {
            let batch = busy.next().await.taken();
            held.lock().unwrap().push(batch);
        }
    });
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    until("both are open", || sender.view().connected == 2).await;
    for n in 0..100 {
        sender.send(&source.batch(n, 1)).await;
    }
    until("all hundred are there", || in_stages.lock().unwrap().len() == 100).await;
    assert!(seen.all().is_empty(), "{:?}", seen.all());
    // A mebibyte that it has not settled is enough.
    let mut big = source.batch(100, 1);
    big.events_mut()[0].body = "x".repeat(2 << 20).into();
    sender.send(&big).await;
    sender.send(&source.batch(101, 1)).await;
    until("the other gets the next", || seen.all() == [101]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_has_one_owner_and_its_events_stay_in_order_while_owners_come_and_go() {
    let world = world();
    let app = world.process("app").await;
    let hubs = Hubs::start(&world, 3).await;
    hubs.are_there(&world, &[0, 1]);
    let source = Arc::new(Source::default());
    let mut sender = owned(&app, 2);
    let mut sent = 0;
    for owners in [3, 1, 2] {
        for _ in 0..200 {
            give(&mut sender, &source, sent, 20).await;
            sent += 20;
        }
        hubs.are_there(&world, &(0..3).collect::<Vec<_>>());
        // A new plan's sender comes before the old one's goes.
        sender = owned(&app, owners);
        give(&mut sender, &source, sent, 20).await;
        sent += 20;
        let first = hubs.seen().len();
        until("it is there", || hubs.seen().len() > first || hubs.seen().len() == sent as usize).await;
    }
    sender.settled().await;
    until("all is there", || hubs.seen().len() == sent as usize).await;
    hubs.saw_keys_in_order();
    let counts: Vec<usize> =
        (0..3).map(|hub| hubs.seen().iter().filter(|(own, ..)| *own == hub).count()).collect();
    assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
    assert_eq!(sender.view().connections, 3, "one roster sent it all: {:?}", sender.view());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_follows_a_moment_after_the_one_before_it_has_ended_sends() {
    let world = world();
    let app = world.process("app").await;
    let hubs = Hubs::start(&world, 2).await;
    hubs.are_there(&world, &[0, 1]);
    let source = Arc::new(Source::default());
    for turn in 0..30 {
        let mut sender = owned(&app, 1 + turn % 2);
        let sent = give(&mut sender, &source, u64::from(turn) * 20, 20);
        tokio::time::timeout(Duration::from_secs(60), sent).await.expect("somebody takes them");
        until("nobody has anything of it", || source.released().len() == turn as usize + 1).await;
        drop(sender);
        tokio::time::sleep(Duration::from_millis(2 * u64::from(turn))).await;
    }
    assert_eq!(hubs.seen().len(), 600);
    hubs.saw_keys_in_order();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_an_owner_wait_for_it_wherever_it_comes_back() {
    let world = world();
    let app = world.process("app").await;
    let hubs = Hubs::start(&world, 3).await;
    hubs.are_there(&world, &[0, 1]);
    let source = Arc::new(Source::default());
    let mut sender = owned(&app, 2);
    give(&mut sender, &source, 0, 100).await;
    sender.settled().await;
    // Number 1 dies, and comes back where number 2 was.
    hubs.processes[1].close(Duration::ZERO).await;
    world.dns.set(SERVICE, [hubs.place(0, 0)]);
    until("it is gone", || sender.view().connected == 1).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), give(&mut sender, &source, 100, 100)).await;
    assert!(waits.is_err(), "somebody else took its events");
    world.dns.set(SERVICE, [hubs.place(0, 0), hubs.place(2, 1)]);
    give(&mut sender, &source, 100, 100).await;
    sender.settled().await;
    for (hub, key, number) in hubs.seen() {
        let owner = key % 2;
        let place = if owner == 1 && number >= 100 { 2 } else { owner as usize };
        assert_eq!(hub, place, "event {number} of {key}");
    }
    assert_eq!(hubs.seen().len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_begin_to_own_keys_when_the_one_before_them_has_settled_all_and_cease_to_with_nothing_lost()
{
    let world = world();
    let app = world.process("app").await;
    let hubs = Hubs::start(&world, 3).await;
    // Number 1 is the slow one, and nobody's owner.
    world.dns.set(SERVICE, [Place { address: hubs.processes[1].address(), ordinal: None }]);
    let source = Arc::new(Source::default());
    let mut sender = app.send_to(target(None));
    give(&mut sender, &source, 0, 100).await;
    give(&mut sender, &source, 100, 100).await;
    world.dns.set(SERVICE, [hubs.place(1, 7), hubs.place(0, 0), hubs.place(2, 1)]);
    sender = owned(&app, 2);
    give(&mut sender, &source, 200, 200).await;
    sender.settled().await;
    hubs.saw_keys_in_order();
    assert!(hubs.seen().iter().all(|(hub, _, number)| (*hub == 1) == (*number < 200)), "{:?}", hubs.seen());
    sender = app.send_to(target(None));
    give(&mut sender, &source, 400, 100).await;
    sender.settled().await;
    assert_eq!(hubs.seen().len(), 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_died_with_the_state_of_an_owner_that_owns_nothing_any_more_goes_to_its_heirs() {
    let world = world();
    let app = world.process("app").await;
    let hubs = Hubs::start(&world, 2).await;
    let leaving = world.process("hub").await;
    let mut receiver = receive(&leaving, "app");
    world.dns.set(SERVICE, [Place { address: leaving.address(), ordinal: Some(2) }]);
    let source = Arc::new(Source::default());
    let mut sender = app.send_to(target(Slots::new(&[2; 256])));
    give(&mut sender, &source, 0, 100).await;
    // In a state of its, and so kept by the sender.
    let in_state = receiver.next().await.taken().settle();
    sender.settled().await;
    world.dns.set(
        SERVICE,
        [Place { address: leaving.address(), ordinal: Some(2) }, hubs.place(0, 0), hubs.place(1, 1)],
    );
    sender = owned(&app, 2);
    give(&mut sender, &source, 100, 100).await;
    sender.settled().await;
    assert_eq!(hubs.seen().len(), 100, "what is settled stays where it is");
    leaving.close(Duration::ZERO).await;
    hubs.are_there(&world, &[0, 1]);
    until("its heirs have it", || hubs.seen().len() == 200).await;
    assert!(hubs.seen().iter().all(|(hub, key, _)| *hub as u64 == key % 2), "{:?}", hubs.seen());
    drop(in_state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_owner_never_took_goes_to_the_owners_that_follow_it() {
    let world = world();
    let app = world.process("app").await;
    let hubs = Hubs::start(&world, 2).await;
    let leaving = world.process("hub").await;
    let mut receiver = receive(&leaving, "app");
    world.dns.set(SERVICE, [Place { address: leaving.address(), ordinal: Some(0) }]);
    let source = Arc::new(Source::default());
    let mut sender = owned(&app, 1);
    for n in 0..10 {
        give(&mut sender, &source, n * 10, 10).await;
    }
    receiver.next().await.taken().release();
    until("the first is settled", || source.settled() == 1).await;
    // It goes with nine in its hand, and two others take its place under a new map.
    drop(receiver);
    leaving.close(Duration::ZERO).await;
    world.dns.set(SERVICE, [hubs.place(0, 1), hubs.place(1, 2)]);
    let owners: Vec<u32> = (0..256).map(|slot| 1 + slot % 2).collect();
    let mut next = app.send_to(target(Slots::new(&owners)));
    give(&mut next, &source, 100, 10).await;
    next.settled().await;
    let seen = hubs.seen();
    let mut numbers: Vec<u64> = seen.iter().map(|(_, _, number)| *number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (10..110).collect::<Vec<_>>());
    assert_eq!((source.settled(), source.dropped()), (11, 0));
    assert!((0..2).all(|hub| seen.iter().any(|(own, ..)| *own == hub)), "{seen:?}");
}

// ---- helpers

/// Receivers that write into one log what each got: who, which key, which number.
struct Hubs {
    processes: Vec<Peering>,
    log: Log,
}

type Log = Arc<Mutex<Vec<(usize, u64, u64)>>>;

impl Hubs {
    async fn start(world: &World, count: usize) -> Hubs {
        let log = Log::default();
        let mut processes = Vec::new();
        for hub in 0..count {
            let process = world.process("hub").await;
            tokio::spawn(write_down(receive(&process, "app"), hub, log.clone()));
            processes.push(process);
        }
        Hubs { processes, log }
    }

    /// Process `hub`, as DNS names number `ordinal`.
    fn place(&self, hub: usize, ordinal: u32) -> Place {
        Place { address: self.processes[hub].address(), ordinal: Some(ordinal) }
    }

    fn are_there(&self, world: &World, hubs: &[usize]) {
        world.dns.set(SERVICE, hubs.iter().map(|hub| self.place(*hub, *hub as u32)));
    }

    /// Of each key no event came behind a later one.
    fn saw_keys_in_order(&self) {
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for (_, key, number) in self.seen() {
            let before = last.insert(key, number);
            assert!(before.is_none_or(|before| before < number), "{key}: {number} after {before:?}");
        }
    }

    fn seen(&self) -> Vec<(usize, u64, u64)> {
        self.log.lock().unwrap().clone()
    }
}

async fn write_down(mut receiver: EdgeReceiver, hub: usize, log: Log) {
    loop {
        let (arrived, mut batch) = (receiver.next().await, Batch::default());
        arrived.read_into(&mut batch).unwrap();
        {
            let mut log = log.lock().unwrap();
            for event in batch.events() {
                let number = event.body.field("n").and_then(Value::as_f64).unwrap() as u64;
                log.push((hub, key_of(number), number));
            }
        }
        // Some later than others.
        if hub == 1 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        arrived.taken().release();
    }
}

fn target(slots: Option<Slots>) -> Target {
    Target { name: edge(), service: SERVICE.into(), identity: id("hub"), slots, transport: crate::TRANSPORT }
}

/// A sender whose slots are spread over receivers with the ordinals 0, 1 …
fn owned(app: &Peering, owners: u32) -> EdgeSender {
    let owners: Vec<u32> = (0..256).map(|slot| slot % owners).collect();
    app.send_to(target(Slots::new(&owners)))
}

/// Sends events numbered from `first`, each with one of 64 keys.
async fn give(sender: &mut EdgeSender, source: &Arc<Source>, first: u64, count: u32) {
    let mut batch = source.batch(first, count);
    let slots: Vec<Slot> = batch.events().iter().map(slot_of).collect();
    assert!(sender.send_by_slot(&batch, &slots).await.is_empty());
    batch.finish();
}

/// Each key is its own hash.
fn slot_of(event: &Event) -> Slot {
    Slot::of(key_of(event.meta.sequence))
}

fn key_of(number: u64) -> u64 {
    number.wrapping_mul(7) % 64
}
