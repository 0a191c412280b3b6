//! The three MUSTs of the dnpipes specification (mhausenblas/dnpipes, README, "Semantics").

use super::{ORDERS, pull_all, push};
use crate::{Client, Dnpipe, Service};

/// MUST 1: after `push` is executed, the message is available for `pull` to any participant until `reset` is triggered and has
/// been completed.
pub async fn a_pushed_record_is_available_to_every_participant_until_a_reset<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let (pusher, early) = (service.client().await, service.client().await);
    for n in 0..20 {
        push(&pusher, n).await;
        // By whoever was there before, by whoever pushed, and by whoever comes now.
        for participant in [&early, &pusher, &service.client().await] {
            let pulled = pull_all(participant).await;
            assert_eq!(pulled.records.last(), Some(&(n, n.to_string())));
            assert_eq!(pulled.records.len() as u64, n + 1);
        }
    }
    early.reset(ORDERS).await.unwrap();
    for participant in [early, pusher, service.client().await] {
        assert_eq!(pull_all(&participant).await.values(), [""; 0]);
    }
}

/// MUST 2: `pull` does not remove messages, it merely delivers their content.
pub async fn a_pull_delivers_and_does_not_remove<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..5 {
        push(&client, n).await;
    }
    let first = pull_all(&client).await;
    for _ in 0..3 {
        assert_eq!(pull_all(&client).await, first);
        assert_eq!(pull_all(&service.client().await).await, first);
    }
    assert_eq!(first.values(), ["0", "1", "2", "3", "4"]);
}

/// MUST 3: `reset` removes all messages, and may be triggered by either a publisher or a consumer. (Discovery, its other half,
/// is a matter of the implementation.)
pub async fn a_reset_by_anybody_removes_every_message<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let (pusher, puller) = (service.client().await, service.client().await);
    let mut offset = 0;
    for (round, who) in [&pusher, &puller, &service.client().await].into_iter().enumerate() {
        for n in 0..3 {
            // Offsets go on: who remembers one can't mistake a new record for an old one.
            assert_eq!(push(&pusher, n).await.offset, offset);
            offset += 1;
        }
        assert_eq!(pull_all(&puller).await.values(), ["0", "1", "2"]);
        let epoch = who.reset(ORDERS).await.unwrap();
        assert_eq!(epoch as usize, round + 1);
        let after = pull_all(&puller).await;
        assert_eq!((after.records.len(), after.epoch, after.next), (0, epoch, offset));
    }
    // A reset of what is empty is a reset.
    assert_eq!(puller.reset(ORDERS).await.unwrap(), 4);
}

/// A message is data: none is a command, whatever it says.
pub async fn a_message_may_say_anything<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    let messages = ["RESET", "", " two words ", "line\nline\r\n", "\0", "🪈", &"x".repeat(100_000)];
    for message in messages {
        push(&client, message).await;
    }
    assert_eq!(pull_all(&client).await.values(), messages);
}
