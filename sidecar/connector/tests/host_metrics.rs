//! Figures of the machine this test runs on.
#![cfg(target_os = "linux")]

use std::{sync::Arc, time::Duration};

use sidestream_connector::{Environment, Origin, Secrets, Source, Stop, build, intake};
use sidestream_event::{Batch, Pool};
use sidestream_host::Clock;
use sidestream_plan::{self as plan, stage::HostMetrics};
use sidestream_ring::channel::channel_by;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn samples_come_every_interval_until_the_source_is_stopped() {
    let clock = Clock::machine();
    let env = Environment {
        pipeline: "shop/host".into(),
        clock: clock.clone(),
        secrets: Secrets::default(),
        dnpipes: None,
        exactly_once: None,
        compile: Arc::new(|_| Err("no expression is needed".into())),
    };
    let interval = Some(plan::Duration::from_millis(50));
    let stage = plan::Source::HostMetrics(HostMetrics { interval, groups: None });
    let Ok(Source::Async(mut source)) = build::source(&stage, &env) else { panic!("an async source") };
    let (sender, mut batches) = channel_by(64, 1 << 20, Batch::len);
    let (stop, stopped) = Stop::new();
    let origin = Origin::new("host", clock.clone());
    let mut intake = intake(sender, origin, Arc::new(Pool::new(8)), clock, stopped);
    let running = tokio::spawn(async move { source.run(&mut intake).await });
    let mut rounds = Vec::new();
    while rounds.len() < 4 {
        rounds.extend(batches.try_recv());
        sleep(Duration::from_millis(5)).await;
    }
    stop.send(true).unwrap();
    timeout(Duration::from_secs(10), running).await.expect("the source ends").unwrap().unwrap();
    let busy = rounds[1..]
        .iter()
        .flat_map(Batch::events)
        .find(|event| event.body.at("name").and_then(|name| name.as_text()) == Some("node_cpu_busy_ratio"));
    if let Some(ratio) = busy.and_then(|event| event.body.at("value")?.as_f64()) {
        assert!((0.0..=1.0).contains(&ratio), "{ratio}");
    }
    for event in rounds.iter().flat_map(Batch::events) {
        let name = event.body.at("name").and_then(|name| name.as_text()).unwrap();
        assert!(name.starts_with("node_"), "{name}");
        assert!(event.body.at("value").and_then(|value| value.as_f64()).is_some(), "{}", event.body);
    }
}

#[test]
fn an_interval_of_nothing_is_refused() {
    let env = Environment {
        pipeline: "shop/host".into(),
        clock: Clock::machine(),
        secrets: Secrets::default(),
        dnpipes: None,
        exactly_once: None,
        compile: Arc::new(|_| Err("no expression is needed".into())),
    };
    let stage = HostMetrics { interval: Some(plan::Duration::from_secs(0)), groups: None };
    let error = build::source(&plan::Source::HostMetrics(stage), &env).err().unwrap();
    assert_eq!(error.to_string(), "`interval`: 0s is no interval; write how often, such as `10s`");
}
