//! The `webhook` sink: batches of events as HTTP requests, each a JSON array of bodies and dead letters.
//!
//! A batch longer than `batchSize` goes as several requests, in order. Where a later one has to be tried again, the ones
//! before it are not sent twice: [`Progress`] remembers how far the batch got. A request whose answer was lost is sent
//! again all the same; only the peer could tell that it was taken.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method,
    header::{self, CONTENT_TYPE, HeaderName, HeaderValue},
};
use sidestream_event::{Batch, Event, Timestamp};
use sidestream_plan::stage::{Webhook, WebhookMethod};

use crate::{AsyncSink, BoxFuture, BuildError, Environment, Undelivered, http::Endpoint, letter};

/// The sink.
pub(crate) struct Requests {
    endpoint: Endpoint,
    method: Method,
    headers: HeaderMap,
    batch_size: usize,
    /// Of the batch that is to come again.
    progress: Option<Progress>,
}

/// How far a batch got before it had to be tried again.
struct Progress {
    batch: Identity,
    /// Events before this index are settled: delivered, or in `refused`.
    done: usize,
    refused: Vec<(usize, String)>,
}

/// What tells a batch that comes again from one that comes instead: where it lies, and what stands at its ends.
#[derive(PartialEq)]
struct Identity {
    address: usize,
    len: usize,
    born_nanos: u64,
    ends: Option<[(u64, Timestamp); 2]>,
}

impl Requests {
    /// The sink that `stage` describes.
    pub(crate) fn new(stage: &Webhook, env: &Environment) -> Result<Self, BuildError> {
        let timeout = stage.timeout.map_or(TIMEOUT, |own| own.get());
        Ok(Self {
            endpoint: Endpoint::new(&stage.url, stage.credentials.as_ref(), timeout, env)?,
            method: match stage.method.unwrap_or_default() {
                WebhookMethod::POST => Method::POST,
                WebhookMethod::PUT => Method::PUT,
            },
            headers: headers(stage.headers.as_ref(), stage.credentials.is_some())?,
            batch_size: stage.batch_size.unwrap_or(BATCH_SIZE).max(1) as usize,
            progress: None,
        })
    }
}

impl AsyncSink for Requests {
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(async move {
            let identity = Identity::of(batch);
            let (mut done, mut refused) = match self.progress.take() {
                Some(progress) if progress.batch == identity => (progress.done, progress.refused),
                _ => (0, Vec::new()),
            };
            for chunk in batch.events()[done..].chunks(self.batch_size) {
                match self.endpoint.send(self.method.clone(), &self.headers, array(chunk)).await {
                    Ok(()) => {}
                    Err(trouble) if trouble.may_pass() => {
                        self.progress = Some(Progress { batch: identity, done, refused });
                        return Err(trouble.into_retry());
                    }
                    Err(trouble) => {
                        let reason = trouble.to_string();
                        refused.extend((done..done + chunk.len()).map(|index| (index, reason.clone())));
                    }
                }
                done += chunk.len();
            }
            if refused.is_empty() { Ok(()) } else { Err(Undelivered::Refused { events: refused }) }
        })
    }

    fn give_up(&mut self) {
        self.progress = None;
    }
}

impl Identity {
    fn of(batch: &Batch) -> Self {
        let events = batch.events();
        let end = |event: &Event| (event.meta.sequence, event.meta.time);
        Self {
            address: events.as_ptr().addr(),
            len: events.len(),
            born_nanos: batch.born_nanos(),
            ends: events.first().zip(events.last()).map(|(first, last)| [end(first), end(last)]),
        }
    }
}

fn array(events: &[Event]) -> Bytes {
    let mut text = vec![b'['];
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        letter::write_json(event, &mut text);
    }
    text.push(b']');
    text.into()
}

fn headers(asked: Option<&BTreeMap<String, String>>, has_credentials: bool) -> Result<HeaderMap, BuildError> {
    let refuse = |reason| BuildError { field: "headers", reason };
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    for (name, value) in asked.into_iter().flatten() {
        let header =
            HeaderName::try_from(name).map_err(|_| refuse(format!("`{name}` is no name of a header")))?;
        if OURS.contains(&header) {
            return Err(refuse(format!("`{name}` is set by the connection itself; leave it out")));
        }
        if header == header::AUTHORIZATION && has_credentials {
            return Err(refuse("`authorization` and `credentials` say the same; keep `credentials`".into()));
        }
        let value = HeaderValue::try_from(value).map_err(|_| {
            refuse(format!("the value of `{name}` holds a character that no header may hold"))
        })?;
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Headers that say how the message is framed.
const OURS: [HeaderName; 5] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE];
const TIMEOUT: Duration = Duration::from_secs(10);
const BATCH_SIZE: u32 = 500;
