//! In which order records are.

use super::{NOW, ORDERS, pull_all, push};
use crate::{Client, Dnpipe, From, Push, Service};

/// A pusher that does not wait for answers keeps its order all the same.
pub async fn records_come_in_the_order_in_which_they_were_pushed<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let mut pushes = Vec::new();
    for value in &expected {
        // Spawned in order and started in order: each is polled once before the next one is made.
        let mut pushing = Box::pin(client.push(Push::one(ORDERS, value)));
        let answered =
            std::future::poll_fn(|context| std::task::Poll::Ready(pushing.as_mut().poll(context))).await;
        match answered {
            std::task::Poll::Ready(answer) => drop(answer.unwrap()),
            std::task::Poll::Pending => pushes.push(pushing),
        }
    }
    // Waited for from the last to the first.
    for pushing in pushes.into_iter().rev() {
        pushing.await.unwrap();
    }
    assert_eq!(pull_all(&client).await.values(), expected);
}

/// Whoever pushes at the same time: no offset is missing, none comes twice, and each pusher's records are in its order.
pub async fn offsets_are_dense_and_each_pusher_keeps_its_order<S: Service>(service: S) {
    const PUSHERS: usize = 4;
    const EACH: usize = 40;
    service.create(Dnpipe::named(ORDERS)).await;
    let mut tasks = Vec::new();
    for pusher in 0..PUSHERS {
        let client = service.client().await;
        tasks.push(tokio::spawn(async move {
            let mut offsets = Vec::new();
            for n in 0..EACH {
                offsets.push(push(&client, format!("{pusher}:{n}")).await.offset);
            }
            offsets
        }));
    }
    let mut offsets = Vec::new();
    for task in tasks {
        let own = task.await.unwrap();
        assert!(own.is_sorted());
        offsets.extend(own);
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (0..(PUSHERS * EACH) as u64).collect::<Vec<_>>());
    let pulled = pull_all(&service.client().await).await;
    assert!(pulled.records.iter().map(|(offset, _)| *offset).eq(0..(PUSHERS * EACH) as u64));
    for pusher in 0..PUSHERS {
        let prefix = format!("{pusher}:");
        let own: Vec<_> =
            pulled.values().into_iter().filter_map(|value| value.strip_prefix(&prefix)).collect();
        assert!(own.iter().map(|n| n.parse::<usize>().unwrap()).eq(0..EACH), "{own:?}");
    }
}

/// Order is of a partition; a reset is of the dnpipe.
pub async fn partitions_keep_their_own_order_and_are_reset_together<S: Service>(service: S) {
    service.create(Dnpipe { partitions: 3, ..Dnpipe::named(ORDERS) }).await;
    let client = service.client().await;
    for n in 0..12u64 {
        let partition = (n % 3) as u32;
        let pushed = client.push(Push { partition, ..Push::one(ORDERS, n) }).await.unwrap();
        assert_eq!(pushed.offset, n / 3);
    }
    for partition in 0..3u32 {
        let pulled = client.pull(ORDERS, partition, From::First(0), u64::MAX, NOW).await.unwrap();
        let expected: Vec<String> = (0..4).map(|n| (n * 3 + partition).to_string()).collect();
        assert_eq!(pulled.values(), expected);
    }
    let epoch = client.reset(ORDERS).await.unwrap();
    for partition in 0..3 {
        let pulled = client.pull(ORDERS, partition, From::First(0), u64::MAX, NOW).await.unwrap();
        assert_eq!((pulled.records.len(), pulled.epoch, pulled.next), (0, epoch, 4));
    }
}
