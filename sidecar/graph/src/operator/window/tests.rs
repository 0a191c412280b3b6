//! Windows: their times, their order, their bounds, and a model that keeps every event.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sidestream_event::{Event, Timestamp, Value};

use crate::operator::testing::{Stage, deliver, event, event_at};

const MINUTE: &str = r#"{"window": {"tumbling": "1m", "emit": {"count": "true", "max": "event.v"}}}"#;

fn value_at(seconds: f64, value: f64) -> Event {
    event_at(seconds, &format!(r#"{{"v":{value}}}"#))
}

fn keyed_at(seconds: f64, key: &str, value: f64) -> Event {
    event_at(seconds, &format!(r#"{{"k":"{key}","v":{value}}}"#))
}

/// Bodies without what does not matter here, as `by end count`.
fn counts(stage: &mut Stage) -> Vec<String> {
    let say = |event: Event| {
        let by =
            event.body.field("by").map_or(String::new(), |by| format!("{} ", by.as_text().unwrap_or("?")));
        format!("{by}{} {}", event.meta.time.as_seconds(), event.body.field("count").unwrap_or(&Value::Null))
    };
    stage.events().into_iter().map(say).collect()
}

#[test]
fn a_window_closes_when_an_event_past_its_end_has_come() {
    let mut stage = Stage::of(MINUTE);
    stage.push([value_at(0.0, 1.0), value_at(59.9, 3.0), value_at(30.0, 2.0)]);
    assert!(stage.bodies().is_empty());
    stage.push([value_at(60.0, 9.0)]);
    let events = stage.events();
    assert_eq!(events[0].body.to_string(), r#"{"start":0.0,"end":60.0,"count":3,"max":3.0}"#);
    assert_eq!(events[0].meta.time, Timestamp::from_seconds(60.0));
    assert_eq!(events.len(), 1);
}

#[test]
fn each_key_has_windows_of_its_own_and_says_which() {
    let mut stage =
        Stage::of(r#"{"window": {"tumbling": "1m", "by": "event.k", "emit": {"sum": "event.v"}}}"#);
    stage.push([keyed_at(1.0, "b", 1.0), keyed_at(2.0, "a", 2.0), keyed_at(3.0, "b", 3.0)]);
    stage.push([event_at(61.0, r#"{"k":7,"v":0}"#)]);
    let events = stage.events();
    let bodies: Vec<_> = events.iter().map(|event| event.body.to_string()).collect();
    assert_eq!(
        bodies,
        [r#"{"by":"b","start":0.0,"end":60.0,"sum":4.0}"#, r#"{"by":"a","start":0.0,"end":60.0,"sum":2.0}"#]
    );
    assert_eq!(events[0].meta.key.as_deref(), Some("b"));
    stage.flush();
    let events = stage.events();
    assert_eq!(
        (events[0].meta.key.as_deref(), events[0].body.field("by")),
        (Some("7"), Some(&Value::Int(7)))
    );
}

#[test]
fn windows_leave_by_end_and_then_by_the_order_in_which_keys_first_came() {
    let mut stage = Stage::of(
        r#"{"window": {"tumbling": "10s", "by": "event.k", "lateness": "1h", "emit": {"count": "true"}}}"#,
    );
    stage.push([
        keyed_at(15.0, "x", 0.0),
        keyed_at(25.0, "y", 0.0),
        keyed_at(5.0, "y", 0.0),
        keyed_at(25.0, "x", 0.0),
        keyed_at(5.0, "z", 0.0),
    ]);
    stage.flush();
    assert_eq!(counts(&mut stage), ["y 10 1", "z 10 1", "x 20 1", "x 30 1", "y 30 1"]);
}

#[test]
fn an_event_within_the_lateness_counts_and_a_later_one_is_dropped() {
    let mut stage =
        Stage::of(r#"{"window": {"tumbling": "10s", "lateness": "5s", "emit": {"count": "true"}}}"#);
    stage.push([event_at(1.0, "0"), event_at(14.9, "1"), event_at(2.0, "2")]);
    assert!(counts(&mut stage).is_empty());
    stage.push([event_at(15.0, "3"), event_at(9.9, "4"), event_at(10.0, "5")]);
    assert_eq!(counts(&mut stage), ["10 2"]);
    assert_eq!(stage.dropped(), [(4, "late")]);
    stage.flush();
    assert_eq!(counts(&mut stage), ["20 3"]);
}

#[test]
fn sliding_windows_overlap_and_each_counts_what_is_in_it() {
    let mut stage =
        Stage::of(r#"{"window": {"sliding": {"size": "30s", "every": "10s"}, "emit": {"count": "true"}}}"#);
    stage.push([event_at(5.0, "0"), event_at(15.0, "0"), event_at(16.0, "0"), event_at(100.0, "0")]);
    assert_eq!(counts(&mut stage), ["10 1", "20 3", "30 3", "40 2"]);
    stage.flush();
    assert_eq!(counts(&mut stage), ["110 1", "120 1", "130 1"]);
}

#[test]
fn with_no_event_coming_a_window_closes_by_the_clock() {
    let mut stage =
        Stage::of(r#"{"window": {"tumbling": "10s", "lateness": "2s", "emit": {"count": "true"}}}"#);
    assert_eq!(stage.due(), None);
    stage.push([event_at(1e6, "0")]);
    let due = stage.due().unwrap();
    assert_eq!(due.since(stage.now()).as_secs_f64(), 12.5, "the end, the lateness, and patience");
    stage.advance(12.4);
    stage.tick();
    assert!(stage.events().is_empty());
    stage.advance_to(due);
    stage.tick();
    assert_eq!(counts(&mut stage), ["1000010 1"]);
    assert_eq!(stage.due(), None, "nothing is open and nothing is kept");
}

#[test]
fn yesterdays_events_are_not_cut_off_by_todays_clock() {
    let mut stage = Stage::of(MINUTE);
    stage.push([value_at(0.0, 1.0)]);
    stage.advance(5.0);
    stage.tick();
    stage.push([value_at(10.0, 2.0)]);
    assert!(stage.bodies().is_empty() && stage.dropped().is_empty());
    stage.advance(50.0);
    stage.tick();
    assert!(stage.bodies().is_empty());
    stage.advance(0.5);
    stage.tick();
    assert_eq!(counts(&mut stage), ["60 2"]);
}

#[test]
fn an_event_ahead_of_the_clock_counts_in_its_window_and_closes_none() {
    let mut stage = Stage::of(MINUTE);
    stage.push([value_at(1e6 + 1000.0, 1.0), value_at(1e6, 2.0)]);
    assert!(stage.bodies().is_empty() && stage.dropped().is_empty());
    stage.advance(60.0);
    stage.tick();
    assert_eq!(counts(&mut stage), ["1000020 1"]);
    stage.advance(1000.0);
    stage.tick();
    assert_eq!(counts(&mut stage), ["1001040 1"]);
}

#[test]
fn an_event_from_a_future_too_far_is_an_error_and_changes_nothing() {
    let mut stage = Stage::of(MINUTE);
    let mut end_of_time = event(r#"{"v":1}"#);
    end_of_time.meta.time = Timestamp::from_nanos(i64::MAX);
    stage.push([value_at(1e6, 1.0), value_at(1e6 + 3601.0, 1.0), end_of_time, value_at(1e6, 1.0)]);
    let failed = stage.failed();
    assert_eq!(failed.len(), 2);
    assert!(failed[0].1.contains("3601 s ahead of this machine's clock"), "{}", failed[0].1);
    stage.flush();
    assert_eq!(counts(&mut stage), ["1000020 2"]);
}

#[test]
fn the_beginning_of_time_is_a_time() {
    let mut stage = Stage::of(
        r#"{"window": {"sliding": {"size": "1000ns", "every": "1ns"}, "lateness": "300d", "emit": {"count": "true"}}}"#,
    );
    let mut first = event("0");
    first.meta.time = Timestamp::from_nanos(i64::MIN);
    stage.push([first, event_at(0.0, "0"), event_at(1e6, "0")]);
    stage.tick();
    stage.flush();
    let events = stage.events();
    assert!(events.len() >= 2000, "{}", events.len());
}

#[test]
fn when_the_wall_clock_is_set_back_what_is_open_leaves_and_time_starts_anew() {
    let mut stage = Stage::of(MINUTE);
    stage.set_wall(9e6);
    stage.push([value_at(9e6, 1.0)]);
    stage.set_wall(1e6);
    stage.push([value_at(1e6, 2.0), value_at(1e6 + 1.0, 2.0)]);
    assert_eq!(counts(&mut stage), ["9000060 1"]);
    assert!(stage.dropped().is_empty());
    stage.set_wall(1e6 + 60.0);
    stage.push([value_at(1e6 + 60.0, 2.0)]);
    assert_eq!(counts(&mut stage), ["1000020 2"]);
    stage.set_wall(2e5);
    stage.tick();
    assert_eq!(counts(&mut stage), ["1000080 1"]);
    assert_eq!(stage.due(), None);
}

#[test]
fn a_wall_clock_that_jumps_forward_closes_nothing_by_itself() {
    let mut stage = Stage::of(MINUTE);
    stage.push([value_at(1e6, 1.0)]);
    stage.set_wall(9e6);
    stage.tick();
    stage.push([value_at(1e6 + 1.0, 1.0)]);
    assert!(stage.bodies().is_empty() && stage.dropped().is_empty());
}

#[test]
fn an_event_one_expression_fails_on_counts_in_no_total() {
    let mut stage = Stage::of(MINUTE);
    stage.push([value_at(1.0, 1.0), event_at(2.0, "{}")]);
    stage.push([event_at(3.0, r#"{"v":"9"}"#)]);
    let mut nan = value_at(4.0, 0.0);
    nan.body = [("v", f64::NAN)].into_iter().collect();
    let mut infinite = value_at(4.0, 0.0);
    infinite.body = [("v", f64::INFINITY)].into_iter().collect();
    stage.push([nan, infinite]);
    stage.flush();
    assert_eq!(stage.bodies(), [r#"{"start":0.0,"end":60.0,"count":1,"max":1.0}"#]);
    let reasons: Vec<_> = stage.failed().into_iter().map(|(_, reason)| reason).collect();
    assert!(reasons.iter().all(|reason| reason.starts_with("`emit.max`: ")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("the value is NaN")), "{reasons:?}");
}

#[test]
fn beyond_max_keys_events_of_further_keys_are_dropped_until_a_window_closes() {
    let mut stage = Stage::of(
        r#"{"window": {"tumbling": "10s", "by": "event.k", "maxKeys": 2, "emit": {"count": "true"}}}"#,
    );
    stage.push([
        keyed_at(1.0, "a", 0.0),
        keyed_at(1.0, "b", 0.0),
        keyed_at(1.0, "c", 0.0),
        keyed_at(1.0, "a", 0.0),
    ]);
    assert_eq!(stage.dropped(), [(2, "keys")]);
    stage.push([keyed_at(11.0, "c", 0.0), keyed_at(12.0, "d", 0.0)]);
    assert!(stage.dropped().is_empty());
    assert_eq!(counts(&mut stage), ["a 10 2", "b 10 1"]);
}

#[test]
fn times_strewn_over_the_next_hour_do_not_grow_memory_without_bound() {
    let mut stage = Stage::of(
        r#"{"window": {"tumbling": "1ms", "by": "event.k", "maxKeys": 10, "emit": {"count": "true"}}}"#,
    );
    stage.push((0..1000).map(|n| keyed_at(1e6 + f64::from(n), "a", 0.0)));
    assert_eq!(stage.dropped().len(), 1000 - 20);
}

#[test]
fn an_event_whose_key_cannot_be_told_fails() {
    let mut stage =
        Stage::of(r#"{"window": {"tumbling": "10s", "by": "event.k", "emit": {"count": "true"}}}"#);
    stage.push([value_at(1.0, 1.0)]);
    assert!(stage.failed()[0].1.starts_with("`by`: no such field `k`"));
}

#[test]
fn a_hundred_thousand_windows_leave_in_parts_while_the_input_waits() {
    let mut stage =
        Stage::of(r#"{"window": {"tumbling": "10s", "by": "event.k", "emit": {"count": "true"}}}"#);
    for chunk in (0..100_000).collect::<Vec<_>>().chunks(1000) {
        stage.push(chunk.iter().map(|n| keyed_at(1.0, &n.to_string(), 0.0)));
    }
    assert_eq!(stage.released().len(), 99, "only the first batch is held");
    stage.push([keyed_at(11.0, "next", 0.0), keyed_at(12.0, "next", 0.0)]);
    let mut left = 0;
    let mut calls = 1;
    while stage.held_until().is_some() {
        let batches = stage.take_batches();
        assert!(batches.iter().all(|batch| batch.len() <= 1024));
        let emitted: usize = batches.iter().map(|batch| batch.len()).sum();
        assert!(emitted <= 8192, "{emitted}");
        left += emitted;
        calls += 1;
        deliver(batches);
        assert_eq!(stage.due(), Some(stage.now()));
        stage.resume();
    }
    let batches = stage.take_batches();
    left += batches.iter().map(|batch| batch.len()).sum::<usize>();
    deliver(batches);
    assert_eq!((left, calls), (100_000, 13));
    assert_eq!(stage.released().len(), 100, "delivered");
    stage.flush();
    assert_eq!(counts(&mut stage), ["next 20 2"]);
}

#[test]
fn by_the_clock_too_many_windows_leave_in_parts() {
    let mut stage =
        Stage::of(r#"{"window": {"tumbling": "10s", "by": "event.k", "emit": {"count": "true"}}}"#);
    stage.push((0..10_000).map(|n| keyed_at(1e6, &n.to_string(), 0.0)));
    stage.advance(10.5);
    stage.tick();
    assert_eq!(stage.events().len(), 8192);
    assert_eq!(stage.due(), Some(stage.now()));
    stage.tick();
    assert_eq!(stage.events().len(), 10_000 - 8192);
    assert_eq!(stage.due(), None);
}

#[test]
fn the_source_is_held_behind_the_oldest_open_window_until_it_is_delivered() {
    let mut stage =
        Stage::of(r#"{"window": {"sliding": {"size": "20s", "every": "10s"}, "emit": {"count": "true"}}}"#);
    stage.push([event_at(1.0, "0")]); // 0: pane 0
    stage.push([event_at(2.0, "0")]); // 1: pane 0, nothing needs it
    stage.push([event_at(11.0, "0")]); // 2: pane 1, closes window ..10
    assert_eq!(stage.settled(), 3, "taken into the state");
    assert_eq!(stage.released(), [1]);
    deliver(stage.take_batches());
    assert_eq!(stage.released(), [1], "pane 0 is in the window that ends at 20 too");
    stage.push([event_at(21.0, "0")]); // 3: pane 2, closes window ..20
    let batches = stage.take_batches();
    assert_eq!(stage.released(), [1]);
    deliver(batches);
    assert_eq!(stage.released(), [0, 1]);
    stage.flush();
    deliver(stage.take_batches());
    assert_eq!(stage.released(), [0, 1, 2, 3]);
}

#[test]
fn a_rate_leaves_out_no_increase_between_windows() {
    let mut stage =
        Stage::of(r#"{"window": {"tumbling": "10s", "by": "event.k", "emit": {"rate": "event.v"}}}"#);
    stage.push([keyed_at(5.0, "a", 100.0), keyed_at(15.0, "a", 150.0), keyed_at(25.0, "a", 20.0)]);
    // A gap of more than a window: what came before says nothing any more.
    stage.push([keyed_at(55.0, "a", 50.0), keyed_at(58.0, "a", 53.0)]);
    stage.flush();
    let rates: Vec<_> =
        stage.events().iter().map(|event| event.body.field("rate").unwrap().to_string()).collect();
    assert_eq!(rates, ["null", "5.0", "2.0", "1.0"]);
    assert_eq!(stage.due(), None);
}

#[test]
fn a_counter_that_stopped_is_forgotten_one_window_later() {
    let mut stage = Stage::of(r#"{"window": {"tumbling": "10s", "emit": {"rate": "event.v"}}}"#);
    stage.push([value_at(1e6, 1.0)]);
    stage.advance_to(stage.due().unwrap());
    stage.tick();
    assert_eq!(stage.events().len(), 1);
    let due = stage.due().expect("the last sample is still kept");
    assert_eq!(due.since(stage.now()).as_secs_f64(), 10.0);
    stage.advance_to(due);
    stage.tick();
    assert_eq!((stage.events().len(), stage.due()), (0, None));
}

#[test]
fn quantiles_are_fields_named_by_their_share() {
    let mut stage = Stage::of(
        r#"{"window": {"tumbling": "10s", "emit": {"mean": "event.v", "quantile": {"of": "event.v", "at": [0.5, 0.999]}}}}"#,
    );
    stage.push((1..=1000).map(|n| value_at(1.0, f64::from(n))));
    stage.flush();
    let body = stage.events().remove(0).body;
    let number = |name: &str| body.field(name).and_then(Value::as_f64).unwrap();
    assert_eq!(number("mean"), 500.5);
    assert!((number("p50") - 500.0).abs() <= 5.0 && (number("p99_9") - 999.0).abs() <= 10.0, "{body}");
}

#[test]
fn settings_that_make_no_window_are_refused() {
    let refused = |window: &str| Stage::refused(&format!(r#"{{"window": {window}}}"#)).to_string();
    let count = r#""emit": {"count": "true"}"#;
    assert!(refused(&format!("{{{count}}}")).contains("one of the two"));
    let both = format!(r#"{{"tumbling": "1m", "sliding": {{"size": "2m", "every": "1m"}}, {count}}}"#);
    assert!(refused(&both).contains("one of the two"));
    assert!(refused(&format!(r#"{{"tumbling": "0s", {count}}}"#)).contains("longer than nothing"));
    for (size, every) in [("90s", "1m"), ("1m", "90s"), ("1001s", "1s")] {
        let sliding = format!(r#"{{"sliding": {{"size": "{size}", "every": "{every}"}}, {count}}}"#);
        assert!(refused(&sliding).contains("multiple of `every`"), "{sliding}");
    }
    assert!(refused(r#"{"tumbling": "1m", "emit": {}}"#).contains("nothing to compute"));
    let shares = r#"{"tumbling": "1m", "emit": {"quantile": {"of": "event.v", "at": [1.5]}}}"#;
    assert!(refused(shares).contains("shares from 0 to 1"));
    assert!(refused(r#"{"tumbling": "1m", "emit": {"max": "event.("}}"#).contains("`emit.max`"));
}

/// A window that is open in the model: every value it holds.
type Open = BTreeMap<(i64, String), Vec<f64>>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn windows_hold_what_a_model_that_keeps_every_event_says(
        overlap in 1..5i64,
        lateness in 0..30i64,
        batches in prop::collection::vec(
            prop::collection::vec((-20..40i64, 0..4u8, -50..50i64), 1..12),
            1..12,
        ),
    ) {
        let every = 10;
        let mut stage = Stage::of(&format!(
            r#"{{"window": {{"sliding": {{"size": "{}s", "every": "{every}s"}}, "lateness": "{lateness}s", "by": "event.k",
                "emit": {{"count": "event.v > 0", "sum": "event.v", "min": "event.v", "max": "event.v", "mean": "event.v",
                          "quantile": {{"of": "event.v", "at": [0.5]}}}}}}}}"#,
            every * overlap
        ));
        let (mut open, mut closed, mut late) = (Open::new(), Open::new(), 0);
        let (mut base, mut newest, mut frontier) = (0, i64::MIN, i64::MIN);
        for batch in batches {
            let mut events = Vec::new();
            for (offset, key, value) in batch {
                let time = base + offset;
                base += offset.max(0);
                let key = format!("key {key}");
                events.push(keyed_at(time as f64, &key, value as f64));
                let pane = time.div_euclid(every);
                if frontier != i64::MIN && pane + overlap <= frontier {
                    late += 1;
                    continue;
                }
                newest = newest.max(time);
                frontier = frontier.max((newest - lateness).div_euclid(every));
                while let Some(first) = open.first_entry() && first.key().0 <= frontier {
                    let (window, values) = first.remove_entry();
                    closed.insert(window, values);
                }
                for end in (pane + 1).max(frontier + 1)..=pane + overlap {
                    open.entry((end, key.clone())).or_default().push(value as f64);
                }
            }
            stage.push(events);
        }
        let check = |events: Vec<Event>, model: &Open| {
            let ends: Vec<_> = events.iter().map(|event| event.meta.time).collect();
            prop_assert!(ends.is_sorted());
            let mut found = BTreeMap::new();
            for event in events {
                let end = event.meta.time.as_seconds() as i64 / every;
                let key = event.body.field("by").and_then(Value::as_text).unwrap().to_string();
                prop_assert!(found.insert((end, key), event.body).is_none());
            }
            prop_assert_eq!(found.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
            for (window, mut values) in model.clone() {
                let body = &found[&window];
                let number = |name: &str| body.field(name).and_then(Value::as_f64).unwrap();
                values.sort_by(f64::total_cmp);
                let sum: f64 = values.iter().sum();
                prop_assert_eq!(number("start"), ((window.0 - overlap) * every) as f64);
                prop_assert_eq!(number("count"), values.iter().filter(|value| **value > 0.0).count() as f64);
                prop_assert_eq!(number("sum"), sum);
                prop_assert_eq!(number("mean"), sum / values.len() as f64);
                prop_assert_eq!((number("min"), number("max")), (values[0], values[values.len() - 1]));
                let median = values[(values.len() - 1) / 2];
                prop_assert!((number("p50") - median).abs() <= median.abs() * 0.0101, "{} {median}", number("p50"));
            }
            Ok(())
        };
        check(stage.events(), &closed)?;
        prop_assert_eq!(stage.dropped().len(), late);
        stage.flush();
        check(stage.events(), &open)?;
        prop_assert_eq!(stage.due(), None);
        let batches = stage.settled();
        prop_assert_eq!(stage.released().len(), batches, "nothing is held when nothing is open");
    }
}
