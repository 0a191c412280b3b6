//! What a sender took arrives once and in order, whatever becomes of the TCP connections under it.

mod world;

use std::{sync::Arc, time::Duration};

use sidestream_edge::Transport;
use world::{Proxy, SERVICE, Seen, Source, app_and_hub, finish, receive, send, until};

const TRANSPORT: Transport = Transport::Tcp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_arrive_once_and_in_order_while_the_connection_is_cut_again_and_again() {
    let (world, app, hub) = app_and_hub().await;
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
async fn a_receiver_that_dies_is_replaced_and_the_unsettled_are_sent_to_the_next() {
    let (world, app, hub) = app_and_hub().await;
    let proxy = Proxy::before(hub.address()).await;
    world.dns.set(SERVICE, [proxy.address]);
    let mut first = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..10 {
        sender.send(&source.batch(n, 1)).await;
    }
    first.next().await.taken().release();
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
async fn what_a_state_holds_is_answered_at_once_and_comes_again_when_the_receiver_dies_with_it() {
    let (world, app, hub) = app_and_hub().await;
    let proxy = Proxy::before(hub.address()).await;
    world.dns.set(SERVICE, [proxy.address]);
    let mut receiver = receive(&hub, "app");
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..10 {
        finish(&mut sender, source.batch(n, 1)).await;
    }
    // The first three leave the state again; of the others it holds the fourth, and by that all behind it.
    let mut state = Vec::new();
    for n in 0..10 {
        let batch = receiver.next().await.taken();
        if n < 3 { batch.release() } else { state.push(batch.settle()) }
    }
    sender.settled().await;
    assert_eq!(source.settled(), 10);
    until("the first are released", || source.released() == [0, 1, 2]).await;
    assert_eq!((sender.view().unsettled_batches, sender.view().unreleased_batches), (0, 7));
    assert_eq!(hub.edges()[0].unreleased_batches, 7);
    hub.close(Duration::ZERO).await;
    proxy.cut();
    drop((receiver, state));
    let next = world.process("hub").await;
    let seen = Seen::default();
    let _watching = seen.watch(receive(&next, "app"));
    world.dns.set(SERVICE, [next.address()]);
    until("the position has come to the end", || source.released().len() == 10).await;
    assert_eq!(seen.all(), (3..10).collect::<Vec<_>>());
    assert_eq!((source.settled(), source.dropped()), (10, 0), "what was answered is answered once");
}
