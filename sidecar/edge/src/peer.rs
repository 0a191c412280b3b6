//! One peer of a sender: calls it, carries batches to it, and calls it again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use crate::{
    Place,
    dial::{Connection, DialError, dial},
    link::{Done, Frame, FrameReader, ProtocolError, Sending, Welcome},
    owed::{Owed, Share},
    peering::lock,
    roster::Roster,
    wire::{Wire, tls_reason},
};

/// A receiving peer, as its sender sees it.
pub(crate) struct Peer {
    pub(crate) place: Place,
    pub(crate) link: Mutex<Sending<Owed, Share>>,
    /// There may be something to write.
    pub(crate) wake: Notify,
    retired: watch::Sender<bool>,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    pub(crate) refusals: u64,
    pub(crate) rtt: Option<Duration>,
    /// Whether it runs on the same machine.
    pub(crate) is_near: bool,
}

/// Why a connection ended.
enum End {
    Lost(String),
    /// The peer closed it in due form: what it took, it has settled.
    Closed,
    Replaced(Box<(Connection, Welcome)>),
    Finished,
}

impl Peer {
    pub(crate) fn new(place: Place, session: u128) -> Peer {
        Peer {
            place,
            link: Mutex::new(Sending::new(session)),
            wake: Notify::new(),
            retired: watch::Sender::new(false),
            counts: Mutex::default(),
        }
    }

    /// Ends its task.
    pub(crate) fn retire(&self) {
        self.retired.send_replace(true);
    }

    pub(crate) fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// Whether its task was ended.
    pub(crate) fn is_retired(&self) -> bool {
        *self.retired.borrow()
    }

    async fn retired(&self) {
        let mut retired = self.retired.subscribe();
        // The sender of the news is this very peer, so it cannot be gone.
        let _ = retired.wait_for(|retired| *retired).await;
    }
}

/// The life of a peer, until it is retired or its sender has ended.
pub(crate) async fn run(sender: Arc<Roster>, peer: Arc<Peer>) {
    tokio::select! {
        () = peer.retired() => {}
        () = stay_connected(&sender, &peer) => {}
    }
    lock(&peer.link).close();
}

async fn stay_connected(sender: &Roster, peer: &Peer) {
    let edge = sender.target.name.to_string();
    let mut caller = Caller { sender, peer, failures: 0, said: None };
    while !sender.end() {
        let (mut connection, mut welcome) = caller.call().await;
        let begun = sender.peering.clock().now();
        let end = loop {
            if let Err(error) = open(sender, peer, &welcome) {
                break End::Lost(error.to_string());
            }
            match carry(sender, peer, connection).await {
                End::Replaced(fresh) => (connection, welcome) = *fresh,
                end => break end,
            }
        };
        let was_leaving = lock(&peer.link).is_leaving();
        lock(&peer.link).close();
        match end {
            End::Lost(reason) => {
                tracing::info!(edge, peer = %peer.place.address, "connection lost: {reason}");
                sender.lost();
            }
            End::Closed => {
                tracing::info!(edge, peer = %peer.place.address, "connection closed by the peer");
                sender.lost();
                if was_leaving {
                    sender.move_from(peer);
                }
            }
            End::Finished | End::Replaced(_) => return,
        }
        // A peer that opens and closes at once is called no sooner than one that does not answer.
        if sender.peering.clock().now().since(begun) > STEADY {
            caller.failures = 0;
        } else {
            caller.rest().await;
        }
    }
}

fn open(sender: &Roster, peer: &Peer, welcome: &Welcome) -> Result<(), ProtocolError> {
    let mut done = Done::default();
    let opened = lock(&peer.link).open(welcome, &mut done);
    end(sender, peer, &mut done);
    opened?;
    {
        let mut counts = lock(&peer.counts);
        counts.connections += 1;
        counts.is_near = !welcome.node.is_empty() && welcome.node == sender.peering.node();
    }
    sender.opened();
    Ok(())
}

/// Pays what is owed no longer. Whoever hears of it may do so without our lock; and first that events have ended, then
/// that nothing holds them.
fn end(sender: &Roster, peer: &Peer, done: &mut Done<Owed, Share>) {
    if !done.settled.is_empty() {
        done.settled.drain(..).for_each(|(owed, ended)| owed.pay(ended));
        lock(&peer.link).paid();
    }
    done.released.drain(..).for_each(Share::release);
    sender.say_lost(peer, std::mem::take(&mut done.lost));
}

/// Calls a peer until it answers.
struct Caller<'a> {
    sender: &'a Roster,
    peer: &'a Peer,
    failures: u32,
    /// The last reason, so that it is logged when it changes and not each time.
    said: Option<String>,
}

impl Caller<'_> {
    async fn call(&mut self) -> (Connection, Welcome) {
        loop {
            match self.try_once().await {
                Ok(opened) => {
                    self.said = None;
                    return opened;
                }
                Err(error) => {
                    lock(&self.peer.counts).refusals += 1;
                    let reason = error.to_string();
                    if self.said.as_ref() != Some(&reason) {
                        let edge = self.sender.target.name.to_string();
                        tracing::warn!(edge, peer = %self.peer.place.address, "not connected: {reason}");
                        self.said = Some(reason);
                    }
                    self.sender.lost();
                    self.rest().await;
                }
            }
        }
    }

    async fn try_once(&self) -> Result<(Connection, Welcome), DialError> {
        let target = &self.sender.target;
        let hello = lock(&self.peer.link).hello(&target.name.pipeline, &target.name.edge);
        let identity = self.sender.peering.identity();
        dial(self.peer.place.address, target.transport, identity, &target.identity, &hello).await
    }

    async fn rest(&mut self) {
        let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(10)).min(RETRY_LAST);
        self.failures += 1;
        sleep(self.sender.peering.jittered(wait)).await;
    }
}

/// Carries batches over a connection until it ends.
async fn carry(sender: &Roster, peer: &Peer, connection: Connection) -> End {
    let Connection { wire, reader } = connection;
    let Wire { read, write, quic: _open } = wire;
    tokio::select! {
        end = read_frames(sender, peer, read, reader) => end,
        end = write_frames(sender, peer, write) => end,
        fresh = replace(sender, peer) => End::Replaced(Box::new(fresh)),
    }
}

/// Opens another connection when the identity has changed or the one that is open is old; the old one goes on until then.
async fn replace(sender: &Roster, peer: &Peer) -> (Connection, Welcome) {
    let mut changes = sender.peering.identity().changes();
    let aged = sleep(sender.peering.jittered(CONNECTION_AGE));
    tokio::select! {
        _ = changes.changed() => {
            // Not every peer at once: they may share a receiver.
            sleep(sender.peering.jittered(REPLACE_SPREAD)).await;
        }
        () = aged => {}
    }
    Caller { sender, peer, failures: 0, said: None }.call().await
}

async fn read_frames(
    sender: &Roster,
    peer: &Peer,
    mut stream: impl AsyncRead + Unpin,
    mut reader: FrameReader,
) -> End {
    let mut done = Done::default();
    loop {
        let taken = take_frames(sender, peer, &mut reader, &mut done);
        end(sender, peer, &mut done);
        if let Err(error) = taken {
            return End::Lost(error.to_string());
        }
        sender.moved();
        peer.wake.notify_one();
        match timeout(SILENCE, stream.read_buf(reader.buffer())).await {
            Ok(Ok(0)) => return End::Closed,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return End::Lost(tls_reason(&error)),
            Err(_) => return End::Lost(format!("nothing was heard for {SILENCE:?}")),
        }
    }
}

/// Takes in what has come. What is owed no longer is in `done` also where it fails.
fn take_frames(
    sender: &Roster,
    peer: &Peer,
    reader: &mut FrameReader,
    done: &mut Done<Owed, Share>,
) -> Result<(), ProtocolError> {
    while let Some(frame) = reader.next_frame()? {
        match frame {
            Frame::Acknowledge { settled, released, credit } => {
                lock(&peer.link).acknowledge(settled, released, credit, done)?;
            }
            Frame::Pong { token } => {
                let now = sender.peering.clock().now().as_nanos();
                lock(&peer.counts).rtt = Some(Duration::from_nanos(now.saturating_sub(token)));
            }
            Frame::Bye => lock(&peer.link).bye(),
            Frame::Ended { sequence, ended } => lock(&peer.link).ended(sequence, ended)?,
            _ => return Err(ProtocolError::Unexpected { what: "a frame of a sender" }),
        }
    }
    Ok(())
}

async fn write_frames(sender: &Roster, peer: &Peer, mut stream: impl AsyncWrite + Unpin) -> End {
    let mut out = Vec::with_capacity(WRITE_BYTES);
    let clock = sender.peering.clock();
    let mut ping_at = clock.now();
    loop {
        lock(&peer.link).transmit(&mut out, WRITE_BYTES);
        if clock.now() >= ping_at {
            Frame::Ping { token: clock.now().as_nanos() }.write(&mut out);
            ping_at = clock.now() + PING_EVERY;
        }
        if out.is_empty() {
            if sender.end() {
                // A farewell that does not arrive changes nothing.
                let _ = timeout(PING_EVERY, stream.shutdown()).await;
                return End::Finished;
            }
            let _ = timeout(ping_at.since(clock.now()), peer.wake.notified()).await;
            continue;
        }
        let written = async {
            stream.write_all(&out).await?;
            stream.flush().await
        };
        match timeout(SILENCE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Lost(tls_reason(&error)),
            Err(_) => return End::Lost(format!("nothing was taken for {SILENCE:?}")),
        }
        out.clear();
        out.shrink_to(4 * WRITE_BYTES);
    }
}

const WRITE_BYTES: usize = 64 << 10;
const PING_EVERY: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for so long is taken for dead: a ping is answered at once.
const SILENCE: Duration = Duration::from_secs(20);
/// A connection that lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_secs(3);
/// Connections are renewed so often, whatever happens: a handshake proves only what was true then.
const CONNECTION_AGE: Duration = Duration::from_secs(12 * 3600);
const REPLACE_SPREAD: Duration = Duration::from_millis(50);
