//! What there is, and resetting it.

use axum::{Json, body::Bytes, extract::State};
use serde::Serialize;
use sidestream_event::native::{Answer, DnpipeView, PartitionView, Request};
use utoipa::{OpenApi, ToSchema};

use super::{Asked, asked::Named, events, problem::Problem, records};

/// A dnpipe as it is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dnpipe {
    /// Its namespace.
    namespace: String,
    /// Its name there.
    name: String,
    /// How often it was reset.
    epoch: u32,
    /// When a push is answered: `Device`, `PageCache` or `Memory`.
    durability: String,
    /// Bytes it has on the disk.
    used_bytes: u64,
    /// Bytes it may have; absent where only the disk bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_bytes: Option<u64>,
    /// Its partitions, from 0 on.
    partitions: Vec<Partition>,
}

/// A partition as it is.
#[derive(Serialize, ToSchema)]
pub(super) struct Partition {
    /// The oldest offset there is.
    first: u64,
    /// The offset behind the newest record.
    end: u64,
    /// Where the server is that has it, `host:port`, and knows how much there is; absent where that is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

/// What a reset began.
#[derive(Serialize, ToSchema)]
pub(super) struct Reset {
    /// The epoch: no older record is delivered any more.
    epoch: u32,
}

/// The dnpipes that the caller may use.
#[utoipa::path(get, path = "/v1/dnpipes", responses((status = 200, body = Vec<Dnpipe>)))]
pub(super) async fn list(State(asked): State<Asked>) -> Json<Vec<Dnpipe>> {
    Json(asked.list().into_iter().map(view).collect())
}

/// One dnpipe.
#[utoipa::path(get, path = "/v1/dnpipes/{namespace}/{name}",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Dnpipe), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn describe(
    State(asked): State<Asked>,
    Named(name): Named,
) -> Result<Json<Dnpipe>, Problem> {
    Ok(Json(view(asked.describe(&name)?)))
}

/// Removes all records.
#[utoipa::path(post, path = "/v1/dnpipes/{namespace}/{name}/reset",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Reset), (status = 403, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn reset(State(asked): State<Asked>, Named(name): Named) -> Result<Json<Reset>, Problem> {
    let done = asked.answer(Request::Reset { dnpipe: name }, Bytes::new()).await?;
    let Answer::Reset { epoch } = done.answer else { return Err(done.unexpected().into()) };
    Ok(Json(Reset { epoch }))
}

/// What all of this is, for programs that make clients.
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Described::openapi())
}

/// Dnpipes over HTTP.
#[derive(OpenApi)]
#[openapi(
    info(title = "Sidestream dnpipes", version = "v1"),
    paths(list, describe, reset, records::push, records::pull, events::follow),
    components(schemas(
        Dnpipe,
        Partition,
        Reset,
        Problem,
        records::Stored,
        records::Records,
        records::Record
    ))
)]
struct Described;

fn view(own: DnpipeView) -> Dnpipe {
    Dnpipe {
        namespace: own.name.namespace().to_owned(),
        name: own.name.name().to_owned(),
        epoch: own.epoch,
        durability: own.durability,
        used_bytes: own.used_bytes,
        quota_bytes: own.quota_bytes,
        partitions: own.partitions.into_iter().map(partition).collect(),
    }
}

fn partition(own: PartitionView) -> Partition {
    Partition { first: own.first, end: own.end, owner: own.owner }
}
