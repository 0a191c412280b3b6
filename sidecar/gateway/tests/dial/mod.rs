//! Channels of gRPC to the doors of a gateway, and what a refusal says.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{collections::HashMap, net::SocketAddr, path::PathBuf};

use hyper_util::rt::TokioIo;
use prost::Message;
use sidestream_gateway::proto::dnpipes_client::DnpipesClient;
use sidestream_trust::{Identity, SpiffeId};
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

pub(crate) type Dnpipes = DnpipesClient<Channel>;

/// Over a local socket.
pub(crate) async fn local(socket: PathBuf) -> Dnpipes {
    over(endpoint(), socket).await
}

/// The same, by a caller that has room for little of what it does not read.
pub(crate) async fn narrow(socket: PathBuf) -> Dnpipes {
    over(endpoint().initial_stream_window_size(NARROW).initial_connection_window_size(WIDE), socket).await
}

async fn over(endpoint: Endpoint, socket: PathBuf) -> Dnpipes {
    let dial = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    let channel = endpoint.connect_with_connector(tower::service_fn(dial)).await;
    DnpipesClient::new(channel.expect("somebody answers at the socket"))
}

/// Over TCP under TLS, as `identity`, to whoever is `expected`.
pub(crate) async fn peer(address: SocketAddr, identity: Identity, expected: SpiffeId) -> Dnpipes {
    let dial = move |_: Uri| {
        let config = identity.client_config(&expected, &[b"h2"]).unwrap();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let connector = tokio_rustls::TlsConnector::from(config);
            connector.connect(sidestream_trust::server_name(), tcp).await.map(TokioIo::new)
        }
    };
    let channel = endpoint().connect_with_connector(tower::service_fn(dial)).await;
    DnpipesClient::new(channel.expect("the peer is who it is expected to be"))
}

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://dnpipes")
}

/// Bytes of a stream's window.
const NARROW: u32 = 16 << 10;
/// Of a connection's: a library takes what is small and not read for an attack where it is more than a part of that.
const WIDE: u32 = 16 << 20;

/// What a status says of why: its code, the name of the refusal, and what a program decides by.
pub(crate) struct Why {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) facts: HashMap<String, String>,
    /// Whether it says when to ask again.
    pub(crate) is_retried: bool,
}

pub(crate) fn why(status: &Status) -> Why {
    let whole = RpcStatus::decode(status.details()).expect("its details are a google.rpc.Status");
    assert_eq!((whole.code, whole.message.as_str()), (status.code() as i32, status.message()));
    let of = |name: &str| {
        let url = format!("type.googleapis.com/google.rpc.{name}");
        whole.details.iter().find(|any| any.type_url == url).map(|any| &any.value[..])
    };
    let info =
        ErrorInfo::decode(of("ErrorInfo").unwrap_or_else(|| panic!("no details in {status:?}"))).unwrap();
    assert_eq!(info.domain, "sidestream.dev");
    Why {
        code: status.code(),
        reason: info.reason,
        facts: info.metadata,
        is_retried: of("RetryInfo").is_some(),
    }
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}
