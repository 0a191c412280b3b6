//! After a reset has returned nothing older is handed out to anybody, whatever readers had fetched ahead.

mod world;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sidestream_client::{From, GroupConfig, ProducerConfig, ReaderConfig, Record};
use sidestream_gateway::Limits;
use world::world;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_hands_out_nothing_that_it_fetched_before_a_reset_returned() {
    let world = world(Limits::default()).await;
    let (client, other) = (world.local(), world.local());
    for epoch in 0..3 {
        let producer = client.producer("shop/orders", ProducerConfig::default()).await.unwrap();
        for number in 0..300 {
            drop(producer.push(Record::new(number.to_string())).await.unwrap());
        }
        producer.flush().await.unwrap();
        let mut reader = client.reader("shop/orders", From::First(0), ReaderConfig::default()).await.unwrap();
        let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
        let mut follower = other.reader("shop/orders", From::First(0), follow).await.unwrap();
        // Each has fetched more than it hands out.
        for _ in 0..3 {
            assert_eq!(reader.next().await.unwrap().unwrap().epoch, epoch);
            assert_eq!(follower.next().await.unwrap().unwrap().epoch, epoch);
        }
        assert_eq!(other.reset("shop/orders").await, Ok(epoch + 1));
        assert_eq!(follower.ready(), None);
        assert_eq!(reader.next().await, Ok(None), "in epoch {epoch}");
        let receipt = producer.push(Record::new("new")).await.unwrap().await.unwrap();
        let record = follower.next().await.unwrap().unwrap();
        assert_eq!((record.value, record.epoch), ("new".into(), epoch + 1));
        assert_eq!((record.partition, record.offset), (receipt.partition, receipt.offset));
    }
}

/// What is older than it may be is handed out when the epoch was asked for, and a reset waits for that too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_asked_for_the_epoch_hands_out_nothing_older_either() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let producer = client.producer("shop/orders", ProducerConfig::default()).await.unwrap();
    let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
    for epoch in 0..3 {
        for number in 0..20 {
            drop(producer.push(Record::new(number.to_string())).await.unwrap());
        }
        producer.flush().await.unwrap();
        let mut reader = world.local().reader("shop/orders", From::First(0), follow.clone()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(reader.next().await.unwrap().unwrap().epoch, epoch);
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        assert_eq!(reader.next().await.unwrap().unwrap().epoch, epoch);
        assert_eq!(client.reset("shop/orders").await, Ok(epoch + 1));
        assert_eq!(reader.ready(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_hands_out_nothing_that_it_claimed_before_a_reset_returned() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let mut member = world.local().join("shop/notes", "billing", GroupConfig::default()).await.unwrap();
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    for epoch in 0..3 {
        for number in 0..20 {
            drop(producer.push(Record::new(number.to_string())).await.unwrap());
        }
        producer.flush().await.unwrap();
        // What is not acknowledged of the epoch before is over too.
        let first = member.next().await.unwrap();
        assert_eq!(first.record.epoch, epoch);
        assert_eq!(client.reset("shop/notes").await, Ok(epoch + 1));
        assert_eq!(member.ready(), None);
        assert_eq!(member.next_within(1).await, Ok(None), "in epoch {epoch}");
        // An acknowledgement of what is gone does no harm.
        member.ack(&first).await.unwrap();
    }
}

/// Readers that never stop, some slow, while another resets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_race_a_reset_never_go_back() {
    let world = world(Limits::default()).await;
    let done = Arc::new(Mutex::new(0u32));
    let (begins, mut begun) = tokio::sync::mpsc::channel(3);
    let mut readers = Vec::new();
    for pause in [0, 0, 3] {
        let (client, done, begins) = (world.local(), done.clone(), begins.clone());
        readers.push(tokio::spawn(async move {
            let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
            let mut reader = client.reader("shop/orders", From::First(0), follow).await.unwrap();
            let mut seen = 0;
            loop {
                if pause > 0 {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                let known = *done.lock().unwrap();
                let record = reader.next().await.unwrap().unwrap();
                assert!(record.epoch >= known, "epoch {} after the reset to {known}", record.epoch);
                if record.value == "end" {
                    return seen;
                }
                seen += 1;
                if seen == 1 {
                    begins.send(()).await.unwrap();
                }
            }
        }));
    }
    let client = world.local();
    let producer = client.producer("shop/orders", ProducerConfig::default()).await.unwrap();
    for epoch in 1..=8 {
        for number in 0..500 {
            let key = format!("{number}");
            drop(producer.push(Record::new("old").key(key)).await.unwrap());
        }
        producer.flush().await.unwrap();
        if epoch == 1 {
            for _ in 0..3 {
                begun.recv().await.expect("each reads something");
            }
        }
        assert_eq!(client.reset("shop/orders").await, Ok(epoch));
        *done.lock().unwrap() = epoch;
    }
    for _ in 0..3 {
        drop(producer.push(Record::new("end")).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut seen = 0;
    for reader in readers {
        seen += reader.await.unwrap();
    }
    assert!(seen > 0);
}
