//! A plan at work: events come through fused and unfused alike, branches get what they ask for, the ledger balances.

mod world;

use std::time::Duration;

use serde_json::json;
use world::{custom, ended, filter, generator, plan, seen, sidecar, start, with};

#[test]
fn every_event_comes_through_once_and_in_order_however_the_stages_are_fused() {
    for runs in [vec![&[0usize, 1, 2][..]], vec![&[0], &[1], &[2]], vec![&[0, 1], &[2]]] {
        let sidecar = sidecar();
        let (mut registry, seen) = seen();
        let plan = plan(
            &[
                ("tick", &[], generator(json!({"count": 50_000}))),
                ("even", &[0], filter("event.sequence % 2 == 0")),
                ("seen", &[1], custom("seen")),
            ],
            &runs,
        );
        let pipeline = start(&sidecar, plan, &mut registry);
        ended(&sidecar, &pipeline);
        assert_eq!(seen.numbers("sequence"), (0..50_000).step_by(2).collect::<Vec<_>>());
        let ledger = pipeline.ledger();
        assert!(ledger.is_balanced(), "{ledger:?}");
        assert_eq!((ledger.accepted, ledger.completed, ledger.in_flight), (50_000, 50_000, 0));
        let stages = pipeline.stages();
        assert_eq!(stages[1].stats.events_in.get(), 50_000);
        assert_eq!(stages[1].stats.events_out.get(), 25_000);
    }
}

#[test]
fn branches_get_what_their_when_says_and_otherwise_gets_the_rest() {
    let sidecar = sidecar();
    let (mut registry, low) = seen();
    let high = world::Seen::default();
    let rest = world::Seen::default();
    registry.processor("high", Box::new(high.clone()));
    registry.processor("rest", Box::new(rest.clone()));
    let plan = plan(
        &[
            ("tick", &[], generator(json!({"count": 1000}))),
            ("low", &[0], with(custom("seen"), "when", json!("event.sequence < 100"))),
            (
                "high",
                &[0],
                with(custom("high"), "when", json!("event.sequence >= 50 && event.sequence < 200")),
            ),
            ("rest", &[0], with(custom("rest"), "otherwise", json!(true))),
        ],
        &[&[0], &[1], &[2], &[3]],
    );
    let pipeline = start(&sidecar, plan, &mut registry);
    ended(&sidecar, &pipeline);
    assert_eq!(low.numbers("sequence"), (0..100).collect::<Vec<_>>());
    assert_eq!(high.numbers("sequence"), (50..200).collect::<Vec<_>>());
    assert_eq!(rest.numbers("sequence"), (200..1000).collect::<Vec<_>>());
    assert_eq!(pipeline.ledger().completed, 1000);
}

#[test]
fn an_event_a_stage_cannot_handle_goes_to_its_dead_letter_stage_and_counts_as_such() {
    let sidecar = sidecar();
    let (mut registry, letters) = seen();
    let letter = json!({"deadLetter": "letters"});
    let plan = plan(
        &[
            ("tick", &[], generator(json!({"count": 100}))),
            ("bad", &[0], with(filter("10 / (event.sequence % 10) > 0"), "onError", letter)),
            ("drop", &[1], json!({"sink": {"blackhole": {}}})),
            ("letters", &[], custom("seen")),
        ],
        &[&[0, 1, 2], &[3]],
    );
    let pipeline = start(&sidecar, plan, &mut registry);
    ended(&sidecar, &pipeline);
    let events = letters.events();
    assert_eq!(events.len(), 10);
    assert_eq!(events[0].meta.header("sidestream-stage"), Some("bad"));
    assert!(events[0].meta.header("sidestream-error").unwrap().contains("zero"), "{:?}", events[0].meta);
    let ledger = pipeline.ledger();
    assert_eq!((ledger.completed, ledger.dead_lettered, ledger.is_balanced()), (90, 10, true));
}

#[test]
fn without_a_dead_letter_stage_an_error_is_dropped_and_counted() {
    let sidecar = sidecar();
    let plan = plan(
        &[
            ("tick", &[], generator(json!({"count": 100}))),
            ("bad", &[0], filter("event.missing > 0")),
            ("drop", &[1], json!({"sink": {"blackhole": {}}})),
        ],
        &[&[0, 1, 2]],
    );
    let pipeline = start(&sidecar, plan, &mut Default::default());
    ended(&sidecar, &pipeline);
    let ledger = pipeline.ledger();
    assert_eq!((ledger.completed, ledger.dropped, ledger.is_balanced()), (0, 100, true));
    let stats = &pipeline.stages()[1].stats;
    assert_eq!((stats.errors.get(), stats.dropped()), (100, vec![("error", 100)]));
    assert!(stats.last_error().unwrap().contains("missing"));
}

#[test]
fn an_event_whose_when_fails_goes_where_the_errors_of_that_stage_go_and_counts_there() {
    // The stage that asks is fused with what is before it, has a ring before it, or is a sink with a thread of its own.
    let folder = tempfile::tempdir().expect("a folder");
    let file = json!({"sink": {"file": {"path": folder.path().join("out")}}});
    let end = json!({"sink": {"blackhole": {}}});
    let shapes: [(&serde_json::Value, &[&[usize]]); 4] = [
        (&end, &[&[0, 1, 2], &[3], &[4]]),
        (&end, &[&[0, 1], &[2], &[3], &[4]]),
        (&end, &[&[0], &[1], &[2], &[3], &[4]]),
        (&file, &[&[0, 1], &[2], &[3], &[4]]),
    ];
    for (kind, runs) in shapes {
        for has_letters in [true, false] {
            let sidecar = sidecar();
            let (mut registry, own) = seen();
            let before = world::Seen::default();
            registry.processor("before", Box::new(before.clone()));
            let mut asks = with(kind.clone(), "when", json!("10 / (event.sequence % 10) > 0"));
            if has_letters {
                asks = with(asks, "onError", json!({"deadLetter": "own"}));
            }
            let plan = plan(
                &[
                    ("tick", &[], generator(json!({"count": 100}))),
                    ("pass", &[0], with(filter("true"), "onError", json!({"deadLetter": "before"}))),
                    ("asks", &[1], asks),
                    ("own", &[], custom("seen")),
                    ("before", &[], custom("before")),
                ],
                runs,
            );
            let pipeline = start(&sidecar, plan, &mut registry);
            ended(&sidecar, &pipeline);
            let shape = format!("{runs:?}, {has_letters}");
            assert_eq!(before.events().len(), 0, "{shape}: nothing of the stage before has failed");
            assert_eq!(own.events().len(), if has_letters { 10 } else { 0 }, "{shape}");
            if let Some(letter) = own.events().first() {
                assert_eq!(letter.meta.header("sidestream-stage"), Some("asks"), "{shape}");
                let reason = letter.meta.header("sidestream-error").unwrap_or_default();
                assert!(reason.starts_with("`when`: ") && reason.contains("zero"), "{shape}: {reason}");
            }
            let stages = pipeline.stages();
            assert_eq!((stages[1].stats.errors.get(), stages[2].stats.errors.get()), (0, 10), "{shape}");
            assert_eq!(stages[2].stats.events_in.get(), 90, "{shape}");
            let dropped = stages[2].stats.dropped();
            assert_eq!(dropped, if has_letters { vec![] } else { vec![("error", 10)] }, "{shape}");
            let ledger = pipeline.ledger();
            let lettered = if has_letters { 10 } else { 0 };
            assert_eq!((ledger.completed, ledger.dead_lettered), (90, lettered), "{shape}");
            assert!(ledger.is_balanced() && ledger.in_flight == 0, "{shape}: {ledger:?}");
        }
    }
}

#[test]
fn the_events_of_two_sources_settle_each_in_the_books_of_its_own() {
    let sidecar = sidecar();
    let plan = plan(
        &[
            ("one", &[], generator(json!({"count": 20_000, "rate": 100_000}))),
            ("two", &[], generator(json!({"count": 30_000, "rate": 90_000}))),
            ("both", &[0, 1], filter("true")),
            ("end", &[2], json!({"sink": {"blackhole": {}}})),
        ],
        &[&[0], &[1], &[2, 3]],
    );
    let pipeline = start(&sidecar, plan, &mut Default::default());
    ended(&sidecar, &pipeline);
    let books: Vec<_> = pipeline.stages().iter().filter_map(|stage| stage.ledger).collect();
    assert_eq!(books.iter().map(|ledger| ledger.completed).collect::<Vec<_>>(), [20_000, 30_000]);
    assert!(
        books.iter().all(|ledger| ledger.in_flight == 0 && ledger.committed == ledger.accepted),
        "{books:?}"
    );
}

#[test]
fn a_batch_that_ends_a_window_downstream_of_a_blocked_sink_burns_nothing() {
    let sidecar = sidecar();
    let mut registry = sidestream_sidecar::Registry::default();
    let door = registry.door("push");
    let nowhere = json!({"sink": {"webhook": {"url": "http://127.0.0.1:9/"}}, "input": {"capacity": 1}});
    let plan = plan(
        &[
            ("push", &[], json!({"source": {"push": {}}})),
            ("window", &[0], json!({"process": {"window": {"tumbling": "20ms", "emit": {"count": "true"}}}})),
            ("send", &[1], nowhere),
        ],
        &[&[0, 1], &[2]],
    );
    let pipeline = start(&sidecar, plan, &mut registry);
    for n in 0..60 {
        let _ = door.try_push(sidestream_event::Event::new(n));
        std::thread::sleep(Duration::from_millis(25));
    }
    let before = processor_ticks();
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_ticks() - before;
    assert!(used < 30, "{used} ticks of 100 in a second in which nothing could be done");
    drop(pipeline);
}

/// Ticks (100 a second) of processor time this process has used.
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok()).sum()
}

#[test]
fn a_drain_stops_an_endless_source_and_delivers_what_it_gave() {
    let sidecar = sidecar();
    let plan = plan(
        &[
            ("tick", &[], generator(json!({}))),
            ("keep", &[0], filter("true")),
            ("drop", &[1], json!({"sink": {"blackhole": {}}})),
        ],
        &[&[0], &[1], &[2]],
    );
    let pipeline = start(&sidecar, plan, &mut Default::default());
    std::thread::sleep(Duration::from_millis(100));
    let drained = pipeline.drain(Duration::from_secs(5));
    assert!(drained.is_complete(), "{drained:?}");
    assert!(drained.ledger.accepted > 1000, "{drained:?}");
    assert_eq!(drained.ledger.completed, pipeline.stages()[2].stats.events_out.get());
}
