//! Push one record, pull many.

use std::{collections::BTreeMap, ops::Range};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::State,
    http::HeaderMap,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use sidestream_event::{
    native::{Answer, Conditions, DnpipeName, From, Refusal, Request, partition_of},
    record::{self, BatchWriter, Header, RecordError},
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
    http2::Turn,
    limits::{PULL_BYTES_MAX, RECORDS_DEFAULT, RECORDS_MAX},
    pulled::{Most, pulled},
    refusals::of_record,
    session::Done,
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

/// A record. What is no text (UTF-8) is given in base64, in a field of its own.
#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Its place in the partition.
    pub(super) offset: u64,
    /// When it happened, in nanoseconds since 1970.
    time: i64,
    /// What it is about, where that is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What it is about in base64, where that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// What is said beside the value, where that is text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    /// What is said beside the value in base64, where that is no text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers_base64: BTreeMap<String, String>,
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
    let bad = |error: RecordError| Problem::from(of_record(error));
    writer.push(asked.shared.storage.wall_nanos(), key, &headers, &value).map_err(bad)?;
    let batch = writer.finish(Header::default()).map_err(bad)?;
    let only_if = Conditions { epoch: to.if_epoch, next_offset: to.if_next };
    let done = asked.answer(Request::Push { dnpipe: name, partition, only_if }, batch).await?;
    let Answer::Pushed { base_offset, epoch } = done.answer else { return Err(done.unexpected().into()) };
    Ok(Json(Stored { partition, offset: base_offset, epoch }))
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
) -> Result<(Option<Extension<Turn>>, Json<Records>), Problem> {
    let most = wanted.max.unwrap_or(RECORDS_DEFAULT).min(RECORDS_MAX);
    let wait = u32::try_from(wanted.wait).unwrap_or(u32::MAX);
    let from = place(wanted.from.as_deref())?;
    let mut done = asked.answer(request(name, wanted.partition, from, most, wait), Bytes::new()).await?;
    let Answer::Pulled { from, next, epoch, first, end } = done.answer else {
        return Err(done.unexpected().into());
    };
    let (records, next) = of(&done, from..next, most)?;
    let turn = done.turn.take().map(|turn| Extension(Turn::new(turn)));
    Ok((turn, Json(Records { records, next, epoch, first, end })))
}

/// A pull of as many records as go into one answer.
pub(super) fn request(
    dnpipe: DnpipeName,
    partition: u32,
    from: From,
    most: u64,
    wait_millis: u32,
) -> Request {
    let (max_bytes, max_records) = (PULL_BYTES_MAX as u32, most as u32);
    Request::Pull { dnpipe, partition, from, max_bytes, max_records, wait_millis }
}

/// The records that were pulled, `most` of them at most, and where to go on.
pub(super) fn of(done: &Done, range: Range<u64>, most: u64) -> Result<(Vec<Record>, u64), Problem> {
    let most = Most { records: most, bytes: PULL_BYTES_MAX as u64 };
    Ok(pulled(&done.tail, range, most, |record, _| written(record))?)
}

fn written(record: &record::Record<'_>) -> Record {
    let mut out = Record { offset: record.offset, time: record.time, ..Record::default() };
    match record.key.map(text) {
        Some(Ok(key)) => out.key = Some(key),
        Some(Err(base64)) => out.key_base64 = Some(base64),
        None => {}
    }
    for (name, value) in record.headers.iter() {
        let (to, value) = match text(value) {
            Ok(value) => (&mut out.headers, value),
            Err(base64) => (&mut out.headers_base64, base64),
        };
        to.insert(name.to_owned(), value);
    }
    match text(record.value) {
        Ok(value) => out.value = Some(value),
        Err(base64) => out.base64 = Some(base64),
    }
    out
}

/// Bytes as JSON can hold them: as text, or where they are none in base64.
fn text(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| BASE64_STANDARD.encode(bytes))
}

const HEADER_PREFIX: &str = "sidestream-header-";
