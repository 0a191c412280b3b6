//! What is left after a crash: everything that was answered.

use std::sync::{Arc, Mutex};

use super::{NOW, ORDERS, SOON, pull_all, push};
use crate::{Client, Conditions, Dnpipe, From, Member, Push, Pushed, Refused, Service};

const BILLING: &str = "billing";

/// A crash between the answer and the pull, with pushes on their way: what was answered is there, in its place; what was not
/// may be there, in order.
pub async fn what_was_answered_is_there_after_a_crash<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    let answered: Arc<Mutex<Vec<(u64, String)>>> = Arc::default();
    let mut tasks = Vec::new();
    for pusher in 0..4 {
        let (client, answered) = (client.clone(), answered.clone());
        tasks.push(tokio::spawn(async move {
            for n in 0.. {
                let value = format!("{pusher}:{n}");
                let Ok(Pushed { offset, .. }) = client.push(Push::one(ORDERS, &value)).await else { return };
                answered.lock().unwrap().push((offset, value));
            }
        }));
    }
    while answered.lock().unwrap().len() < 60 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let mut expected = answered.lock().unwrap().clone();
    let service = service.crash().await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let found = pull_all(&service.client().await).await.records;
    expected.sort_unstable();
    for record in &expected {
        assert!(found.contains(record), "{record:?} was answered and is gone");
    }
    assert!(found.iter().map(|(offset, _)| *offset).eq(0..found.len() as u64), "{found:?}");
    for pusher in 0..4 {
        let prefix = format!("{pusher}:");
        let own: Vec<usize> = found
            .iter()
            .filter_map(|(_, value)| value.strip_prefix(&prefix))
            .map(|n| n.parse().unwrap())
            .collect();
        assert!(own.iter().copied().eq(0..own.len()), "{own:?}");
    }
}

/// An offset names one record for ever: after each crash the next one is beyond all that were answered.
pub async fn offsets_are_not_given_twice<S: Service>(mut service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let mut expected = Vec::new();
    for round in 0..4u64 {
        let client = service.client().await;
        for n in 0..3 {
            let value = format!("{round}:{n}");
            let pushed = push(&client, &value).await;
            assert!(pushed.offset >= expected.len() as u64);
            expected.push((pushed.offset, value));
        }
        if round == 2 {
            client.reset(ORDERS).await.unwrap();
            expected.iter_mut().for_each(|(_, value)| value.clear());
        }
        service = service.crash().await;
        let found = pull_all(&service.client().await).await;
        let left: Vec<_> = expected.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
        assert_eq!((found.records, found.next), (left, expected.len() as u64));
    }
}

/// Who crashed before the answer, or lost it, asks again, and it is there once.
pub async fn a_push_that_is_repeated_after_a_crash_is_there_once<S: Service>(mut service: S) {
    let dedupe_window = Some(std::time::Duration::from_secs(600));
    service.create(Dnpipe { dedupe_window, ..Dnpipe::named(ORDERS) }).await;
    let numbered = |sequence| Push { producer: Some((77, 0, sequence)), ..Push::one(ORDERS, sequence) };
    let named = Push { message_id: Some("a".into()), ..Push::one(ORDERS, "named") };
    for sequence in 0..3 {
        let client = service.client().await;
        assert_eq!(client.push(numbered(sequence)).await.unwrap().offset, sequence);
        service = service.crash().await;
        let client = service.client().await;
        for again in 0..=sequence {
            assert_eq!(client.push(numbered(again)).await.unwrap().offset, again);
        }
        assert_eq!(client.push(numbered(sequence + 2)).await, Err(Refused::OutOfSequence(sequence + 1)));
    }
    assert_eq!(service.client().await.push(named.clone()).await.unwrap().offset, 3);
    service = service.crash().await;
    let client = service.client().await;
    assert_eq!(client.push(named).await.unwrap().offset, 3);
    assert_eq!(pull_all(&client).await.values(), ["0", "1", "2", "named"]);
    // Also where the records that said so are gone.
    client.reset(ORDERS).await.unwrap();
    service = service.crash().await;
    let client = service.client().await;
    assert_eq!(client.push(numbered(2)).await.unwrap().offset, 2);
    assert_eq!(client.push(numbered(3)).await.unwrap().offset, 4);
    assert_eq!(pull_all(&client).await.values(), ["3"]);
}

/// A reset is as durable as a push.
pub async fn a_reset_that_was_answered_is_still_done<S: Service>(service: S) {
    service.create(Dnpipe { partitions: 2, ..Dnpipe::named(ORDERS) }).await;
    let client = service.client().await;
    for partition in 0..2 {
        client.push(Push { partition, ..Push::one(ORDERS, "old") }).await.unwrap();
    }
    assert_eq!(client.reset(ORDERS).await, Ok(1));
    client.push(Push { partition: 1, ..Push::one(ORDERS, "new") }).await.unwrap();
    let service = service.crash().await;
    let client = service.client().await;
    let pulled = pull_all(&client).await;
    assert_eq!((pulled.records.len(), pulled.epoch, pulled.next), (0, 1, 1));
    let other = client.pull(ORDERS, 1, From::First(0), 9, NOW).await.unwrap();
    assert_eq!((other.records, other.epoch), (vec![(1, "new".into())], 1));
    let only_if = Conditions { epoch: Some(0), next_offset: None };
    assert_eq!(client.push(Push { only_if, ..Push::one(ORDERS, "late") }).await, Err(Refused::WrongEpoch(1)));
}

/// An acknowledgement is as durable as a push.
pub async fn what_was_acknowledged_is_not_delivered_again<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..6 {
        push(&client, n).await;
    }
    let member = client.join(ORDERS, BILLING, "a", false).await.unwrap();
    assert_eq!(member.next(9, SOON).await.unwrap().len(), 6);
    member.ack(0, 0..2).await.unwrap();
    member.ack(0, 4..5).await.unwrap();
    let service = service.crash().await;
    let client = service.client().await;
    assert_eq!(client.lag(ORDERS, BILLING).await, Ok(3));
    let member = client.join(ORDERS, BILLING, "a", false).await.unwrap();
    let given = member.next(9, SOON).await.unwrap();
    let offsets: Vec<u64> = given.iter().map(|given| given.offset).collect();
    assert_eq!(offsets, [2, 3, 5]);
}

/// At least once: work that was under way in the crash is not lost.
pub async fn what_was_not_acknowledged_is_delivered_again<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    push(&client, "work").await;
    let member = client.join(ORDERS, BILLING, "a", false).await.unwrap();
    assert_eq!(member.next(9, SOON).await.unwrap().len(), 1);
    let service = service.crash().await;
    let member = service.client().await.join(ORDERS, BILLING, "a", false).await.unwrap();
    assert_eq!(member.next(9, SOON).await.unwrap()[0].value, "work");
}

/// At most once: what was handed out is not handed out again, even if nobody finished it.
pub async fn at_most_once_means_so_also_through_a_crash<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..4 {
        push(&client, n).await;
    }
    let member = client.join(ORDERS, BILLING, "a", true).await.unwrap();
    assert_eq!(member.next(3, SOON).await.unwrap().len(), 3);
    let service = service.crash().await;
    let member = service.client().await.join(ORDERS, BILLING, "a", true).await.unwrap();
    let given = member.next(9, SOON).await.unwrap();
    assert_eq!(given.iter().map(|given| given.offset).collect::<Vec<_>>(), [3]);
}
