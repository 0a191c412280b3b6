//! The receiving end of an edge: what its senders sent, in order for each of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use sidestream_event::{Batch, frame};
use sidestream_host::{Clock, Moment};
use sidestream_trust::SpiffeId;
use tokio::sync::Notify;

use crate::{
    EdgeName, EdgeView, Side, Unreleased,
    link::{CREDIT_BYTES, Ended, Hello, ProtocolError, Receiving, Refused, Taken, Welcome},
    peering::lock,
};

/// The receiving end of an edge. Dropped, it is shut: senders are told, and batches it has not given out are not lost.
pub struct EdgeReceiver {
    inlet: Arc<Inlet>,
    turn: u64,
}

impl EdgeReceiver {
    pub(crate) fn new(inlet: Arc<Inlet>, allowed: Vec<SpiffeId>) -> Self {
        let turn = inlet.open(allowed);
        Self { inlet, turn }
    }

    /// The next batch of any sender. Waits for ever where none comes; dropped before it is ready, it has taken nothing.
    pub async fn next(&mut self) -> Arrived {
        loop {
            if let Some(arrived) = self.inlet.pop(self.turn) {
                return arrived;
            }
            self.inlet.arrived.notified().await;
        }
    }

    /// Shuts the edge with a batch in hand that the stages did not take: its sender keeps it, and those behind it.
    pub fn give_back(self, arrived: Arrived) {
        self.inlet.shut(self.turn, Some(arrived));
    }
}

impl Drop for EdgeReceiver {
    fn drop(&mut self) {
        self.inlet.shut(self.turn, None);
    }
}

/// A batch that came and is not in the stages yet. Dropped, it was not taken: its sender sends it again.
pub struct Arrived {
    link: Arc<Link>,
    sequence: u64,
    events: Bytes,
    /// How often its link was rewound when it came.
    rewinds: u64,
    is_taken: bool,
}

impl Arrived {
    /// Adds its events to `batch`.
    pub fn read_into(&self, batch: &mut Batch) -> Result<(), frame::FrameError> {
        frame::read(&self.events, batch)
    }

    /// The stages have taken it.
    pub fn taken(mut self) -> Unsettled {
        self.is_taken = true;
        self.link.change(|receiving| receiving.consumed(self.events.len()));
        Unsettled { link: self.link.clone(), sequence: self.sequence }
    }

    /// Who sent it.
    pub fn sender(&self) -> &SpiffeId {
        &self.link.sender
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if !self.is_taken {
            self.link.change(|receiving| {
                receiving.consumed(self.events.len());
                match receiving.rewinds() == self.rewinds {
                    true => receiving.rewind(self.sequence),
                    false => receiving.lose(self.sequence),
                }
            });
        }
    }
}

/// A batch in the stages. Dropped, it is never acknowledged to its sender.
pub struct Unsettled {
    link: Arc<Link>,
    sequence: u64,
}

impl Unsettled {
    /// Events of it did not end well; said before it is settled, so that the sender hears of it. Nothing is said where all
    /// did.
    pub fn end(&self, ended: Ended) {
        if ended != Ended::default() {
            self.link.change(|receiving| receiving.end(self.sequence, ended));
        }
    }

    /// Every event of it has ended, or is in a state: the sender is told.
    #[must_use = "a batch that is never released is kept by its sender for good"]
    pub fn settle(self) -> Unreleased {
        self.link.change(|receiving| receiving.settle(self.sequence));
        Unreleased::of(self.link, self.sequence)
    }

    /// Every event of it has ended, and none is in a state: the sender is told, and lets go of it.
    pub fn release(self) {
        self.link.change(|receiving| {
            receiving.settle(self.sequence);
            receiving.release(self.sequence..=self.sequence);
        });
    }

    /// Events of it were lost on the way: its sender keeps it, and sends it again on the next connection; see
    /// [`crate::Peering::ask_again`].
    pub fn lose(self) {
        self.link.change(|receiving| receiving.lose(self.sequence));
    }
}

/// What a process knows of an edge that it receives: outlives the receivers, so that a new plan repeats nothing.
pub(crate) struct Inlet {
    pub(crate) name: EdgeName,
    session: u128,
    clock: Clock,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// Counts the receivers; `None` while there is none.
    current: Option<u64>,
    turns: u64,
    allowed: Vec<SpiffeId>,
    /// Bounded by the credit of each sender.
    queue: VecDeque<Arrived>,
    links: HashMap<(SpiffeId, u128), Arc<Link>>,
    connections: u64,
    batches: u64,
}

/// The link of one sender.
pub(crate) struct Link {
    sender: SpiffeId,
    state: Mutex<LinkState>,
}

struct LinkState {
    receiving: Receiving,
    /// Wakes the task that writes to the current connection.
    wake: Arc<Notify>,
    is_open: bool,
    closed_at: Moment,
}

impl Link {
    /// Changes what was received, and wakes who tells the sender of it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Receiving)) {
        let mut state = lock(&self.state);
        change(&mut state.receiving);
        state.wake.notify_one();
    }

    /// Looks at what was received.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut Receiving) -> R) -> R {
        look(&mut lock(&self.state).receiving)
    }

    /// The connection ended.
    fn close(&self, connection: u64, clock: &Clock) {
        let mut state = lock(&self.state);
        if state.receiving.is_current(connection) {
            (state.is_open, state.closed_at) = (false, clock.now());
        }
    }
}

/// A connection that was let in. Dropped, it is closed.
pub(crate) struct Admitted {
    pub(crate) link: Arc<Link>,
    pub(crate) connection: u64,
    pub(crate) welcome: Welcome,
    pub(crate) wake: Arc<Notify>,
    clock: Clock,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.link.close(self.connection, &self.clock);
    }
}

impl Inlet {
    pub(crate) fn new(name: EdgeName, session: u128, clock: Clock) -> Self {
        Self { name, session, clock, state: Mutex::default(), arrived: Notify::new() }
    }

    fn open(&self, allowed: Vec<SpiffeId>) -> u64 {
        let mut state = lock(&self.state);
        state.turns += 1;
        state.current = Some(state.turns);
        // Who is no longer allowed is cut off.
        let others = state.links.values().filter(|link| !allowed.contains(&link.sender));
        others.for_each(|link| link.change(Receiving::pass));
        state.allowed = allowed;
        state.turns
    }

    fn shut(&self, turn: u64, in_hand: Option<Arrived>) {
        let (queue, links) = {
            let mut state = lock(&self.state);
            if state.current != Some(turn) {
                return;
            }
            state.current = None;
            (std::mem::take(&mut state.queue), state.links.values().cloned().collect::<Vec<_>>())
        };
        // Each goes back to its sender; the first of a link does it for those behind it.
        drop(in_hand);
        drop(queue);
        links.iter().for_each(|link| link.change(Receiving::pass));
    }

    fn pop(&self, turn: u64) -> Option<Arrived> {
        loop {
            let mut state = lock(&self.state);
            let arrived = if state.current == Some(turn) { state.queue.pop_front() } else { None }?;
            drop(state);
            // What its link was rewound past comes again.
            if arrived.link.look(|receiving| receiving.rewinds()) == arrived.rewinds {
                return Some(arrived);
            }
        }
    }

    /// Asks senders for what was lost, if anything was.
    pub(crate) fn ask_again(&self) {
        let links: Vec<_> = lock(&self.state).links.values().cloned().collect();
        for link in links.iter().filter(|link| link.look(|receiving| receiving.has_lost())) {
            link.change(Receiving::pass);
        }
    }

    /// Whether somebody receives.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.state).current.is_some()
    }

    /// Lets a caller in, or says why not.
    pub(crate) fn admit(&self, caller: &SpiffeId, hello: &Hello) -> Result<Admitted, Refused> {
        let mut state = lock(&self.state);
        let key = (caller.clone(), hello.session);
        if state.turns == 0 {
            return Err(Refused::UnknownEdge);
        }
        if !state.allowed.contains(caller) {
            return Err(Refused::NotAllowed);
        }
        // A sender that is known is still told what becomes of the batches it has sent.
        if state.current.is_none() && !state.links.contains_key(&key) {
            return Err(Refused::Draining);
        }
        if !state.links.contains_key(&key) && state.links.len() >= LINKS_KEPT {
            let now = self.clock.now();
            state.links.retain(|_, link| !link.is_forgotten(now));
            if state.links.len() >= LINKS_MAX {
                return Err(Refused::Busy);
            }
        }
        let link = state.links.entry(key).or_insert_with(|| {
            let receiving = Receiving::new(self.session, hello, CREDIT_BYTES);
            Arc::new(Link::new(caller.clone(), receiving))
        });
        let link = link.clone();
        let (welcome, connection, wake) = {
            let mut own = lock(&link.state);
            let (welcome, connection) = own.receiving.open(hello)?;
            if state.current.is_none() {
                own.receiving.pass();
            }
            // Whoever wrote to the connection before this one sees that it is stale, and ends.
            own.wake.notify_one();
            own.wake = Arc::default();
            own.is_open = true;
            (welcome, connection, own.wake.clone())
        };
        state.connections += 1;
        Ok(Admitted { link, connection, welcome, wake, clock: self.clock.clone() })
    }

    /// Takes a batch that came on a connection of `link`.
    pub(crate) fn take(
        &self,
        link: &Arc<Link>,
        connection: u64,
        sequence: u64,
        events: Bytes,
    ) -> Result<Taken, ProtocolError> {
        let mut state = lock(&self.state);
        if state.current.is_none() {
            link.look(Receiving::pass);
        }
        let (taken, rewinds) = link.look(|receiving| {
            let taken = receiving.take(connection, sequence, events.len())?;
            Ok((taken, receiving.rewinds()))
        })?;
        if taken == Taken::New {
            let arrived = Arrived { link: link.clone(), sequence, events, rewinds, is_taken: false };
            state.batches += 1;
            state.queue.push_back(arrived);
            drop(state);
            self.arrived.notify_one();
        }
        Ok(taken)
    }

    /// Whether every sender that is connected knows all that is settled and released, and nothing is unsettled. Where nobody
    /// receives any more, the connections close by themselves when all is released, and it is quiet when they have.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = lock(&self.state);
        state.links.values().all(|link| {
            let own = lock(&link.state);
            let is_told = own.receiving.is_settled() && own.receiving.is_all_told();
            !own.is_open || state.current.is_some() && is_told
        })
    }

    pub(crate) fn view(&self, certificate_seconds_left: i64) -> EdgeView {
        let mut view = EdgeView::new(self.name.clone(), Side::Receiver, certificate_seconds_left);
        let state = lock(&self.state);
        (view.batches, view.connections) = (state.batches, state.connections);
        view.peers = state.links.len();
        for link in state.links.values() {
            let own = lock(&link.state);
            view.connected += usize::from(own.is_open);
            view.unsettled_batches += own.receiving.unsettled();
            view.unreleased_batches += own.receiving.unreleased();
            view.repeats += own.receiving.repeats();
            if own.is_open {
                view.credit_bytes += CREDIT_BYTES.saturating_sub(own.receiving.held_bytes());
            }
        }
        view
    }
}

impl Link {
    /// Whether nobody will miss it: its sender has been away for long, and owes nothing.
    fn is_forgotten(&self, now: Moment) -> bool {
        let own = lock(&self.state);
        !own.is_open && own.receiving.is_released() && now.since(own.closed_at) > LINK_FORGOTTEN_AFTER
    }

    fn new(sender: SpiffeId, receiving: Receiving) -> Link {
        let (wake, is_open, closed_at) = (Arc::default(), false, Moment::default());
        Link { sender, state: Mutex::new(LinkState { receiving, wake, is_open, closed_at }) }
    }

    /// A link that has taken `batches` and settled them.
    #[cfg(test)]
    pub(crate) fn for_test(batches: u64) -> Arc<Link> {
        let (pipeline, edge) = ("shop/orders".to_owned(), "a->b".to_owned());
        let hello = Hello { version: 1, session: 1, first: 0, pipeline, edge };
        let mut receiving = Receiving::new(2, &hello, u64::MAX);
        let (_, connection) = receiving.open(&hello).unwrap();
        for sequence in 0..batches {
            receiving.take(connection, sequence, 0).unwrap();
            receiving.settle(sequence);
        }
        Arc::new(Link::new("spiffe://cluster.local/a".parse().unwrap(), receiving))
    }
}

/// Links beyond this many are looked through for old ones.
const LINKS_KEPT: usize = 64;
const LINKS_MAX: usize = 1024;
const LINK_FORGOTTEN_AFTER: std::time::Duration = std::time::Duration::from_secs(600);
