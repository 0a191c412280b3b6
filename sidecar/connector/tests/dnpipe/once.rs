//! A source and sinks of a pipeline that delivers exactly once: what is there already is not pushed again, whoever pushed it.

use std::{ops::Range, time::Duration};

use sidestream_broker::{DnpipeSpec, GroupSpec};
use sidestream_connector::{AsyncSink, ExactlyOnce, Undelivered};
use sidestream_event::{Batch, record::RECORD_BYTES_MAX};
use sidestream_host::Random;
use tokio::time::{sleep, timeout};

use crate::world::{AGES, Running, World, deliver, numbers, orders};

async fn world(orders_in: u32, bills_in: u32) -> World {
    let world = World::new().await;
    if orders_in > 1 {
        world.remove(&orders()).await;
        world.apply(DnpipeSpec { partitions: orders_in, ..DnpipeSpec::new(orders()) }).await;
    }
    let bills = DnpipeSpec::new("shop/bills".parse().unwrap());
    world.apply(DnpipeSpec { partitions: bills_in, ..bills }).await;
    world
}

/// What is in `shop/bills`, in the order of its partitions.
async fn bills(world: &World) -> Vec<String> {
    let found = world.pulled_from("shop/bills").await;
    found.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

fn texts(range: Range<u64>) -> Vec<String> {
    numbers(range).collect()
}

/// Delivers and ends batches.
async fn deliver_all(sink: &mut dyn AsyncSink, batches: Vec<Batch>) {
    for mut batch in batches {
        deliver(sink, &batch).await.unwrap();
        batch.finish();
    }
}

/// A pipeline of its own.
fn begin(world: &World) -> (Running, Box<dyn AsyncSink>) {
    let once = ExactlyOnce::default();
    (world.source_once(&once), world.sink_once(&once))
}

#[tokio::test]
async fn what_was_delivered_and_not_acknowledged_is_not_pushed_again_after_a_crash() {
    let mut world = world(1, 1).await;
    world.push(numbers(0..10)).await;
    let (mut source, mut sink) = begin(&world);
    let batches = source.next(10).await;
    deliver(sink.as_mut(), &batches[0]).await.unwrap();
    // All of it comes again, and more.
    source.crash().await;
    drop((batches, sink));
    world.stop_serving().await;
    world.serve().await;
    world.push(numbers(10..14)).await;
    let (mut source, mut sink) = begin(&world);
    deliver_all(sink.as_mut(), source.next(14).await).await;
    world.until_group(|group| group.cursors == [14]).await;
    assert_eq!(bills(&world).await, texts(0..14));
}

#[tokio::test]
async fn where_results_are_left_out_what_comes_again_is_known_all_the_same() {
    let world = world(1, 1).await;
    world.push(numbers(0..9)).await;
    let every_third = |mut batch: Batch| {
        batch.retain(|event| number_of(event.body.as_text().unwrap()).is_multiple_of(3));
        batch
    };
    let (mut source, mut sink) = begin(&world);
    let batches: Vec<Batch> = source.next(9).await.into_iter().map(every_third).collect();
    deliver(sink.as_mut(), &batches[0]).await.unwrap();
    source.crash().await;
    world.push(numbers(9..15)).await;
    let (mut source, mut sink) = begin(&world);
    let batches = source.next(15).await.into_iter().map(every_third).collect();
    deliver_all(sink.as_mut(), batches).await;
    assert_eq!(bills(&world).await, ["0", "3", "6", "9", "12"]);
}

#[tokio::test]
async fn a_sink_whose_place_another_has_taken_pushes_what_that_one_has_not() {
    let world = world(1, 1).await;
    world.push(numbers(0..4)).await;
    let (mut source, mut one) = begin(&world);
    let first = source.next(4).await;
    deliver_all(one.as_mut(), first).await;
    world.until_group(|group| group.cursors == [4]).await;
    world.push(numbers(4..8)).await;
    // In the hand of one that is about to be slow, for very long.
    let late = source.next(4).await;
    source.crash().await;
    let (mut source, mut other) = begin(&world);
    let again = source.next(4).await;
    deliver(other.as_mut(), &again[0]).await.unwrap();
    // It learns that it was fenced, and what is there.
    assert!(deliver(one.as_mut(), &late[0]).await.unwrap() > 0);
    assert_eq!(bills(&world).await, texts(0..8));
    // And the other way round.
    world.push(numbers(8..10)).await;
    deliver_all(other.as_mut(), source.next(2).await).await;
    assert_eq!(bills(&world).await, texts(0..10));
}

#[tokio::test]
async fn a_push_whose_answer_never_came_is_known_when_it_is_tried_again() {
    let mut world = world(1, 1).await;
    world.push(numbers(0..6)).await;
    let (mut source, mut sink) = begin(&world);
    let batches = source.next(6).await;
    deliver(sink.as_mut(), &batches[0]).await.unwrap();
    world.push(numbers(6..12)).await;
    let more = source.next(6).await;
    world.stop_serving().await;
    assert!(matches!(sink.deliver(&more[0]).await, Err(Undelivered::Retry { .. })));
    world.serve().await;
    deliver(sink.as_mut(), &more[0]).await.unwrap();
    // Tried once more, as if that had not been heard either.
    sink.give_up();
    deliver(sink.as_mut(), &more[0]).await.unwrap();
    assert_eq!(bills(&world).await, texts(0..12));
}

#[tokio::test]
async fn results_go_to_the_same_partition_each_time() {
    let world = world(3, 2).await;
    let all = 300;
    world.push(numbers(0..all)).await;
    let (mut source, mut sink) = begin(&world);
    // A part of them is delivered, from wherever.
    let batches = source.next(all as usize).await;
    for batch in batches.iter().step_by(2) {
        deliver(sink.as_mut(), batch).await.unwrap();
    }
    source.crash().await;
    let (mut source, mut sink) = begin(&world);
    deliver_all(sink.as_mut(), source.next(all as usize).await).await;
    let mut found: Vec<u64> = bills(&world).await.iter().map(|text| text.parse().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, (0..all).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_result_that_is_too_large_is_refused_and_the_others_are_there_once() {
    let world = world(1, 1).await;
    world.push(numbers(0..3)).await;
    for _ in 0..2 {
        let (mut source, mut sink) = begin(&world);
        let mut batches = source.next(3).await;
        batches[0].events_mut()[1].body = "x".repeat(RECORD_BYTES_MAX + 1).into();
        let refused = deliver(sink.as_mut(), &batches[0]).await.unwrap_err();
        assert_eq!((refused.len(), refused[0].0), (1, 1));
        source.crash().await;
    }
    assert_eq!(bills(&world).await, ["0", "2"]);
}

#[tokio::test]
async fn a_dnpipe_that_was_made_anew_is_not_taken_for_the_one_before() {
    let world = world(1, 1).await;
    world.push(numbers(0..10)).await;
    let (mut source, mut sink) = begin(&world);
    deliver_all(sink.as_mut(), source.next(10).await).await;
    world.until_group(|group| group.cursors == [10]).await;
    source.crash().await;
    world.remove(&orders()).await;
    world.apply(DnpipeSpec::new(orders())).await;
    world.push(numbers(0..5)).await;
    let (mut source, mut sink) = begin(&world);
    let batches = source.next(5).await;
    let told = async {
        loop {
            match sink.deliver(&batches[0]).await {
                Err(Undelivered::Retry { reason, .. }) if reason.contains("it was made anew") => {
                    return reason;
                }
                Err(Undelivered::Retry { .. }) => sleep(Duration::from_millis(10)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    assert!(timeout(AGES, told).await.expect("it is told").ends_with("give the group another name"));
    assert_eq!(bills(&world).await.len(), 10);
}

#[tokio::test]
async fn a_group_with_dead_letters_is_refused_until_it_has_none() {
    let world = world(1, 1).await;
    let poisoned = GroupSpec {
        max_deliveries: Some(3),
        dead_letter: Some("shop/bills".parse().unwrap()),
        ..GroupSpec::new("billing")
    };
    world.apply(DnpipeSpec { groups: vec![poisoned], ..DnpipeSpec::new(orders()) }).await;
    world.push(numbers(0..2)).await;
    let (mut source, _sink) = begin(&world);
    source.until_it_fails("takes every record in its turn").await;
    world.apply(DnpipeSpec { groups: vec![GroupSpec::new("billing")], ..DnpipeSpec::new(orders()) }).await;
    source.next(2).await;
}

#[tokio::test]
async fn nothing_is_acknowledged_behind_what_was_lost_on_its_way() {
    let world = world(1, 1).await;
    world.push(numbers(0..2)).await;
    let (mut source, _sink) = begin(&world);
    // Dropped with events in it, as by a stage that was taken away.
    drop(source.next(2).await);
    source.until_it_fails("were lost inside the pipeline").await;
    assert_eq!(world.group().await.cursors, [0]);
    source.crash().await;
    let (mut source, mut sink) = begin(&world);
    deliver_all(sink.as_mut(), source.next(2).await).await;
    assert_eq!(bills(&world).await, texts(0..2));
}

/// Pipelines that end amid their work, and whose sinks deliver what they had in their hands much later, or never.
#[tokio::test]
async fn whoever_is_late_and_whatever_comes_again_each_result_is_there_once() {
    let mut world = world(2, 2).await;
    let mut random = Random::seeded(11);
    let mut late: Vec<(Box<dyn AsyncSink>, Vec<Batch>)> = Vec::new();
    let mut pushed = 0;
    for round in 0..16 {
        world.push(numbers(pushed..pushed + 25)).await;
        pushed += 25;
        let (mut source, mut sink) = begin(&world);
        let acknowledged: u64 = match round {
            0 => 0,
            _ => world.group().await.cursors.iter().sum(),
        };
        let mut batches = source.next((pushed - acknowledged) as usize).await;
        for batch in &mut batches {
            batch.retain(|event| !number_of(event.body.as_text().unwrap()).is_multiple_of(3));
        }
        let mut rest = batches.split_off(random.below(batches.len() as u64 + 1) as usize);
        for mut batch in batches {
            deliver(sink.as_mut(), &batch).await.unwrap();
            // Acknowledged in time or not.
            batch.finish();
        }
        while random.below(2) == 0 && !late.is_empty() {
            let (mut sink, batches) = late.swap_remove(random.below(late.len() as u64) as usize);
            for batch in &batches {
                deliver(sink.as_mut(), batch).await.unwrap();
            }
        }
        source.crash().await;
        rest.truncate(random.below(rest.len() as u64 + 1) as usize);
        late.push((sink, rest));
        world.stop_serving().await;
        world.serve().await;
    }
    let (mut source, mut sink) = begin(&world);
    let acknowledged: u64 = world.group().await.cursors.iter().sum();
    for batch in &mut source.next((pushed - acknowledged) as usize).await {
        batch.retain(|event| !number_of(event.body.as_text().unwrap()).is_multiple_of(3));
        deliver(sink.as_mut(), batch).await.unwrap();
        batch.finish();
    }
    let mut found: Vec<u64> = bills(&world).await.iter().map(|text| number_of(text)).collect();
    found.sort_unstable();
    assert_eq!(found, (0..pushed).filter(|n| !n.is_multiple_of(3)).collect::<Vec<_>>());
}

fn number_of(text: &str) -> u64 {
    text.parse().unwrap()
}
