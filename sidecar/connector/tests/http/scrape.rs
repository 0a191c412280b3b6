//! The `prometheus` source.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use sidestream_connector::{Secrets, build};
use sidestream_event::{Batch, Event, Timestamp, Value};
use sidestream_host::Clock;
use sidestream_plan::{SecretKey, SecretRef, Source, stage::Prometheus};
use tokio::time::{sleep, timeout};

use crate::{
    peer::{Act, Peer, free_port, header},
    world::{Running, env, source},
};

fn stage(url: String) -> Prometheus {
    Prometheus {
        url,
        interval: Some(sidestream_plan::Duration::from_millis(200)),
        timeout: None,
        credentials: None,
    }
}

fn scrape(url: String) -> Running {
    Running::new(source(Source::Prometheus(stage(url)), Secrets::default()), 8192)
}

/// Runs a source that scrapes once: its next tick is a minute away, and its time limit is no concern of the test.
fn scrape_once(url: String, limit: usize) -> Running {
    let stage = Prometheus { interval: Some(sidestream_plan::Duration::from_secs(60)), ..stage(url) };
    Running::new(source(Source::Prometheus(stage), Secrets::default()), limit)
}

fn name(event: &Event) -> &str {
    event.body.at("name").and_then(Value::as_text).unwrap()
}

fn value(event: &Event) -> f64 {
    event.body.at("value").and_then(Value::as_f64).unwrap()
}

/// The events up to and with the next `up`.
async fn one_scrape(running: &mut Running) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        events.extend(running.next().await.drain());
        if events.last().is_some_and(|last| name(last) == "up") {
            return events;
        }
    }
}

fn now() -> f64 {
    Timestamp::from_nanos(Clock::machine().wall_nanos()).as_seconds()
}

#[tokio::test]
async fn a_scrape_is_an_event_a_sample_and_ends_with_up() {
    let text = "# TYPE a counter\na{route=\"/cart\"} 2 7000\nb NaN\n";
    let peer = Peer::new([Act::Answer(200, text)]).await;
    let before = now();
    let mut running = scrape_once(peer.url("/metrics"), 8192);
    let events = one_scrape(&mut running).await;
    let said: Vec<_> = events.iter().map(|event| event.body.to_string()).collect();
    assert_eq!(
        said,
        [
            r#"{"name":"a","labels":{"route":"/cart"},"value":2.0}"#.to_owned(),
            r#"{"name":"b","labels":{},"value":null}"#.to_owned(),
            format!(r#"{{"name":"up","labels":{{"instance":"{}"}},"value":1.0}}"#, peer.address),
        ]
    );
    assert_eq!(events[0].meta.time.as_seconds(), 7.0);
    assert_eq!(events[1].meta.time, events[2].meta.time);
    assert!((before..=now()).contains(&events[1].meta.time.as_seconds()));
    let head = &peer.asked()[0].head;
    assert!(head.starts_with("GET /metrics HTTP/1.1"), "{head}");
    assert_eq!(header(head, "accept"), Some("text/plain;version=0.0.4"));
}

#[tokio::test]
async fn openmetrics_is_read_with_its_own_times() {
    let text = "a_total 2 1520879607.5\n".repeat(600) + "# EOF\n";
    let peer = Peer::new([Act::Answer(200, text.leak())]).await;
    let events = one_scrape(&mut scrape_once(peer.url("/"), 8192)).await;
    assert_eq!(events.len(), 601);
    assert!(events[..600].iter().all(|event| event.meta.time.as_seconds() == 1520879607.5));
}

#[tokio::test]
async fn a_failed_scrape_is_up_of_zero_alone_whatever_the_target_did() {
    let raw = |bytes: &[u8]| Act::Raw(bytes.to_vec());
    let script = [
        Act::Answer(500, "a 1\n"),
        Act::Answer(200, "<html>a web page</html>"),
        Act::Answer(200, "good 1\ngood 2\nbad\n"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na 1\n"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\na 1\n"),
        raw(b"HTTP/1.1 200 OK\r\n\r\na{b=\"\xff\"} 1\n"),
        raw(b"no HTTP"),
        Act::Reset,
        Act::Silence,
        Act::With(302, "location: http://elsewhere/\r\n", ""),
        Act::Answer(200, "a 1\n"),
    ];
    let failures = script.len() - 1;
    let peer = Peer::new(script).await;
    let mut running = scrape(peer.url("/"));
    for _ in 0..failures {
        let events = one_scrape(&mut running).await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(value(&events[0]), 0.0);
    }
    // On a busy machine a scrape may exceed its time limit before the target is heard.
    while one_scrape(&mut running).await.len() != 2 {}
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let line = b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 1\n".repeat(4096);
    let peer = Peer::new([Act::Endless("HTTP/1.1 200 OK\r\n\r\n", line)]).await;
    let stage =
        Prometheus { interval: Some(sidestream_plan::Duration::from_secs(30)), ..stage(peer.url("/")) };
    let mut running = Running::new(source(Source::Prometheus(stage), Secrets::default()), 8192);
    let events = one_scrape(&mut running).await;
    assert_eq!((events.len(), value(&events[0])), (1, 0.0));
}

#[tokio::test]
async fn a_target_that_comes_and_goes_is_followed() {
    let port = free_port();
    let mut running = scrape(format!("http://127.0.0.1:{port}/"));
    assert_eq!(value(&one_scrape(&mut running).await[0]), 0.0);
    let peer = Peer::at(&format!("127.0.0.1:{port}"), [Act::Answer(200, "a 1\n")]).await;
    while value(one_scrape(&mut running).await.last().unwrap()) == 0.0 {}
    drop(peer);
    while value(one_scrape(&mut running).await.last().unwrap()) == 1.0 {}
}

#[tokio::test]
async fn a_hundred_thousand_label_sets_flow_through_a_small_ring() {
    let line = |n: usize| format!("series{{n=\"{n}\",route=\"/a/rather/long/route/of/a/shop\"}} {n}\n");
    let text: String = (0..100_000).map(line).collect();
    let peer = Peer::new([Act::Answer(200, text.leak())]).await;
    let stage =
        Prometheus { interval: Some(sidestream_plan::Duration::from_secs(30)), ..stage(peer.url("/")) };
    let mut running = Running::new(source(Source::Prometheus(stage), Secrets::default()), 1024);
    let mut sum = 0.0;
    let mut count = 0;
    loop {
        let batch: Batch = running.next().await;
        assert!(batch.len() <= 512);
        // What waits in the ring, and the batch at hand.
        assert!(running.origin.ledger().in_flight <= 1024 + 512 + 512);
        count += batch.len();
        sum += batch.events().iter().map(value).sum::<f64>();
        if batch.events().last().is_some_and(|last| name(last) == "up") {
            break;
        }
    }
    assert_eq!(count, 100_001);
    assert_eq!(sum, (0..100_000).sum::<i64>() as f64 + 1.0);
}

#[tokio::test]
async fn scrapes_that_did_not_fit_are_left_out_and_not_made_up_for() {
    let peer = Peer::new([Act::Answer(200, "a 1\n")]).await;
    let mut running = Running::new(source(Source::Prometheus(stage(peer.url("/"))), Secrets::default()), 1);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(peer.asked().len(), 1, "the ring is full of the first scrape");
    let resumed = now();
    while now() < resumed + 0.7 {
        let _ = timeout(Duration::from_millis(20), running.next()).await;
    }
    let asked = peer.asked().len();
    assert!((2..=6).contains(&asked), "{asked} scrapes");
}

#[tokio::test]
async fn a_silent_target_does_not_hold_up_the_stop() {
    let peer = Peer::new([Act::Silence]).await;
    let stage =
        Prometheus { interval: Some(sidestream_plan::Duration::from_secs(60)), ..stage(peer.url("/")) };
    let running = Running::new(source(Source::Prometheus(stage), Secrets::default()), 8192);
    while peer.asked().is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    running.stop();
    timeout(Duration::from_secs(1), running.ended()).await.expect("at once").unwrap();
}

#[tokio::test]
async fn the_token_is_sent_and_never_part_of_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("node")).unwrap();
    std::fs::write(folder.path().join("node/token"), "s3cret\n").unwrap();
    let credentials = Some(SecretRef { secret_ref: SecretKey { name: "node".into(), key: "token".into() } });
    let peer = Peer::new([Act::Answer(200, "a 1\n")]).await;
    let stage = Prometheus { credentials, ..stage(peer.url("/")) };
    let mut running =
        Running::new(source(Source::Prometheus(stage.clone()), Secrets::at(folder.path())), 8192);
    one_scrape(&mut running).await;
    assert_eq!(header(&peer.asked()[0].head, "authorization"), Some("Bearer s3cret"));
    std::fs::write(folder.path().join("node/token"), "s3\ncret").unwrap();
    let Err(error) = build::source(&Source::Prometheus(stage), &env(Secrets::at(folder.path()))) else {
        panic!("a token of two lines")
    };
    assert_eq!(error.field, "credentials");
    assert!(!error.reason.contains("cret\""), "{error}");
}

#[tokio::test]
async fn a_real_node_exporter_is_scraped() {
    const REAL: &str = "/usr/bin/prometheus-node-exporter";
    if !Path::new(REAL).exists() {
        println!("skipped: {REAL} is not here; apt-get install prometheus-node-exporter");
        return;
    }
    let port = free_port();
    let mut child = Command::new(REAL)
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = scrape(format!("http://127.0.0.1:{port}/metrics"));
    let mut events = Vec::new();
    for _ in 0..100 {
        events = one_scrape(&mut running).await;
        if events.len() > 1 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(events.iter().any(|event| name(event) == "node_cpu_seconds_total"), "{} events", events.len());
    assert_eq!(value(events.last().unwrap()), 1.0);
}

#[test]
fn an_interval_of_nothing_is_refused() {
    let stage =
        Prometheus { interval: Some(sidestream_plan::Duration::from_secs(0)), ..stage("http://h/".into()) };
    let Err(error) = build::source(&Source::Prometheus(stage), &env(Secrets::default())) else {
        panic!("built")
    };
    assert_eq!(error.field, "interval");
}
