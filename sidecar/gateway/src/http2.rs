//! The third language at every door: HTTP/2, for gRPC, and for what is answered over HTTP/1.1 too.
//!
//! ```text
//!   frames ─▶ streams, some at once ─▶ incoming: a message that is large waits for room ─▶ grpc ─▶ requests
//!     ▲                                                                                  or http      │
//!     └── pieces, as the caller takes them ◀── outgoing: a turn is kept until all is taken ◀──────────┘
//! ```
//!
//! Who asks nothing, takes nothing of an answer, or does not answer a ping is ended, as at the other doors; who is there to hear
//! it is told first.

mod calls;
mod incoming;
mod outgoing;
mod unread;

use std::{convert::Infallible, sync::Arc};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tower::ServiceExt;

use crate::{
    Caller, Phase, Shared, grpc,
    guarded::Guarded,
    http,
    limits::{
        CONNECTION_WINDOW_BYTES, GOODBYE_WITHIN, HEADERS_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX,
        WRITTEN_AHEAD_BYTES,
    },
    session::Session,
};
use calls::{Calls, Overdue};
pub(crate) use incoming::Room;
pub(crate) use outgoing::Turn;
pub(crate) use unread::Unread;

/// Whether bytes begin the preface of HTTP/2 (RFC 9113, section 3.4).
pub(crate) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PRI * HTTP/2")
}

/// To one connection too many, or while the process stops: no settings, and GOAWAY for ENHANCE_YOUR_CALM, of which no stream was
/// begun (RFC 9113, sections 6.5 and 6.8). Who asked may ask again elsewhere, or later.
pub(crate) const BUSY: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x1b\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo busy; try again";

/// Serves a connection of which `begun` was read already, to its end, and says why it ended.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    begun: Vec<u8>,
    caller: &Caller,
) -> String {
    let (limits, calls) = (&shared.limits, Arc::new(Calls::default()));
    let session = Arc::new(Session::new(shared, caller));
    let doors = http::doors(session.clone()).route_service(grpc::PATHS, grpc::service(session));
    let service = service_fn(|request: Request<Incoming>| {
        let (doors, call, shared) = (doors.clone(), calls.begin(), shared.clone());
        async move {
            let request = incoming::guarded(request, &shared);
            let answer = doors.oneshot(request).await.unwrap_or_else(|never: Infallible| match never {});
            Ok::<_, Infallible>(outgoing::guarded(answer, call))
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(WRITTEN_AHEAD_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping);
    let stream = TokioIo::new(Guarded::new(stream, begun, limits.silence));
    let connection = builder.serve_connection(stream, service);
    tokio::pin!(connection);
    let mut is_ending = false;
    let served = loop {
        // Who was told that it ends, and has nothing open, has only to say that it heard so.
        let idle = if is_ending { GOODBYE_WITHIN } else { limits.idle };
        let overdue = tokio::select! {
            served = &mut connection => break served,
            overdue = calls.overdue(idle, limits.silence) => Some(overdue),
            () = shared.reached(Phase::Closing), if !is_ending => None,
        };
        if overdue == Some(Overdue::Request) && is_ending {
            return "nothing was asked".into();
        }
        // The caller is told, so that what it is about to ask it asks elsewhere.
        connection.as_mut().graceful_shutdown();
        if overdue == Some(Overdue::Answer) {
            let _ = timeout(GOODBYE_WITHIN, connection).await;
            return "its answers were not read in time".into();
        }
        is_ending = true;
    };
    served.map_or_else(|error| error.to_string(), |()| "it was over".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_gets_two_whole_frames() {
        let (settings, goaway) = BUSY.split_at(9);
        assert_eq!((settings[2], settings[3]), (0, 4), "no settings");
        assert_eq!((goaway[2] as usize, goaway[3]), (goaway.len() - 9, 7));
        assert!(begins(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") && !begins(b"PRINT / HTTP"));
    }
}
