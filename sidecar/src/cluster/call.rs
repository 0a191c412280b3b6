//! The line to the operator: HTTP/2 over TLS 1.3, to nobody but the operator.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use sidestream_trust::{rustls::ClientConfig, server_name};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{ClusterError, Settings};

/// Calls the operator; `tls` says who it must be, and who this process is.
pub(super) async fn call(settings: &Settings, tls: Arc<ClientConfig>) -> Result<Channel, ClusterError> {
    let unreachable =
        |error: String| ClusterError::Unreachable { operator: settings.operator.clone(), error };
    // The scheme only says that tonic need not add TLS of its own.
    let endpoint = Endpoint::from_shared(format!("http://{}", settings.operator))
        .map_err(|error| unreachable(error.to_string()))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .keep_alive_timeout(ANSWER_WITHIN)
        .connect_timeout(ANSWER_WITHIN);
    let connector = TlsConnector::from(tls);
    let address = settings.operator.clone();
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let connecting = async {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                connector.connect(server_name(), socket).await
            };
            let connected = timeout(ANSWER_WITHIN, connecting).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector(connect).await.map_err(|error| unreachable(causes(&error)))
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
