//! tonic's bidirectional streams: a call for each hop, a message for each frame, in the clear or with mutual TLS.

use std::{
    convert::Infallible,
    fs,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client, server,
    transport::{
        Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig, server::TcpIncoming,
    },
};
use tonic_prost::ProstCodec;

use crate::{Arrive, Frame, Push, runtime};

const PATH: &str = "/versus.Way/Carry";
/// Frames between a stream and whoever fills or empties it.
const WAITING_MAX: usize = 1024;

pub(crate) fn start(hops: usize, certificates: Option<&PathBuf>, arrive: Arrive) -> Push {
    let mut to = serve(Place::End(arrive), certificates);
    for _ in 1..hops {
        to = serve(Place::Middle(call(&to, certificates)), certificates);
    }
    let push = call(&to, certificates);
    Box::new(move |frame| push.blocking_send(frame).expect("the stream goes on"))
}

/// Where frames come in, and what becomes of them.
#[derive(Clone)]
enum Place {
    /// They go on.
    Middle(mpsc::Sender<Frame>),
    /// They have arrived.
    End(Arrive),
}

impl Place {
    async fn take(&self, frame: Frame) {
        match self {
            Place::Middle(next) => next.send(frame).await.expect("the stream goes on"),
            Place::End(arrive) => arrive(frame),
        }
    }
}

/// Serves one place on a runtime of its own, and says where.
fn serve(place: Place, certificates: Option<&PathBuf>) -> String {
    let runtime = runtime();
    let (listener, mut server) = runtime.block_on(async {
        (tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port"), Server::builder())
    });
    let address = listener.local_addr().expect("an address");
    if let Some(folder) = certificates {
        let tls = ServerTlsConfig::new().identity(identity(folder)).client_ca_root(authority(folder));
        server = server.tls_config(tls).expect("certificates");
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    std::thread::spawn(move || runtime.block_on(server.add_service(place).serve_with_incoming(incoming)));
    format!("{}://localhost:{}", if certificates.is_some() { "https" } else { "http" }, address.port())
}

/// Opens a stream, and gives the way into it.
fn call(address: &str, certificates: Option<&PathBuf>) -> mpsc::Sender<Frame> {
    let (push, frames) = mpsc::channel(WAITING_MAX);
    let mut endpoint = Endpoint::from_shared(address.to_owned()).expect("an address").tcp_nodelay(true);
    if let Some(folder) = certificates {
        let tls = ClientTlsConfig::new().ca_certificate(authority(folder)).identity(identity(folder));
        endpoint = endpoint.tls_config(tls.domain_name("localhost")).expect("certificates");
    }
    let runtime = runtime();
    let answers = runtime.block_on(async {
        let mut client = client::Grpc::new(endpoint.connect().await.expect("it serves"));
        client.ready().await.expect("it is ready");
        let codec = ProstCodec::<Frame, Frame>::default();
        let path = PathAndQuery::from_static(PATH);
        client.streaming(Request::new(ReceiverStream::new(frames)), path, codec).await.expect("a stream")
    });
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut answers = answers.into_inner();
            while let Ok(Some(_)) = answers.message().await {}
        });
    });
    push
}

impl server::NamedService for Place {
    const NAME: &'static str = "versus.Way";
}

impl tower::Service<http::Request<Body>> for Place {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let place = self.clone();
        Box::pin(async move {
            let mut grpc = server::Grpc::new(ProstCodec::<Frame, Frame>::default());
            Ok(grpc.streaming(place, request).await)
        })
    }
}

impl server::StreamingService<Frame> for Place {
    type Response = Frame;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Frame>>) -> Self::Future {
        let place = self.clone();
        let (answer, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut frames = request.into_inner();
            while let Ok(Some(frame)) = frames.message().await {
                place.take(frame).await;
            }
            drop(answer);
        });
        Box::pin(
            async move { Ok(Response::new(Box::pin(ReceiverStream::new(answers)) as Self::ResponseStream)) },
        )
    }
}

fn authority(folder: &Path) -> Certificate {
    Certificate::from_pem(fs::read(folder.join("ca.crt")).expect("an authority"))
}

fn identity(folder: &Path) -> Identity {
    let read = |name: &str| fs::read(folder.join(name)).expect("a certificate");
    Identity::from_pem(read("own.crt"), read("own.key"))
}
