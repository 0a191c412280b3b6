//! A sender's side of a link to one peer.
//!
//! ```text
//!        unkept      │    kept: settled     │   kept: unsettled    │
//!   ─────────────────┼──────────────────────┼───────────┬──────────┼──▶ numbers
//!    in a state, and │ in a state           │ on a wire │ waits    │
//!    the bytes gone  first                  settled     cursor     end
//! ```
//!
//! What is owed for a batch comes in two parts: `S` when it is settled, `R` when it is released.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    Ended, Frame, HELD_BYTES_MAX, Hello, ProtocolError, Welcome, cost,
    frame::{VERSION, VERSION_OLDEST},
};

/// Batches for one receiving peer. Each is kept with what is owed for it until no state of the peer holds it: a peer that
/// dies takes its state with it, and the next one gets it all again. Of a state that holds on to much for long only the
/// newest [`HELD_BYTES_MAX`] are kept; for the rest the source alone can bring them again.
#[derive(Debug)]
pub struct Sending<S, R> {
    session: u128,
    /// Not released, the oldest first; the oldest is number `first`.
    kept: VecDeque<Kept<S, R>>,
    first: u64,
    settled: u64,
    released: u64,
    unsettled_bytes: u64,
    /// How events ended that did not end well, by their batch, which is not settled.
    ended: BTreeMap<u64, Ended>,
    /// What the batches cost that are settled, and kept.
    held_bytes: u64,
    /// Owed for batches before `first`, each for those before a number.
    unkept: VecDeque<(u64, R)>,
    /// Batches before this were on a wire at least once.
    sent: u64,
    /// The receiver that numbers are agreed with.
    peer: Option<u128>,
    wire: Option<Wire>,
    resent: u64,
    /// Some were given out as settled, and who is owed has not heard of it yet.
    is_paying: bool,
}

/// What is owed when batches are released, of which several can be held as one.
pub trait Held {
    /// Holds what `later` holds too.
    fn join(&mut self, later: Self);
}

/// A batch, what is owed when it is settled unless that has been, and what is owed when it is released.
#[derive(Debug)]
pub struct Kept<S, R> {
    /// The batch, as [`sidestream_event::frame`] writes it.
    pub events: Bytes,
    /// None once it was settled.
    pub settle: Option<S>,
    /// Owed until it is released.
    pub release: R,
}

/// What is owed no longer.
#[derive(Debug)]
pub struct Done<S, R> {
    /// Of batches that were settled, and how their events ended.
    pub settled: Vec<(S, Ended)>,
    /// Of batches that were released.
    pub released: Vec<R>,
    /// Of batches that died with a peer's state and are no longer kept.
    pub lost: Vec<R>,
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

impl<S, R: Held> Sending<S, R> {
    /// A link of a sender that calls itself `session`, which nobody else does.
    pub fn new(session: u128) -> Self {
        Self {
            session,
            kept: VecDeque::new(),
            first: 0,
            settled: 0,
            released: 0,
            unsettled_bytes: 0,
            ended: BTreeMap::new(),
            held_bytes: 0,
            unkept: VecDeque::new(),
            sent: 0,
            peer: None,
            wire: None,
            resent: 0,
            is_paying: false,
        }
    }

    /// Adds a batch; it goes when the connection is open and the peer has granted room.
    pub fn push(&mut self, batch: Kept<S, R>) {
        self.unsettled_bytes += cost(batch.events.len());
        self.kept.push_back(batch);
    }

    /// What a new connection says first. The one that is open, if any, goes on meanwhile.
    pub fn hello(&self, pipeline: &str, edge: &str) -> Frame {
        Frame::Hello(Hello {
            version: VERSION,
            session: self.session,
            first: self.first,
            pipeline: pipeline.to_owned(),
            edge: edge.to_owned(),
        })
    }

    /// The peer opened a new connection: it takes the place of the one before.
    pub fn open(&mut self, welcome: &Welcome, done: &mut Done<S, R>) -> Result<(), ProtocolError> {
        let &Welcome { version, session, next, settled, released, credit, .. } = welcome;
        if !(VERSION_OLDEST..=VERSION).contains(&version) {
            return Err(ProtocolError::Unexpected { what: "a welcome in another version" });
        }
        if next < self.first || next > self.end() {
            return Err(ProtocolError::Impossible { claimed: next });
        }
        // A receiver that lives may say again how things ended that it has told, on another connection, since the hello.
        let settled = if self.peer == Some(session) { settled.max(self.first) } else { settled };
        if settled < self.first || settled > next {
            return Err(ProtocolError::Impossible { claimed: settled });
        }
        if released > settled {
            return Err(ProtocolError::Impossible { claimed: released });
        }
        if self.peer.replace(session).is_some_and(|before| before != session) {
            done.lost.extend(self.unkept.drain(..).map(|(_, held)| held));
            self.released = self.first;
            self.ended.clear();
        }
        // What the one before had settled, its successor has not.
        while self.settled > settled {
            self.settled -= 1;
            let bytes = cost(self.kept[(self.settled - self.first) as usize].events.len());
            self.held_bytes -= bytes;
            self.unsettled_bytes += bytes;
        }
        self.advance(settled, released, done);
        self.resent += self.sent.saturating_sub(next);
        self.wire = Some(Wire { cursor: next, sent_bytes: 0, credit, bye: false });
        Ok(())
    }

    /// The connection is gone. What is not released is kept.
    pub fn close(&mut self) {
        self.wire = None;
    }

    /// Takes an acknowledgement.
    pub fn acknowledge(
        &mut self,
        settled: u64,
        released: u64,
        credit: u64,
        done: &mut Done<S, R>,
    ) -> Result<(), ProtocolError> {
        let wire = self.wire.as_mut().ok_or(ProtocolError::Unexpected { what: "an acknowledgement" })?;
        if settled < self.settled || settled > wire.cursor {
            return Err(ProtocolError::Impossible { claimed: settled });
        }
        if released > settled {
            return Err(ProtocolError::Impossible { claimed: released });
        }
        wire.credit = wire.credit.max(credit);
        self.advance(settled, released, done);
        Ok(())
    }

    /// Takes in how events of a batch ended that is about to be settled.
    pub fn ended(&mut self, sequence: u64, ended: Ended) -> Result<(), ProtocolError> {
        self.wire.as_ref().ok_or(ProtocolError::Unexpected { what: "how a batch ended" })?;
        // Not only of this connection: where one before it was lost, the receiver still knows how later ones ended.
        if sequence >= self.sent {
            return Err(ProtocolError::Impossible { claimed: sequence });
        }
        if sequence >= self.settled {
            self.ended.insert(sequence, ended);
        }
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
            let Some(next) = self.kept.get((wire.cursor - self.first) as usize) else { break };
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

    /// Takes out everything that is kept, to be sent to another peer, whose state has nothing of it: this one will not come
    /// again. What was in its state and is not kept goes to `lost`.
    pub fn take_kept(&mut self, lost: &mut Vec<R>) -> impl Iterator<Item = Kept<S, R>> + '_ {
        lost.extend(self.unkept.drain(..).map(|(_, held)| held));
        self.first = self.end();
        (self.settled, self.released, self.sent) = (self.first, self.first, self.first);
        (self.unsettled_bytes, self.held_bytes) = (0, 0);
        self.ended.clear();
        self.wire = None;
        self.kept.drain(..)
    }

    /// Whether a connection is open and its receiver stays.
    pub fn is_open(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| !wire.bye)
    }

    /// Whether the receiver has said that it goes.
    pub fn is_leaving(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.bye)
    }

    /// Whether a connection is open.
    pub fn is_connected(&self) -> bool {
        self.wire.is_some()
    }

    /// Whether nothing is unsettled or unreleased.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.unkept.is_empty()
    }

    /// Whether every batch is settled, and who is owed has heard of it.
    pub fn is_settled(&self) -> bool {
        self.unsettled() == 0 && !self.is_paying
    }

    /// All are told that were owed for what was given out as [`Done::settled`].
    pub fn paid(&mut self) {
        self.is_paying = false;
    }

    /// Batches that are not settled.
    pub fn unsettled(&self) -> u64 {
        self.end() - self.settled
    }

    /// What the batches cost that are not settled.
    pub fn unsettled_bytes(&self) -> u64 {
        self.unsettled_bytes
    }

    /// Batches that are settled, and that a state of the peer still holds.
    pub fn unreleased(&self) -> u64 {
        self.settled - self.released
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

    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn advance(&mut self, settled: u64, released: u64, done: &mut Done<S, R>) {
        while self.settled < settled {
            let batch = &mut self.kept[(self.settled - self.first) as usize];
            let bytes = cost(batch.events.len());
            let ended = self.ended.remove(&self.settled).unwrap_or_default();
            // One that is settled again, by another peer, is owed to nobody any more.
            if let Some(owed) = batch.settle.take() {
                done.settled.push((owed, ended));
                self.is_paying = true;
            }
            self.unsettled_bytes -= bytes;
            self.held_bytes += bytes;
            self.settled += 1;
        }
        self.released = self.released.max(released);
        while self.first < released {
            done.released.extend(self.let_go());
        }
        while self.unkept.front().is_some_and(|(before, _)| *before <= released) {
            done.released.extend(self.unkept.pop_front().map(|(_, held)| held));
        }
        while self.held_bytes > HELD_BYTES_MAX {
            let held = self.let_go();
            self.unkept.extend(held.map(|held| (self.first, held)));
        }
        if self.unkept.len() > UNKEPT_MAX {
            self.thin_out();
        }
    }

    /// Lets go of the oldest, which is settled.
    fn let_go(&mut self) -> Option<R> {
        let batch = self.kept.pop_front()?;
        self.held_bytes -= cost(batch.events.len());
        self.first += 1;
        Some(batch.release)
    }

    /// Holds neighbours as one, in even steps: the position of a source then moves in longer ones.
    fn thin_out(&mut self) {
        let step = (self.first - self.released) / (UNKEPT_MAX as u64 / 4);
        let mut begin = self.released;
        for (upto, held) in std::mem::take(&mut self.unkept) {
            match self.unkept.back_mut() {
                Some((before, own)) if upto - begin <= step => {
                    own.join(held);
                    *before = upto;
                }
                last => {
                    begin = last.map_or(begin, |(before, _)| *before);
                    self.unkept.push_back((upto, held));
                }
            }
        }
    }
}

impl<S, R> Default for Done<S, R> {
    fn default() -> Self {
        Done { settled: Vec::new(), released: Vec::new(), lost: Vec::new() }
    }
}

/// Beyond this many they are thinned out.
const UNKEPT_MAX: usize = 1024;
