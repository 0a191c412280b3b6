//! What an edge shows of itself.

use std::time::Duration;

use crate::EdgeName;

/// Which end of an edge this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It sends.
    Sender,
    /// It receives.
    Receiver,
}

impl Side {
    /// The word of metrics and logs: `sender` or `receiver`.
    pub fn word(self) -> &'static str {
        match self {
            Side::Sender => "sender",
            Side::Receiver => "receiver",
        }
    }
}

/// One end of an edge, looked at in one instant; counts are since the process began to use the edge.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeView {
    /// Which edge.
    pub name: EdgeName,
    /// Which end.
    pub side: Side,
    /// Peers that are known.
    pub peers: usize,
    /// Peers with an open connection.
    pub connected: usize,
    /// The longest last round trip among the connected peers; a sender measures it.
    pub rtt: Option<Duration>,
    /// Bytes that all peers together would take now; what a receiver grants beyond what it holds.
    pub credit_bytes: u64,
    /// Batches sent, and not settled by their receiver; received, and not settled here.
    pub unsettled_batches: u64,
    /// Batches settled, and in a state of the receiver: they come again if it dies.
    pub unreleased_batches: u64,
    /// Batches sent or received.
    pub batches: u64,
    /// Batches sent again after a connection broke, or moved to another peer.
    pub resent: u64,
    /// Batches that came again from a peer that lives, and were passed over.
    pub repeats: u64,
    /// Connections that opened.
    pub connections: u64,
    /// Calls that failed or were refused.
    pub refusals: u64,
    /// Until the certificate of this process ends; negative when it has ended.
    pub certificate_seconds_left: i64,
}

impl EdgeView {
    pub(crate) fn new(name: EdgeName, side: Side, certificate_seconds_left: i64) -> Self {
        EdgeView {
            name,
            side,
            peers: 0,
            connected: 0,
            rtt: None,
            credit_bytes: 0,
            unsettled_batches: 0,
            unreleased_batches: 0,
            batches: 0,
            resent: 0,
            repeats: 0,
            connections: 0,
            refusals: 0,
            certificate_seconds_left,
        }
    }

    /// Adds what another end of the same edge in this process shows.
    pub(crate) fn add(&mut self, other: &EdgeView) {
        self.peers = self.peers.max(other.peers);
        self.connected = self.connected.max(other.connected);
        self.rtt = self.rtt.max(other.rtt);
        self.credit_bytes += other.credit_bytes;
        self.unsettled_batches += other.unsettled_batches;
        self.unreleased_batches += other.unreleased_batches;
        self.batches += other.batches;
        self.resent += other.resent;
        self.repeats += other.repeats;
        self.connections += other.connections;
        self.refusals += other.refusals;
    }
}
