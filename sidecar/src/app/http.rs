//! One connection of an app that speaks HTTP/1.1: each request goes to the server that it is for, and its answer comes back as
//! it is, also one that never ends.
//!
//! ```text
//!   app ──request──▶ body, whole ──▶ where is the dnpipe? ──▶ server ──421: that one──▶ noted, asked there
//!    ▲                                                          │
//!    └────────────────── answer, as it comes ◀──────────────────┘
//! ```
//!
//! What a server refuses as not its own was not done, so it is asked again elsewhere; nothing else is ever asked twice.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{self, HeaderName, HeaderValue},
    http::uri::PathAndQuery,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use sidestream_connector::Address;
use sidestream_event::{
    native::{DnpipeName, Refusal},
    record::RECORD_BYTES_MAX,
};
use sidestream_gateway::Guarded;
use tokio::{net::UnixStream, sync::OwnedSemaphorePermit, time::timeout};

use super::{
    Shared, Unopened,
    limits::{ANSWER_WITHIN, FRAME_WITHIN, HEAD_BYTES_MAX, LINES_MAX, REDIRECTS_MAX, SILENCE, TURN, kib},
    places::{Place, Places},
};

/// Whether bytes begin a request: with a method (RFC 9112, section 3.1) of those that there are.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let letters = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (3..=7).contains(&letters) && bytes.get(letters) == Some(&b' ') && !begins_next(bytes)
}

/// Whether they begin the preface of HTTP/2 (RFC 9113, section 3.4), as clients of gRPC do. Which dnpipe a call is about is in its
/// message, and a call may be a stream both ways: that is for who has a server's own door.
pub(super) fn begins_next(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PRI * HTTP/2")
}

/// Serves a connection of which `begun` was read already, to its end, and says why it ended.
pub(super) async fn serve(shared: &Arc<Shared>, stream: UnixStream, begun: Vec<u8>) -> String {
    let stream = TokioIo::new(Guarded::new(stream, begun, SILENCE));
    let proxy = Arc::new(Proxy { shared: shared.clone(), calls: std::sync::Mutex::default() });
    let answer = service_fn(move |request| {
        let proxy = proxy.clone();
        async move { Ok::<_, Infallible>(proxy.answer(request).await.unwrap_or_else(Problem::answer)) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(FRAME_WITHIN).max_buf_size(HEAD_BYTES_MAX);
    let served = builder.serve_connection(stream, answer).await;
    served.map_or_else(|error| error.to_string(), |()| "the app closed it".into())
}

/// Of one connection of an app.
struct Proxy {
    shared: Arc<Shared>,
    /// Connections to servers that wait for another request.
    calls: std::sync::Mutex<HashMap<Place, Call>>,
}

/// A connection to a server.
struct Call {
    sender: SendRequest<Full<Bytes>>,
    /// Its place among those of all connections; none where it is the one that each may have.
    permit: Option<OwnedSemaphorePermit>,
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// Why this process does not do something itself.
struct Problem {
    status: StatusCode,
    code: &'static str,
    error: String,
}

/// What came of a request that was sent.
enum Sent {
    Answered(Response<Incoming>),
    /// It cannot have been heard, so it may be sent again.
    Unheard(Request<Full<Bytes>>),
}

/// A request that may be asked of several servers.
struct Asked {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    body: Bytes,
}

impl Proxy {
    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Problem> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let name = named(path.path())?;
        let (body, _room) = self.whole(body).await?;
        let mut headers = parts.headers;
        without_hops(&mut headers);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::EXPECT);
        // Where it is is said in the body of an answer. The app gets none: that is seen to behind us.
        let method = if parts.method == Method::HEAD { Method::GET } else { parts.method };
        let asked = Asked { method, path, headers, body };
        self.ask(name.as_ref(), &asked).await
    }

    /// Asks those who may have the dnpipe, until one has.
    async fn ask(&self, name: Option<&DnpipeName>, asked: &Asked) -> Result<Answer, Problem> {
        let places = &self.shared.places;
        for _ in 0..REDIRECTS_MAX + places.pools() {
            let place = match name {
                Some(name) => places.of(name),
                None => Places::first_of(&self.shared.namespace),
            };
            let response = self.send(&place, name, asked).await?;
            let is_elsewhere =
                matches!(response.status(), StatusCode::MISDIRECTED_REQUEST | StatusCode::NOT_FOUND);
            let (Some(name), true) = (name, is_elsewhere) else {
                if let Some(name) = name {
                    places.is_known(name, &place);
                }
                return Ok(response.map(Either::Left));
            };
            let (mut parts, body) = response.into_parts();
            let body = Limited::new(body, HEAD_BYTES_MAX).collect().await;
            let body = body.map_err(|error| lost(&error.to_string()))?.to_bytes();
            parts.headers.remove(header::CONTENT_LENGTH);
            let said: Value = serde_json::from_slice(&body).unwrap_or_default();
            let is_there = match (said["code"].as_str(), said["owner"].as_str()) {
                (Some("not-owner"), Some(owner)) => {
                    places.is_at(name, &place, owner);
                    false
                }
                (Some("unknown-dnpipe"), _) => !places.is_unknown(name, &place),
                _ => true,
            };
            if is_there {
                return Ok(Response::from_parts(parts, Either::Right(Full::new(body))));
            }
        }
        // It goes from server to server faster than it is followed.
        Err(refused(&Refusal::NotOwner { owner: None }))
    }

    async fn send(
        &self,
        place: &Place,
        name: Option<&DnpipeName>,
        asked: &Asked,
    ) -> Result<Response<Incoming>, Problem> {
        let address = self.shared.address(place).map_err(|refusal| refused(&refusal))?;
        let mut request = asked.request(&address);
        let kept = self.lock().remove(place);
        if let Some(mut call) = kept.filter(|call| !call.sender.is_closed()) {
            match try_send(&mut call.sender, request).await? {
                Sent::Answered(response) => return Ok(self.keep(place, call, response)),
                // The server had closed it before it heard of this one.
                Sent::Unheard(unheard) => request = unheard,
            }
        }
        let permit = self.permit();
        let opened = self.shared.dial(&address, open(&address)).await;
        let sender = opened.map_err(|unopened| match unopened {
            Unopened::NoTurn => refused(&Refusal::Busy),
            Unopened::Away(reason) => match name {
                Some(name) if self.shared.places.is_away(name, place) => {
                    self.unknown(&Refusal::UnknownDnpipe(name.clone()))
                }
                _ => problem(StatusCode::SERVICE_UNAVAILABLE, "unreachable", &format!("{reason}; try again")),
            },
        })?;
        let mut call = Call { sender, permit };
        match try_send(&mut call.sender, request).await? {
            Sent::Answered(response) => Ok(self.keep(place, call, response)),
            Sent::Unheard(_) => Err(refused(&Refusal::Stopping)),
        }
    }

    /// A place for one more connection to a server. Where there is none, those that are kept make room: none of them is in use.
    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let mut calls = self.lock();
        let permit = self.shared.line_beside(calls.values().map(|call| &call.permit));
        permit.unwrap_or_else(|_| {
            calls.clear();
            None
        })
    }

    /// That none of the pools that answer knows a dnpipe, and the others never did.
    fn unknown(&self, refusal: &Refusal) -> Problem {
        let pools = self.shared.places.names();
        let error = format!(
            "{refusal}. Asked were the pools {pools}, of which one at least has never answered: the annotation \
             `sidestream.dev/pools` of the pod names them"
        );
        problem(StatusCode::NOT_FOUND, refusal.code(), &error)
    }

    /// Keeps a connection for the next request, which does not come before this one is answered.
    fn keep(&self, place: &Place, call: Call, mut response: Response<Incoming>) -> Response<Incoming> {
        let mut calls = self.lock();
        if calls.len() >= LINES_MAX {
            calls.clear();
        }
        calls.insert(place.clone(), call);
        without_hops(response.headers_mut());
        response
    }

    /// Reads a body whole. It keeps its room for as long as the permit lives.
    async fn whole(&self, body: Incoming) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        let too_large = |bytes| refused(&Refusal::TooLarge { bytes, max: RECORD_BYTES_MAX as u64 });
        let announced = body.size_hint();
        if announced.lower() > RECORD_BYTES_MAX as u64 {
            return Err(too_large(announced.lower()));
        }
        // One that does not say how long it is may be as long as any.
        let most = announced.upper().map_or(RECORD_BYTES_MAX, |bytes| RECORD_BYTES_MAX.min(bytes as usize));
        let whole = async {
            let room = self.shared.incoming.clone().acquire_many_owned(kib(most)).await.ok();
            let coming = Limited::new(body, RECORD_BYTES_MAX).collect();
            tokio::pin!(coming);
            loop {
                match timeout(TURN, &mut coming).await {
                    Ok(come) => return Some((come, room)),
                    // Who waits takes what there is.
                    Err(_) if self.shared.incoming.available_permits() == 0 => return None,
                    Err(_) => {}
                }
            }
        };
        match timeout(FRAME_WITHIN, whole).await.ok().flatten() {
            Some((Ok(body), room)) => Ok((body.to_bytes(), room)),
            Some((Err(error), _)) if error.is::<LengthLimitError>() => {
                Err(too_large(RECORD_BYTES_MAX as u64 + 1))
            }
            Some((Err(error), _)) => {
                let reason = format!("the body did not come whole: {error}; send it again");
                Err(refused(&Refusal::Bad { reason }))
            }
            None => Err(problem(
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                "the body did not come whole in time; send it again, or a smaller one",
            )),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Place, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    fn request(&self, address: &Address) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.clone().into();
        *request.headers_mut() = self.headers.clone();
        let host = HeaderValue::from_str(&address.to_string());
        request.headers_mut().insert(header::HOST, host.unwrap_or(HeaderValue::from_static("dnpipes")));
        request
    }
}

/// A connection to a server, under TLS 1.3 as who the pod is. It ends when it is dropped, and its last answer is.
async fn open(address: &Address) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = address.call(HTTP_ALPN).await.map_err(|error| error.to_string())?;
    let shaken = handshake(TokioIo::new(stream)).await;
    let (call, connection) = shaken.map_err(|error| format!("the connection to {address} ended: {error}"))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to a server of dnpipes ended: {error}");
        }
    });
    Ok(call)
}

async fn try_send(
    call: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Sent, Problem> {
    if let Err(error) = call.ready().await {
        tracing::debug!("a server of dnpipes closed its connection: {error}");
        return Ok(Sent::Unheard(request));
    }
    match timeout(ANSWER_WITHIN, call.try_send_request(request)).await {
        Ok(Ok(response)) => Ok(Sent::Answered(response)),
        Ok(Err(mut failed)) => match failed.take_message() {
            Some(request) => Ok(Sent::Unheard(request)),
            None => Err(lost(&failed.error().to_string())),
        },
        Err(_) => Err(lost("the server did not answer in time")),
    }
}

/// The dnpipe that a path is about; none where it is about all of them.
fn named(path: &str) -> Result<Option<DnpipeName>, Problem> {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("v1"), Some("dnpipes"), Some(namespace), Some(name)) => {
            let name = DnpipeName::new(namespace, name);
            name.map(Some).map_err(|bad| refused(&Refusal::Bad { reason: bad.to_string() }))
        }
        _ => Ok(None),
    }
}

/// Leaves out what is said to the next one only (RFC 9110, section 7.6.1).
fn without_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always = [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    for name in named.iter().chain(&always) {
        headers.remove(name);
    }
}

/// A refusal of this process's own, in the words that servers have for it.
fn refused(refusal: &Refusal) -> Problem {
    let status = match refusal {
        Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Bad { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(status, refusal.code(), &refusal.to_string())
}

fn lost(reason: &str) -> Problem {
    let error = format!(
        "the connection to the server ended before the answer came ({reason}), so it may have been done or not; try again"
    );
    problem(StatusCode::BAD_GATEWAY, "lost", &error)
}

fn problem(status: StatusCode, code: &'static str, error: &str) -> Problem {
    Problem { status, code, error: error.to_owned() }
}

impl Problem {
    fn answer(self) -> Answer {
        let body = json!({"code": self.code, "error": self.error}).to_string();
        let mut answer = Response::new(Either::Right(Full::new(body.into())));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// To whoever comes while there are as many connections as may be.
pub(super) const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// To whoever speaks HTTP/2: no settings, and GOAWAY for HTTP_1_1_REQUIRED, of which no stream was begun (RFC 9113, sections 6.5,
/// 6.8 and 7).
pub(super) const NO_NEXT: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x3b\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0dno gRPC here; speak HTTP/1.1 or the native protocol";
/// The protocol in a TLS handshake (RFC 7301, section 6).
const HTTP_ALPN: &[u8] = b"http/1.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_a_method_is_http() {
        for begun in ["GET /v1/dnpip", "POST /v1/dnp", "DELETE /v1/d", "OPTIONS /v1/"] {
            assert!(begins(begun.as_bytes()), "{begun}");
        }
        for other in [
            "PRI * HTTP/2",
            "dnpipe\r\n....",
            "get /v1/dnpi",
            "GETTINGBETTER",
            "\x16\x03\x01 TLS ....",
            "GET/ HTTP/1.",
        ] {
            assert!(!begins(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_path_names_a_dnpipe_or_none() {
        let name = |path: &str| named(path).ok().flatten().map(|name| name.to_string());
        assert_eq!(name("/v1/dnpipes/shop/orders/records").as_deref(), Some("shop/orders"));
        assert_eq!(name("/v1/dnpipes/shop/orders").as_deref(), Some("shop/orders"));
        assert_eq!((name("/v1/dnpipes"), name("/v1/openapi.json"), name("/")), (None, None, None));
        for bad in ["/v1/dnpipes/shop/", "/v1/dnpipes/../orders", "/v1/dnpipes/Shop/orders/records"] {
            assert_eq!(
                named(bad).err().map(|problem| problem.status),
                Some(StatusCode::BAD_REQUEST),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_for_the_next_one_only_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-own"),
            ("x-own", "1"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        without_hops(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
