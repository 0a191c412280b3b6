//! The `alertmanager` sink: alerts that stand in a Prometheus Alertmanager for as long as they fire.
//!
//! ```text
//!   event {state, by, value, bound} ─▶ Standing: labels → since when, until when ─▶ POST /api/v2/alerts
//!                                         ▲ every `resend`, all of them again │
//!                                         └───────────────────────────────────┘
//! ```
//!
//! An event changes what stands, and what changed is sent; a resolved alert is forgotten when Alertmanager has taken it.
//! So a batch that comes again after a failure changes nothing twice, and a peer that comes back, with its memory or
//! without, is told everything that stands. An alert is sent with an end four times `resend` away, so that it ends by
//! itself when this process is gone. The form is Alertmanager's OpenAPI document, version 2, `postAlerts`.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use sidestream_event::{Batch, Event, List, Text, Timestamp, Value, json};
use sidestream_host::{Clock, Moment};
use sidestream_plan::{Expression, stage::Alertmanager};

use crate::{
    AsyncSink, BoxFuture, BuildError, Environment, Evaluate, Undelivered,
    http::{Endpoint, Trouble},
};

/// The sink.
pub(crate) struct Alerts {
    endpoint: Endpoint,
    headers: HeaderMap,
    words: Words,
    /// At most [`STANDING_MAX`].
    standing: BTreeMap<Labels, Standing>,
    resend: Duration,
    /// When all of them are due again.
    resend_at: Moment,
    /// The last request failed: the peer may have missed, or lost, anything.
    is_behind: bool,
    clock: Clock,
}

/// What makes an alert's identity.
type Labels = BTreeMap<Text, Text>;

struct Standing {
    annotations: BTreeMap<Text, Text>,
    starts_at: Timestamp,
    /// Set when it has resolved.
    ends_at: Option<Timestamp>,
    /// It changed since Alertmanager took it last.
    is_unsent: bool,
}

impl Alerts {
    /// The sink that `stage` describes.
    pub(crate) fn new(stage: &Alertmanager, env: &Environment) -> Result<Self, BuildError> {
        let refuse = |field, reason: &str| Err(BuildError { field, reason: reason.into() });
        if stage.url.contains(['?', '#']) {
            return refuse("url", "write the address alone, such as `http://alertmanager:9093`");
        }
        let url = format!("{}/api/v2/alerts", stage.url.trim_end_matches('/'));
        let timeout = stage.timeout.map_or(TIMEOUT, |own| own.get());
        let resend = stage.resend.map_or(RESEND, |own| own.get());
        if resend.is_zero() {
            return refuse("resend", "0s would send without pause; write `1m`");
        }
        Ok(Self {
            endpoint: Endpoint::new(&url, stage.credentials.as_ref(), timeout, env)?,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]),
            words: Words::new(stage, env)?,
            standing: BTreeMap::new(),
            resend,
            resend_at: env.clock.now() + resend,
            is_behind: false,
            clock: env.clock.clone(),
        })
    }
}

impl AsyncSink for Alerts {
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(async move {
            let mut refused = Vec::new();
            let mut taken = Vec::with_capacity(batch.len());
            for (index, event) in batch.events().iter().enumerate() {
                match self.take(event) {
                    Ok(labels) => taken.push((index, labels)),
                    Err(reason) => refused.push((index, reason)),
                }
            }
            for (labels, reason) in self.send().await? {
                let of_it = taken.iter().filter(|(_, own)| *own == labels);
                refused.extend(of_it.map(|(index, _)| (*index, reason.clone())));
            }
            if refused.is_empty() {
                return Ok(());
            }
            refused.sort_unstable_by_key(|(index, _)| *index);
            Err(Undelivered::Refused { events: refused })
        })
    }

    fn tend_after(&self) -> Option<Duration> {
        Some(self.resend_at.since(self.clock.now()))
    }

    fn tend(&mut self) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move { self.send().await.map(drop) })
    }
}

impl Alerts {
    /// Changes what stands as `event` says, and gives the alert's identity.
    fn take(&mut self, event: &Event) -> Result<Labels, String> {
        let is_firing = match event.body.field("state").and_then(Value::as_text) {
            Some("firing") => true,
            Some("resolved") => false,
            _ => {
                return Err(
                    "no `state` of `firing` or `resolved`; this sink takes what a `threshold` emits".into()
                );
            }
        };
        let labels = self.words.labels(event)?;
        let annotations = self.words.annotations(event)?;
        if self.standing.len() >= STANDING_MAX && !self.standing.contains_key(&labels) {
            return Err(format!("{STANDING_MAX} alerts stand already; give `labels` fewer values"));
        }
        let time = event.meta.time;
        let alert = self.standing.entry(labels.clone()).or_insert_with(|| Standing {
            annotations: BTreeMap::new(),
            starts_at: time,
            ends_at: None,
            is_unsent: true,
        });
        alert.annotations = annotations;
        alert.is_unsent = true;
        if !is_firing {
            alert.ends_at = Some(time.max(alert.starts_at));
        } else if alert.ends_at.take().is_some() {
            alert.starts_at = time;
        }
        Ok(labels)
    }

    /// Sends what changed, or everything where that is due; gives what Alertmanager will never take, and why.
    async fn send(&mut self) -> Result<Vec<(Labels, String)>, Undelivered> {
        let now = self.clock.now();
        let is_everything = self.is_behind || now >= self.resend_at;
        let due = self.standing.iter().filter(|(_, alert)| is_everything || alert.is_unsent);
        let due: Vec<Labels> = due.map(|(labels, _)| labels.clone()).collect();
        let mut parts: Vec<&[Labels]> = due.chunks(REQUEST_ALERTS_MAX).rev().collect();
        let mut refused = Vec::new();
        while let Some(part) = parts.pop() {
            match self.post(part).await {
                Ok(()) => part.iter().for_each(|labels| self.sent(labels)),
                // One bad alert spoils the request: halve it until the bad one is alone.
                Err(trouble) if is_about_the_alerts(&trouble) => match part {
                    [labels] => {
                        tracing::warn!(alert = ?labels, reason = %trouble, "an alert was refused and is forgotten");
                        self.standing.remove(labels);
                        refused.push((labels.clone(), trouble.to_string()));
                    }
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                },
                // Whatever else it says, a wrong token say, can be cured on the way; an alert is not lost meanwhile.
                Err(trouble) => {
                    self.is_behind = true;
                    self.resend_at = self.clock.now() + self.resend.min(AGAIN);
                    return Err(trouble.into_retry());
                }
            }
        }
        if is_everything {
            self.is_behind = false;
            self.resend_at = now + self.resend;
        }
        Ok(refused)
    }

    async fn post(&self, part: &[Labels]) -> Result<(), Trouble> {
        let now = Timestamp::from_nanos(self.clock.wall_nanos());
        let alerts: List = part
            .iter()
            .filter_map(|labels| Some((labels, self.standing.get(labels)?)))
            .map(|(labels, alert)| {
                let lease_end = now.max(alert.starts_at).plus(self.resend * LEASE_RESENDS);
                [
                    ("labels", words_of(labels)),
                    ("annotations", words_of(&alert.annotations)),
                    ("startsAt", Value::from(alert.starts_at.to_string())),
                    ("endsAt", Value::from(alert.ends_at.unwrap_or(lease_end).to_string())),
                ]
                .into_iter()
                .collect::<Value>()
            })
            .collect();
        let mut body = Vec::new();
        json::write(&Value::List(alerts), &mut body);
        self.endpoint.send(Method::POST, &self.headers, Bytes::from(body)).await
    }

    fn sent(&mut self, labels: &Labels) {
        let Some(alert) = self.standing.get_mut(labels) else {
            return;
        };
        alert.is_unsent = false;
        if alert.ends_at.is_some() {
            self.standing.remove(labels);
        }
    }
}

/// The labels and annotations a stage asks for.
struct Words {
    name: Text,
    labels: Option<Vec<(Text, Evaluate)>>,
    annotations: Option<Vec<(Text, Evaluate)>>,
}

impl Words {
    fn new(stage: &Alertmanager, env: &Environment) -> Result<Self, BuildError> {
        let pipeline = env.pipeline.rsplit('/').next().unwrap_or_default();
        let compile = |field, words: &Option<BTreeMap<String, Expression>>| {
            words.as_ref().map(|words| compiled(field, words, env)).transpose()
        };
        Ok(Self {
            name: stage.name.as_deref().unwrap_or(pipeline).into(),
            labels: compile("labels", &stage.labels)?,
            annotations: compile("annotations", &stage.annotations)?,
        })
    }

    fn labels(&self, event: &Event) -> Result<Labels, String> {
        let mut labels = match &self.labels {
            Some(asked) => evaluated("label", asked, event)?,
            None => fields(event, &["by"]),
        };
        if let Some((name, value)) = labels.iter().find(|(_, value)| value.len() > LABEL_BYTES_MAX) {
            return Err(format!("label `{name}` is {} bytes long, more than {LABEL_BYTES_MAX}", value.len()));
        }
        labels.insert("alertname".into(), self.name.clone());
        Ok(labels)
    }

    fn annotations(&self, event: &Event) -> Result<BTreeMap<Text, Text>, String> {
        let mut annotations = match &self.annotations {
            Some(asked) => evaluated("annotation", asked, event)?,
            None => fields(event, &["value", "bound"]),
        };
        for value in annotations.values_mut().filter(|value| value.len() > ANNOTATION_BYTES_MAX) {
            *value = Text::from(&value[..value.floor_char_boundary(ANNOTATION_BYTES_MAX)]);
        }
        Ok(annotations)
    }
}

fn compiled(
    field: &'static str,
    words: &BTreeMap<String, Expression>,
    env: &Environment,
) -> Result<Vec<(Text, Evaluate)>, BuildError> {
    let refuse = |reason| BuildError { field, reason };
    let compile_one = |(name, expression): (&String, &Expression)| {
        if !is_label_name(name) {
            return Err(refuse(format!("`{name}` is no name Prometheus knows; use letters, digits and _")));
        }
        if field == "labels" && name == "alertname" {
            return Err(refuse("`alertname` is the alert's name; set it with `name`".into()));
        }
        let evaluate = (env.compile)(expression).map_err(|error| refuse(format!("`{name}`: {error}")))?;
        Ok((name.as_str().into(), evaluate))
    };
    words.iter().map(compile_one).collect()
}

fn evaluated(what: &str, asked: &[(Text, Evaluate)], event: &Event) -> Result<BTreeMap<Text, Text>, String> {
    let mut found = BTreeMap::new();
    for (name, evaluate) in asked {
        let value = evaluate(event).map_err(|error| format!("{what} `{name}`: {error}"))?;
        found.extend(text_of(&value).map(|text| (name.clone(), text)));
    }
    Ok(found)
}

/// The fields of these names that are there.
fn fields(event: &Event, names: &[&'static str]) -> BTreeMap<Text, Text> {
    let found = names.iter().filter_map(|name| Some((Text::from(*name), text_of(event.body.field(name)?)?)));
    found.collect()
}

/// A value as people read it; nothing for null and empty text, which is how Alertmanager says that a label is absent.
fn text_of(value: &Value) -> Option<Text> {
    let text = match value {
        Value::Null => return None,
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        // Not as JSON, which has no NaN and writes a whole number as 1.0.
        Value::Float(number) => number.to_string().into(),
        other => other.to_string().into(),
    };
    (!text.is_empty()).then_some(text)
}

fn words_of(words: &BTreeMap<Text, Text>) -> Value {
    words.iter().map(|(name, value)| (name.clone(), Value::Text(value.clone()))).collect()
}

/// The data model of Prometheus: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn is_label_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_about_the_alerts(trouble: &Trouble) -> bool {
    const BAD: [StatusCode; 3] =
        [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];
    trouble.status().is_some_and(|status| BAD.contains(&status))
}

const TIMEOUT: Duration = Duration::from_secs(10);
const RESEND: Duration = Duration::from_secs(60);
/// An alert ends by itself when it has not come for this many times `resend`: what Prometheus does.
const LEASE_RESENDS: u32 = 4;
/// Alerts that stand at once. One takes about a kibibyte.
const STANDING_MAX: usize = 10_000;
const REQUEST_ALERTS_MAX: usize = 1_000;
const LABEL_BYTES_MAX: usize = 1 << 10;
const ANNOTATION_BYTES_MAX: usize = 4 << 10;
/// How soon standing alerts are tried again after a failure, where `resend` is longer.
const AGAIN: Duration = Duration::from_secs(10);
