//! What a sender took arrives once and in order, whatever becomes of the connections under it.

mod world;

use std::{sync::Arc, time::Duration};

use sidestream_edge::link::CREDIT_BYTES;
use sidestream_event::{Batch, Value};
use world::{Proxy, SERVICE, Seen, Source, edge, id, numbers, receive, send, until, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_arrive_once_and_in_order_while_the_connection_is_cut_again_and_again() {
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    let proxy = Proxy::before(hub.address()).await;
    world.dns.set(SERVICE, [proxy.address]);
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..3000u64 {
        assert!(sender.send(&source.batch(n * 3, 3)).await.is_empty());
        if n % 300 == 299 {
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    sender.settled().await;
    assert_eq!(seen.all(), (0..9000).collect::<Vec<_>>());
    assert_eq!(source.settled(), 3000);
    let view = sender.view();
    assert!(view.connections >= 5, "{view:?}");
    assert_eq!((view.unsettled_batches, view.batches), (0, 3000), "{view:?}");
    let there = hub.edges().remove(0);
    assert_eq!((there.batches, there.repeats, there.unsettled_batches), (3000, 0, 0), "{there:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_settled_only_when_the_receiver_has_settled_it_in_whatever_order() {
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
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
    open.pop().unwrap().settle();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(source.settled(), 0, "acknowledged before those in front of it");
    open.remove(0).settle();
    until("the first is settled", || source.settled() == 1).await;
    open.pop().unwrap().settle();
    sender.settled().await;
    assert_eq!(source.settled(), 3);
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
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    let mut big = Batch::default();
    big.push(sidestream_event::Event::new("x".repeat(1 << 20)));
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
            receiver.next().await.taken().settle();
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
    in_stages.into_iter().for_each(|batch| batch.settle());
    sender.settled().await;
    assert_eq!(seen.all(), (3..10).collect::<Vec<_>>());
    assert_eq!(source.settled(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_dies_is_replaced_and_the_unsettled_are_sent_to_the_next() {
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    let proxy = Proxy::before(hub.address()).await;
    world.dns.set(SERVICE, [proxy.address]);
    let mut first = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..10 {
        sender.send(&source.batch(n, 1)).await;
    }
    first.next().await.taken().settle();
    until("the first is settled", || source.settled() == 1).await;
    let lost = first.next().await.taken();
    // The process is gone, and another comes up elsewhere; DNS says so.
    hub.close(Duration::ZERO).await;
    proxy.cut();
    let next = world.process("hub").await;
    let seen = Seen::default();
    let _watching = seen.watch(receive(&next, "app"));
    world.dns.set(SERVICE, [next.address()]);
    sender.settled().await;
    assert_eq!(seen.all(), (1..10).collect::<Vec<_>>(), "the one that was lost in the stages comes again");
    assert_eq!(source.settled(), 10);
    drop(lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_plan_takes_over_an_edge_and_repeats_nothing() {
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
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
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
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
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..100 {
        sender.send(&source.batch(n, 1)).await;
    }
    drop(sender);
    for _ in 0..100 {
        receiver.next().await.taken().settle();
    }
    until("all are settled", || source.settled() == 100).await;
    until("the sender is gone", || app.edges().is_empty()).await;
    assert_eq!(hub.edges()[0].name, edge());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_stages_lost_stays_its_senders_and_comes_again_alone_when_it_is_asked_for() {
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
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
        if n == 1 { batch.lose() } else { batch.settle() }
    }
    until("the first is settled", || source.settled() == 1).await;
    hub.ask_again("shop/orders");
    let mut again = Batch::default();
    let arrived = receiver.next().await;
    arrived.read_into(&mut again).unwrap();
    assert_eq!(numbers(&again), [1]);
    arrived.taken().settle();
    last.settle();
    sender.settled().await;
    assert_eq!(source.settled(), 4);
    let more = tokio::time::timeout(Duration::from_millis(50), receiver.next()).await;
    assert!(more.is_err(), "what was not lost came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_no_receiver_reads_is_refused_by_its_place_and_the_others_arrive() {
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
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
    let world = world();
    let (app, hub) = (world.process("app").await, world.process("hub").await);
    world.dns.set(SERVICE, [hub.address()]);
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..5 {
        let mut batch = source.batch(n * 3, 3);
        sender.send(&batch).await;
        batch.finish();
    }
    receiver.next().await.taken().settle();
    until("the first is settled", || source.settled() == 1).await;
    assert_eq!(sender.abandon(), 12);
    assert_eq!((source.settled(), source.dropped()), (5, 12));
    drop(sender);
    until("the sender is gone", || app.edges().is_empty()).await;
}
