//! A receiver's side of a link to one peer.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::{
    Ended, Frame, Hello, ProtocolError, Refused, Welcome, cost,
    frame::{VERSION, VERSION_ENDED, VERSION_OLDEST},
    frontier::Frontier,
};

/// What one sending peer has sent: outlives its connections, so that it is asked for what comes next.
#[derive(Debug)]
pub struct Receiving {
    /// The receiver's own name.
    session: u128,
    /// What the connection brings next.
    next: u64,
    /// Batches before this were taken, except those that are lost.
    top: u64,
    /// Every event of them has ended, or is in a state.
    settled: Frontier,
    /// No state holds them any more.
    released: Frontier,
    /// Taken, and wanted again: the stages did not take them, or lost them.
    lost: BTreeSet<u64>,
    /// How events ended that did not end well, by their batch, until the sender can have no use for it; and the batches of
    /// which it was not told on this connection.
    ended: BTreeMap<u64, Ended>,
    untold: BTreeSet<u64>,
    /// The version that both ends speak.
    version: u16,
    /// What the held may cost.
    window: u64,
    /// What the batches cost that the stages have not taken yet.
    held_bytes: u64,
    /// Counts the connections: what comes on an older one is passed over.
    connection: u64,
    received_bytes: u64,
    granted: u64,
    /// What the sender was told last on this connection.
    told: Told,
    bye: bool,
    /// Nothing more is taken on this connection.
    passing: bool,
    rewinds: u64,
    repeats: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    settled: u64,
    released: u64,
}

impl Told {
    /// As much of it as is before batch `end`.
    fn before(self, end: Option<u64>) -> Told {
        let end = end.unwrap_or(u64::MAX);
        Told { settled: self.settled.min(end), released: self.released.min(end) }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the next: give it to the stages.
    New,
    /// It was taken before: passed over.
    Repeat,
    /// The connection it came on has been replaced: passed over, and the connection should end.
    Stale,
    /// Nothing is taken any more on this connection: the sender keeps it.
    Passed,
}

impl Receiving {
    /// The link of a peer that says hello for the first time. `session` names the receiver; `window` is what the batches
    /// may cost that it holds, usually [`super::CREDIT_BYTES`].
    pub fn new(session: u128, hello: &Hello, window: u64) -> Self {
        Self {
            session,
            next: hello.first,
            top: hello.first,
            settled: Frontier::at(hello.first),
            released: Frontier::at(hello.first),
            lost: BTreeSet::new(),
            ended: BTreeMap::new(),
            untold: BTreeSet::new(),
            version: VERSION_OLDEST,
            window,
            held_bytes: 0,
            connection: 0,
            received_bytes: 0,
            granted: 0,
            told: Told::default(),
            bye: false,
            passing: false,
            rewinds: 0,
            repeats: 0,
        }
    }

    /// A connection of the peer begins; the one before is stale from now on. Gives what to answer and the number of the connection.
    pub fn open(&mut self, hello: &Hello) -> Result<(Welcome, u64), Refused> {
        if hello.version < VERSION_OLDEST {
            return Err(Refused::Version { oldest: VERSION_OLDEST });
        }
        // The sender has let go of batches that were never settled here: it gave them to another peer.
        self.top = self.top.max(hello.first);
        if hello.first > self.settled.upto() {
            self.lost = self.lost.split_off(&hello.first);
            self.settled.skip_to(hello.first);
            self.released.skip_to(hello.first);
        }
        self.next = self.lost.first().copied().unwrap_or(self.top);
        self.connection += 1;
        self.received_bytes = 0;
        self.granted = self.window.saturating_sub(self.held_bytes);
        self.version = VERSION.min(hello.version);
        // It may have been told on a connection that broke before it heard of it, so it is told again, and first.
        self.ended = self.ended.split_off(&hello.first);
        self.untold = self.ended.keys().copied().collect();
        self.told = self.reached().before(self.untold.first().copied());
        (self.bye, self.passing) = (false, false);
        let welcome = Welcome {
            version: self.version,
            session: self.session,
            next: self.next,
            settled: self.told.settled,
            released: self.told.released,
            credit: self.granted,
            node: String::new(),
        };
        Ok((welcome, self.connection))
    }

    /// Whether `connection` is the one that counts.
    pub fn is_current(&self, connection: u64) -> bool {
        self.connection == connection
    }

    /// A batch with `bytes` of events came on `connection`.
    pub fn take(&mut self, connection: u64, sequence: u64, bytes: usize) -> Result<Taken, ProtocolError> {
        if connection != self.connection {
            return Ok(Taken::Stale);
        }
        if self.passing {
            return Ok(Taken::Passed);
        }
        self.received_bytes += cost(bytes);
        if self.received_bytes > self.granted {
            return Err(ProtocolError::Overdrawn { credit: self.granted });
        }
        if sequence > self.next {
            return Err(ProtocolError::Gap { next: self.next, found: sequence });
        }
        if sequence < self.next {
            self.repeats += 1;
            return Ok(Taken::Repeat);
        }
        self.next += 1;
        if sequence < self.top && !self.lost.remove(&sequence) {
            self.repeats += 1;
            return Ok(Taken::Repeat);
        }
        self.top = self.top.max(self.next);
        self.held_bytes += cost(bytes);
        Ok(Taken::New)
    }

    /// The stages have taken a batch of `bytes` that was [`Taken::New`].
    pub fn consumed(&mut self, bytes: usize) {
        self.held_bytes = self.held_bytes.saturating_sub(cost(bytes));
    }

    /// Events of a batch that is about to be settled did not end well.
    pub fn end(&mut self, sequence: u64, ended: Ended) {
        if ended == Ended::default() || self.version < VERSION_ENDED {
            return;
        }
        self.ended.insert(sequence, ended);
        self.untold.insert(sequence);
        // What was told long ago has arrived.
        while self.ended.len() > self.untold.len() + ENDED_KEPT {
            let oldest = self.ended.keys().find(|own| !self.untold.contains(own)).copied();
            oldest.and_then(|oldest| self.ended.remove(&oldest));
        }
    }

    /// Every event of a batch has ended, or is in a state.
    pub fn settle(&mut self, sequence: u64) {
        self.settled.add(sequence);
    }

    /// No state holds an event of these batches any more, which were all settled.
    pub fn release(&mut self, sequences: RangeInclusive<u64>) {
        sequences.for_each(|sequence| self.released.add(sequence));
    }

    /// Takes nothing more on this connection; what was taken is acknowledged as before.
    pub fn pass(&mut self) {
        self.passing = true;
    }

    /// Whether nothing more is taken on this connection.
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// A batch that was taken is gone and did not come to its end: it is wanted again on the next connection.
    pub fn lose(&mut self, sequence: u64) {
        if sequence < self.top && !self.settled.contains(sequence) {
            self.lost.insert(sequence);
        }
    }

    /// Whether something is wanted again.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Batch `sequence` was not given to the stages after all, and nothing after it may be before it: it is wanted again, on
    /// a new connection.
    pub fn rewind(&mut self, sequence: u64) {
        self.lose(sequence);
        self.passing = true;
        self.rewinds += 1;
    }

    /// How often it was rewound: what was taken before and not given to the stages has to be lost as well.
    pub fn rewinds(&self) -> u64 {
        self.rewinds
    }

    /// Adds to `out` what the sender of `connection` should know: what is settled, at once; and credit, when there is
    /// enough of it to be worth a frame.
    pub fn transmit(&mut self, connection: u64, out: &mut Vec<u8>) {
        if connection != self.connection {
            return;
        }
        let credit = self.received_bytes + self.window.saturating_sub(self.held_bytes);
        let is_worth_it = credit >= self.granted + self.window / 4
            || credit > self.granted && self.granted - self.received_bytes < self.window / 4;
        for sequence in std::mem::take(&mut self.untold) {
            Frame::Ended { sequence, ended: self.ended[&sequence] }.write(out);
        }
        let reached = self.reached();
        if reached == self.told && !is_worth_it {
            return;
        }
        self.granted = self.granted.max(credit);
        self.told = reached;
        let Told { settled, released } = reached;
        Frame::Acknowledge { settled, released, credit: self.granted }.write(out);
    }

    /// Adds to `out`, once on a connection, that the receiver goes.
    pub fn say_bye(&mut self, connection: u64, out: &mut Vec<u8>) {
        if connection == self.connection && !self.bye {
            self.bye = true;
            Frame::Bye.write(out);
        }
    }

    /// Whether every batch that was taken, and not lost, is settled.
    pub fn is_settled(&self) -> bool {
        self.unsettled() == 0
    }

    /// Whether every batch that was taken, and not lost, is settled and released.
    pub fn is_released(&self) -> bool {
        self.is_settled() && self.unreleased() == 0
    }

    /// Whether the sender was told of all that is settled and released.
    pub fn is_all_told(&self) -> bool {
        self.told == self.reached() && self.untold.is_empty()
    }

    /// Batches that came again and were passed over.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Batches that were taken, and are neither settled nor lost.
    pub fn unsettled(&self) -> u64 {
        self.missing_in(&self.settled)
    }

    /// Batches that are settled and that a state still holds.
    pub fn unreleased(&self) -> u64 {
        self.missing_in(&self.released).saturating_sub(self.unsettled())
    }

    /// What the batches cost that the stages have not taken yet.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// What the sender may know, once it has heard how things ended: of what is released, only what is settled.
    fn reached(&self) -> Told {
        let settled = self.settled.upto();
        Told { settled, released: self.released.upto().min(settled) }
    }

    fn missing_in(&self, frontier: &Frontier) -> u64 {
        self.top - frontier.upto() - frontier.beyond() - self.lost.len() as u64
    }
}

/// Batches of which it is remembered how their events ended after the sender was told: more than are settled between the
/// telling and its arrival, where that is rare.
const ENDED_KEPT: usize = 1024;
