//! The line to the operator: HTTP/2 over TLS 1.3, to nobody but the operator.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use sidestream_trust::{
    reason,
    rustls::{self, ClientConfig},
    server_name,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use super::ClusterError;

/// Calls the operator at `address`, `host:port`; `tls` says who it must be, and who this process is.
pub(super) async fn call(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, ClusterError> {
    let operator = address.to_owned();
    let unreachable = |error: String| ClusterError::Unreachable { operator: operator.clone(), error };
    // The scheme only says that tonic need not add TLS of its own.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| unreachable(error.to_string()))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .keep_alive_timeout(ANSWER_WITHIN)
        .connect_timeout(ANSWER_WITHIN);
    let connected = timeout(ANSWER_WITHIN, connect(address, tls)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(refusal) => ClusterError::Unproved { operator: operator.clone(), reason: reason(refusal) },
            None => unreachable(error.to_string()),
        }
    })?;
    // A call is one connection: whoever calls again may show another certificate.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| unreachable(causes(&error)))
}

async fn connect(address: &str, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    TlsConnector::from(tls).connect(server_name(), socket).await
}

/// An error with what caused it: tonic's own text is only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What the protocol is called in the handshake.
pub(super) const ALPN: &[&[u8]] = &[b"h2"];

const KEEP_ALIVE: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
