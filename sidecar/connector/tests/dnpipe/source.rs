//! The source: what it brings in, and when it is acknowledged.

use std::time::Duration;

use sidestream_client::{Bytes, Record};
use sidestream_event::{Batch, Value};
use tokio::time::sleep;

use crate::world::{World, numbers, texts};

#[tokio::test]
async fn a_record_is_an_event_with_its_key_headers_time_and_value() {
    let world = World::new().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut record =
        Record::new("{\"a\": 1}").key("k1").header("Tenant", "shop").header("traceparent", trace);
    record.time = Some(1_234_567_890);
    let producer = world.client().producer("shop/orders", Default::default()).await.unwrap();
    producer.push(record).await.unwrap().await.unwrap();
    producer.push(Record::new(Bytes::from_static(b"\xff\x00"))).await.unwrap().await.unwrap();
    let mut source = world.source();
    let batches = source.next(2).await;
    let events: Vec<_> = batches.iter().flat_map(Batch::events).collect();
    assert_eq!(events[0].body, Value::from("{\"a\": 1}"));
    assert_eq!((events[0].meta.key.as_deref(), events[0].meta.header("tenant")), (Some("k1"), Some("shop")));
    assert_eq!(events[0].meta.time.as_nanos(), 1_234_567_890);
    assert_eq!(events[0].meta.context.as_ref().unwrap().traceparent.as_deref(), Some(trace));
    assert_eq!((events[0].meta.source.as_str(), events[1].meta.sequence), ("in", 1));
    assert_eq!(events[1].body, Value::Bytes(Bytes::from_static(b"\xff\x00")));
    assert_eq!((events[1].meta.key.as_deref(), &events[1].meta.context), (None, &None));
}

#[tokio::test]
async fn a_record_is_acknowledged_when_nothing_needs_it_any_more() {
    let world = World::new().await;
    world.push(numbers(0..1000)).await;
    let mut source = world.source();
    let mut batches = source.next(1000).await;
    assert_eq!(texts(&batches), numbers(0..1000).collect::<Vec<_>>());
    assert_eq!(world.group().await.cursors, [0], "nothing has ended yet");
    // The last ends first: it waits for those before it.
    let hold = batches[0].mark().hold();
    batches.iter_mut().rev().for_each(Batch::finish);
    drop(batches);
    assert_eq!((source.origin.ledger().completed, source.origin.committed()), (1000, 0));
    assert_eq!(world.group().await.cursors, [0], "a state has the first");
    drop(hold);
    world.until_group(|group| group.cursors == [1000]).await;
    source.stop();
    source.drained().await;
}

#[tokio::test]
async fn a_source_that_ends_stays_a_member_until_what_it_brought_in_has_ended() {
    let world = World::new().await;
    world.push(numbers(0..20)).await;
    let mut source = world.source();
    let batches = source.next(20).await;
    source.stop();
    // What comes after that is for the next.
    let mut heir = world.source();
    world.until_group(|group| group.members.len() == 2).await;
    world.push(numbers(20..30)).await;
    for mut batch in batches {
        batch.finish();
    }
    source.drained().await;
    assert_eq!(texts(&heir.next(10).await), numbers(20..30).collect::<Vec<_>>());
    assert_eq!(world.group().await.cursors, [20]);
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_after_a_crash_and_nothing_else() {
    let mut world = World::new().await;
    world.push(numbers(0..10)).await;
    let mut source = world.source();
    source.next(10).await.iter_mut().for_each(Batch::finish);
    world.until_group(|group| group.cursors == [10]).await;
    world.push(numbers(10..14)).await;
    let lost = source.next(4).await;
    source.crash().await;
    drop(lost);
    // The server goes down with it: what it wrote down is what counts.
    world.stop_serving().await;
    world.serve().await;
    let mut source = world.source();
    assert_eq!(texts(&source.next(4).await), numbers(10..14).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_on_its_way_while_the_server_is_away_is_taken_in_once() {
    let mut world = World::new().await;
    world.push(numbers(0..50)).await;
    let mut source = world.source();
    let batches = source.next(50).await;
    world.stop_serving().await;
    world.serve().await;
    world.push(numbers(50..60)).await;
    // The ten that are new are all that comes, although the group hands out the others again.
    assert_eq!(texts(&source.next(10).await), numbers(50..60).collect::<Vec<_>>());
    for mut batch in batches {
        batch.finish();
    }
    world.until_group(|group| group.cursors == [50]).await;
    source.stop();
}

#[tokio::test]
async fn what_is_lost_on_its_way_comes_again_and_holds_up_nothing() {
    let world = World::new().await;
    world.push(numbers(0..2)).await;
    let mut source = world.source();
    // Dropped with events in it, as by a stage that panicked.
    drop(source.next(2).await);
    world.push(numbers(2..3)).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let mut more = source.next(1).await;
        seen.extend(texts(&more));
        more.iter_mut().for_each(Batch::finish);
    }
    seen.sort();
    assert_eq!(seen, ["0", "1", "2"]);
    world.until_group(|group| group.cursors == [3]).await;
    source.stop();
    source.drained().await;
}

#[tokio::test]
async fn a_dnpipe_that_is_not_there_yet_is_waited_for() {
    let mut world = World::new().await;
    world.stop_serving().await;
    let mut source = world.source();
    sleep(Duration::from_millis(200)).await;
    world.serve().await;
    world.push(numbers(0..3)).await;
    assert_eq!(texts(&source.next(3).await), ["0", "1", "2"]);
}
