//! After warm-up, an event that an operator keeps, counts or drops costs no allocation.

use std::{alloc::System, sync::Arc};

use sidestream_event::{Batch, Event, Mark, Settle, Settled, Span, Timestamp, json};
use sidestream_expr::Type;
use sidestream_graph::{Output, Processor, operator};
use sidestream_host::Moment;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A source that is replayed but listens to nothing.
struct Source;

impl Settle for Source {
    fn settled(&self, _: Settled) {}
    fn released(&self, _: Span) {}
}

fn operator_of(process: &str) -> Box<dyn Processor> {
    operator::build(&serde_json::from_str(process).unwrap(), &Type::Dyn).unwrap()
}

/// A second of events of ten keys, `second` seconds after the epoch.
fn batch(second: u64, source: &Arc<Source>) -> Batch {
    let event = |n: u64| {
        let text = format!(r#"{{"route":"/a/route/longer/than/inline/{}","value":{n}}}"#, n % 10);
        let mut event = Event::new(json::read(text.as_bytes()).unwrap());
        event.meta.sequence = second * 100 + n;
        event.meta.time = Timestamp::from_nanos(second as i64 * 1_000_000_000 + n as i64);
        event
    };
    Batch::of(
        (0..100).map(event).collect(),
        Mark::new(Span { first: second * 100, count: 100 }, source.clone()),
    )
}

#[test]
fn after_warm_up_no_event_costs_an_allocation() {
    let source = Arc::new(Source);
    let by = r#""by": "event.route""#;
    let all = r#""emit": {"count": "event.value > 5", "sum": "event.value", "min": "event.value", "max": "event.value",
        "mean": "event.value", "rate": "event.value", "quantile": {"of": "event.value", "at": [0.5]}}"#;
    let operators = [
        r#"{"filter": {"keep": "event.value > 50"}}"#.to_string(),
        r#"{"sample": {"every": 3}}"#.to_string(),
        format!(r#"{{"sample": {{"every": 3, {by}}}}}"#),
        format!(r#"{{"dedupe": {{{by}, "window": "1h"}}}}"#),
        format!(r#"{{"throttle": {{"rate": 1e6, {by}}}}}"#),
        format!(r#"{{"threshold": {{"value": "event.value", "above": 1000, {by}}}}}"#),
        format!(r#"{{"window": {{"tumbling": "1h", {by}, {all}}}}}"#),
        format!(r#"{{"window": {{"sliding": {{"size": "10h", "every": "1h"}}, {by}, {all}}}}}"#),
    ];
    for process in operators {
        let mut operator = operator_of(&process);
        let mut out = Output::at(Moment::default(), Timestamp::from_seconds(1e6));
        for second in 0..3 {
            operator.process(&mut batch(second, &source), &mut out);
        }
        let mut batches: Vec<Batch> = (3..10).map(|second| batch(second, &source)).collect();
        let region = Region::new(ALLOCATOR);
        for (second, batch) in batches.iter_mut().enumerate() {
            out.set_time(Moment::from_nanos(second as u64 * 1_000_000_000), Timestamp::from_seconds(1e6));
            operator.process(batch, &mut out);
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{process}");
        assert!(
            out.take_failed().is_empty() && out.take_emitted().is_empty() && out.take_dropped().is_empty()
        );
    }
}
