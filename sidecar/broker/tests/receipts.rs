//! Where the records of a batch are, when some of them were there before.

mod local;

use std::time::Duration;

use bytes::Bytes;
use local::{name, stepped::Stepped, values};
use sidestream_broker::{DnpipeSpec, Limits, PushError, Pushed};
use sidestream_event::{
    native::{Conditions, From},
    record::{BatchWriter, Header, MESSAGE_ID},
};
use sidestream_host::{Clock, disk::SimDisk};

/// A record of each text: the id of its message, and none where it begins with a dash.
fn batch(texts: &[&str], producer: Option<u64>) -> Bytes {
    let mut writer = BatchWriter::new();
    for text in texts {
        let id = (!text.starts_with('-')).then_some((MESSAGE_ID, text.as_bytes()));
        writer.push(1_000, None, &id.into_iter().collect::<Vec<_>>(), text.as_bytes()).unwrap();
    }
    let header = producer.map_or(Header::default(), |first_sequence| Header {
        producer_id: 7,
        first_sequence,
        ..Header::default()
    });
    writer.finish(header).unwrap()
}

async fn push(world: &mut Stepped, texts: &[&str], producer: Option<u64>) -> Result<Pushed, PushError> {
    let pushing = world.broker.push(&name("orders"), 0, batch(texts, producer), Conditions::default());
    match pushing {
        Ok(pushing) => world.until(pushing).await.unwrap(),
        Err(refused) => Err(refused),
    }
}

/// The offset of each record, as a pusher is told.
fn offsets(pushed: &Pushed, count: usize) -> Vec<u64> {
    if pushed.runs.is_empty() {
        return (pushed.base_offset..).take(count).collect();
    }
    pushed.runs.iter().flat_map(|(first, count)| *first..first + u64::from(*count)).collect()
}

/// That each record is where its pusher was told.
async fn check(world: &mut Stepped, texts: &[&str], pushed: &Pushed) {
    let broker = world.broker.clone();
    let pull = async move { broker.pull(&name("orders"), 0, From::First(0), Limits::default(), None).await };
    let pulled = world.until(pull).await.unwrap().unwrap();
    let found = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
    let told = offsets(pushed, texts.len());
    assert_eq!(told.len(), texts.len(), "{pushed:?}");
    for (offset, text) in told.into_iter().zip(texts) {
        let there = found.iter().find(|(at, ..)| *at == offset).map(|(_, value, _)| value.as_str());
        assert_eq!(there, Some(*text), "at {offset}: {pushed:?}");
    }
}

async fn world(disk: &SimDisk, clock: &Clock) -> Stepped {
    let mut world = Stepped::open(disk, clock).await;
    let broker = world.broker.clone();
    let dedupe_window = Some(Duration::from_secs(600));
    let spec = DnpipeSpec { dedupe_window, ..DnpipeSpec::new(name("orders")) };
    world.until(async move { broker.apply(spec).await }).await.unwrap().unwrap();
    world
}

#[tokio::test]
async fn a_receipt_names_the_offset_of_each_record_although_some_were_there_before() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let mut world = world(&SimDisk::new(), &clock).await;
    for texts in [
        &["a", "b", "c"][..],
        &["d"],
        // In the middle, at both ends, twice in one batch, with records that have no id between.
        &["x1", "b", "x2"],
        &["c", "x3", "a"],
        &["-1", "x4", "x4", "d", "-2", "x5", "x4"],
        &["a", "x2", "d"],
        &["-3", "-4"],
    ] {
        let pushed = push(&mut world, texts, None).await.unwrap();
        check(&mut world, texts, &pushed).await;
    }
}

#[tokio::test]
async fn the_same_where_the_batch_comes_again_and_after_a_start() {
    let (clock, _hand) = Clock::simulated(1_000_000_000);
    let disk = SimDisk::new();
    let mut world = world(&disk, &clock).await;
    let batches = [
        (0, &["a", "b", "c"][..]),
        (3, &["x1", "b", "-1", "x2"]),
        (7, &["a", "x1"]),
        (9, &["-2", "c", "x3"]),
        (12, &["x4", "x5"]),
    ];
    let mut told = Vec::new();
    for (first, texts) in batches {
        let pushed = push(&mut world, texts, Some(first)).await.unwrap();
        push(&mut world, &["-between"], None).await.unwrap();
        check(&mut world, texts, &pushed).await;
        told.push(offsets(&pushed, texts.len()));
    }
    for life in 0..2 {
        for ((first, texts), told) in batches.iter().zip(&told) {
            let again = push(&mut world, texts, Some(*first)).await.unwrap();
            let expected = (told.clone(), true);
            assert_eq!((offsets(&again, texts.len()), again.is_repeat), expected, "{texts:?} in life {life}");
        }
        if life == 0 {
            drop(world);
            world = Stepped::open(&disk.cut(|_| 0), &clock).await;
        }
    }
    // Who does not know any more where they are does not make it up.
    let broker = world.broker.clone();
    world.until(async move { broker.reset(&name("orders")).await }).await.unwrap().unwrap();
    let again = push(&mut world, batches[1].1, Some(3)).await;
    assert_eq!(again, Err(PushError::Forgotten { expected: 7 }));
    let again = push(&mut world, batches[0].1, Some(0)).await.unwrap();
    assert_eq!(offsets(&again, 3), told[0]);
}
