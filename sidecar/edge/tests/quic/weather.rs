//! What UDP does to datagrams between two peers: loses them, turns them round, moves them to another address.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use sidestream_host::Random;
use tokio::net::UdpSocket;

use crate::delivery::world::{SERVICE, Seen, Source, app_and_hub, receive, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_arrive_once_and_in_order_while_datagrams_are_lost_and_addresses_change() {
    let (world, app, hub) = app_and_hub().await;
    let (address, moves) = bad_weather(hub.address()).await;
    world.dns.set(SERVICE, [address]);
    let seen = Seen::default();
    let _watching = seen.watch(receive(&hub, "app"));
    let (mut sender, source) = (send(&app, "hub"), Arc::new(Source::default()));
    for n in 0..2000 {
        assert!(sender.send(&source.batch(n * 3, 3)).await.is_empty());
        if n % 500 == 250 {
            moves.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    sender.settled().await;
    assert_eq!(seen.all(), (0..6000).collect::<Vec<_>>());
    assert_eq!(source.settled(), 2000);
    assert_eq!(sender.view().connections, 1, "{:?}", sender.view());
    assert_eq!(hub.edges()[0].connections, 1, "the connection survives a change of address");
}

/// Carries datagrams to `target` and back; loses one in fifty and holds back as many until the next has passed. For each
/// word it comes from another address.
async fn bad_weather(target: SocketAddr) -> (SocketAddr, SyncSender<()>) {
    let (moves, moved) = sync_channel(16);
    let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = near.local_addr().unwrap();
    tokio::spawn(carry(near, target, moved));
    (address, moves)
}

async fn carry(near: UdpSocket, target: SocketAddr, moved: Receiver<()>) {
    let mut random = Random::seeded(7);
    let mut far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut caller, mut held): (Option<SocketAddr>, Option<Vec<u8>>) = (None, None);
    let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            received = near.recv_from(&mut out) => {
                let (length, from) = received.unwrap();
                caller = Some(from);
                if moved.try_recv().is_ok() {
                    far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                }
                match random.next_u64() % 50 {
                    0 => continue,
                    1 if held.is_none() => held = Some(out[..length].to_vec()),
                    _ => {
                        let _ = far.send_to(&out[..length], target).await;
                        if let Some(late) = held.take() {
                            let _ = far.send_to(&late, target).await;
                        }
                    }
                }
            }
            received = far.recv_from(&mut back) => {
                let (Ok((length, _)), Some(caller)) = (received, caller) else { continue };
                if !random.next_u64().is_multiple_of(50) {
                    let _ = near.send_to(&back[..length], caller).await;
                }
            }
        }
    }
}
