//! From where on records are pulled, and how long.

use std::time::Duration;

use super::{NOW, ORDERS, SOON, pull_all, push};
use crate::{Client, Dnpipe, From, Refused, Service};

/// Who comes late has missed nothing.
pub async fn a_late_joiner_sees_everything_since_the_reset<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    push(&client, "before").await;
    client.reset(ORDERS).await.unwrap();
    for n in 0..50 {
        push(&client, n).await;
    }
    let late = pull_all(&service.client().await).await;
    assert_eq!(late.values(), (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!((late.records[0].0, late.epoch), (1, 1));
}

/// The first and the last are counted from what there is; an offset is an offset.
pub async fn a_place_is_named_by_offset_first_or_last<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    push(&client, "before").await;
    client.reset(ORDERS).await.unwrap();
    for n in 1..=9 {
        assert_eq!(push(&client, n).await.offset, n);
    }
    let cases = [
        (From::First(0), 2, vec!["1", "2"], 3),
        (From::First(7), 9, vec!["8", "9"], 10),
        (From::First(100), 9, vec![], 10),
        (From::Last(2), 9, vec!["8", "9"], 10),
        (From::Last(0), 9, vec![], 10),
        (From::Last(100), 1, vec!["1"], 2),
        (From::Offset(4), 3, vec!["4", "5", "6"], 7),
        (From::Offset(10), 3, vec![], 10),
        (From::Time(0), 1, vec!["1"], 2),
        (From::Time(i64::MAX), 1, vec![], 10),
    ];
    for (from, most, expected, next) in cases {
        let pulled = client.pull(ORDERS, 0, from, most, NOW).await.unwrap();
        assert_eq!((pulled.values(), pulled.next), (expected, next), "{from:?}");
    }
}

/// Nothing is made up for who asks for what is gone, or for what is not there yet.
pub async fn a_pull_beyond_what_is_there_is_told_what_is<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..4 {
        push(&client, n).await;
    }
    let refused = client.pull(ORDERS, 0, From::Offset(5), 1, NOW).await;
    assert_eq!(refused, Err(Refused::OutOfRange(0, 4)));
    client.reset(ORDERS).await.unwrap();
    push(&client, "after").await;
    let refused = client.pull(ORDERS, 0, From::Offset(3), 1, NOW).await;
    assert_eq!(refused, Err(Refused::OutOfRange(4, 5)));
    assert_eq!(client.pull("nothing", 0, From::First(0), 1, NOW).await, Err(Refused::Unknown));
}

/// A pull at the end is answered by the next push, and where none comes, at its deadline.
pub async fn a_pull_waits_for_what_comes<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let (client, other) = (service.client().await, service.client().await);
    push(&client, "old").await;
    let waiting = tokio::spawn(async move { other.pull(ORDERS, 0, From::Last(0), 9, SOON).await });
    // Whether it waits already or comes later, it is from what was the end when it came.
    for n in 0..200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        push(&client, n).await;
        if waiting.is_finished() {
            break;
        }
    }
    let pulled = waiting.await.unwrap().unwrap();
    assert!(!pulled.records.is_empty() && pulled.records[0].1 != "old");
    let none = client.pull(ORDERS, 0, From::Last(0), 9, Duration::from_millis(30)).await.unwrap();
    assert_eq!(none.records, []);
}
