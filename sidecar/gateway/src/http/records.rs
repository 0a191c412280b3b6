//! Push one record, pull many.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use sidestream_broker::{Limits, Pulled};
use sidestream_event::{
    native::{Conditions, Refusal, partition_of},
    record::{BatchWriter, Header, RecordError, expand, records},
};
use utoipa::{IntoParams, ToSchema};

use super::{
    Asked,
    asked::{Named, Query},
    body,
    place::place,
    problem::Problem,
};
use crate::{
    caller::Verb,
    limits::{PULL_BYTES_MAX, WAIT_MAX},
    refusals::{of_pull, of_push},
};

/// Where a record goes, and under which conditions.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct To {
    /// The key: records of one key are in order.
    key: Option<String>,
    /// The partition; by default that of the key, or of the value.
    partition: Option<u32>,
    /// Only where the dnpipe is in this epoch.
    if_epoch: Option<u32>,
    /// Only where the record gets this offset.
    if_next: Option<u64>,
}

/// Where a record is stored.
#[derive(Serialize, ToSchema)]
pub(super) struct Stored {
    /// The partition.
    partition: u32,
    /// The place in it.
    offset: u64,
    /// The epoch.
    epoch: u32,
}

/// What to pull.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wanted {
    /// `start` (by default), `end`, an offset, `last:N`, or `time:N` in nanoseconds since 1970.
    pub(super) from: Option<String>,
    /// The partition; 0 by default.
    #[serde(default)]
    pub(super) partition: u32,
    /// The most records; 1000 by default, 10000 at most.
    max: Option<u64>,
    /// How long to wait where there is nothing yet, in milliseconds; not at all by default, 30000 at most.
    #[serde(default)]
    wait: u64,
}

/// Records, and where to go on.
#[derive(Serialize, ToSchema)]
pub(super) struct Records {
    /// In their order.
    records: Vec<Record>,
    /// The offset to pull from next.
    next: u64,
    /// The epoch.
    epoch: u32,
    /// The oldest offset there is.
    first: u64,
    /// The offset behind the newest record.
    end: u64,
}

/// A record.
#[derive(Serialize, ToSchema)]
pub(super) struct Record {
    /// Its place in the partition.
    pub(super) offset: u64,
    /// When it happened, in nanoseconds since 1970.
    time: i64,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What is said beside the value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    /// The value, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The value in base64, where it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// Pushes one record. The answer comes when it is as durable as the dnpipe says.
///
/// A request header `sidestream-header-NAME` becomes the header NAME of the record.
#[utoipa::path(post, path = "/v1/dnpipes/{namespace}/{name}/records",
    params(("namespace" = String, Path), ("name" = String, Path), To),
    request_body(content = String, description = "the value", content_type = "application/octet-stream"),
    responses((status = 200, body = Stored), (status = 403, body = Problem), (status = 408, body = Problem),
        (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 507, body = Problem)))]
pub(super) async fn push(
    State(asked): State<Asked>,
    Named(name): Named,
    Query(to): Query<To>,
    heads: HeaderMap,
    value: Body,
) -> Result<Json<Stored>, Problem> {
    let broker = &asked.shared.broker;
    // Who may not push makes us keep nothing.
    asked.caller.check(broker, &name, Verb::Push)?;
    let (value, _room) = body::read(&asked.shared, value).await?;
    let partitions =
        broker.describe(&name).ok_or(Refusal::UnknownDnpipe(name.clone()))?.partitions.len() as u32;
    let key = to.key.as_deref().map(str::as_bytes);
    let partition = to.partition.unwrap_or_else(|| partition_of(key.unwrap_or(&value), partitions));
    let headers: Vec<(&str, &[u8])> = heads
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix(HEADER_PREFIX)?, value.as_bytes())))
        .collect();
    let mut writer = BatchWriter::new();
    let bad = |error: RecordError| Problem::from(Refusal::BadBatch { reason: error.to_string() });
    writer.push(asked.shared.storage.wall_nanos(), key, &headers, &value).map_err(bad)?;
    let batch = writer.finish(Header::default()).map_err(bad)?;
    let only_if = Conditions { epoch: to.if_epoch, next_offset: to.if_next };
    let pushing = broker.push(&name, partition, batch, only_if).map_err(of_push)?;
    let pushed = pushing.await.map_err(of_push)?;
    Ok(Json(Stored { partition, offset: pushed.base_offset, epoch: pushed.epoch }))
}

/// Pulls records of one partition. Nothing is removed by it.
#[utoipa::path(get, path = "/v1/dnpipes/{namespace}/{name}/records",
    params(("namespace" = String, Path), ("name" = String, Path), Wanted),
    responses((status = 200, body = Records), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 416, body = Problem)))]
pub(super) async fn pull(
    State(asked): State<Asked>,
    Named(name): Named,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Records>, Problem> {
    let broker = &asked.shared.broker;
    asked.caller.check(broker, &name, Verb::Pull)?;
    let max_records = wanted.max.unwrap_or(RECORDS_DEFAULT).min(RECORDS_MAX);
    let limits = Limits { max_bytes: PULL_BYTES_MAX, max_records };
    let wait = Duration::from_millis(wanted.wait).min(WAIT_MAX);
    let from = place(wanted.from.as_deref())?;
    let pulled = broker.pull(&name, wanted.partition, from, limits, Some(wait)).await.map_err(of_pull)?;
    let (epoch, first, end) = (pulled.epoch, pulled.first, pulled.end);
    let (records, next) = of(&pulled, max_records)?;
    Ok(Json(Records { records, next, epoch, first, end }))
}

/// The records that a pull means, `most` of them at most, and where to go on.
pub(super) fn of(pulled: &Pulled, most: u64) -> Result<(Vec<Record>, u64), Problem> {
    let (mut found, mut bytes): (Vec<Record>, usize) = (Vec::new(), 0);
    for batch in &pulled.batches {
        let wrapped = |_| (batch.header, batch.body.clone());
        let (header, body) = expand(&batch.header, &batch.body).unwrap_or_else(wrapped);
        for record in records(&header, &body) {
            let record = record.map_err(|error| {
                let reason = format!("{error}; use a client of the native protocol");
                Problem::from(Refusal::BadBatch { reason })
            })?;
            if !(pulled.from..pulled.next).contains(&record.offset) {
                continue;
            }
            // What was compressed is many times what was pulled.
            bytes += record.value.len();
            if found.len() as u64 >= most || (bytes > PULL_BYTES_MAX && !found.is_empty()) {
                return Ok((found, record.offset));
            }
            let value = std::str::from_utf8(record.value).ok().map(str::to_owned);
            found.push(Record {
                offset: record.offset,
                time: record.time,
                key: record.key.map(text),
                headers: record.headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect(),
                base64: value.is_none().then(|| BASE64_STANDARD.encode(record.value)),
                value,
            });
        }
    }
    Ok((found, pulled.next))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const HEADER_PREFIX: &str = "sidestream-header-";
const RECORDS_DEFAULT: u64 = 1000;
/// The most records of one answer: each is many times its bytes while it becomes JSON.
pub(super) const RECORDS_MAX: u64 = 10_000;
