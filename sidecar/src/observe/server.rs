//! The doors: what a process answers about itself over HTTP/1.1.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` | Prometheus text |
//! | `/livez`, `/readyz` | 200, or 503 with the reasons |
//! | `/plan` | the plans that are running |
//! | `/stages` | all figures of this moment, for `sidestream top` |
//! | `/ledger` | the books, and whether they balance |
//! | `/tap/<stage>` | live events, `?limit=N&seconds=S&pipeline=P` |
//!
//! It changes nothing. Whoever reaches it can read the events that flow, so it listens on the loopback address unless
//! somebody asks for another.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Query, State as Shared},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use serde_json::json;
use sidestream_graph::StageStats;
use tokio::task::JoinHandle;

use super::{
    Observed, Snapshot, metrics,
    snapshot::ledger_of,
    tap::{Tap, Wanted},
};
use crate::World;

/// Serves `observed` on `address` (`127.0.0.1:9464`; port 0 takes a free one) until the server is dropped.
pub fn serve(observed: Observed, address: &str, world: &World) -> Result<Server, ServeError> {
    let refuse = |error| ServeError { address: address.to_owned(), error };
    let listener = bind(address).map_err(refuse)?;
    let local = listener.local_addr().map_err(refuse)?;
    let _runtime = world.sockets().enter();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(refuse)?;
    let doors = doors(observed);
    let task = world.sockets().spawn(async move {
        // It ends only with its task.
        let _ = axum::serve(listener, doors).await;
    });
    Ok(Server { address: local, task })
}

/// A server at work; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Nothing listens.
#[derive(Debug)]
pub struct ServeError {
    /// Where it should have.
    pub address: String,
    /// What the machine said.
    pub error: io::Error,
}

fn bind(address: &str) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(&*addresses)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn doors(observed: Observed) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics_text))
        .route("/livez", get(async || "live\n"))
        .route("/readyz", get(readiness))
        .route("/plan", get(plan))
        .route("/stages", get(stages))
        .route("/ledger", get(ledger))
        .route("/tap/{stage}", get(tap))
        .with_state(observed)
}

async fn index() -> &'static str {
    "/metrics  /livez  /readyz  /plan  /stages  /ledger  /tap/<stage>?limit=N&seconds=S\n"
}

async fn readiness(Shared(observed): Shared<Observed>) -> Response {
    match observed.not_ready() {
        reasons if reasons.is_empty() => "ready\n".into_response(),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response(),
    }
}

async fn metrics_text(Shared(observed): Shared<Observed>) -> Response {
    match apart(move || metrics::render(&observed)).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(refused) => refused,
    }
}

async fn plan(Shared(observed): Shared<Observed>) -> Response {
    answer(move || observed.pipelines().iter().map(|(_, own)| (*own.plan()).clone()).collect::<Vec<_>>())
        .await
}

async fn stages(Shared(observed): Shared<Observed>) -> Response {
    answer(move || Snapshot::of(&observed)).await
}

async fn ledger(Shared(observed): Shared<Observed>) -> Response {
    answer(move || {
        let books = observed.pipelines().into_iter().map(|(name, own)| (name, ledger_of(&own.stages())));
        let books: Vec<_> = books.collect();
        let balanced = books.iter().all(|(_, ledger)| ledger.balanced);
        let pipelines = books.into_iter().map(|(name, ledger)| json!({ "name": name, "ledger": ledger }));
        json!({ "balanced": balanced, "pipelines": pipelines.collect::<Vec<_>>() })
    })
    .await
}

async fn tap(
    Shared(observed): Shared<Observed>,
    Path(stage): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let Ok(span) = Duration::try_from_secs_f64(wanted.seconds) else {
        return (StatusCode::BAD_REQUEST, "`seconds` is a number that is not negative\n").into_response();
    };
    let (looked, name, pipeline) = (observed.clone(), stage.clone(), wanted.pipeline);
    let mut found = match apart(move || find(&looked, &name, pipeline.as_deref())).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let Some((pipeline, stats)) = found.pop() else {
        let text = format!("no stage is called `{stage}`; /stages lists them\n");
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    if !found.is_empty() {
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).chain([&*pipeline]).collect();
        let text = format!("a stage `{stage}` is in {}; add ?pipeline=NAME\n", names.join(", "));
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    match Tap::open(&observed, (pipeline, stage), stats, wanted.limit, span) {
        Some(tap) => ([(header::CONTENT_TYPE, "application/x-ndjson")], tap.into_body()).into_response(),
        None => (StatusCode::CONFLICT, "somebody taps this stage: one looker at a time\n").into_response(),
    }
}

/// The stages of this name, by pipeline.
fn find(observed: &Observed, stage: &str, pipeline: Option<&str>) -> Vec<(String, Arc<StageStats>)> {
    let pipelines = observed.pipelines().into_iter();
    let asked = pipelines.filter(|(name, _)| pipeline.is_none_or(|asked| asked == name));
    let stages = asked.filter_map(|(name, own)| {
        let view = own.stages().into_iter().find(|view| view.name == stage)?;
        Some((name, view.stats))
    });
    stages.collect()
}

async fn answer<T: Serialize + Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Response {
    match apart(look).await {
        Ok(seen) => axum::Json(seen).into_response(),
        Err(refused) => refused,
    }
}

/// Looks on a thread apart: a pipeline that is being reloaded lets nobody look until it is done.
async fn apart<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Response> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response())
}

impl fmt::Display for ServeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot serve metrics on {}: {}", self.address, self.error)
    }
}

impl std::error::Error for ServeError {}
