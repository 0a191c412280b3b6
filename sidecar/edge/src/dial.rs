//! Calling a peer: TCP, then TLS by SPIFFE ID, then hello and welcome.

use std::{fmt, io, net::SocketAddr, time::Duration};

use sidestream_trust::{Identity, SpiffeId, reason, server_name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::link::{FRAME_BYTES_MAX, Frame, FrameReader, ProtocolError, Refused, Welcome};

/// Why no edge was opened.
#[derive(Debug)]
pub enum DialError {
    /// Nobody answers there.
    Unreachable(io::Error),
    /// It did not answer in time.
    Silent {
        /// At what: `connect`, `handshake` or `welcome`.
        at: &'static str,
    },
    /// The other end is not believed, or does not believe this one.
    NotTrusted(String),
    /// The other end knows who this is, and refuses.
    Refused(Refused),
    /// The other end does not speak this protocol.
    Protocol(ProtocolError),
    /// This end has no usable identity.
    NoIdentity(String),
}

/// A connection that is open.
pub(crate) struct Connection {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) reader: FrameReader,
}

/// Opens a connection to `expected` at `address` that says `hello`.
pub(crate) async fn dial(
    address: SocketAddr,
    identity: &Identity,
    expected: &SpiffeId,
    hello: &Frame,
) -> Result<(Connection, Welcome), DialError> {
    let config = identity
        .client_config(expected, &[ALPN])
        .map_err(|error| DialError::NoIdentity(error.to_string()))?;
    let tcp = timeout(CONNECT_WITHIN, TcpStream::connect(address))
        .await
        .map_err(|_| DialError::Silent { at: "connect" })?
        .map_err(DialError::Unreachable)?;
    // Batches are written whole: waiting for more would only cost time.
    tcp.set_nodelay(true).map_err(DialError::Unreachable)?;
    let mut stream = timeout(HANDSHAKE_WITHIN, TlsConnector::from(config).connect(server_name(), tcp))
        .await
        .map_err(|_| DialError::Silent { at: "handshake" })?
        .map_err(|error| DialError::NotTrusted(tls_reason(&error)))?;
    let mut reader = FrameReader::new(GREETING_BYTES_MAX);
    let frame = timeout(HANDSHAKE_WITHIN, greet(&mut stream, &mut reader, hello))
        .await
        .map_err(|_| DialError::Silent { at: "welcome" })??;
    reader.set_limit(FRAME_BYTES_MAX + FRAME_HEAD_BYTES);
    match frame {
        Frame::Welcome(welcome) => Ok((Connection { stream, reader }, welcome)),
        Frame::Refuse(refused) => Err(DialError::Refused(refused)),
        _ => Err(DialError::Protocol(ProtocolError::Unexpected { what: "anything but a welcome" })),
    }
}

async fn greet(
    stream: &mut TlsStream<TcpStream>,
    reader: &mut FrameReader,
    hello: &Frame,
) -> Result<Frame, DialError> {
    let mut out = Vec::new();
    hello.write(&mut out);
    // The other end's verdict on our certificate comes only now, as an alert.
    let lost = |error: io::Error| DialError::NotTrusted(tls_reason(&error));
    stream.write_all(&out).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    loop {
        if let Some(frame) = reader.next_frame().map_err(DialError::Protocol)? {
            return Ok(frame);
        }
        if stream.read_buf(reader.buffer()).await.map_err(lost)? == 0 {
            return Err(DialError::Unreachable(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Why TLS failed, as `trust` words it.
pub(crate) fn tls_reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|own| own.downcast_ref()) {
        Some(error) => reason(error),
        None => error.to_string(),
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Unreachable(error) => write!(out, "the peer cannot be reached: {error}"),
            DialError::Silent { at } => write!(out, "the peer did not answer in time ({at})"),
            DialError::NotTrusted(reason) => write!(out, "no trust: {reason}"),
            DialError::Refused(refused) => write!(out, "the peer refuses: {refused}"),
            DialError::Protocol(error) => write!(out, "the peer does not speak the edge protocol: {error}"),
            DialError::NoIdentity(reason) => write!(out, "this process has no usable identity: {reason}"),
        }
    }
}

impl std::error::Error for DialError {}

/// The name of the protocol in the handshake (RFC 7301).
pub(crate) const ALPN: &[u8] = b"sidestream-edge/1";
/// A hello names a pipeline and an edge; both are short.
pub(crate) const GREETING_BYTES_MAX: usize = 2048;
/// Kind and sequence of a batch.
pub(crate) const FRAME_HEAD_BYTES: usize = 16;
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
