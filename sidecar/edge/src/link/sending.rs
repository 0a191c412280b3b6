//! A sender's side of a link to one peer.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    Frame, Hello, ProtocolError, Welcome, cost,
    frame::{VERSION, VERSION_OLDEST},
};

/// Batches for one receiving peer, each kept with its `T` (whose it is) until the peer has settled it.
#[derive(Debug)]
pub struct Sending<T> {
    session: u128,
    /// Not acknowledged, the oldest first; the oldest is number `acknowledged`.
    kept: VecDeque<Kept<T>>,
    acknowledged: u64,
    kept_bytes: u64,
    /// Batches before this were on a wire at least once.
    sent: u64,
    /// The receiver that numbers are agreed with.
    peer: Option<u128>,
    wire: Option<Wire>,
    resent: u64,
}

#[derive(Debug)]
struct Kept<T> {
    events: Bytes,
    token: T,
}

/// The connection that is open.
#[derive(Debug)]
struct Wire {
    /// The batch that goes next.
    cursor: u64,
    sent_bytes: u64,
    credit: u64,
    /// The receiver said that it goes.
    bye: bool,
}

impl<T> Sending<T> {
    /// A link of a sender that calls itself `session`, which nobody else does.
    pub fn new(session: u128) -> Self {
        Self {
            session,
            kept: VecDeque::new(),
            acknowledged: 0,
            kept_bytes: 0,
            sent: 0,
            peer: None,
            wire: None,
            resent: 0,
        }
    }

    /// Adds a batch; it goes when the connection is open and the peer has granted room.
    pub fn push(&mut self, events: Bytes, token: T) {
        self.kept_bytes += cost(events.len());
        self.kept.push_back(Kept { events, token });
    }

    /// What a new connection says first. The one that is open, if any, goes on meanwhile.
    pub fn hello(&self, pipeline: &str, edge: &str) -> Frame {
        Frame::Hello(Hello {
            version: VERSION,
            session: self.session,
            first: self.acknowledged,
            pipeline: pipeline.to_owned(),
            edge: edge.to_owned(),
        })
    }

    /// The peer opened a new connection: it takes the place of the one before. What it has settled goes to `done`.
    pub fn open(&mut self, welcome: &Welcome, done: &mut Vec<T>) -> Result<(), ProtocolError> {
        if !(VERSION_OLDEST..=VERSION).contains(&welcome.version) {
            return Err(ProtocolError::Unexpected { what: "a welcome in another version" });
        }
        let end = self.acknowledged + self.kept.len() as u64;
        if welcome.next < self.acknowledged || welcome.next > end {
            return Err(ProtocolError::Impossible { claimed: welcome.next });
        }
        if welcome.settled > welcome.next {
            return Err(ProtocolError::Impossible { claimed: welcome.settled });
        }
        self.let_go(welcome.settled.max(self.acknowledged), done);
        self.peer = Some(welcome.session);
        self.resent += self.sent.saturating_sub(welcome.next);
        self.wire = Some(Wire { cursor: welcome.next, sent_bytes: 0, credit: welcome.credit, bye: false });
        Ok(())
    }

    /// The connection is gone. What is not acknowledged is kept.
    pub fn close(&mut self) {
        self.wire = None;
    }

    /// Takes an acknowledgement: what the peer has settled goes to `done`.
    pub fn acknowledge(&mut self, settled: u64, credit: u64, done: &mut Vec<T>) -> Result<(), ProtocolError> {
        let wire = self.wire.as_mut().ok_or(ProtocolError::Unexpected { what: "an acknowledgement" })?;
        if settled < self.acknowledged || settled > wire.cursor {
            return Err(ProtocolError::Impossible { claimed: settled });
        }
        wire.credit = wire.credit.max(credit);
        self.let_go(settled, done);
        Ok(())
    }

    /// The peer goes: nothing new should be pushed.
    pub fn bye(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.bye = true;
        }
    }

    /// Adds batches that may go now to `out`, until it holds `bytes` or more. Says whether it added any.
    pub fn transmit(&mut self, out: &mut Vec<u8>, bytes: usize) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        let before = wire.cursor;
        while out.len() < bytes && !wire.bye {
            let Some(next) = self.kept.get((wire.cursor - self.acknowledged) as usize) else { break };
            if wire.sent_bytes + cost(next.events.len()) > wire.credit {
                break;
            }
            Frame::Batch { sequence: wire.cursor, events: next.events.clone() }.write(out);
            wire.sent_bytes += cost(next.events.len());
            wire.cursor += 1;
        }
        self.sent = self.sent.max(wire.cursor);
        wire.cursor > before
    }

    /// Takes out everything that is not acknowledged, to be sent to another peer: this one will not come again.
    pub fn take_kept(&mut self) -> impl Iterator<Item = (Bytes, T)> + '_ {
        self.acknowledged += self.kept.len() as u64;
        self.sent = self.acknowledged;
        self.kept_bytes = 0;
        self.wire = None;
        self.kept.drain(..).map(|kept| (kept.events, kept.token))
    }

    /// Whether a connection is open and its receiver stays.
    pub fn is_open(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| !wire.bye)
    }

    /// Whether the receiver has said that it goes.
    pub fn is_leaving(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.bye)
    }

    /// Batches that are not acknowledged.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// What the batches cost that are not acknowledged.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Bytes that the peer would take now beyond what was sent.
    pub fn credit_left(&self) -> u64 {
        self.wire.as_ref().map_or(0, |wire| wire.credit.saturating_sub(wire.sent_bytes))
    }

    /// Batches that were put on a wire at least once.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Batches that were put on a wire again after a connection broke.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    fn let_go(&mut self, settled: u64, done: &mut Vec<T>) {
        while self.acknowledged < settled
            && let Some(kept) = self.kept.pop_front()
        {
            self.kept_bytes -= cost(kept.events.len());
            self.acknowledged += 1;
            done.push(kept.token);
        }
    }
}
