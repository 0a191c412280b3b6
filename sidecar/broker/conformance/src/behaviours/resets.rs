//! What races a reset.

use std::sync::{Arc, Mutex};

use super::{NOW, ORDERS, pull_all, push};
use crate::{
    Client, Dnpipe, From, Push, Service,
    linear::{self, Operation, Recorder},
};

/// Pushes, pulls and resets at once: whatever was answered could have happened in some order in which nothing overlaps.
pub async fn what_races_a_reset_could_have_happened_in_some_order<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let mut start = linear::State::default();
    for round in 0..25u64 {
        let recorder = Arc::new(Mutex::new(Recorder::default()));
        let mut tasks = Vec::new();
        for actor in 0..4u64 {
            let (client, recorder) = (service.client().await, recorder.clone());
            tasks.push(tokio::spawn(async move {
                for step in 0..5 {
                    let began = recorder.lock().unwrap().begin();
                    // Each actor mixes what it does, differently in each round.
                    let done = match (actor + step * 3 + round) % 7 {
                        0 => Operation::Reset { epoch: client.reset(ORDERS).await.unwrap() },
                        1 | 2 => {
                            let pulled = client.pull(ORDERS, 0, From::First(0), u64::MAX, NOW).await.unwrap();
                            Operation::Pull { epoch: pulled.epoch, records: pulled.records }
                        }
                        _ => {
                            let value = format!("{round}.{actor}.{step}");
                            let pushed = client.push(Push::one(ORDERS, &value)).await.unwrap();
                            Operation::Push { value, offset: pushed.offset, epoch: pushed.epoch }
                        }
                    };
                    recorder.lock().unwrap().end(began, done);
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let history = std::mem::take(&mut *recorder.lock().unwrap()).history();
        start = match linear::check(&start, &history) {
            Some(end) => end,
            None => panic!("round {round} can't have happened:\n{history:#?}\nfrom {start:#?}"),
        };
    }
}

/// Readers that never stop, while another resets: none is given anything older than a reset that it knows to be done.
pub async fn nothing_older_is_delivered_after_a_reset_has_returned<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let resetter = service.client().await;
    let done = Arc::new(Mutex::new(0u32));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (client, done) = (service.client().await, done.clone());
        readers.push(tokio::spawn(async move {
            let mut last = 0;
            loop {
                let known = *done.lock().unwrap();
                if known == u32::MAX {
                    return;
                }
                let pulled = pull_all(&client).await;
                assert!(
                    pulled.epoch >= known,
                    "epoch {} after the reset to {known} had returned",
                    pulled.epoch
                );
                assert!(pulled.epoch >= last, "a reader went back from epoch {last} to {}", pulled.epoch);
                last = pulled.epoch;
                let wrong = pulled.values().into_iter().find(|value| *value != pulled.epoch.to_string());
                assert_eq!(wrong, None, "a record of another epoch in epoch {}", pulled.epoch);
            }
        }));
    }
    for epoch in 1..=30 {
        // Nobody else resets, so each of these is of the epoch before.
        for _ in 0..3 {
            push(&resetter, epoch - 1).await;
        }
        assert_eq!(resetter.reset(ORDERS).await.unwrap(), epoch);
        *done.lock().unwrap() = epoch;
        assert_eq!(pull_all(&resetter).await.records, []);
    }
    *done.lock().unwrap() = u32::MAX;
    for reader in readers {
        reader.await.unwrap();
    }
}
