//! A connection, whichever transport carries it: a stream of bytes each way, under TLS 1.3 with both ends proved.
//!
//! Over QUIC (RFC 9000) it is one bidirectional stream that the caller opens, and TLS is QUIC's own (RFC 9001); names,
//! certificates and frames are the same as over TCP.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::pki_types::CertificateDer;
use sidestream_trust::{reason, server_name};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::link::{Frame, FrameReader, ProtocolError};

/// What carries an edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TLS over TCP.
    #[default]
    Tcp,
    /// QUIC over UDP: a lost packet holds up only itself, and a connection survives a change of address.
    Quic,
}

/// An open connection.
pub(crate) struct Wire {
    pub(crate) read: Box<dyn AsyncRead + Send + Sync + Unpin>,
    pub(crate) write: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    /// Closes when the last handle is dropped.
    pub(crate) quic: Option<Connection>,
}

/// The certificates of the other end, as TLS showed them.
pub(crate) type Chain = Option<Vec<CertificateDer<'static>>>;

impl Wire {
    pub(crate) async fn call_tcp(config: Arc<rustls::ClientConfig>, tcp: TcpStream) -> io::Result<Wire> {
        // Batches are written whole: waiting for more would only cost time.
        tcp.set_nodelay(true)?;
        Ok(Wire::tcp(TlsConnector::from(config).connect(server_name(), tcp).await?))
    }

    pub(crate) async fn take_tcp(
        config: Arc<rustls::ServerConfig>,
        tcp: TcpStream,
    ) -> io::Result<(Wire, Chain)> {
        tcp.set_nodelay(true)?;
        let stream = TlsAcceptor::from(config).accept(tcp).await?;
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        Ok((Wire::tcp(stream), chain))
    }

    /// Each call has a socket of its own.
    pub(crate) async fn call_quic(
        config: Arc<rustls::ClientConfig>,
        address: SocketAddr,
    ) -> io::Result<Wire> {
        let any = if address.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { ([0u16; 8], 0).into() };
        let endpoint = Endpoint::client(any)?;
        let crypto = QuicClientConfig::try_from(config).map_err(io::Error::other)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport());
        let connecting = endpoint.connect_with(config, address, &server_name().to_str());
        let connection = connecting.map_err(io::Error::other)?.await.map_err(lost)?;
        let (write, read) = connection.open_bi().await.map_err(lost)?;
        Ok(Wire { read: Box::new(read), write: Box::new(write), quic: Some(connection) })
    }

    pub(crate) async fn take_quic(
        config: Arc<rustls::ServerConfig>,
        incoming: Incoming,
    ) -> io::Result<(Wire, Chain)> {
        let connecting = incoming.accept_with(Arc::new(server(config)?)).map_err(lost)?;
        let connection = connecting.await.map_err(lost)?;
        let chain = connection.peer_identity().and_then(|chain| chain.downcast().ok()).map(|chain| *chain);
        let (write, read) = connection.accept_bi().await.map_err(lost)?;
        Ok((Wire { read: Box::new(read), write: Box::new(write), quic: Some(connection) }, chain))
    }

    fn tcp(stream: impl AsyncRead + AsyncWrite + Send + Sync + 'static) -> Wire {
        let (read, write) = split(stream);
        Wire { read: Box::new(read), write: Box::new(write), quic: None }
    }

    pub(crate) async fn write(&mut self, frame: &Frame) -> io::Result<()> {
        let mut out = Vec::new();
        frame.write(&mut out);
        self.write.write_all(&out).await?;
        self.write.flush().await
    }

    /// The next frame; none where the other end has closed in due form.
    pub(crate) async fn read(&mut self, reader: &mut FrameReader) -> Result<Option<Frame>, Unread> {
        loop {
            if let Some(frame) = reader.next_frame().map_err(Unread::Protocol)? {
                return Ok(Some(frame));
            }
            match self.read.read_buf(reader.buffer()).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(Unread::Lost(self.why(error))),
            }
        }
    }

    /// Ends what goes out, and gives it time to arrive.
    pub(crate) async fn close(mut self, limit: Duration) {
        // A close that fails is a close.
        let _ = timeout(limit, self.write.shutdown()).await;
        if let Some(quic) = &self.quic {
            let _ = timeout(limit, quic.closed()).await;
        }
    }

    /// The error with what QUIC knows of it, which its streams do not say.
    pub(crate) fn why(&self, error: io::Error) -> io::Error {
        match self.quic.as_ref().and_then(Connection::close_reason) {
            Some(closed) => lost(closed),
            None => error,
        }
    }
}

/// Why no frame came.
pub(crate) enum Unread {
    Protocol(ProtocolError),
    Lost(io::Error),
}

/// Listens for QUIC. Each connection is then taken with the identity of its moment.
pub(crate) fn listen_quic(socket: UdpSocket, config: Arc<rustls::ServerConfig>) -> io::Result<Endpoint> {
    let socket = socket.into_std()?;
    Endpoint::new(EndpointConfig::default(), Some(server(config)?), socket, Arc::new(TokioRuntime))
}

fn server(config: Arc<rustls::ServerConfig>) -> io::Result<ServerConfig> {
    let crypto = QuicServerConfig::try_from(config).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    Ok(config)
}

/// One stream, and no more memory for it than TCP would take.
fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(1u8.into())
        .max_concurrent_uni_streams(0u8.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_BYTES))
        .receive_window(VarInt::from_u32(STREAM_BYTES))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MILLIS).into()));
    Arc::new(config)
}

/// Why a connection failed, as an error whose words are for a log.
fn lost(error: ConnectionError) -> io::Error {
    let words = match error {
        ConnectionError::TransportError(error) if !error.reason.is_empty() => error.reason,
        ConnectionError::ConnectionClosed(close) if !close.reason.is_empty() => {
            format!("the peer ended it: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::TimedOut => return io::ErrorKind::TimedOut.into(),
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset | ConnectionError::LocallyClosed => {
            return io::ErrorKind::UnexpectedEof.into();
        }
        other => other.to_string(),
    };
    io::Error::other(words)
}

/// Why TLS failed, as `trust` words it.
pub(crate) fn tls_reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|own| own.downcast_ref()) {
        Some(error) => reason(error),
        None => error.to_string(),
    }
}

/// What one end sends beyond what the other has read.
const STREAM_BYTES: u32 = 1 << 20;
/// As long as silence may last: pings come more often.
const IDLE_MILLIS: u32 = 20_000;
