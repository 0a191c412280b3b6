//! Where a gateway is, and how it is proved to be the right one.

use std::{fmt, io, path::PathBuf, time::Duration};

use sidestream_trust::{Identity, SpiffeId, reason, server_name};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::ClientError;

/// A gateway.
#[derive(Clone, Debug)]
pub enum Address {
    /// On this machine: whoever may open the socket is let in as the process that listens.
    Local(PathBuf),
    /// Over TCP with TLS 1.3, both ends proved by name.
    Peer {
        /// Its host and port: `orders-dnp.shop.svc:7420`.
        host: String,
        /// Who this program is.
        identity: Identity,
        /// Who must answer.
        expected: SpiffeId,
    },
}

/// A connection, whatever carries it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Address {
    /// Another server of the same pool, at `host:port`; none from a socket of this machine, which leads to one server.
    pub fn at(&self, host: &str) -> Option<Address> {
        match self {
            Address::Local(_) => None,
            Address::Peer { identity, expected, .. } => {
                let (identity, expected) = (identity.clone(), expected.clone());
                Some(Address::Peer { host: host.to_owned(), identity, expected })
            }
        }
    }

    /// Opens a connection and has both ends prove who they are, for who speaks a protocol himself: `alpn` names it (RFC 7301).
    /// It takes as long as the machine lets it.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], and [`ClientError::NotTrusted`] where somebody else answers.
    pub async fn call(&self, alpn: &[u8]) -> Result<Box<dyn Stream>, ClientError> {
        match self {
            Address::Local(path) => call_local(path).await,
            Address::Peer { host, identity, expected } => {
                let config = identity
                    .client_config(expected, &[alpn])
                    .map_err(|error| ClientError::NotTrusted(error.to_string()))?;
                let tcp = TcpStream::connect(host).await.map_err(|error| self.unreachable(&error))?;
                set_up(&tcp).map_err(|error| self.unreachable(&error))?;
                let stream = TlsConnector::from(config).connect(server_name(), tcp).await;
                Ok(Box::new(stream.map_err(|error| {
                    match error.get_ref().and_then(|own| own.downcast_ref()) {
                        Some(own) => ClientError::NotTrusted(reason(own)),
                        // It ended amid the handshake: a server that stops says nothing of trust.
                        None => self.unreachable(&error),
                    }
                })?))
            }
        }
    }

    pub(crate) fn unreachable(&self, error: &io::Error) -> ClientError {
        ClientError::Unreachable { address: self.to_string(), reason: error.to_string() }
    }
}

fn set_up(tcp: &TcpStream) -> io::Result<()> {
    // Frames are written whole: waiting for more would only cost time.
    tcp.set_nodelay(true)?;
    // Who waits long for records must hear that a machine is gone, which says nothing itself.
    let alive = TcpKeepalive::new().with_time(ALIVE_AFTER).with_interval(ALIVE_AGAIN);
    SockRef::from(tcp).set_tcp_keepalive(&alive)?;
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_user_timeout(Some(GONE_AFTER))?;
    Ok(())
}

#[cfg(unix)]
async fn call_local(path: &std::path::Path) -> Result<Box<dyn Stream>, ClientError> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(Address::Local(path.to_owned()).unreachable(&error)),
    }
}

#[cfg(not(unix))]
async fn call_local(path: &std::path::Path) -> Result<Box<dyn Stream>, ClientError> {
    let address = path.display().to_string();
    Err(ClientError::Unreachable { address, reason: "this system has no such sockets".into() })
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Local(path) => write!(out, "{}", path.display()),
            Address::Peer { host, .. } => out.write_str(host),
        }
    }
}

/// After so long without a word the other machine is asked whether it is there.
const ALIVE_AFTER: Duration = Duration::from_secs(20);
/// And so long after that again.
const ALIVE_AGAIN: Duration = Duration::from_secs(10);
/// A machine that acknowledges nothing for so long is gone; also one that takes nothing, which waits for its disk less long.
#[cfg(target_os = "linux")]
const GONE_AFTER: Duration = Duration::from_secs(60);

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_machine_that_vanishes_is_noticed_also_while_nothing_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&tcp).unwrap();
        let (set, nodelay) = (SockRef::from(&tcp), tcp.nodelay().unwrap());
        assert!(nodelay && set.keepalive().unwrap());
        assert_eq!(set.tcp_keepalive_time().unwrap(), ALIVE_AFTER);
        assert_eq!(set.tcp_keepalive_interval().unwrap(), ALIVE_AGAIN);
        assert_eq!(set.tcp_user_timeout().unwrap(), Some(GONE_AFTER));
    }
}
