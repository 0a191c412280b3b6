//! The `prometheus` source: one scrape after the other, one event a sample.
//!
//! ```text
//!   tick ─▶ GET ─▶ the whole body, at most 64 MiB ─▶ checked to its end ─▶ batches of at most 512, and `up` 1
//!                       └── none, or no metrics ────────────────────────▶ `up` 0 alone
//! ```
//!
//! A scrape counts as a whole or not at all, as in Prometheus: samples of half an answer would look like series that
//! vanished. So the body is held until its samples have found room, and they are made batch by batch. Ticks are a whole
//! number of intervals apart; one that falls into a scrape still going on is left out.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap,
    header::{ACCEPT, HeaderValue},
};
use sidestream_event::{
    Text, Timestamp,
    prometheus::{self, Dialect, Sample},
};
use sidestream_host::Random;
use sidestream_plan::stage::Prometheus;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{AsyncSource, BoxFuture, BuildError, Environment, Failure, Intake, Stopped, http::Endpoint};

/// The source.
pub(crate) struct Scrape {
    endpoint: Endpoint,
    headers: HeaderMap,
    interval: Duration,
    instance: Text,
    /// How the last scrape went, so that a change is logged once.
    was_up: Option<bool>,
}

impl Scrape {
    /// The source that `stage` describes.
    pub(crate) fn new(stage: &Prometheus, env: &Environment) -> Result<Self, BuildError> {
        let interval = stage.interval.map_or(INTERVAL, |own| own.get());
        if interval.is_zero() {
            return Err(BuildError {
                field: "interval",
                reason: "0s would scrape without pause; write `15s`".into(),
            });
        }
        let timeout = stage.timeout.map_or(TIMEOUT, |own| own.get()).min(interval);
        let endpoint = Endpoint::new(&stage.url, stage.credentials.as_ref(), timeout, env)?;
        Ok(Self {
            instance: endpoint.instance().into(),
            endpoint,
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/plain;version=0.0.4"))]),
            interval,
            was_up: None,
        })
    }
}

impl AsyncSource for Scrape {
    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            // Sidecars that start together do not scrape together; a newcomer does not wait for the first sample.
            let jitter = self.interval.min(JITTER_MAX).mul_f64(Random::from_entropy().next_f64());
            let mut ticks = interval_at(Instant::now() + jitter, self.interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let stop = intake.stop();
            while !intake.is_stopped() {
                let body = async {
                    ticks.tick().await;
                    let time = Timestamp::from_nanos(intake.clock().wall_nanos());
                    (time, self.endpoint.get(&self.headers, BODY_BYTES_MAX).await)
                };
                let (time, body) = tokio::select! {
                    () = stop.clone().stopped() => break,
                    scraped = body => scraped,
                };
                let text = body.map_err(|trouble| trouble.to_string()).and_then(checked);
                self.note(text.as_ref().map(|_| ()));
                if let Err(Stopped(_)) = self.send(text.ok(), time, intake).await {
                    break;
                }
            }
            Ok(())
        })
    }
}

impl Scrape {
    /// Sends the samples of a good scrape, and in any case whether it was one.
    async fn send(&self, text: Option<Bytes>, time: Timestamp, intake: &mut Intake) -> Result<(), Stopped> {
        let text = text.as_ref().map(|text| str::from_utf8(text).expect("checked to its end"));
        let dialect = Dialect::of(text.unwrap_or_default());
        for lines in text.into_iter().flat_map(parts) {
            let mut batch = intake.batch();
            let read = dialect.samples(lines, |sample| sample.fill(batch.next(), time));
            read.expect("checked to its end");
            intake.send(batch).await?;
        }
        let mut batch = intake.batch();
        let value = if text.is_some() { 1.0 } else { 0.0 };
        let instance = [(Cow::Borrowed("instance"), Cow::Borrowed(self.instance.as_str()))];
        Sample { name: "up".into(), labels: &instance, value, time: None }.fill(batch.next(), time);
        intake.send(batch).await
    }

    /// Logs a change between scrapes that fail and scrapes that do not, once.
    fn note(&mut self, outcome: Result<(), &String>) {
        let was_up = self.was_up.replace(outcome.is_ok());
        match outcome {
            Err(reason) if was_up != Some(false) => {
                tracing::warn!(instance = %self.instance, %reason, "scrapes fail; `up` is 0 until one succeeds");
            }
            Ok(()) if was_up == Some(false) => {
                tracing::info!(instance = %self.instance, "scrapes succeed again");
            }
            _ => {}
        }
    }
}

/// A body that is metrics from its first line to its last.
fn checked(body: Bytes) -> Result<Bytes, String> {
    let text = str::from_utf8(&body)
        .map_err(|error| format!("the answer is no text: {error}; is it the right URL?"))?;
    prometheus::samples(text, |_| ())
        .map_err(|error| format!("the answer is {error}; is it the right URL?"))?;
    Ok(body)
}

/// The text, in parts of at most [`BATCH_EVENTS`] whole lines.
fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let mut ends =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
        let (part, rest) = text.split_at(ends.nth(BATCH_EVENTS - 1).unwrap_or(text.len()));
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}

const INTERVAL: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before the first scrape is drawn from at most this.
const JITTER_MAX: Duration = Duration::from_millis(250);
const BODY_BYTES_MAX: usize = 64 << 20;
const BATCH_EVENTS: usize = 512;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use sidestream_host::Clock;
    use tracing::{Level, Metadata, Subscriber, span};

    use super::*;
    use crate::Secrets;

    /// Hears the levels of what is logged.
    struct Ear(Arc<Mutex<Vec<Level>>>);

    impl Subscriber for Ear {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_change_is_logged_once_and_a_target_that_was_always_up_never() {
        let env = Environment {
            pipeline: "a/b".into(),
            clock: Clock::machine(),
            secrets: Secrets::default(),
            dnpipes: None,
            exactly_once: None,
            compile: Arc::new(|_| Err("no expression here".into())),
        };
        let stage = Prometheus {
            url: "http://127.0.0.1:1/".into(),
            interval: None,
            timeout: None,
            credentials: None,
        };
        let mut scrape = Scrape::new(&stage, &env).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let reason = "it is gone".to_owned();
        tracing::subscriber::with_default(Ear(heard.clone()), || {
            for outcome in [Ok(()), Ok(()), Err(&reason), Err(&reason), Ok(()), Ok(()), Err(&reason)] {
                scrape.note(outcome);
            }
        });
        assert_eq!(*heard.lock().unwrap(), [Level::WARN, Level::INFO, Level::WARN]);
    }

    #[test]
    fn a_text_falls_into_parts_of_whole_lines() {
        let text = "a 1\n".repeat(BATCH_EVENTS + 2) + "last 1";
        let parts: Vec<_> = parts(&text).collect();
        assert_eq!(parts.iter().map(|part| part.lines().count()).collect::<Vec<_>>(), [BATCH_EVENTS, 3]);
        assert_eq!(parts.concat(), text);
        assert_eq!(super::parts("").count(), 0);
    }
}
