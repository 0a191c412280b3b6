//! What a sender took arrives once and in order, whatever becomes of its receivers.

pub(crate) mod world;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use sidestream_edge::{Transport, link::CREDIT_BYTES};
use sidestream_event::{Batch, Event, Mark, Settle, Settled, Span, Value};
use world::{SERVICE, Seen, Source, app_and_hub, edge, finish, id, numbers, receive, send, until, world};

/// What carries the edges; the tests for QUIC include this file and say otherwise.
#[allow(dead_code, reason = "where this file is included, the root says it")]
const TRANSPORT: Transport = Transport::Tcp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_settled_only_when_the_receiver_has_settled_it_in_whatever_order() {
    let (_world, app, hub) = app_and_hub().await;
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..3 {
        sender.send(&source.batch(n, 1)).await;
    }
    let mut open = Vec::new();
    for n in 0..3 {
        let (arrived, mut batch) = (receiver.next().await, Batch::default());
        arrived.read_into(&mut batch).unwrap();
        assert_eq!((numbers(&batch), arrived.sender()), (vec![n], &id("app")));
        open.push(arrived.taken());
    }
    open.pop().unwrap().release();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(source.settled(), 0, "acknowledged before those in front of it");
    open.remove(0).release();
    until("the first is settled", || source.settled() == 1).await;
    open.pop().unwrap().release();
    sender.settled().await;
    assert_eq!(source.settled(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_is_settled_only_when_its_sources_have_heard_of_it() {
    #[derive(Default)]
    struct Slow(Mutex<u64>);
    impl Settle for Slow {
        fn settled(&self, _: Settled) {
            std::thread::sleep(Duration::from_millis(20));
            *self.0.lock().unwrap() += 1;
        }
        fn released(&self, _: Span) {}
    }
    let (_world, app, hub) = app_and_hub().await;
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Slow::default()));
    for first in 0..10 {
        let mark = Mark::new(Span { first, count: 1 }, source.clone());
        let event = Event::new([("n", first as i64)].into_iter().collect::<Value>());
        sender.send(&Batch::of(vec![event], mark)).await;
    }
    until("all is acknowledged", || sender.view().unsettled_batches == 0).await;
    sender.settled().await;
    assert_eq!(*source.0.lock().unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_and_nothing_is_lost_or_repeated() {
    let world = world();
    let (app_identity, hub_identity) = (world.identity("app"), world.identity("hub"));
    let app = world.process_as(app_identity.clone()).await;
    let hub = world.process_as(hub_identity.clone()).await;
    world.dns.set(SERVICE, [hub.address()]);
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..4000u64 {
        sender.send(&source.batch(n, 1)).await;
        if n % 1000 == 500 {
            hub_identity.replace(world.credentials("hub"));
            app_identity.replace(world.credentials("app"));
        }
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    sender.settled().await;
    assert_eq!(seen.all(), (0..4000).collect::<Vec<_>>());
    let view = sender.view();
    assert!(view.connections >= 3, "no connection was made anew: {view:?}");
    assert_eq!(view.refusals, 0, "{view:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_takes_nothing_holds_no_more_than_its_credit_and_the_sender_waits() {
    let (_world, app, hub) = app_and_hub().await;
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    let mut big = Batch::default();
    big.push(Event::new("x".repeat(1 << 20)));
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_secs(1), sender.send(&big)).await.is_ok() {
        taken += 1;
    }
    assert!((8..=20).contains(&taken), "{taken} MiB were taken");
    let there = hub.edges().remove(0);
    assert!(there.batches <= CREDIT_BYTES >> 20, "more came than was granted: {there:?}");
    // Once the stages take, everything flows on.
    let drain = tokio::spawn(async move {
        for _ in 0..taken + 1 {
            receiver.next().await.taken().release();
        }
        receiver
    });
    assert!(sender.send(&source.batch(0, 1)).await.is_empty());
    sender.settled().await;
    drain.await.unwrap();
    assert_eq!(source.settled(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leaving_receiver_has_not_taken_goes_to_another() {
    let world = world();
    let (app, one, two) =
        (world.process("app").await, world.process("hub").await, world.process("hub").await);
    world.dns.set(SERVICE, [one.address()]);
    let mut first = receive(&one, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..10 {
        sender.send(&source.batch(n, 1)).await;
    }
    // Three are in the stages of the first; the others wait at its door.
    let mut in_stages = Vec::new();
    for _ in 0..3 {
        in_stages.push(first.next().await.taken());
    }
    until("all ten are there", || one.edges()[0].batches == 10).await;
    let seen = Seen::default();
    let _watching = seen.watch(receive(&two, "app"));
    world.dns.set(SERVICE, [one.address(), two.address()]);
    until("both are known", || sender.view().connected == 2).await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(seen.all().is_empty(), "moved although the first still settles");
    in_stages.into_iter().for_each(|batch| batch.release());
    sender.settled().await;
    assert_eq!(seen.all(), (3..10).collect::<Vec<_>>());
    assert_eq!(source.settled(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_plan_takes_over_an_edge_and_repeats_nothing() {
    let (_world, app, hub) = app_and_hub().await;
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    let seen = Seen::default();
    let watching = seen.watch(receive(&hub, "app"));
    for n in 0..500 {
        sender.send(&source.batch(n, 1)).await;
    }
    watching.abort();
    let _ = watching.await;
    let (hub_too, seen_too) = (hub.clone(), seen.clone());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen_too.watch(receive(&hub_too, "app")).await
    });
    for n in 500..1000 {
        sender.send(&source.batch(n, 1)).await;
    }
    sender.settled().await;
    assert_eq!(seen.all(), (0..1000).collect::<Vec<_>>());
    assert_eq!(source.settled(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_receivers_share_what_comes_and_dns_that_fails_changes_nothing() {
    let world = world();
    let (app, one, two) =
        (world.process("app").await, world.process("hub").await, world.process("hub").await);
    world.dns.set(SERVICE, [one.address(), two.address()]);
    let (seen_one, seen_two) = (Seen::default(), Seen::default());
    let _watching = [seen_one.watch(receive(&one, "app")), seen_two.watch(receive(&two, "app"))];
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    until("both are open", || sender.view().connected == 2).await;
    world.dns.fail(SERVICE);
    for n in 0..2000 {
        sender.send(&source.batch(n, 1)).await;
    }
    sender.settled().await;
    let mut all = [seen_one.all(), seen_two.all()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..2000).collect::<Vec<_>>());
    assert_eq!(sender.view().peers, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_too_large_for_any_frame_is_refused_and_its_neighbours_arrive() {
    let (_world, app, hub) = app_and_hub().await;
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    let mut batch = source.batch(0, 3);
    batch.events_mut()[1].body = "x".repeat(5 << 20).into();
    let refused = sender.send(&batch).await;
    assert_eq!(refused.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
    sender.settled().await;
    assert_eq!(seen.all(), [0, 2]);
    batch.clear();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_sender_loses_nothing() {
    let (_world, app, hub) = app_and_hub().await;
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..100 {
        sender.send(&source.batch(n, 1)).await;
    }
    drop(sender);
    for _ in 0..100 {
        receiver.next().await.taken().release();
    }
    until("all are settled", || source.settled() == 100).await;
    until("the sender is gone", || app.edges().is_empty()).await;
    assert_eq!(hub.edges()[0].name, edge());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_stages_lost_stays_its_senders_and_comes_again_alone_when_it_is_asked_for() {
    let (_world, app, hub) = app_and_hub().await;
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..4 {
        sender.send(&source.batch(n, 1)).await;
    }
    let mut in_stages = Vec::new();
    for _ in 0..4 {
        in_stages.push(receiver.next().await.taken());
    }
    let last = in_stages.pop().unwrap();
    for (n, batch) in in_stages.into_iter().enumerate() {
        if n == 1 { batch.lose() } else { batch.release() }
    }
    until("the first is settled", || source.settled() == 1).await;
    hub.ask_again("shop/orders");
    let mut again = Batch::default();
    let arrived = receiver.next().await;
    arrived.read_into(&mut again).unwrap();
    assert_eq!(numbers(&again), [1]);
    arrived.taken().release();
    last.release();
    sender.settled().await;
    assert_eq!(source.settled(), 4);
    let more = tokio::time::timeout(Duration::from_millis(50), receiver.next()).await;
    assert!(more.is_err(), "what was not lost came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_no_receiver_reads_is_refused_by_its_place_and_the_others_arrive() {
    let (_world, app, hub) = app_and_hub().await;
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    let mut batch = source.batch(0, 4);
    let deep = (0..200).fold(Value::Null, |inner, _| Value::from(vec![inner]));
    batch.events_mut()[1].body = deep;
    batch.events_mut()[2].body = Value::from(vec![Value::Null; 3 << 20]);
    let refused = sender.send(&batch).await;
    let places: Vec<_> = refused.iter().map(|(index, _)| *index).collect();
    assert_eq!(places, [1, 2], "{refused:?}");
    assert!(refused[0].1.contains("deeper than 128") && refused[1].1.contains("memory"), "{refused:?}");
    batch.finish();
    sender.settled().await;
    assert_eq!(seen.all(), [0, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_abandoned_sender_still_keeps_ends_as_dropped_and_nothing_of_it_goes_on() {
    let (_world, app, hub) = app_and_hub().await;
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..5 {
        let mut batch = source.batch(n * 3, 3);
        sender.send(&batch).await;
        batch.finish();
    }
    receiver.next().await.taken().release();
    until("the first is settled", || source.settled() == 1).await;
    assert_eq!(sender.abandon(), 12);
    assert_eq!((source.settled(), source.dropped()), (5, 12));
    drop(sender);
    until("the sender is gone", || app.edges().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_dropped_lives_on_until_no_state_holds_what_it_sent() {
    let (_world, app, hub) = app_and_hub().await;
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    finish(&mut sender, source.batch(0, 1)).await;
    let held = receiver.next().await.taken().settle();
    sender.settled().await;
    drop(sender);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((app.edges().len(), source.released().len()), (1, 0));
    held.release();
    until("the sender is gone", || app.edges().is_empty()).await;
    assert_eq!(source.released(), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_that_is_empty_flaps_forges_or_floods_moves_no_event_away_from_a_peer_that_lives() {
    let (world, app, hub) = app_and_hub().await;
    // Two that are not the receiver: another workload, and one that nobody listens at.
    let other = world.process("other").await;
    let stolen = Seen::default();
    let _stealing = stolen.watch(receive(&other, "app"));
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    let flood: Vec<_> = (0..1000).map(|n| SocketAddr::from(([127, 1, (n >> 8) as u8, n as u8], 1))).collect();
    let answers: [&[SocketAddr]; 6] = [&[], &[hub.address()], &[], &[other.address(), nobody], &flood, &[]];
    sender.send(&source.batch(0, 1)).await;
    let mut sent = 1;
    for answer in answers {
        world.dns.set(SERVICE, answer.iter().copied());
        // Long enough to be asked twice.
        for _ in 0..12 {
            sender.send(&source.batch(sent, 1)).await;
            sent += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    world.dns.set(SERVICE, [hub.address()]);
    sender.settled().await;
    assert_eq!(seen.all(), (0..sent).collect::<Vec<_>>());
    assert!(stolen.all().is_empty() && other.edges()[0].connections == 0);
    assert_eq!(sender.view().connections, 1, "{:?}", sender.view());
    until("the strangers are forgotten", || sender.view().peers == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_a_thousand_strangers_in_it_does_not_keep_the_receiver_out_for_good() {
    let (world, app, hub) = app_and_hub().await;
    let strangers = (0..1000).map(|n| SocketAddr::from(([127, 1, (n >> 8) as u8, n as u8], 1)));
    world.dns.set(SERVICE, strangers);
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    until("strangers are called", || sender.view().refusals > 100).await;
    assert!(sender.view().peers <= 256, "{:?}", sender.view());
    world.dns.set(SERVICE, [hub.address()]);
    sender.send(&source.batch(0, 1)).await;
    sender.settled().await;
    assert_eq!(seen.all(), [0]);
}
