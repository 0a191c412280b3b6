//! The one listener of a process: every edge that it receives comes through this port, by TCP or by QUIC.
//!
//! A caller proves who it is in the handshake, then names pipeline and edge. What clients can make the process hold is
//! bounded before they have proved anything: handshakes at once, the time for each, the bytes of a hello.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use quinn::Endpoint;
use sidestream_host::{Clock, Random};
use sidestream_trust::{Callers, Identity, Peer, SpiffeId, peer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    EdgeName, EdgeReceiver, EdgeView,
    dial::{ALPN, FRAME_HEAD_BYTES, GREETING_BYTES_MAX, HANDSHAKE_WITHIN},
    link::{FRAME_BYTES_MAX, Frame, FrameReader, ProtocolError, Refused, Taken, Welcome},
    peering::lock,
    receiver::{Admitted, Inlet},
    wire::{Chain, Unread, Wire, listen_quic, tls_reason},
};

/// The listener. Its task ends when this is dropped.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
}

/// Where the listener is in its life.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Phase {
    Open,
    /// No new connections.
    Closing,
    /// No connections.
    Ended,
}

struct Shared {
    identity: Identity,
    clock: Clock,
    node: String,
    inlets: Mutex<HashMap<EdgeName, Arc<Inlet>>>,
    turned_away: Mutex<BTreeMap<String, u64>>,
    random: Mutex<Random>,
    phase: watch::Receiver<Phase>,
}

/// Why a caller was turned away.
enum Away {
    /// It left before it said anything: a probe.
    Nothing,
    Slow(&'static str),
    NotTrusted(String),
    Protocol(ProtocolError),
    Refused(SpiffeId, Refused),
    Lost(io::Error),
}

impl Listener {
    pub(crate) fn start(
        (tcp, udp): (TcpListener, UdpSocket),
        identity: Identity,
        clock: Clock,
        node: String,
    ) -> io::Result<Listener> {
        let (sender, phase) = watch::channel(Phase::Open);
        let shared = Arc::new(Shared {
            identity,
            clock,
            node,
            inlets: Mutex::default(),
            turned_away: Mutex::default(),
            random: Mutex::new(Random::from_entropy()),
            phase,
        });
        let quic = listen_quic(udp, shared.config().map_err(|away| io::Error::other(away.words().0))?)?;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        tokio::spawn(accept_tcp(tcp, shared.clone(), handshakes.clone()));
        tokio::spawn(accept_quic(quic, shared.clone(), handshakes));
        Ok(Listener { shared, phase: sender })
    }

    pub(crate) fn register(&self, name: EdgeName, allowed: Vec<SpiffeId>) -> EdgeReceiver {
        let inlet = {
            let mut inlets = lock(&self.shared.inlets);
            let shared = &self.shared;
            let new = || {
                let mut random = lock(&shared.random);
                let session = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
                Arc::new(Inlet::new(name.clone(), session, shared.clock.clone()))
            };
            inlets.entry(name.clone()).or_insert_with(new).clone()
        };
        EdgeReceiver::new(inlet, allowed)
    }

    pub(crate) fn views(&self, certificate_seconds_left: i64) -> Vec<EdgeView> {
        self.inlets().iter().map(|inlet| inlet.view(certificate_seconds_left)).collect()
    }

    pub(crate) fn turned_away(&self) -> Vec<(String, u64)> {
        lock(&self.shared.turned_away).iter().map(|(reason, count)| (reason.clone(), *count)).collect()
    }

    pub(crate) fn ask_again(&self, pipeline: &str) {
        let inlets = self.inlets();
        inlets.iter().filter(|inlet| inlet.name.pipeline == pipeline).for_each(|inlet| inlet.ask_again());
    }

    pub(crate) async fn close(&self, grace: Duration) {
        self.phase.send_replace(Phase::Closing);
        let until = self.shared.clock.now() + grace;
        while self.shared.clock.now() < until && !self.inlets().iter().all(|inlet| inlet.is_quiet()) {
            sleep(LOOK_AGAIN).await;
        }
        self.phase.send_replace(Phase::Ended);
    }

    fn inlets(&self) -> Vec<Arc<Inlet>> {
        lock(&self.shared.inlets).values().cloned().collect()
    }
}

async fn accept_tcp(socket: TcpListener, shared: Arc<Shared>, handshakes: Arc<Semaphore>) {
    loop {
        let permit = handshakes.clone().acquire_owned().await.expect("it is never closed");
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = shared.reached(Phase::Closing) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let config = shared.config();
                let handshake = async move { Wire::take_tcp(config?, stream).await.map_err(Away::of) };
                tokio::spawn(receive(shared.clone(), address, permit, handshake));
            }
            Err(error) => {
                tracing::warn!("cannot accept an edge connection: {error}");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn accept_quic(endpoint: Endpoint, shared: Arc<Shared>, handshakes: Arc<Semaphore>) {
    loop {
        let permit = handshakes.clone().acquire_owned().await.expect("it is never closed");
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = shared.reached(Phase::Closing) => None,
        };
        let Some(incoming) = incoming else { return };
        let is_busy = handshakes.available_permits() < HANDSHAKES_MAX / 2;
        if is_busy && incoming.may_retry() {
            // An address that nobody answers at takes no place.
            if let Err(error) = incoming.retry() {
                tracing::debug!("no retry was sent: {error}");
            }
            continue;
        }
        let (address, config) = (incoming.remote_address(), shared.config());
        let handshake = async move { Wire::take_quic(config?, incoming).await.map_err(Away::of) };
        tokio::spawn(receive(shared.clone(), address, permit, handshake));
    }
}

/// The life of a connection.
async fn receive(
    shared: Arc<Shared>,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
    handshake: impl Future<Output = Result<(Wire, Chain), Away>>,
) {
    let greeted = async {
        let shaken = timeout(HANDSHAKE_WITHIN, handshake);
        let (wire, chain) = shaken.await.map_err(|_| Away::Slow("handshake"))??;
        greet(&shared, wire, chain).await
    };
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = shared.reached(Phase::Ended) => return,
    };
    drop(permit);
    match greeted {
        Ok(guest) => serve(&shared, guest).await,
        Err(away) => shared.turn_away(address, &away),
    }
}

/// Somebody who was let in, and the connection.
struct Guest {
    wire: Wire,
    reader: FrameReader,
    peer: Peer,
    inlet: Arc<Inlet>,
    admitted: Admitted,
}

async fn greet(shared: &Shared, mut wire: Wire, chain: Chain) -> Result<Guest, Away> {
    let peer = peer(chain.as_deref()).map_err(|refusal| Away::NotTrusted(refusal.to_string()))?;
    let mut reader = FrameReader::new(GREETING_BYTES_MAX);
    let hello = timeout(HANDSHAKE_WITHIN, wire.read(&mut reader)).await.map_err(|_| Away::Slow("hello"))?;
    let hello = match hello {
        Ok(Some(Frame::Hello(hello))) => hello,
        Ok(Some(_)) => {
            return Err(Away::Protocol(ProtocolError::Unexpected { what: "anything but a hello" }));
        }
        Ok(None) => return Err(Away::Nothing),
        Err(Unread::Protocol(error)) => return Err(Away::Protocol(error)),
        Err(Unread::Lost(error)) => return Err(Away::Lost(error)),
    };
    reader.set_limit(FRAME_BYTES_MAX + FRAME_HEAD_BYTES);
    let name = EdgeName { pipeline: hello.pipeline.clone(), edge: hello.edge.clone() };
    let inlet = lock(&shared.inlets).get(&name).cloned();
    let admitted = inlet.ok_or(Refused::UnknownEdge).and_then(|inlet| {
        let admitted = inlet.admit(&peer.id, &hello)?;
        Ok((inlet, admitted))
    });
    match admitted {
        Ok((inlet, admitted)) => {
            let welcome = Welcome { node: shared.node.clone(), ..admitted.welcome.clone() };
            wire.write(&Frame::Welcome(welcome)).await.map_err(Away::Lost)?;
            Ok(Guest { wire, reader, peer, inlet, admitted })
        }
        Err(refused) => {
            wire.write(&Frame::Refuse(refused.clone())).await.map_err(Away::Lost)?;
            // On its own, because it may take the other end a while to hear it.
            tokio::spawn(wire.close(LINGER));
            Err(Away::Refused(peer.id, refused))
        }
    }
}

impl Away {
    /// The reason, and who it was where that is proved.
    fn words(&self) -> (String, Option<String>) {
        match self {
            Away::Nothing => ("nothing was said".into(), None),
            Away::Slow(at) => (format!("no {at} in time"), None),
            Away::NotTrusted(reason) => (format!("no trust: {reason}"), None),
            Away::Protocol(error) => (error.to_string(), None),
            Away::Refused(id, refused) => (refused.to_string(), Some(id.to_string())),
            Away::Lost(error) => (format!("the connection broke: {error}"), None),
        }
    }

    /// A handshake failed.
    fn of(error: io::Error) -> Away {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Away::Nothing,
            io::ErrorKind::TimedOut => Away::Slow("handshake"),
            _ => Away::NotTrusted(tls_reason(&error)),
        }
    }
}

/// Carries an edge until its connection ends: at the latest when the certificate that opened it does.
async fn serve(shared: &Shared, guest: Guest) {
    let Guest { wire, reader, peer, inlet, admitted } = guest;
    let seconds = peer.not_after_seconds - shared.clock.wall_nanos().div_euclid(1_000_000_000);
    let expiry = sleep(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let Wire { read, write, quic: _open } = wire;
    let (pings, pinged) = watch::channel(None);
    let reason = tokio::select! {
        reason = read_frames(&inlet, &admitted, read, reader, pings) => reason,
        reason = write_frames(&inlet, &admitted, write, pinged) => reason,
        () = expiry => "its certificate has ended".into(),
        () = shared.reached(Phase::Ended) => "the process ends".into(),
    };
    tracing::debug!(edge = %inlet.name, peer = %peer.id, "connection ended: {reason}");
}

async fn read_frames(
    inlet: &Inlet,
    admitted: &Admitted,
    mut stream: impl AsyncRead + Unpin,
    mut reader: FrameReader,
    pings: watch::Sender<Option<u64>>,
) -> String {
    loop {
        loop {
            match reader.next_frame() {
                Ok(Some(Frame::Batch { sequence, events })) => {
                    match inlet.take(&admitted.link, admitted.connection, sequence, events) {
                        Ok(Taken::New | Taken::Repeat | Taken::Passed) => {}
                        Ok(Taken::Stale) => return "another took its place".into(),
                        Err(error) => return error.to_string(),
                    }
                }
                Ok(Some(Frame::Ping { token })) => {
                    pings.send_replace(Some(token));
                }
                Ok(Some(_)) => {
                    return ProtocolError::Unexpected { what: "a frame of a receiver" }.to_string();
                }
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
        match timeout(SILENCE, stream.read_buf(reader.buffer())).await {
            Ok(Ok(0)) => return "the peer closed it".into(),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return tls_reason(&error),
            Err(_) => return format!("nothing was heard for {SILENCE:?}"),
        }
    }
}

async fn write_frames(
    inlet: &Inlet,
    admitted: &Admitted,
    mut stream: impl AsyncWrite + Unpin,
    mut pinged: watch::Receiver<Option<u64>>,
) -> String {
    let (link, connection) = (&admitted.link, admitted.connection);
    let mut out = Vec::new();
    loop {
        if !link.look(|receiving| receiving.is_current(connection)) {
            return "another took its place".into();
        }
        let is_open = inlet.is_open();
        if is_open && link.look(|receiving| receiving.is_passing()) {
            return "what it sent cannot be taken, or it is no longer allowed".into();
        }
        let is_done = link.look(|receiving| {
            receiving.transmit(connection, &mut out);
            if !is_open {
                receiving.say_bye(connection, &mut out);
            }
            !is_open && receiving.is_released()
        });
        if pinged.has_changed().unwrap_or(false)
            && let Some(token) = *pinged.borrow_and_update()
        {
            Frame::Pong { token }.write(&mut out);
        }
        if out.is_empty() {
            if is_done {
                // A farewell that does not arrive changes nothing.
                let _ = timeout(SILENCE, stream.shutdown()).await;
                // What is still coming is read, or the kernel would answer it with a reset that overtakes the farewell.
                sleep(LINGER).await;
                return "the receiver has gone, and all is released".into();
            }
            tokio::select! {
                () = admitted.wake.notified() => {}
                _ = pinged.changed() => pinged.mark_changed(),
            }
            continue;
        }
        let written = async {
            stream.write_all(&out).await?;
            stream.flush().await
        };
        match timeout(SILENCE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tls_reason(&error),
            Err(_) => return format!("nothing was taken for {SILENCE:?}"),
        }
        out.clear();
    }
}

impl Shared {
    /// How callers prove themselves, by the identity of this moment.
    fn config(&self) -> Result<Arc<rustls::ServerConfig>, Away> {
        let config = self.identity.server_config(Callers::Proved, &[ALPN]);
        config.map_err(|error| Away::NotTrusted(error.to_string()))
    }

    async fn reached(&self, wanted: Phase) {
        // An error means that the listener is gone, which is an end too.
        let _ = self.phase.clone().wait_for(|phase| *phase >= wanted).await;
    }

    fn turn_away(&self, address: SocketAddr, away: &Away) {
        if matches!(away, Away::Nothing) {
            return;
        }
        let (reason, who) = away.words();
        tracing::warn!(caller = %address, identity = who, "edge refused: {reason}");
        let mut counts = lock(&self.turned_away);
        if counts.len() < REASONS_MAX || counts.contains_key(&reason) {
            *counts.entry(reason).or_default() += 1;
        }
    }
}

/// Handshakes at once, for a process whose edges are few.
const HANDSHAKES_MAX: usize = 64;
/// A sender pings every five seconds.
const SILENCE: Duration = Duration::from_secs(20);
/// As long as the other end may take to close after a farewell.
const LINGER: Duration = Duration::from_secs(2);
const ACCEPT_REST: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Reasons that are counted apart; a caller can word some of them.
const REASONS_MAX: usize = 64;
