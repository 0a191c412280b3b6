//! Sync: a session for each connected sidecar. What it is to run and whom to trust goes down, what it says comes up.

use std::{pin::Pin, sync::Arc, time::Duration};

use sidestream_control::{
    Anchors, Elsewhere, Hello, Orders, Plans, Report, SidecarOrders, SidecarReport, Sync,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Connected, Fleet, caller};
use crate::{lease::Leadership, trust::Roots};

/// How long a caller may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// Orders on their way to a sidecar; it reads them one by one.
const ORDERS_MAX: usize = 4;

type Down = mpsc::Sender<Result<SidecarOrders, Status>>;

/// The service.
#[derive(Clone)]
pub struct Syncer {
    fleet: Fleet,
    roots: watch::Receiver<Arc<Roots>>,
    leadership: watch::Receiver<Leadership>,
}

impl Syncer {
    /// Serves the sidecars of `fleet` while this replica leads.
    pub fn new(
        fleet: Fleet,
        roots: watch::Receiver<Arc<Roots>>,
        leadership: watch::Receiver<Leadership>,
    ) -> Self {
        Self { fleet, roots, leadership }
    }

    /// Until the sidecar or the leadership is gone.
    async fn session(mut self, mut connected: Connected, mut up: Streaming<SidecarReport>, down: Down) {
        let mut orders = vec![anchors(&self.roots.borrow_and_update())];
        connected.changes.mark_changed();
        loop {
            for order in orders.drain(..) {
                if down.send(Ok(order.into())).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = connected.changes.changed() => match changed {
                    Ok(()) => {
                        orders.extend(connected.hand_out().map(|plans| Orders::Plans(Plans { plans })));
                        orders.extend(connected.hand_out_pool().map(Orders::Pool));
                    }
                    Err(_) => return,
                },
                changed = self.roots.changed() => match changed {
                    Ok(()) => orders.push(anchors(&self.roots.borrow_and_update())),
                    Err(_) => return,
                },
                report = up.message() => match report {
                    Ok(Some(SidecarReport { report: Some(report) })) => connected.report(report),
                    // Of a newer sidecar: something this operator has no use for.
                    Ok(Some(SidecarReport { report: None })) => {}
                    Ok(None) | Err(_) => return,
                },
                leader = lost(&mut self.leadership) => {
                    let _ = down.send(Ok(elsewhere(&leader).into())).await;
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Sync for Syncer {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<SidecarOrders, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let id = caller(&request)?;
        let (namespace, account) = id
            .service_account()
            .map(|(namespace, account)| (namespace.to_owned(), account.to_owned()))
            .ok_or_else(|| Status::permission_denied(format!("`{id}` is no service account")))?;
        let leader = self.leadership.borrow().clone();
        if leader != Leadership::Own {
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(elsewhere(&leader).into())))));
        }
        let mut up = request.into_inner();
        let (down, orders) = mpsc::channel(ORDERS_MAX);
        let syncer = self.clone();
        tokio::spawn(async move {
            let hello = match hello(&mut up, &namespace).await {
                Ok(hello) => hello,
                Err(refusal) => return drop(down.send(Err(refusal)).await),
            };
            tracing::debug!(namespace, pod = hello.pod, version = hello.version, "a sidecar has connected");
            let connected = syncer.fleet.connect((namespace, account), hello.pod);
            syncer.session(connected, up, down).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(orders))))
    }
}

/// The first thing a sidecar says. What it may know is by its certificate, which names its account. Which of the account's
/// pods it is, it says itself: pods of one account are one identity, and could take each other's plans as they could each
/// other's token.
async fn hello(up: &mut Streaming<SidecarReport>, namespace: &str) -> Result<Hello, Status> {
    let first =
        timeout(HELLO_MAX, up.message()).await.map_err(|_| Status::deadline_exceeded("no hello"))??;
    let Some(SidecarReport { report: Some(Report::Hello(mut hello)) }) = first else {
        return Err(Status::failed_precondition("the first report is a hello"));
    };
    if hello.namespace != namespace {
        return Err(Status::permission_denied("the certificate is of another namespace than the hello"));
    }
    hello.pod.truncate(hello.pod.floor_char_boundary(253));
    Ok(hello)
}

/// Resolves when this replica does not lead any more.
async fn lost(leadership: &mut watch::Receiver<Leadership>) -> Leadership {
    match leadership.wait_for(|leader| *leader != Leadership::Own).await {
        Ok(leader) => leader.clone(),
        Err(_) => Leadership::Nobody,
    }
}

fn anchors(roots: &Roots) -> Orders {
    Orders::Anchors(Anchors {
        generation: roots.generation,
        der: roots.anchors.certificates().iter().map(|der| der.to_vec()).collect(),
        issuer: roots.issuer_number(),
    })
}

fn elsewhere(leader: &Leadership) -> Orders {
    let address = match leader {
        Leadership::Other(address) => address.clone(),
        Leadership::Own | Leadership::Nobody => String::new(),
    };
    Orders::Elsewhere(Elsewhere { address })
}
