//! Pushes that are taken only if, and pushes that are taken only once.

use std::time::Duration;

use super::{ORDERS, pull_all, push};
use crate::{Client, Conditions, Dnpipe, Push, Refused, Service};

/// Who has not heard of a reset can't push into what came after it by mistake.
pub async fn a_push_under_another_epoch_is_refused<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    let only_if = |epoch| Conditions { epoch: Some(epoch), next_offset: None };
    let push = |epoch| client.push(Push { only_if: only_if(epoch), ..Push::one(ORDERS, epoch) });
    assert_eq!(push(0).await.unwrap().epoch, 0);
    assert_eq!(push(1).await, Err(Refused::WrongEpoch(0)));
    client.reset(ORDERS).await.unwrap();
    assert_eq!(push(0).await, Err(Refused::WrongEpoch(1)));
    assert_eq!(push(1).await.unwrap().epoch, 1);
    assert_eq!(pull_all(&client).await.values(), ["1"]);
}

/// "Only if the next offset is n" is a compare-and-set: of those that saw the same end one is taken.
pub async fn of_pushers_that_race_for_an_offset_one_wins<S: Service>(service: S) {
    const PUSHERS: u64 = 4;
    const ROUNDS: u64 = 15;
    service.create(Dnpipe::named(ORDERS)).await;
    let mut tasks = Vec::new();
    for pusher in 0..PUSHERS {
        let client = service.client().await;
        tasks.push(tokio::spawn(async move {
            let (mut won, mut next) = (Vec::new(), 0);
            while next < ROUNDS {
                let only_if = Conditions { epoch: None, next_offset: Some(next) };
                match client.push(Push { only_if, ..Push::one(ORDERS, pusher) }).await {
                    Ok(pushed) => {
                        assert_eq!(pushed.offset, next);
                        won.push(next);
                        next += 1;
                    }
                    Err(Refused::WrongOffset(end)) => {
                        assert!(end > next, "refused for an offset that was right");
                        next = end;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            won
        }));
    }
    let mut won = Vec::new();
    for (pusher, task) in tasks.into_iter().enumerate() {
        won.extend(task.await.unwrap().into_iter().map(|offset| (offset, pusher.to_string())));
    }
    won.sort_unstable();
    assert_eq!(pull_all(&service.client().await).await.records, won);
    assert_eq!(won.len() as u64, ROUNDS);
}

/// A producer that never heard the answer pushes the same again, and it is there once.
pub async fn a_push_that_comes_again_is_there_once<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    let numbered =
        |epoch, sequence| Push { producer: Some((77, epoch, sequence)), ..Push::one(ORDERS, sequence) };
    assert_eq!(client.push(numbered(0, 0)).await.unwrap().offset, 0);
    push(&client, "of another").await;
    assert_eq!(client.push(numbered(0, 1)).await.unwrap().offset, 2);
    for again in 0..2 {
        let offset = client.push(numbered(0, again)).await.unwrap().offset;
        assert_eq!(offset, [0, 2][again as usize]);
    }
    assert_eq!(client.push(numbered(0, 3)).await, Err(Refused::OutOfSequence(2)));
    // The same through a reset: what was taken was taken.
    client.reset(ORDERS).await.unwrap();
    assert_eq!(client.push(numbered(0, 1)).await.unwrap().offset, 2);
    assert_eq!(client.push(numbered(0, 2)).await.unwrap().offset, 3);
    // A new incarnation begins anew, and the old one is over.
    assert_eq!(client.push(numbered(1, 0)).await.unwrap().offset, 4);
    assert_eq!(client.push(numbered(0, 3)).await, Err(Refused::Fenced));
    assert_eq!(pull_all(&client).await.values(), ["2", "0"]);
}

/// Messages with an id are there once, whoever pushes them, as long as the window says; a reset ends the window.
pub async fn a_message_id_that_comes_again_is_there_once_until_a_reset<S: Service>(service: S) {
    let dedupe_window = Some(Duration::from_secs(600));
    service.create(Dnpipe { dedupe_window, ..Dnpipe::named(ORDERS) }).await;
    let (one, two) = (service.client().await, service.client().await);
    let with = |id: &str, values: &[&str]| Push {
        message_id: Some(id.into()),
        values: values.iter().map(ToString::to_string).collect(),
        ..Push::one(ORDERS, "")
    };
    assert_eq!(one.push(with("a", &["first"])).await.unwrap().offset, 0);
    assert_eq!(two.push(with("a", &["first"])).await.unwrap().offset, 0);
    assert_eq!(two.push(with("b", &["second"])).await.unwrap().offset, 1);
    // A batch with something new in it is taken without what is not.
    two.push(with("a", &["first", "third"])).await.unwrap();
    assert_eq!(pull_all(&one).await.values(), ["first", "second", "third"]);
    one.reset(ORDERS).await.unwrap();
    assert_eq!(one.push(with("a", &["again"])).await.unwrap().offset, 3);
    assert_eq!(pull_all(&two).await.values(), ["again"]);
}
