//! After warm-up, a line costs no allocation on its way from text to fields, to a body made of them, and back.

use std::alloc::System;

use sidestream_event::{Pool, Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A batch of lines, as source, `parse`, `filter`, `map` and sink treat it.
fn flow(pool: &Pool, lines: &[String]) {
    let mut batch = pool.take();
    lines.iter().for_each(|line| _ = batch.next_text(line));
    batch.retain_with(|event, spares| {
        let mut body = spares.stale();
        json::read_over(event.body.as_text().unwrap(), &mut body).unwrap();
        spares.keep(std::mem::replace(&mut event.body, body));
        true
    });
    batch.retain(|event| matches!(event.body.field("status"), Some(Value::Int(500..))));
    batch.retain_with(|event, spares| {
        let mut body = spares.room();
        let path = event.body.field("path").cloned().unwrap_or_default();
        body.reset_map().insert("route", path);
        spares.keep(std::mem::replace(&mut event.body, body));
        true
    });
    assert!(
        batch.len() < lines.len() && batch.events().iter().all(|event| event.body.field("route").is_some())
    );
    pool.give(batch);
}

#[test]
fn after_warm_up_no_line_costs_an_allocation() {
    let lines: Vec<String> = (0..512)
        .map(|n| {
            let (status, labels) = (if n % 7 == 0 { 503 } else { 200 }, r#"{"zone":"a","pod":"shopfront-5d9c7b"}"#);
            format!(
                r#"{{"time":"2026-11-21T00:00:{:02}Z","path":"/api/cart/{n}","status":{status},"labels":{labels},"millis":0.{n}}}"#,
                n % 60
            )
        })
        .collect();
    let pool = Pool::new(4);
    (0..4).for_each(|_| flow(&pool, &lines));
    let region = Region::new(ALLOCATOR);
    (0..4).for_each(|_| flow(&pool, &lines));
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
}
