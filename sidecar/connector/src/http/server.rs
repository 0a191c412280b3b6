//! The `http` source: a server whose answer is a receipt.
//!
//! ```text
//!   POST ─▶ connection ─▶ Offer(batch) ─▶ the one task that owns the intake ─▶ stages
//!             │  ▲                                        │                      │
//!   202 ◀─────┘  └── Receipt, or why not ◀────────────────┘      settled ────────┘
//! ```
//!
//! | answer | when                                                                                         |
//! |--------|----------------------------------------------------------------------------------------------|
//! | 202    | every event is delivered, filtered away, in a state, or with the dead-letter stage            |
//! | 400    | the body is not what its content type says, or too many events; nothing of it was taken       |
//! | 401    | the bearer token is missing or wrong                                                          |
//! | 404    | another path than `path`                                                                      |
//! | 405    | another method than POST                                                                      |
//! | 408    | the body did not come within a minute                                                         |
//! | 413    | the body is longer than `maxBody`                                                             |
//! | 415    | the content type is one that is not read: a form; nothing was taken                           |
//! | 422    | a stage could not handle events, and no dead-letter stage takes them: they would fail again   |
//! | 429    | the stages are full, or too many bodies are being read; nothing was taken, try again          |
//! | 503    | events were dropped by a full queue or expired, or the pipeline is stopping; try again        |
//!
//! A client that goes away takes nothing back: what it sent goes on. Asked to stop, the server takes no new connection,
//! answers the requests it holds, and leaves those still waiting for their receipts to themselves after a while.
//! What clients can make it hold is bounded: connections, heads, bodies in memory, and the time for each.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sidestream_event::{Batch, Settled};
use sidestream_plan::stage::Http;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::request::{self, WHAT_TO_SEND};
use crate::{AsyncSource, BoxFuture, BuildError, Environment, Failure, Intake, Receipt, Refusal, Stop};

/// The source.
pub(crate) struct Server {
    listen: String,
    door: Arc<Door>,
    /// The port, from `open` until `run`.
    listener: Option<std::net::TcpListener>,
}

/// What every connection knows.
struct Door {
    path: String,
    max_body: usize,
    token: Option<String>,
    /// Kibibytes of bodies that may be read at once.
    bodies: Arc<Semaphore>,
}

impl Server {
    /// The source that `stage` describes. It listens from [`AsyncSource::open`] on, or else when it runs.
    pub(crate) fn new(stage: &Http, env: &Environment) -> Result<Self, BuildError> {
        let port = stage.listen.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            let reason =
                format!("`{}` is no address and port; write one such as `127.0.0.1:8080`", stage.listen);
            return Err(BuildError { field: "listen", reason });
        }
        let path = stage.path.clone().unwrap_or_else(|| "/".into());
        if !path.starts_with('/') {
            return Err(BuildError {
                field: "path",
                reason: format!("`{path}` is no path; write `/{path}`"),
            });
        }
        let token = stage.credentials.as_ref().map(|reference| env.secrets.get(reference)).transpose()?;
        if token.as_ref().is_some_and(String::is_empty) {
            return Err(BuildError {
                field: "credentials",
                reason: "the secret is empty, which would open the door to everyone".into(),
            });
        }
        let max_body = stage.max_body.map_or(MAX_BODY, |own| own.bytes());
        let max_body = usize::try_from(max_body).unwrap_or(usize::MAX).min(MAX_BODY_MOST);
        Ok(Self {
            listen: stage.listen.clone(),
            listener: None,
            door: Arc::new(Door {
                path,
                max_body,
                token,
                bodies: Arc::new(Semaphore::new(kibibytes(max_body.max(BODIES_BYTES)) as usize)),
            }),
        })
    }

    fn bind(&self) -> Result<std::net::TcpListener, Failure> {
        let bound = std::net::TcpListener::bind(&self.listen);
        let listener = bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        listener.map_err(|error| {
            let cure = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another program has the port: stop it, or write another in `listen`"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "; this machine has no such address: `0.0.0.0` means all it has"
                }
                io::ErrorKind::PermissionDenied => {
                    "; ports below 1024 are for the privileged: take a higher one"
                }
                _ => "",
            };
            Failure(format!("cannot listen on {}: {error}{cure}", self.listen))
        })
    }

    /// The port, on the socket runtime.
    fn listen(&mut self) -> Result<TcpListener, Failure> {
        let bound = self.listener.take().map_or_else(|| self.bind(), Ok)?;
        let listener = TcpListener::from_std(bound)
            .map_err(|error| Failure(format!("cannot wait at {}: {error}", self.listen)))?;
        tracing::info!(address = %self.listen, path = self.door.path, "takes events over HTTP");
        Ok(listener)
    }
}

impl AsyncSource for Server {
    fn open(&mut self) -> Result<(), Failure> {
        self.listener = Some(self.bind()?);
        Ok(())
    }

    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let listener = self.listen()?;
            let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            let (offer_to, mut offers) = mpsc::channel::<Offer>(OFFERS_MAX);
            let mut connections = JoinSet::new();
            let mut stopped = pin!(intake.stopped());
            loop {
                tokio::select! {
                    () = &mut stopped => break,
                    Some(offer) = offers.recv() => offer.pass(intake),
                    Some(_) = connections.join_next() => {}
                    (seat, socket) = accept(&listener, &seats) => {
                        let client = Client { door: self.door.clone(), offer_to: offer_to.clone() };
                        connections.spawn(client.serve(socket, seat, intake.stop()));
                    }
                }
            }
            drop((listener, offer_to));
            // The stages work on, and with them the receipts come. Requests offered from here on are refused.
            let end = async {
                loop {
                    tokio::select! {
                        Some(offer) = offers.recv() => offer.pass(intake),
                        ended = connections.join_next() => if ended.is_none() { break },
                    }
                }
            };
            let _ = timeout(STOP_WAIT, end).await;
            connections.detach_all();
            Ok(())
        })
    }
}

/// The next connection, when there is a seat for it.
async fn accept(listener: &TcpListener, seats: &Arc<Semaphore>) -> (OwnedSemaphorePermit, TcpStream) {
    let seat = seats.clone().acquire_owned().await.expect("the seats are never closed");
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return (seat, socket),
            // The connection that failed is gone; out of file descriptors, some must be closed first.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// A request's events on their way to the task that owns the intake.
struct Offer {
    batch: Batch,
    answer: oneshot::Sender<Result<Receipt, Reply>>,
}

impl Offer {
    fn pass(self, intake: &mut Intake) {
        let taken = intake.try_send_for_receipt(self.batch).map_err(|refusal| match refusal {
            Refusal::Full(_) => Reply::busy("the stages are full; try again"),
            Refusal::Stopped(_) => Reply::stopping(),
        });
        // The connection may be gone; what was taken stays taken.
        let _ = self.answer.send(taken);
    }
}

/// One connection's client.
#[derive(Clone)]
struct Client {
    door: Arc<Door>,
    offer_to: mpsc::Sender<Offer>,
}

impl Client {
    async fn serve(self, socket: TcpStream, _seat: OwnedSemaphorePermit, stop: Stop) {
        let service = service_fn(move |request| {
            let client = self.clone();
            async move { Ok::<_, Infallible>(client.answer(request).await.into_response()) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(socket), service);
        let mut connection = pin!(connection);
        // An error here is a client that went away or spoke no HTTP, which is its own affair.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stop.stopped() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let is_text = request::is_text(request.headers());
        match self.take(request).await {
            Ok(receipt) => match receipt.await {
                Ok(settled) => Reply::settled(settled, is_text),
                Err(_) => Reply::stopping(),
            },
            Err(reply) => reply,
        }
    }

    /// The receipt for a request's events, or why they were not taken.
    async fn take(&self, request: Request<Incoming>) -> Result<Receipt, Reply> {
        self.door.admit(&request)?;
        let room = self.door.room_for(request.body().size_hint().exact())?;
        let (head, body) = request.into_parts();
        let body = self.door.read(body).await?;
        let batch = request::events(&head.headers, body).map_err(|bad| Reply::of(bad.status(), bad))?;
        drop(room);
        let (answer, answered) = oneshot::channel();
        if batch.is_empty() {
            // Nothing to promise: what settles at once.
            let _ = answer.send(Err(Reply::settled(Settled::default(), false)));
        } else if self.offer_to.send(Offer { batch, answer }).await.is_err() {
            return Err(Reply::stopping());
        }
        answered.await.unwrap_or_else(|_| Err(Reply::stopping()))
    }
}

impl Door {
    /// Whether the request may come in, judged by its head.
    fn admit(&self, request: &Request<Incoming>) -> Result<(), Reply> {
        if request.uri().path() != self.path {
            return Err(Reply::of(StatusCode::NOT_FOUND, format_args!("events go to {}", self.path)));
        }
        if request.method() != Method::POST {
            return Err(Reply::of(StatusCode::METHOD_NOT_ALLOWED, "events come by POST").with(ALLOW, "POST"));
        }
        if let Some(token) = &self.token {
            let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
            let given = given.and_then(|given| given.strip_prefix(b"Bearer "));
            if !given.is_some_and(|given| is_same(given, token.as_bytes())) {
                let reply = Reply::of(StatusCode::UNAUTHORIZED, "a bearer token is needed, and not this one");
                return Err(reply.with(WWW_AUTHENTICATE, "Bearer"));
            }
        }
        Ok(())
    }

    /// Memory for a body of this length, `None` meaning that its sender does not know it yet.
    fn room_for(&self, length: Option<u64>) -> Result<OwnedSemaphorePermit, Reply> {
        let most = self.max_body as u64;
        let length = length.unwrap_or(most);
        if length > most {
            return Err(self.too_large());
        }
        let room = self.bodies.clone().try_acquire_many_owned(kibibytes(length as usize));
        room.map_err(|_| Reply::busy("too many bodies are being read; try again"))
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Reply> {
        match timeout(BODY_WAIT, Limited::new(body, self.max_body).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Ok(Err(error)) => {
                Err(Reply::of(StatusCode::BAD_REQUEST, format_args!("the body broke off: {error}")))
            }
            Err(_) => Err(Reply::of(StatusCode::REQUEST_TIMEOUT, "the body did not come within a minute")),
        }
    }

    fn too_large(&self) -> Reply {
        let limit = sidestream_plan::Size::from_bytes(self.max_body as u64);
        Reply::of(StatusCode::PAYLOAD_TOO_LARGE, format_args!("a body may be at most {limit}"))
    }
}

/// What a client hears: a status, and a sentence where it is not all well.
struct Reply {
    status: StatusCode,
    text: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Reply {
    fn of(status: StatusCode, text: impl std::fmt::Display) -> Self {
        Self { status, text: format!("{text}\n"), header: None }
    }

    fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    fn busy(text: &str) -> Self {
        Self::of(StatusCode::TOO_MANY_REQUESTS, text).with(RETRY_AFTER, RETRY_AFTER_SECONDS)
    }

    fn stopping() -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "the pipeline is stopping; try again")
            .with(RETRY_AFTER, RETRY_AFTER_SECONDS)
    }

    /// `is_text`: the body was taken as text, because nothing said that it is JSON.
    fn settled(settled: Settled, is_text: bool) -> Self {
        let (lost, count) = (settled.dropped + settled.expired, settled.span.count);
        if lost == 0 {
            return Self { status: StatusCode::ACCEPTED, text: String::new(), header: None };
        }
        if lost > settled.unfit {
            let text = format_args!("{lost} of {count} events were dropped or expired; try again");
            return Self::of(StatusCode::SERVICE_UNAVAILABLE, text).with(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        let cure = match is_text {
            true => format!("the body was taken as text: {WHAT_TO_SEND}"),
            false => "the log of the pipeline says which stage and why".into(),
        };
        let text = format_args!("{lost} of {count} events could not be handled and were dropped; {cure}");
        Self::of(StatusCode::UNPROCESSABLE_ENTITY, text)
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Whether two secrets are the same, in a time that tells nothing but whether their lengths are.
fn is_same(given: &[u8], secret: &[u8]) -> bool {
    let differences =
        given.iter().zip(secret).fold(0, |found, (one, other)| std::hint::black_box(found | (one ^ other)));
    given.len() == secret.len() && differences == 0
}

fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

const MAX_BODY: u64 = 1 << 20;
/// Beyond this `maxBody` does not go: a body is held in memory.
const MAX_BODY_MOST: usize = 1 << 30;
/// Bodies being read at once, together; one of the largest allowed always fits.
const BODIES_BYTES: usize = 32 << 20;
const BODY_WAIT: Duration = Duration::from_secs(60);
const CONNECTIONS_MAX: usize = 1024;
/// A connection has one offer at most; beyond this many they wait for their turn.
const OFFERS_MAX: usize = 64;
/// For a head to come, from the first byte or from the answer before: also how long an idle connection is kept.
const HEAD_WAIT: Duration = Duration::from_secs(15);
const HEAD_BYTES_MAX: usize = 64 << 10;
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const STOP_WAIT: Duration = Duration::from_secs(2);
const RETRY_AFTER_SECONDS: &str = "1";
