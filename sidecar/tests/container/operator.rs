//! A control server with a real authority, which vouches for whoever brings the token of the test.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use sidestream_control::{
    Anchored, Anchors, Applied, Certify, CertifyRequest, CertifyResponse, CertifyServer, Drained, Elsewhere,
    Halting, Orders, Plan, Plans, Report, SidecarOrders, SidecarReport, Suspend, Sync, SyncServer,
};
use sidestream_host::Clock;
use sidestream_trust::{Authority, Callers, Identity, SpiffeId};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream, wrappers::WatchStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub(crate) const TOKEN: &str = "the token of the test";

/// A control server on a port of its own.
pub(crate) struct Operator {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    desk: Desk,
    applied: mpsc::Receiver<Applied>,
    anchored: mpsc::Receiver<Anchored>,
    halting: mpsc::Receiver<Halting>,
    drained: mpsc::Receiver<Drained>,
    runtime: Runtime,
}

/// What its two services share.
#[derive(Clone)]
struct Desk {
    authority: Arc<Authority>,
    issuer: Arc<watch::Sender<u64>>,
    plans: Arc<watch::Sender<Plans>>,
    asked: Arc<Mutex<u32>>,
    /// Who leads, where it is another.
    leader: Option<SocketAddr>,
    applied: mpsc::Sender<Applied>,
    anchored: mpsc::Sender<Anchored>,
    halting: mpsc::Sender<Halting>,
    drained: mpsc::Sender<Drained>,
}

impl Operator {
    pub(crate) fn start() -> Operator {
        Operator::start_at("127.0.0.1:0".parse().unwrap())
    }

    /// With a root of its own, at an address that may still be in use by another for a moment.
    pub(crate) fn start_at(address: SocketAddr) -> Operator {
        let authority = Authority::create("cluster.local", &Clock::machine()).unwrap();
        Operator::start_with(address, Arc::new(authority), None)
    }

    /// A replica that does not lead.
    pub(crate) fn start_behind(leader: &Operator) -> Operator {
        let address = "127.0.0.1:0".parse().unwrap();
        Operator::start_with(address, leader.authority.clone(), Some(leader.address))
    }

    fn start_with(address: SocketAddr, authority: Arc<Authority>, leader: Option<SocketAddr>) -> Operator {
        let clock = Clock::machine();
        let identity = Identity::new(
            authority.credentials(&id("sidestream-system", "sidestream-operator"), &[], DAY).unwrap(),
            &clock,
        );
        let ((applied, heard_applied), (anchored, heard_anchored), (drained, heard_drained)) =
            (mpsc::channel(), mpsc::channel(), mpsc::channel());
        let (halting, heard_halting) = mpsc::channel();
        let desk = Desk {
            authority: authority.clone(),
            issuer: Arc::new(watch::Sender::new(1)),
            plans: Arc::new(watch::Sender::new(plans("h1", 100.0))),
            asked: Arc::default(),
            leader,
            applied,
            anchored,
            halting,
            drained,
        };
        let runtime = Runtime::new().unwrap();
        let end = Instant::now() + PATIENCE;
        let listener = loop {
            match runtime.block_on(TcpListener::bind(address)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < end, "{address}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, identity, desk.clone()));
        Operator {
            address,
            authority,
            desk,
            applied: heard_applied,
            anchored: heard_anchored,
            halting: heard_halting,
            drained: heard_drained,
            runtime,
        }
    }

    pub(crate) fn order(&self, plans: Plans) {
        self.desk.plans.send_replace(plans);
    }

    pub(crate) fn change_issuer(&self) {
        self.desk.issuer.send_replace(2);
    }

    pub(crate) fn next_applied(&self) -> Applied {
        self.applied.recv_timeout(PATIENCE).expect("a report of a plan")
    }

    pub(crate) fn next_anchored(&self) -> Anchored {
        self.anchored.recv_timeout(PATIENCE).expect("a report of anchors")
    }

    pub(crate) fn next_halting(&self) -> Halting {
        self.halting.recv_timeout(PATIENCE).expect("a report of what halts")
    }

    pub(crate) fn next_drained(&self) -> Drained {
        self.drained.recv_timeout(PATIENCE).expect("a report of a drain")
    }

    /// How many have asked for a certificate.
    pub(crate) fn asked(&self) -> u32 {
        *self.desk.asked.lock().unwrap()
    }

    /// Is gone, with all its connections.
    pub(crate) fn stop(self) {
        self.runtime.shutdown_background();
    }
}

/// One pipeline that counts `rate` events a second.
pub(crate) fn plans(hash: &str, rate: f64) -> Plans {
    plans_to(hash, rate, "blackhole: {}")
}

/// The same, with a sink of this kind.
pub(crate) fn plans_to(hash: &str, rate: f64, sink: &str) -> Plans {
    plans_of(hash, rate, &format!("name: gone, sink: {{{sink}}}"))
}

/// The same, with this stage behind its source.
pub(crate) fn plans_of(hash: &str, rate: f64, stage: &str) -> Plans {
    let yaml = format!(
        "kind: Pipeline\nmetadata: {{name: count, namespace: shop}}\nspec:\n  stages:\n  - {{name: tick, source: {{generator: {{rate: {rate}}}}}}}\n  - {{{stage}}}\n"
    );
    let compiled = sidestream_crds::compile(yaml.as_bytes(), "count.yaml");
    let sidecar = &compiled.pipelines[0].sidecars[0];
    Plans { plans: vec![Plan::wrap(&sidecar.plan, hash, sidecar.name.as_str(), Suspend::Run)] }
}

pub(crate) fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", namespace, account).unwrap()
}

async fn serve(listener: TcpListener, identity: Identity, desk: Desk) {
    let acceptor = TlsAcceptor::from(identity.server_config(Callers::ProvedOrNameless, &[b"h2"]).unwrap());
    let (take, connections) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(socket).await {
                let _ = take.send(Ok::<_, std::io::Error>(stream)).await;
            }
        }
    });
    let server =
        Server::builder().add_service(CertifyServer::new(desk.clone())).add_service(SyncServer::new(desk));
    server.serve_with_incoming(ReceiverStream::new(connections)).await.unwrap();
}

#[tonic::async_trait]
impl Certify for Desk {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        *self.asked.lock().unwrap() += 1;
        let CertifyRequest { csr_der, token, .. } = request.into_inner();
        if token != TOKEN {
            return Err(Status::unauthenticated("no such token"));
        }
        let chain = self.authority.issue(&csr_der, &id("shop", "count-main-spl"), &[], DAY);
        let chain = chain.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(CertifyResponse {
            chain_der: chain.iter().map(|der| der.to_vec()).collect(),
            anchors_der: vec![self.authority.anchor().to_vec()],
            issuer: *self.issuer.borrow(),
            generation: *self.issuer.borrow(),
            ..CertifyResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Sync for Desk {
    type SyncStream = std::pin::Pin<Box<dyn Stream<Item = Result<SidecarOrders, Status>> + Send>>;

    async fn sync(
        &self,
        reports: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        if let Some(leader) = self.leader {
            let elsewhere = Orders::Elsewhere(Elsewhere { address: leader.to_string() });
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(elsewhere.into())))));
        }
        let (desk, mut reports) = (self.clone(), reports.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                // Whoever listens may be gone: the test is over then.
                let _ = match report.report {
                    Some(Report::Applied(applied)) => desk.applied.send(applied).is_ok(),
                    Some(Report::Anchored(anchored)) => desk.anchored.send(anchored).is_ok(),
                    Some(Report::Halting(halting)) => desk.halting.send(halting).is_ok(),
                    Some(Report::Drained(drained)) => desk.drained.send(drained).is_ok(),
                    _ => true,
                };
            }
        });
        let der = vec![self.authority.anchor().to_vec()];
        let anchors = WatchStream::new(self.issuer.subscribe()).map(move |issuer| {
            Ok(Orders::Anchors(Anchors { generation: issuer, der: der.clone(), issuer }).into())
        });
        let plans = WatchStream::new(self.plans.subscribe()).map(|plans| Ok(Orders::Plans(plans).into()));
        Ok(Response::new(Box::pin(plans.merge(anchors))))
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);
const PATIENCE: Duration = Duration::from_secs(20);
