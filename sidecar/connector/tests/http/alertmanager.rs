//! The `alertmanager` sink: against a scripted peer, and against the real one where this machine has it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use sidestream_connector::{AsyncSink, Secrets, build};
use sidestream_event::{Batch, Map, Timestamp, Value, json};
use sidestream_plan::{Sink, stage::Alertmanager};
use tokio::time::sleep;

use crate::{
    peer::{Act, Peer, free_port, request},
    world::{batch, env, refused, retried, sink},
};

fn stage(url: String) -> Alertmanager {
    Alertmanager {
        url,
        name: Some("Slow".into()),
        labels: None,
        annotations: None,
        credentials: None,
        resend: Some(sidestream_plan::Duration::from_secs(1)),
        timeout: None,
    }
}

fn to(peer: &Peer) -> Box<dyn AsyncSink> {
    sink(Sink::Alertmanager(stage(peer.url(""))))
}

/// What a threshold emits.
fn change(state: &str, by: &str, value: f64) -> Value {
    let fields =
        [("state", Value::from(state)), ("by", by.into()), ("value", value.into()), ("bound", 0.5.into())];
    fields.into_iter().collect()
}

fn changes(changes: &[(&str, &str)]) -> Batch {
    batch(changes.iter().map(|(state, by)| change(state, by, 0.75)))
}

/// The alerts of one request, each as `by` and whether it stands.
fn alerts(body: &str) -> Vec<(String, bool)> {
    let now = Timestamp::from_nanos(sidestream_host::Clock::machine().wall_nanos()).to_string();
    let Value::List(alerts) = json::read(body.as_bytes()).unwrap() else { panic!("a list") };
    let text =
        |alert: &Value, path: &str| alert.at(path).and_then(Value::as_text).unwrap_or_default().to_owned();
    alerts.iter().map(|alert| (text(alert, "labels.by"), text(alert, "endsAt") > now)).collect()
}

fn stands(by: &str) -> (String, bool) {
    (by.to_owned(), true)
}

fn ended(by: &str) -> (String, bool) {
    (by.to_owned(), false)
}

#[tokio::test]
async fn an_alert_says_what_the_threshold_said_and_ends_by_itself_after_four_resends() {
    let peer = Peer::new([Act::Answer(200, "")]).await;
    let mut batch = changes(&[("firing", "/cart")]);
    batch.events_mut()[0].meta.time = Timestamp::from_seconds(4e9);
    to(&peer).deliver(&batch).await.unwrap();
    assert!(peer.asked()[0].head.starts_with("POST /api/v2/alerts HTTP/1.1"));
    assert_eq!(
        peer.bodies()[0],
        r#"[{"labels":{"alertname":"Slow","by":"/cart"},"annotations":{"bound":"0.5","value":"0.75"},"startsAt":"2096-10-02T07:06:40Z","endsAt":"2096-10-02T07:06:44Z"}]"#
    );
}

#[tokio::test]
async fn labels_and_annotations_come_from_expressions_and_absent_ones_are_left_out() {
    let peer = Peer::new([Act::Answer(200, "")]).await;
    let words = |words: &[(&str, &str)]| {
        Some(words.iter().map(|(name, path)| (name.to_string(), (*path).into())).collect::<BTreeMap<_, _>>())
    };
    let mut sink = sink(Sink::Alertmanager(Alertmanager {
        name: None,
        labels: words(&[("route", "event.by"), ("zone", "event.zone")]),
        annotations: words(&[("seen", "event.value")]),
        ..stage(peer.url("/prefix/"))
    }));
    let Value::Map(mut body) = change("firing", "/cart", f64::NAN) else { unreachable!() };
    let missing: Map = body.clone();
    body.insert("zone", Value::Null);
    let refused = refused(sink.deliver(&batch([missing.into(), body.into()])).await);
    assert_eq!(refused, [(0, "label `zone`: no such field: zone".into())]);
    assert!(peer.asked()[0].head.starts_with("POST /prefix/api/v2/alerts"));
    let body = peer.bodies().remove(0);
    assert!(body.contains(r#""labels":{"alertname":"watch","route":"/cart"}"#), "{body}");
    assert!(body.contains(r#""annotations":{"seen":"NaN"}"#), "{body}");
}

#[tokio::test]
async fn standing_alerts_are_sent_again_when_due_and_resolved_ones_once() {
    let peer = Peer::new([Act::Answer(200, "")]).await;
    let mut sink = to(&peer);
    sink.deliver(&changes(&[("firing", "a"), ("firing", "b")])).await.unwrap();
    sink.deliver(&changes(&[("resolved", "a"), ("firing", "c")])).await.unwrap();
    sink.tend().await.unwrap();
    assert_eq!(peer.asked().len(), 2, "nothing is due yet");
    sleep(sink.tend_after().unwrap()).await;
    assert_eq!(sink.tend_after(), Some(Duration::ZERO));
    sink.tend().await.unwrap();
    assert!(sink.tend_after().unwrap() > Duration::from_millis(500));
    let said: Vec<_> = peer.bodies().iter().map(|body| alerts(body)).collect();
    assert_eq!(
        said,
        [vec![stands("a"), stands("b")], vec![ended("a"), stands("c")], vec![stands("b"), stands("c")]]
    );
}

#[tokio::test]
async fn a_stream_of_batches_does_not_keep_standing_alerts_from_being_sent_again() {
    let peer = Peer::new([Act::Answer(200, "")]).await;
    let mut sink = to(&peer);
    sink.deliver(&changes(&[("firing", "a")])).await.unwrap();
    for _ in 0..12 {
        sleep(Duration::from_millis(100)).await;
        sink.deliver(&changes(&[("resolved", "b")])).await.unwrap();
    }
    let again = peer.bodies().iter().skip(1).filter(|body| alerts(body).contains(&stands("a"))).count();
    assert!((1..=3).contains(&again), "{again} times");
}

#[tokio::test]
async fn after_an_outage_everything_that_stands_is_sent_and_nothing_that_ended_is_lost() {
    let script = [Act::Answer(200, ""), Act::Answer(503, ""), Act::Reset, Act::Answer(200, "")];
    let peer = Peer::new(script).await;
    let mut sink = to(&peer);
    sink.deliver(&changes(&[("firing", "a"), ("firing", "b")])).await.unwrap();
    let batch = changes(&[("resolved", "a"), ("firing", "c")]);
    retried(sink.deliver(&batch).await);
    let (reason, _) = retried(sink.deliver(&batch).await);
    assert!(reason.contains("broke off"), "{reason}");
    assert!(!sink.tend_after().unwrap().is_zero(), "a peer that is down is not asked without pause");
    // The sidecar gave the batch up; what it said stands all the same.
    sink.tend().await.unwrap();
    assert_eq!(alerts(&peer.bodies()[3]), [ended("a"), stands("b"), stands("c")]);
}

#[tokio::test]
async fn one_alert_the_peer_will_never_take_does_not_keep_the_others_from_it() {
    let bad = Act::Answer(400, "invalid label set");
    let good = Act::Answer(200, "");
    // All four; the first half; its halves (b is bad); the second half.
    let peer = Peer::new([bad.clone(), bad.clone(), good.clone(), bad, good]).await;
    let mut sink = to(&peer);
    let batch = changes(&[("firing", "a"), ("firing", "b"), ("firing", "c"), ("firing", "d")]);
    let refused = refused(sink.deliver(&batch).await);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, 1);
    assert!(refused[0].1.contains("400 Bad Request: invalid label set"), "{}", refused[0].1);
    let last: Vec<_> = peer.bodies().iter().map(|body| alerts(body).len()).collect();
    assert_eq!(last, [4, 2, 1, 1, 2]);
}

#[tokio::test]
async fn what_is_no_change_of_state_is_refused_and_the_rest_delivered() {
    let peer = Peer::new([Act::Answer(200, "")]).await;
    let bodies = [Value::from("text"), change("firing", "a", 1.0), change("odd", "b", 1.0)];
    let long = change("firing", "x".repeat(2000).as_str(), 1.0);
    let refused = refused(to(&peer).deliver(&batch(bodies.into_iter().chain([long]))).await);
    assert_eq!(refused.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 2, 3]);
    assert!(refused[0].1.contains("takes what a `threshold` emits"), "{}", refused[0].1);
    assert!(refused[2].1.contains("2000 bytes long"), "{}", refused[2].1);
    assert_eq!(alerts(&peer.bodies()[0]), [stands("a")]);
}

#[tokio::test]
async fn more_than_ten_thousand_standing_alerts_are_refused() {
    let peer = Peer::new([Act::Answer(200, "")]).await;
    let mut sink = to(&peer);
    let fire = |range: std::ops::Range<u32>| batch(range.map(|n| change("firing", &n.to_string(), 1.0)));
    sink.deliver(&fire(0..10_000)).await.unwrap();
    let refused = refused(sink.deliver(&fire(9_999..10_002)).await);
    assert_eq!(refused.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2]);
    sink.deliver(&changes(&[("resolved", "5")])).await.unwrap();
    sink.deliver(&fire(10_000..10_001)).await.unwrap();
}

#[test]
fn a_stage_that_cannot_work_is_refused_with_the_field_and_the_cure() {
    let wrong = |stage| match build::sink(&Sink::Alertmanager(stage), &env(Secrets::default())) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was built"),
    };
    let labels = |name: &str, path: &str| Alertmanager {
        labels: Some(BTreeMap::from([(name.into(), path.into())])),
        ..stage("http://127.0.0.1:9093".into())
    };
    assert!(
        wrong(stage("http://127.0.0.1:9093/#/alerts".into())).starts_with("`url`: write the address alone")
    );
    assert!(
        wrong(labels("my-label", "event.by")).starts_with("`labels`: `my-label` is no name Prometheus knows")
    );
    assert!(wrong(labels("alertname", "event.by")).contains("set it with `name`"));
    assert_eq!(wrong(labels("route", "1 +")), "`labels`: `route`: not a path");
    let never =
        Alertmanager { resend: Some(sidestream_plan::Duration::from_secs(0)), ..labels("a", "event.by") };
    assert!(wrong(never).starts_with("`resend`"));
}

/// Debian's Alertmanager on a port of its own.
struct Real {
    child: Child,
    address: SocketAddr,
    _storage: tempfile::TempDir,
}

impl Real {
    /// Nothing where this machine has none; a test then says so and passes.
    async fn start(port: u16) -> Option<Self> {
        if !Path::new(REAL).exists() {
            println!("skipped: {REAL} is not here; apt-get install prometheus-alertmanager");
            return None;
        }
        let storage = tempfile::tempdir().unwrap();
        let config = storage.path().join("alertmanager.yml");
        std::fs::write(&config, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(REAL)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", storage.path().display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let real = Self { child, address, _storage: storage };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Some(real);
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{REAL} did not listen on {address} within ten seconds")
    }

    /// The values of label `by` of the alerts that stand now.
    async fn standing(&self) -> Vec<String> {
        let (status, answer) = request(self.address, "GET /api/v2/alerts?active=true HTTP/1.1", b"").await;
        assert_eq!(status, 200, "{}", answer.body);
        let Value::List(alerts) = json::read(answer.body.as_bytes()).unwrap() else { panic!("a list") };
        let by = |alert: &Value| alert.at("labels.by").and_then(Value::as_text).unwrap().to_owned();
        let mut standing: Vec<_> = alerts.iter().map(by).collect();
        standing.sort();
        standing
    }

    async fn comes_to_hold(&self, expected: &[&str]) {
        let mut standing = Vec::new();
        for _ in 0..200 {
            standing = self.standing().await;
            if standing == expected {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("Alertmanager holds {standing:?}, not {expected:?}")
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const REAL: &str = "/usr/bin/prometheus-alertmanager";

#[tokio::test]
async fn a_real_alertmanager_holds_an_alert_until_it_resolves() {
    let Some(real) = Real::start(free_port()).await else { return };
    let half_second = Some(sidestream_plan::Duration::from_millis(500));
    let stage = Alertmanager { resend: half_second, ..stage(format!("http://{}", real.address)) };
    let mut sink = sink(Sink::Alertmanager(stage));
    sink.deliver(&changes(&[("firing", "/cart"), ("firing", "/pay")])).await.unwrap();
    real.comes_to_hold(&["/cart", "/pay"]).await;
    sink.deliver(&changes(&[("resolved", "/cart")])).await.unwrap();
    real.comes_to_hold(&["/pay"]).await;
    for _ in 0..5 {
        sleep(sink.tend_after().unwrap()).await;
        sink.tend().await.unwrap();
    }
    real.comes_to_hold(&["/pay"]).await;
    // Nobody sends it again: four resends later it has ended.
    drop(sink);
    real.comes_to_hold(&[]).await;
}

#[tokio::test]
async fn a_real_alertmanager_that_comes_back_without_its_memory_is_told_what_stands() {
    let port = free_port();
    let Some(real) = Real::start(port).await else { return };
    let mut sink = sink(Sink::Alertmanager(stage(format!("http://{}", real.address))));
    sink.deliver(&changes(&[("firing", "/cart")])).await.unwrap();
    real.comes_to_hold(&["/cart"]).await;
    drop(real);
    let batch = changes(&[("firing", "/pay")]);
    let (reason, _) = retried(sink.deliver(&batch).await);
    assert!(reason.contains("http://127.0.0.1"), "{reason}");
    let Some(real) = Real::start(port).await else { return };
    sink.deliver(&batch).await.unwrap();
    real.comes_to_hold(&["/cart", "/pay"]).await;
}
