//! The doors of dnpipes: who may come in, and how what they say reaches the broker.
//!
//! ```text
//!   local socket ──────────────────────┐
//!                                      ├─▶ preamble ─▶ session: frames ─▶ requests ─▶ broker
//!                                      │   or HTTP/1.1 ─▶ http ─────▶ the same requests ─▶
//!                                      │   or HTTP/2 ──▶ http2 ─▶ grpc, http ─▶ the same ─▶
//!   TCP ─▶ TLS 1.3, both ends proved ──┘                        ◀── answers, in any order
//! ```
//!
//! A caller over TCP is who its certificate says, and may do what the access rules of a dnpipe say of that name; whoever may
//! open the local socket is the process itself. What callers can make this process hold is bounded, and most of it before they
//! have proved anything: see [`limits`](mod@limits).
//!
//! This room sees no disk and knows no certificates but through `trust`. A door that has nobody to trust does not open.

mod answers;
mod caller;
mod elsewhere;
mod groups;
mod grpc;
mod guarded;
mod http;
mod http2;
mod leases;
mod limits;
mod listen;
mod pulled;
mod refusals;
mod session;

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use sidestream_broker::Broker;
use sidestream_event::native::{DiskView, Refusal, Verified};
use sidestream_trust::Identity;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
};

pub use caller::Caller;
pub use grpc::proto;
pub use guarded::Guarded;
pub use limits::Limits;
pub use refusals::{NO_REQUEST, of_no_frame};

/// What the doors cannot see, and are asked about.
pub trait Storage: Send + Sync {
    /// The disk underneath.
    fn disk(&self) -> DiskView;

    /// What time it is: nanoseconds since 1970-01-01T00:00:00Z, for records that do not say.
    fn wall_nanos(&self) -> i64;

    /// Compares every checksum of what is stored.
    fn verify(&self) -> Pin<Box<dyn Future<Output = Result<Verified, Refusal>> + Send + '_>>;
}

/// The doors of one broker. They close when this is dropped.
pub struct Gateway {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
}

/// Where the doors are in their life.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    Open,
    /// Nobody new, and nothing new; what was asked is answered.
    Closing,
    /// No connections.
    Ended,
}

pub(crate) struct Shared {
    pub(crate) broker: Broker,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) limits: Limits,
    /// A permit for each connection that is let in over TCP.
    pub(crate) connections: Arc<Semaphore>,
    /// The same for the local socket: strangers do not keep the process's own out.
    pub(crate) local_connections: Arc<Semaphore>,
    /// The permit to compare every checksum: it reads the whole disk.
    pub(crate) verifying: Arc<Semaphore>,
    /// A permit for each KiB of large frames that are on their way in.
    pub(crate) room: Arc<Semaphore>,
    /// A permit for each KiB that may have come of streams of gRPC that are not read for now.
    pub(crate) unread: Arc<Semaphore>,
    /// What was given and may not be handed out yet.
    pub(crate) leases: leases::Leases,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Who this is to those who come over TCP: the other servers of the pool are the same.
    pub(crate) own: OnceLock<Identity>,
}

impl Gateway {
    /// The doors of `broker`, none open yet.
    pub fn new(broker: Broker, storage: Arc<dyn Storage>, limits: Limits) -> Gateway {
        let (sender, phase) = watch::channel(Phase::Open);
        let shared = Shared {
            broker,
            storage,
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            local_connections: Arc::new(Semaphore::new(limits.connections_max)),
            verifying: Arc::new(Semaphore::new(1)),
            room: Arc::new(Semaphore::new(limits.frames_kib_max)),
            unread: Arc::new(Semaphore::new(limits.frames_kib_max)),
            limits,
            leases: leases::Leases::default(),
            phase,
            own: OnceLock::new(),
        };
        Gateway { shared: Arc::new(shared), phase: sender }
    }

    /// Opens a local socket that only this user may use. One that a process before left behind is taken over. Must be called in
    /// a tokio runtime.
    ///
    /// # Errors
    /// Those of the file system; [`io::ErrorKind::AddrInUse`] where somebody answers there.
    #[cfg(unix)]
    pub fn open_local(&self, path: &Path) -> io::Result<()> {
        listen::local(self.shared.clone(), path)
    }

    /// Here is no such socket.
    ///
    /// # Errors
    /// Always [`io::ErrorKind::Unsupported`].
    #[cfg(not(unix))]
    pub fn open_local(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Opens a TCP port for those who prove who they are to `identity`. Must be called in a tokio runtime.
    pub fn open_tcp(&self, listener: TcpListener, identity: Identity) {
        // Who it is already, it stays.
        let _ = self.shared.own.set(identity.clone());
        tokio::spawn(listen::tcp(self.shared.clone(), listener, identity));
    }

    /// Serves a connection that somebody else took in, to its end: whoever is at its other end is `caller`, and says first what
    /// it speaks. Must be called in a tokio runtime.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, caller: Caller) {
        listen::receive(self.shared.clone(), stream, caller, listen::Greeting::own()).await;
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        let shared = &self.shared;
        let free = shared.connections.available_permits() + shared.local_connections.available_permits();
        2 * shared.limits.connections_max - free
    }

    /// Lets nobody in any more, answers what was asked for `grace` at most, and ends all connections.
    pub async fn close(&self, grace: Duration) {
        self.phase.send_replace(Phase::Closing);
        let count = self.shared.limits.connections_max as u32;
        let all = async {
            let _remote = self.shared.connections.acquire_many(count).await;
            let _local = self.shared.local_connections.acquire_many(count).await;
        };
        // Those that are not done then are ended.
        let _ = tokio::time::timeout(grace, all).await;
        self.phase.send_replace(Phase::Ended);
    }
}

impl Shared {
    pub(crate) async fn reached(&self, wanted: Phase) {
        // An error means that the gateway is gone, which is an end too.
        let _ = self.phase.clone().wait_for(|phase| *phase >= wanted).await;
    }

    /// Where a caller's connection gets its permit.
    pub(crate) fn connections_of(&self, caller: &Caller) -> &Arc<Semaphore> {
        match caller {
            Caller::Local => &self.local_connections,
            Caller::Peer(_) => &self.connections,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.phase.borrow() == Phase::Open && self.phase.has_changed().is_ok()
    }
}
