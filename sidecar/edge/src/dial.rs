//! Calling a peer: TCP, then TLS by SPIFFE ID, then hello and welcome.

use std::{fmt, io, net::SocketAddr, time::Duration};

use sidestream_trust::{Identity, SpiffeId};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    link::{FRAME_BYTES_MAX, Frame, FrameReader, ProtocolError, Refused, Welcome},
    wire::{Transport, Unread, Wire, tls_reason},
};

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
    pub(crate) wire: Wire,
    pub(crate) reader: FrameReader,
}

/// Opens a connection to `expected` at `address` that says `hello`.
pub(crate) async fn dial(
    address: SocketAddr,
    transport: Transport,
    identity: &Identity,
    expected: &SpiffeId,
    hello: &Frame,
) -> Result<(Connection, Welcome), DialError> {
    let config = identity
        .client_config(expected, &[ALPN])
        .map_err(|error| DialError::NoIdentity(error.to_string()))?;
    let handshake = async {
        match transport {
            Transport::Quic => Wire::call_quic(config, address).await.map_err(not_trusted),
            Transport::Tcp => {
                let tcp = timeout(CONNECT_WITHIN, TcpStream::connect(address))
                    .await
                    .map_err(|_| DialError::Silent { at: "connect" })?
                    .map_err(DialError::Unreachable)?;
                Wire::call_tcp(config, tcp).await.map_err(not_trusted)
            }
        }
    };
    let mut wire =
        timeout(HANDSHAKE_WITHIN, handshake).await.map_err(|_| DialError::Silent { at: "handshake" })??;
    let mut reader = FrameReader::new(GREETING_BYTES_MAX);
    let frame = timeout(HANDSHAKE_WITHIN, greet(&mut wire, &mut reader, hello))
        .await
        .map_err(|_| DialError::Silent { at: "welcome" })??;
    reader.set_limit(FRAME_BYTES_MAX + FRAME_HEAD_BYTES);
    match frame {
        Frame::Welcome(welcome) => Ok((Connection { wire, reader }, welcome)),
        Frame::Refuse(refused) => Err(DialError::Refused(refused)),
        _ => Err(DialError::Protocol(ProtocolError::Unexpected { what: "anything but a welcome" })),
    }
}

/// The other end's verdict on our certificate comes only now, as an alert.
async fn greet(wire: &mut Wire, reader: &mut FrameReader, hello: &Frame) -> Result<Frame, DialError> {
    wire.write(hello).await.map_err(|error| not_trusted(wire.why(error)))?;
    match wire.read(reader).await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(DialError::Unreachable(io::ErrorKind::UnexpectedEof.into())),
        Err(Unread::Protocol(error)) => Err(DialError::Protocol(error)),
        Err(Unread::Lost(error)) => Err(not_trusted(error)),
    }
}

fn not_trusted(error: io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::TimedOut => DialError::Silent { at: "handshake" },
        _ => DialError::NotTrusted(tls_reason(&error)),
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
