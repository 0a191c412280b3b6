//! The sink: what becomes of events, and when they are delivered.

use sidestream_broker::DnpipeSpec;
use sidestream_connector::Undelivered;
use sidestream_event::{Event, Timestamp, Value, record::RECORD_BYTES_MAX};

use crate::world::{World, batch, deliver, numbers, orders};

fn values(world: &[sidestream_client::Pulled]) -> Vec<String> {
    world.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

#[tokio::test]
async fn an_event_is_a_record_with_its_key_headers_time_and_body() {
    let world = World::new().await;
    let mut event = Event::new([("a", Value::from(1))].into_iter().collect::<Value>());
    event.meta.key = Some("k1".into());
    event.meta.time = Timestamp::from_nanos(1_234_567_890);
    let context = event.meta.context_mut();
    context.headers.extend([("tenant".into(), "shop".into()), ("tenant".into(), "till".into())]);
    context.traceparent = Some("00-trace".into());
    let events = vec![event, Event::new("plain")];
    let batch = sidestream_event::Batch::of(events, sidestream_event::Mark::none());
    assert_eq!(deliver(world.sink(None).as_mut(), &batch).await, Ok(0));
    let found = world.pulled().await;
    assert_eq!(values(&found), ["{\"a\":1}", "plain"]);
    assert_eq!((found[0].key.as_deref(), found[0].time), (Some(&b"k1"[..]), 1_234_567_890));
    let headers: Vec<(&str, &[u8])> =
        found[0].headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
    assert_eq!(headers, [("tenant", &b"shop"[..]), ("tenant", b"till"), ("traceparent", b"00-trace")]);
    assert_eq!((found[1].key.as_deref(), found[1].headers.len()), (None, 0));
}

#[tokio::test]
async fn a_key_of_the_stage_goes_before_that_of_the_event() {
    let world = World::new().await;
    let body = |customer: Value| [("customer", customer)].into_iter().collect::<Value>();
    let mut sink = world.sink(Some("event.customer"));
    let batch = batch([body("ada".into()), body(7.into()), Value::from("no map"), body(Value::Null)]);
    let refused = deliver(sink.as_mut(), &batch).await.unwrap_err();
    assert_eq!(refused, [(2, "`key`: no customer".to_owned())]);
    let keys: Vec<_> = world.pulled().await.into_iter().map(|record| record.key).collect();
    assert_eq!(keys, [Some("ada".into()), Some("7".into()), None]);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_and_the_others_are_delivered() {
    let world = World::new().await;
    let batch =
        batch([Value::from("one"), Value::from("x".repeat(RECORD_BYTES_MAX + 1)), Value::from("two")]);
    let refused = deliver(world.sink(None).as_mut(), &batch).await.unwrap_err();
    assert_eq!((refused.len(), refused[0].0), (1, 1));
    assert_eq!(values(&world.pulled().await), ["one", "two"]);
}

#[tokio::test]
async fn a_full_dnpipe_is_tried_again_until_there_is_room_and_each_event_is_there_once() {
    let world = World::new().await;
    let mut small = DnpipeSpec::new(orders());
    small.quota_bytes = Some(30_000);
    world.apply(small).await;
    let mut sink = world.sink(None);
    let events =
        |n: u64| batch(numbers(n * 10..n * 10 + 10).map(|n| Value::from(format!("{n} {}", "x".repeat(500)))));
    let (mut taken, mut reason) = (0, None);
    while reason.is_none() {
        match sink.deliver(&events(taken)).await {
            Ok(()) => taken += 1,
            Err(Undelivered::Retry { reason: why, .. }) => reason = Some(why),
            Err(other) => panic!("{other}"),
        }
    }
    let reason = reason.unwrap();
    assert!(taken > 0 && reason.contains("quota of 30000 bytes is full"), "{taken}: {reason}");
    world.apply(DnpipeSpec::new(orders())).await;
    deliver(sink.as_mut(), &events(taken)).await.unwrap();
    let found = values(&world.pulled().await);
    let begins: Vec<&str> = found.iter().map(|value| value.split(' ').next().unwrap()).collect();
    assert_eq!(begins, numbers(0..taken * 10 + 10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_gets_each_event_once() {
    let mut world = World::new().await;
    let mut sink = world.sink(None);
    let events = |n: u64| batch(numbers(n * 5..n * 5 + 5).map(Value::from));
    deliver(sink.as_mut(), &events(0)).await.unwrap();
    world.stop_serving().await;
    assert!(matches!(sink.deliver(&events(1)).await, Err(Undelivered::Retry { .. })));
    world.serve().await;
    deliver(sink.as_mut(), &events(1)).await.unwrap();
    assert_eq!(values(&world.pulled().await), numbers(0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_that_was_given_up_takes_no_numbers_of_the_next() {
    let mut world = World::new().await;
    let mut sink = world.sink(None);
    let events = |n: u64| batch(numbers(n * 5..n * 5 + 5).map(Value::from));
    deliver(sink.as_mut(), &events(0)).await.unwrap();
    world.stop_serving().await;
    assert!(matches!(sink.deliver(&events(1)).await, Err(Undelivered::Retry { .. })));
    sink.give_up();
    world.serve().await;
    deliver(sink.as_mut(), &events(2)).await.unwrap();
    let kept: Vec<String> = numbers(0..5).chain(numbers(10..15)).collect();
    assert_eq!(values(&world.pulled().await), kept);
}
