//! The control server: one port, TLS 1.3, where sidecars ask for certificates and are kept up to date.
//!
//! ```text
//! socket ──▶ TLS (own certificate of the moment) ──▶ caller: the SPIFFE ID of its certificate, or nobody yet
//!        ──▶ Certify: nobody yet; a token says who ──▶ certificate
//!        ──▶ Sync: a certificate says who ──▶ Fleet ◀── controller
//! ```
//!
//! A caller that shows a certificate must show a good one; `Sync` takes none without.

mod certify;
mod fleet;
mod limit;
mod sync;

use std::{io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use sidestream_control::{CertifyServer, MESSAGE_BYTES_MAX, SyncServer};
use sidestream_trust::{Callers, Identity, SpiffeId, peer_id};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    transport::{
        Server,
        server::{TcpConnectInfo, TlsConnectInfo},
    },
};

pub use certify::Certifier;
pub use fleet::{Account, Acknowledged, Addressee, Connected, Farewell, Fleet, Runs, Told};
pub use sync::Syncer;

/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at once; more callers wait their turn.
const HANDSHAKES_MAX: usize = 256;
/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Serves until `stop` resolves, and then lets what is under way end.
///
/// # Errors
/// Where the server itself fails; a caller that misbehaves only loses its connection.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    certifier: Certifier,
    syncer: Syncer,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (take, connections) = mpsc::channel(HANDSHAKES_MAX);
    let accepting = tokio::spawn(accept(listener, identity, b"h2", take));
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(CertifyServer::new(certifier))
        .add_service(SyncServer::new(syncer).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop)
        .await;
    accepting.abort();
    served
}

/// Shakes hands with everybody who comes, each on a task of its own, until nobody takes them any more.
pub(crate) async fn accept(
    listener: TcpListener,
    identity: Identity,
    alpn: &'static [u8],
    take: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let turns = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut changes = identity.changes();
    let mut config = None;
    while !take.is_closed() {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: others must close theirs first.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if config.is_none() || changes.has_changed().unwrap_or(false) {
            changes.mark_unchanged();
            config = current_config(&identity, alpn);
        }
        let Some(config) = config.clone() else { continue };
        let take = take.clone();
        tokio::spawn(async move {
            let _turn = turn;
            let _ = socket.set_nodelay(true);
            match timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(socket)).await {
                Ok(Ok(stream)) => drop(take.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::info!(%address, reason = refusal(&error), "refused a caller"),
                Err(_) => tracing::info!(%address, "refused a caller: its handshake took too long"),
            }
        });
    }
}

fn current_config(identity: &Identity, alpn: &[u8]) -> Option<Arc<ServerConfig>> {
    identity
        .server_config(Callers::ProvedOrNameless, &[alpn])
        .inspect_err(|error| tracing::error!(%error, "this replica cannot serve with its certificate"))
        .ok()
}

/// Why a handshake failed, in the words of whoever refused it.
fn refusal(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.map_or_else(|| error.to_string(), sidestream_trust::reason)
}

/// Whom the certificate of a caller names.
fn caller<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let chain = connection.and_then(TlsConnectInfo::peer_certs);
    peer_id(chain.as_ref().map(|chain| chain.as_slice()))
        .map_err(|refusal| Status::unauthenticated(refusal.to_string()))
}
