//! Where callers come in: a local socket, and TCP under TLS 1.3. Each is greeted, and let in or told why not.

use std::{io, net::SocketAddr, sync::Arc};

use sidestream_event::native::{ALPN, PREAMBLE_BYTES, Preamble, VERSION_MAX, VERSION_MIN, Verdict, choose};
use sidestream_trust::{Callers, Identity, Peer, peer, reason};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    Caller, Phase, Shared, http, http2,
    limits::{ACCEPT_REST, GREETING_WITHIN, GREETING_WITHIN_WHEN_BUSY, HANDSHAKES_MAX},
    session,
};

/// Opens the socket at `path`, for this user alone.
#[cfg(unix)]
pub(crate) fn local(shared: Arc<Shared>, path: &std::path::Path) -> io::Result<()> {
    use std::os::{fd::AsFd, unix::fs::PermissionsExt};

    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        // A process that ended without a word left it behind.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let socket = tokio::net::UnixSocket::new_stream()?;
    let private = std::fs::Permissions::from_mode(0o600);
    // On Linux a socket has its mode before it has its name. Elsewhere the folder is what keeps others out until it has it.
    let _ = std::fs::File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(private.clone());
    socket.bind(path)?;
    std::fs::set_permissions(path, private)?;
    let listener = socket.listen(BACKLOG)?;
    let path = path.to_owned();
    tokio::spawn(async move {
        let greetings = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        while let Some((permit, accepted)) = next(&shared, &greetings, listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(receive(shared.clone(), stream, Caller::Local, permit));
                }
                Err(error) => rest_after(&error).await,
            }
        }
        // Where that fails, the next process takes it over.
        let _ = std::fs::remove_file(path);
    });
    Ok(())
}

/// Takes TCP connections of those who prove who they are.
pub(crate) async fn tcp(shared: Arc<Shared>, listener: TcpListener, identity: Identity) {
    let greetings = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some((permit, accepted)) = next(&shared, &greetings, listener.accept()).await {
        match accepted {
            Ok((stream, address)) => {
                let (shared, identity) = (shared.clone(), identity.clone());
                tokio::spawn(async move {
                    match timeout(permit.within, prove(stream, &identity)).await {
                        Ok(Ok((stream, peer))) => {
                            let until = expiry(&peer, &identity);
                            tokio::select! {
                                () = receive(shared, stream, Caller::Peer(peer.id), permit) => {}
                                () = sleep(until) => {}
                            }
                        }
                        Ok(Err(reason)) => refuse(address, &reason),
                        Err(_) => refuse(address, "no handshake in time"),
                    }
                });
            }
            Err(error) => rest_after(&error).await,
        }
    }
}

/// A place among those who are greeted, and how long it may be held.
pub(crate) struct Greeting {
    within: std::time::Duration,
    /// None where it is nobody's place.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Greeting {
    /// A place beside the others.
    pub(crate) fn own() -> Greeting {
        Greeting { within: GREETING_WITHIN, _permit: None }
    }
}

/// The next connection, with a permit to greet it; none when the doors close.
async fn next<T>(
    shared: &Shared,
    greetings: &Arc<Semaphore>,
    accept: impl Future<Output = io::Result<T>>,
) -> Option<(Greeting, io::Result<T>)> {
    let permit = greetings.clone().acquire_owned().await.ok()?;
    let is_busy = greetings.available_permits() < HANDSHAKES_MAX / 2;
    let within = if is_busy { GREETING_WITHIN_WHEN_BUSY } else { GREETING_WITHIN };
    tokio::select! {
        accepted = accept => Some((Greeting { within, _permit: Some(permit) }, accepted)),
        () = shared.reached(Phase::Closing) => None,
    }
}

async fn rest_after(error: &io::Error) {
    tracing::warn!("cannot accept a connection to dnpipes: {error}");
    sleep(ACCEPT_REST).await;
}

async fn prove(tcp: TcpStream, identity: &Identity) -> Result<(TlsStream<TcpStream>, Peer), String> {
    // Frames are written whole: waiting for more would only cost time.
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let config = identity
        .server_config(Callers::Proved, &[ALPN, HTTP_ALPN, HTTP2_ALPN])
        .map_err(|error| error.to_string())?;
    let stream = TlsAcceptor::from(config).accept(tcp).await.map_err(|error| {
        let own = error.get_ref().and_then(|own| own.downcast_ref());
        own.map_or_else(|| error.to_string(), reason)
    })?;
    let peer = peer(stream.get_ref().1.peer_certificates()).map_err(|refusal| refusal.to_string())?;
    Ok((stream, peer))
}

/// A connection ends at the latest when the certificate that opened it does.
fn expiry(peer: &Peer, identity: &Identity) -> std::time::Duration {
    let now = identity.credentials().not_after_seconds() - identity.seconds_left();
    std::time::Duration::from_secs(u64::try_from(peer.not_after_seconds - now).unwrap_or(0))
}

fn refuse(address: SocketAddr, reason: &str) {
    tracing::warn!(caller = %address, "dnpipes: connection refused: {reason}");
}

/// The life of a connection from its first bytes on.
pub(crate) async fn receive(
    shared: Arc<Shared>,
    mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    caller: Caller,
    greeting: Greeting,
) {
    let greeted = timeout(greeting.within, greet(&shared, &caller, &mut stream)).await;
    let Ok(Some((permit, language))) = greeted else { return };
    drop(greeting);
    let serving = async {
        match language {
            Language::Native => session::serve(&shared, stream, &caller).await,
            Language::Http(begun) => http::serve(&shared, stream, begun, &caller).await,
            Language::Http2(begun) => http2::serve(&shared, stream, begun, &caller).await,
        }
    };
    let reason = tokio::select! {
        reason = serving => reason,
        () = shared.reached(Phase::Ended) => "the process ends".into(),
    };
    tracing::debug!(%caller, "connection to dnpipes ended: {reason}");
    drop(permit);
}

/// What a caller speaks.
enum Language {
    Native,
    /// With what was read of it already.
    Http(Vec<u8>),
    Http2(Vec<u8>),
}

/// Who is let in holds the permit of a connection.
async fn greet(
    shared: &Shared,
    caller: &Caller,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Option<(OwnedSemaphorePermit, Language)> {
    let mut bytes = [0; PREAMBLE_BYTES];
    stream.read_exact(&mut bytes).await.ok()?;
    let permit = shared.connections_of(caller).clone().try_acquire_owned();
    let http = match () {
        () if http::begins(&bytes) => Some((Language::Http(bytes.to_vec()), HTTP_BUSY)),
        () if http2::begins(&bytes) => Some((Language::Http2(bytes.to_vec()), http2::BUSY)),
        () => None,
    };
    if let Some((language, busy)) = http {
        if let (Ok(permit), true) = (permit, shared.is_open()) {
            return Some((permit, language));
        }
        stream.write_all(busy).await.ok()?;
        stream.flush().await.ok()?;
        return None;
    }
    // Who speaks something else has no use for an answer of ours.
    let client = Preamble::read(&bytes).ok()?;
    let verdict = match choose(client, VERSION_MIN, VERSION_MAX) {
        _ if !shared.is_open() => Verdict::Stopping,
        Verdict::Welcome { .. } if permit.is_err() => Verdict::Busy,
        verdict => verdict,
    };
    stream.write_all(&verdict.write()).await.ok()?;
    stream.flush().await.ok()?;
    match verdict {
        Verdict::Welcome { .. } => Some((permit.ok()?, Language::Native)),
        _ => None,
    }
}

/// Connections that wait for us, as the kernel sees it.
#[cfg(unix)]
const BACKLOG: u32 = 1024;
/// There are as many connections as may be, or the process is about to stop.
const HTTP_BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// The other names in a TLS handshake (RFC 7301, section 6). Who speaks both versions of HTTP, as `curl` does, gets the first;
/// clients of gRPC speak the second alone.
const HTTP_ALPN: &[u8] = b"http/1.1";
const HTTP2_ALPN: &[u8] = b"h2";
