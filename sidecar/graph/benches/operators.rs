//! What an event costs in each operator: batches of 64 through one operator alone, with no graph around it.
//!
//! `cargo bench -p sidestream-graph --bench operators [-- name]`. A batch is made before the clock starts and dropped
//! after it stops; a figure is the median of rounds. Standard output is one JSON object a line, standard error a table.
#![allow(missing_docs, reason = "a bench has no interface")]

use std::hint::black_box;

use sidestream_event::{Batch, Event, Mark, Timestamp, json};
use sidestream_expr::Type;
use sidestream_graph::{Output, operator};
use sidestream_host::{Clock, Moment};

const EVENTS: usize = 64;
const BATCHES: usize = 64;
const ROUNDS: usize = 31;

const BODY: &str = r#"{"name":"http_request_seconds","labels":{"route":"/cart","code":"200"},"value":0.25}"#;
const LOGFMT: &str = r#"level=info msg="request served" route=/cart code=200 seconds=0.25"#;
const CSV: &str = "info,request served,/cart,200,0.25";
const LINE: &str = "GET /cart 200 0.25";
const SAMPLES: &str = "http_request_seconds{route=\"/cart\",code=\"200\"} 0.25\n";

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let bench = |name: &str, process: &str, event: &dyn Fn(usize) -> Event| {
        if wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str())) {
            let nanos = nanos_an_event(process, event);
            println!(r#"{{"bench":"operator","who":"{name}","value":{nanos:.1},"unit":"ns/event"}}"#);
            eprintln!("{name:<28} {nanos:>8.1} ns");
        }
    };
    let body = |_| Event::new(json::read(BODY.as_bytes()).expect("the body is JSON"));
    let text = |text: &'static str| move |_| Event::new(text);
    // A second of events, of a thousand keys.
    let keyed = |n: usize| {
        let route = n % 1000;
        let text = format!(r#"{{"labels":{{"route":"/route/{route}"}},"value":{n}}}"#);
        let mut event = Event::new(json::read(text.as_bytes()).expect("the body is JSON"));
        event.meta.time = Timestamp::from_nanos(n as i64 * 1_000_000_000 / (EVENTS * BATCHES) as i64);
        event
    };

    bench("filter", r#"{"filter": {"keep": "event.value < 0.5 && event.labels.code == '200'"}}"#, &body);
    bench("map", r#"{"map": {"body": "{'route': event.labels.route, 'ms': event.value * 1000.0}"}}"#, &body);
    bench("set", r#"{"set": {"fields": {"slow": "event.value > 0.5"}}}"#, &body);
    bench("unset", r#"{"unset": {"fields": ["labels.code"]}}"#, &body);
    bench("rename", r#"{"rename": {"fields": {"value": "seconds"}}}"#, &body);
    bench("sample", r#"{"sample": {"every": 10}}"#, &body);
    bench("sample by key", r#"{"sample": {"every": 10, "by": "event.labels.route"}}"#, &keyed);
    bench("dedupe", r#"{"dedupe": {"by": "event.labels.route", "window": "1m"}}"#, &keyed);
    bench("throttle", r#"{"throttle": {"rate": 1000}}"#, &body);
    bench("throttle by key", r#"{"throttle": {"rate": 1000, "by": "event.labels.route"}}"#, &keyed);
    bench("batch of 100", r#"{"batch": {"size": 100}}"#, &body);
    bench("window", r#"{"window": {"tumbling": "1m", "emit": {"max": "event.value"}}}"#, &keyed);
    let by = r#""by": "event.labels.route""#;
    bench(
        "window by key",
        &format!(r#"{{"window": {{"tumbling": "1m", {by}, "emit": {{"max": "event.value"}}}}}}"#),
        &keyed,
    );
    let sliding = r#""sliding": {"size": "5m", "every": "1s"}"#;
    bench(
        "window sliding by key",
        &format!(r#"{{"window": {{{sliding}, {by}, "emit": {{"max": "event.value"}}}}}}"#),
        &keyed,
    );
    let all = r#"{"count": "true", "sum": "event.value", "mean": "event.value", "rate": "event.value",
                  "quantile": {"of": "event.value", "at": [0.5, 0.99]}}"#;
    bench(
        "window by key, all",
        &format!(r#"{{"window": {{"tumbling": "1m", {by}, "emit": {all}}}}}"#),
        &keyed,
    );
    bench("threshold", r#"{"threshold": {"value": "event.value", "above": 0.5}}"#, &body);
    bench("parse json", r#"{"parse": {"json": {}}}"#, &text(BODY));
    bench("parse logfmt", r#"{"parse": {"logfmt": {}}}"#, &text(LOGFMT));
    bench(
        "parse csv",
        r#"{"parse": {"csv": {"columns": ["level", "msg", "route", "code", "seconds"]}}}"#,
        &text(CSV),
    );
    let pattern = r"^(?<method>[A-Z]+) (?<path>[^ ]+) (?<code>[0-9]+) (?<seconds>[0-9.]+)$";
    bench("parse regex", &format!(r#"{{"parse": {{"regex": {{"pattern": "{pattern}"}}}}}}"#), &text(LINE));
    bench("parse prometheus", r#"{"parse": {"prometheus": {}}}"#, &text(SAMPLES));
    bench("encode json", r#"{"encode": {"json": {}}}"#, &body);
    bench("encode logfmt", r#"{"encode": {"logfmt": {}}}"#, &body);
    bench("encode csv", r#"{"encode": {"csv": {"columns": ["name", "labels.route", "value"]}}}"#, &body);
    bench("encode text", r#"{"encode": {"text": {"text": "event.name + ' ' + event.labels.route"}}}"#, &body);
}

/// Nanoseconds an event takes in the operator of this `process`.
fn nanos_an_event(process: &str, event: &dyn Fn(usize) -> Event) -> f64 {
    let process = serde_json::from_str(process).expect("the operator is written right");
    let mut operator = operator::build(&process, &Type::Dyn).expect("the operator can be made");
    let clock = Clock::machine();
    let mut rounds: Vec<f64> = Vec::new();
    for round in 0..ROUNDS + WARM_UP {
        // Each round is a second later than the one before.
        let second = std::time::Duration::from_secs(round as u64);
        let mut nanos = 0;
        for number in 0..BATCHES {
            let mut batch =
                Batch::of((0..EVENTS).map(|n| event(number * EVENTS + n)).collect(), Mark::none());
            batch.events_mut().iter_mut().for_each(|event| event.meta.time = event.meta.time.plus(second));
            let mut out = Output::at(Moment::default() + second, Timestamp::from_seconds(1e6));
            let begun = clock.now();
            black_box(operator.process(&mut batch, &mut out));
            nanos += clock.now().since(begun).as_nanos();
            let failed = out.take_failed();
            assert!(failed.is_empty(), "{}", failed[0].1);
        }
        if round >= WARM_UP {
            rounds.push(nanos as f64 / (EVENTS * BATCHES) as f64);
        }
    }
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

const WARM_UP: usize = 5;
