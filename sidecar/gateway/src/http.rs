//! The second language at every door: HTTP/1.1, for `curl` and for whoever has no client.
//!
//! | method and path, behind `/v1/dnpipes` | does |
//! |---|---|
//! | `GET /`, `GET /{namespace}/{name}` | the dnpipes there are, one dnpipe |
//! | `POST /{namespace}/{name}/records` | push: the body is the value of one record |
//! | `GET /{namespace}/{name}/records` | pull, as JSON |
//! | `GET /{namespace}/{name}/events` | pull and follow, as Server-Sent Events |
//! | `POST /{namespace}/{name}/reset` | reset |
//!
//! `GET /v1/openapi.json` describes them, `GET /v1/dnpipes.proto` what there is over gRPC. Callers are who they are at the door, and may do the same as there.

mod asked;
mod body;
mod dnpipes;
mod elsewhere;
mod events;
mod place;
mod problem;
mod records;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use sidestream_event::record::RECORD_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Caller, Phase, Shared, guarded::Guarded, session::Session};

/// Who asks, and of whom.
type Asked = Arc<Session>;

/// Whether bytes begin a request of HTTP.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| bytes.starts_with(method))
}

/// Serves a connection of which `begun` was read already, to its end, and says why it ended.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    begun: Vec<u8>,
    caller: &Caller,
) -> String {
    let asked = Arc::new(Session::new(shared, caller));
    let stream = TokioIo::new(Guarded::new(stream, begun, shared.limits.silence));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.limits.frame).max_buf_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(stream, TowerToHyperService::new(doors(asked)));
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = shared.reached(Phase::Closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    served.map_or_else(|error| error.to_string(), |()| "the caller closed it".into())
}

/// Everything that is answered over HTTP.
pub(crate) fn doors(asked: Arc<Session>) -> Router {
    let of_dnpipe = Router::new()
        .route("/", get(dnpipes::describe))
        .route("/records", get(records::pull).post(records::push))
        .route("/events", get(events::follow))
        .route("/reset", post(dnpipes::reset))
        .layer(from_fn_with_state(asked.clone(), elsewhere::redirect));
    Router::new()
        .route("/v1/openapi.json", get(dnpipes::openapi))
        .route("/v1/dnpipes.proto", get(|| async { crate::grpc::DESCRIBED }))
        .route("/v1/dnpipes", get(dnpipes::list))
        .nest("/v1/dnpipes/{namespace}/{name}", of_dnpipe)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(RECORD_BYTES_MAX))
        .with_state(asked)
}

const METHODS: [&[u8]; 7] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "];
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
