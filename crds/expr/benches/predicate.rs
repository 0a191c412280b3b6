//! What one evaluation of an expression costs, lowered and by the cel crate's interpreter: nanoseconds and allocations.
//!
//! `cargo bench -p sidestream-expr`. JSON lines on standard output, a table for people on standard error. The crate is
//! measured twice: `cel` brings the event's fields to it for each event, as any user of it must; `cel, brought` finds
//! them there already.

#![allow(unsafe_code, reason = "counting allocations takes an allocator")]
#![allow(clippy::disallowed_methods, reason = "measuring takes the machine's own clock")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    time::Instant,
};

use sidestream_event::{Event, Map, Value};
use sidestream_expr::{Program, Type};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator unchanged; counting touches a cell of the thread and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Name, and source of a condition on the event below.
const CONDITIONS: &[(&str, &str)] = &[
    ("compare", "event.status >= 500"),
    ("compare_and_search", "event.status >= 500 && event.path.startsWith(\"/api\")"),
    ("name_and_label", "event.name == 'http_request_seconds' && event.labels.route == '/api/cart/checkout'"),
    ("arithmetic", "event.seconds * 1000.0 > 250.0 || event.status - 200 > 99"),
    ("in_list", "event.method in ['PUT', 'POST', 'DELETE', 'PATCH']"),
    ("has_or_default", "has(event.user) ? event.user == 'root' : event.status >= 400"),
    ("matches", "event.path.matches('^/api/[a-z]+/check')"),
    ("exists", "event.sizes.exists(size, size > 900)"),
    ("absorbed_error", "event.user == 'root' || event.status >= 500"),
];

fn event() -> Event {
    let labels: Map = [("app", "shop"), ("route", "/api/cart/checkout"), ("zone", "b")].into_iter().collect();
    let mut body = Map::new();
    body.insert("name", "http_request_seconds");
    body.insert("method", "PATCH");
    body.insert("path", "/api/cart/checkout");
    body.insert("status", 503);
    body.insert("seconds", 0.2501);
    body.insert("bytes", 48_213);
    body.insert("labels", labels);
    body.insert("sizes", Value::from((0..10).map(|n| Value::from(n * 100 + 7)).collect::<Vec<_>>()));
    Event::new(body)
}

/// Best of several rounds: nanoseconds and allocations for one call.
fn measure(mut call: impl FnMut() -> bool) -> (f64, f64) {
    let mut best = f64::INFINITY;
    let mut allocations = 0.0;
    let mut calls = 100_u32;
    for round in 0..12 {
        let (allocated, started) = (ALLOCATIONS.get(), Instant::now());
        for _ in 0..calls {
            black_box(call());
        }
        let nanos = started.elapsed().as_nanos() as f64;
        allocations = (ALLOCATIONS.get() - allocated) as f64 / f64::from(calls);
        best = best.min(nanos / f64::from(calls));
        if round == 1 {
            calls = (2e7 / best).clamp(100.0, 1e7) as u32; // 20 ms a round
        }
    }
    (best, allocations)
}

fn report(bench: &str, who: &str, (nanos, allocations): (f64, f64)) {
    println!(r#"{{"bench":"predicate/{bench}","who":"{who}","value":{nanos:.1},"unit":"ns"}}"#);
    println!(r#"{{"bench":"predicate/{bench}","who":"{who}","value":{allocations},"unit":"allocations"}}"#);
    eprintln!("{bench:<20} {who:<14} {nanos:>9.1} ns {allocations:>7} allocations");
}

fn main() {
    let event = event();
    for (bench, source) in CONDITIONS {
        let program = Program::compile_predicate(source, &Type::Dyn).expect(source);
        assert!(program.is_lowered(), "{source}");
        assert_eq!(program.test(&event), Ok(true), "{source}");
        let cost = measure(|| program.test(black_box(&event)).unwrap_or(false));
        assert_eq!(cost.1, 0.0, "a lowered condition allocates nothing: {source}");
        report(bench, "sidestream", cost);

        let theirs = cel::Program::compile(source).expect(source);
        let env = Arc::new(cel::Env::stdlib());
        let run = |context: &cel::Context<'_, '_>| theirs.execute(context) == Ok(cel::Value::Bool(true));
        report(
            bench,
            "cel",
            measure(|| {
                let mut context = cel::Context::with_env(Arc::clone(&env));
                context.add_variable_from_value("event", bring(&black_box(&event).body));
                run(&context)
            }),
        );
        let mut context = cel::Context::with_env(Arc::clone(&env));
        context.add_variable_from_value("event", bring(&event.body));
        assert!(run(&context), "{source}");
        report(bench, "cel, brought", measure(|| run(black_box(&context))));
    }
    // What is not lowered: the price of the way through the interpreter.
    let source = "meta.time < timestamp('2026-01-31T12:00:00Z') && event.status >= 500";
    let program = Program::compile_predicate(source, &Type::Dyn).expect(source);
    assert_eq!((program.is_lowered(), program.test(&event)), (false, Ok(true)));
    report("interpreted", "sidestream", measure(|| program.test(black_box(&event)).unwrap_or(false)));
    report("compile", "sidestream", measure(|| Program::compile(CONDITIONS[1].1, &Type::Dyn).is_ok()));
}

fn bring(value: &Value) -> cel::Value {
    match value {
        Value::Null | Value::Bytes(_) => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Int(number) => cel::Value::Int(*number),
        Value::Float(number) => cel::Value::Float(*number),
        Value::Text(text) => cel::Value::from(text.as_str()),
        Value::List(list) => cel::Value::from(list.iter().map(bring).collect::<Vec<_>>()),
        Value::Map(map) => cel::Value::from(
            map.iter().map(|(name, value)| (name.to_string(), bring(value))).collect::<HashMap<_, _>>(),
        ),
    }
}
