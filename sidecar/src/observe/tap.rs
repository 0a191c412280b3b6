//! A tap: live events of one stage, one JSON object a line, sampled as the stage shows them.
//!
//! ```text
//!   {"time":"2026-11-21T12:00:00.000000000Z","source":"tick","sequence":7,"body":{...}}
//! ```
//!
//! A stage shows the first event of each batch, and only while somebody looks. One looker at a time: two would take
//! each other's events.

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use sidestream_event::{Event, Value};
use sidestream_graph::StageStats;
use sidestream_host::Moment;

use super::Observed;

/// How much to show.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    /// Ends after so many events.
    pub(super) limit: u64,
    /// Ends after so long.
    pub(super) seconds: f64,
    /// Which pipeline, where several have a stage of this name.
    pub(super) pipeline: Option<String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted { limit: 100, seconds: 10.0, pipeline: None }
    }
}

/// The tap of a stage, until it is dropped.
pub(super) struct Tap {
    observed: Observed,
    stage: (String, String),
    stats: Arc<StageStats>,
    left: u64,
    until: Moment,
}

impl Tap {
    /// Opens the tap of `stage` (pipeline, name); `None` where somebody else looks.
    pub(super) fn open(
        observed: &Observed,
        stage: (String, String),
        stats: Arc<StageStats>,
        limit: u64,
        span: Duration,
    ) -> Option<Tap> {
        let fresh = observed.0.tapped.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.clone());
        if !fresh {
            return None;
        }
        // What an earlier looker left is old.
        stats.tap.look();
        let until = observed.0.clock.now() + span;
        Some(Tap { observed: observed.clone(), stage, stats, left: limit, until })
    }

    /// The events as lines, as they come.
    pub(super) fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut tap| async move {
            let lines = tap.lines().await?;
            Some((Ok::<_, Infallible>(Bytes::from(lines)), tap))
        }))
    }

    /// The next lines; `None` at the end.
    async fn lines(&mut self) -> Option<Vec<u8>> {
        while self.left > 0 && self.observed.0.clock.now() < self.until {
            let events = self.stats.tap.look();
            if !events.is_empty() {
                let mut lines = Vec::new();
                for event in events.iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
                    self.left -= 1;
                    // Memory takes it, and every value has a JSON form.
                    let _ = serde_json::to_writer(&mut lines, &Line::of(event));
                    lines.push(b'\n');
                }
                return Some(lines);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        None
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stats.tap.close();
        self.observed.0.tapped.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.stage);
    }
}

/// An event as a line of a tap.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    source: &'a str,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(&'a str, &'a str)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    body: &'a Value,
}

impl<'a> Line<'a> {
    fn of(Event { meta, body }: &'a Event) -> Line<'a> {
        let context = meta.context.as_deref();
        let headers = context.into_iter().flat_map(|context| &context.headers);
        Line {
            time: meta.time.to_string(),
            source: &meta.source,
            sequence: meta.sequence,
            key: meta.key.as_deref(),
            headers: headers.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            traceparent: context.and_then(|context| context.traceparent.as_deref()),
            body,
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);
