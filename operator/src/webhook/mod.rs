//! The webhooks: what the API server asks about a Pipeline and about a pod before it takes them.
//!
//! ```text
//! kubectl apply ─▶ API server ─ /validate ─▶ every diagnostic of a Pipeline that does not compile
//! a pod is made ─▶ API server ─ /mutate ───▶ the sidecar to add, where the pod asks for one
//! ```
//!
//! Every replica answers. The configurations are the chart's; all that is written into them is whom to trust, again
//! whenever the roots change. The certificate is that of the control server, and renewed with it.

mod idle;
mod known;
mod mutate;
mod validate;
mod vouch;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use sidestream_host::Clock;
use sidestream_trust::Identity;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use crate::control::accept;

use idle::{Roll, Watched};
pub use mutate::Injector;
pub(crate) use vouch::{Vouched, vouch};

/// The largest review: an object has at most 1.5 MiB, and comes with its predecessor.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Reviews at once, read or answered; more wait their turn. Anybody in the cluster may ask.
const REVIEWS_MAX: usize = 32;
/// How long a review may take from its head to its answer, its turn included: the API server waits no longer.
const REVIEW_MAX: Duration = Duration::from_secs(5);
/// Connections that wait to be served.
const WAITING_MAX: usize = 64;
/// Connections at once: the API server has a few. And how long one may be silent: longer than the API server keeps one to
/// ask over it again, which is 90 s, so that it never asks over one that ends.
const OPEN_MAX: usize = 512;
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// The longest warning, in bytes: what `kubectl` shows well.
const WARNING_BYTES_MAX: usize = 256;

/// Serves `/validate` and `/mutate` until `stop` resolves.
///
/// # Errors
/// Where the server itself fails.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    injector: Injector,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (take, connections) = mpsc::channel(WAITING_MAX);
    let accepting = tokio::spawn(accept(listener, identity, b"http/1.1", take));
    let injector = Arc::new(injector);
    let mutate = move |Json(review): Json<Value>| {
        let injector = injector.clone();
        async move { Json(injector.review(&review).await) }
    };
    let validate = |Json(review): Json<Value>| async move {
        Json(reviewed(&review, validate::answer(&review["request"])))
    };
    let router = Router::new()
        .route("/validate", post(validate))
        .route("/mutate", post(mutate))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(in_turn(REVIEWS_MAX, REVIEW_MAX)));
    let roll = Roll::new(OPEN_MAX, SILENCE_MAX, Clock::machine());
    let served =
        axum::serve(Connections { connections, address, roll }, router).with_graceful_shutdown(stop).await;
    accepting.abort();
    served
}

/// Answers at most `turns` requests at once, each within `max`.
fn in_turn(
    turns: usize,
    max: Duration,
) -> impl Fn(Request, Next) -> futures_util::future::BoxFuture<'static, Response> + Clone {
    let turns = Arc::new(Semaphore::new(turns));
    move |request, next| {
        let turns = turns.clone();
        Box::pin(async move {
            let answering = async {
                let _turn = turns.acquire().await;
                next.run(request).await
            };
            match timeout(max, answering).await {
                Ok(answer) => answer,
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "it took too long").into_response(),
            }
        })
    }
}

/// What is said about an object.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    /// Why it is refused; none where it is let in.
    refusal: Option<String>,
    /// What whoever made it should know.
    warnings: Vec<String>,
    /// What is added to it.
    patch: Option<Value>,
}

/// The AdmissionReview that answers `review`.
fn reviewed(review: &Value, answer: Answer) -> Value {
    let warnings: Vec<String> = answer.warnings.into_iter().map(one_line).collect();
    let mut response = json!({
        "uid": review["request"]["uid"],
        "allowed": answer.refusal.is_none(),
        "warnings": warnings,
    });
    if let Some(message) = answer.refusal {
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    if let Some(patch) = answer.patch {
        response["patchType"] = "JSONPatch".into();
        response["patch"] = json!(k8s_openapi::ByteString(patch.to_string().into_bytes()));
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// As a header of HTTP may be.
fn one_line(text: String) -> String {
    let mut text: String = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    text.truncate(text.floor_char_boundary(WARNING_BYTES_MAX));
    text
}

/// Connections that have shaken hands, as axum takes them.
struct Connections {
    connections: mpsc::Receiver<io::Result<TlsStream<TcpStream>>>,
    address: SocketAddr,
    /// Those that are open.
    roll: Roll,
}

impl axum::serve::Listener for Connections {
    type Io = Watched<TlsStream<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.connections.recv().await {
                Some(Ok(connection)) => {
                    let address = connection.get_ref().0.peer_addr().unwrap_or(self.address);
                    return (self.roll.add(connection), address);
                }
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_review_that_takes_too_long_gives_way_to_the_next() {
        let slow = post(std::future::pending::<()>);
        let router = Router::new().route("/slow", slow).route("/quick", post(|| async {}));
        let max = Duration::from_millis(300);
        let router = router.layer(middleware::from_fn(in_turn(1, max)));
        let ask = |path: &str| {
            let request = Request::post(path).body(axum::body::Body::empty()).unwrap();
            router.clone().oneshot(request)
        };
        let (slow, quick) = tokio::join!(timeout(max * 4, ask("/slow")), async {
            tokio::time::sleep(max / 2).await;
            ask("/quick").await
        });
        assert_eq!(slow.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(quick.unwrap().status(), StatusCode::OK);
    }

    #[test]
    fn an_answer_has_the_number_of_its_question_and_the_patch_as_the_api_server_reads_it() {
        let review = json!({"request": {"uid": "7"}});
        let answer =
            Answer { warnings: vec!["two\n  lines".into()], patch: Some(json!([])), ..Answer::default() };
        let response = reviewed(&review, answer)["response"].clone();
        assert_eq!(
            response,
            json!({"uid": "7", "allowed": true, "warnings": ["two lines"], "patchType": "JSONPatch", "patch": "W10="})
        );
        let refused = Answer { refusal: Some("no".into()), ..Answer::default() };
        let response = reviewed(&review, refused)["response"].clone();
        assert_eq!((&response["allowed"], &response["status"]["message"]), (&json!(false), &json!("no")));
    }
}
