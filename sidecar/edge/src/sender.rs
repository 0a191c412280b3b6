//! The sending end of an edge: batches go to the least loaded peer, and are kept until it has settled them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sidestream_event::{Batch, Event, Mark, Outcome, frame};
use sidestream_trust::SpiffeId;
use tokio::sync::Notify;

use crate::{
    EdgeName, EdgeView, Peering, Side,
    discover::Membership,
    link::FRAME_BYTES_MAX,
    peer::{Peer, run},
    peering::lock,
};

/// To whom an edge leads.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which edge.
    pub name: EdgeName,
    /// The name that the resolver finds its receivers by.
    pub service: String,
    /// Who each of them must prove to be.
    pub identity: SpiffeId,
}

/// The sending end of an edge. Dropping it loses nothing: what it has taken is still delivered while the process lives.
pub struct EdgeSender {
    sender: Arc<Sender>,
    writer: frame::Writer,
}

impl EdgeSender {
    pub(crate) fn new(sender: Arc<Sender>) -> Self {
        Self { sender, writer: frame::Writer::default() }
    }

    /// Takes a batch as soon as some peer has room. Its mark is held until that peer has settled every event. Gives the
    /// events that can never be sent, by index, and why. Dropped before it is ready, it has taken nothing.
    pub async fn send(&mut self, batch: &Batch) -> Vec<(usize, String)> {
        let (frames, refused) = self.encode(batch);
        if !frames.is_empty() {
            let peer = self.sender.room().await;
            {
                let mut link = lock(&peer.link);
                for (events, covered) in frames {
                    link.push(events, Owed { mark: batch.mark().clone(), covered });
                }
            }
            peer.wake.notify_one();
            // It may have left between the two looks at it.
            if peer.is_retired() {
                self.sender.take_over(&peer);
            }
        }
        refused
    }

    /// The edge is gone for good: what no receiver has settled will not be sent again, and ends as dropped. Says how many
    /// events that were.
    pub fn abandon(&self) -> u64 {
        self.sender.abandon()
    }

    /// Waits until every batch that was taken is settled by its receiver.
    pub async fn settled(&self) {
        self.sender.settled().await;
    }

    /// The edge, to look at.
    pub fn view(&self) -> EdgeView {
        self.sender.view(self.sender.peering.identity().seconds_left())
    }

    fn encode(&mut self, batch: &Batch) -> (Vec<(Bytes, Covered)>, Vec<Unfit>) {
        let (mut frames, mut refused) = (Vec::new(), Vec::new());
        let (mut out, mut covered) = (Vec::new(), Covered::default());
        for (index, event) in batch.events().iter().enumerate() {
            let mut added = self.add(event, &mut out);
            if added.is_err() {
                // What the writer knows of the frame is no longer true; in one of its own the event may fit.
                flush(&mut out, &mut covered, &mut frames);
                added = self.add(event, &mut out);
            }
            if let Err(reason) = added {
                out.clear();
                refused.push((index, reason));
                continue;
            }
            covered.add(event.meta.sequence);
            if out.len() > FRAME_BYTES {
                flush(&mut out, &mut covered, &mut frames);
            }
        }
        flush(&mut out, &mut covered, &mut frames);
        (frames, refused)
    }

    /// Adds an event to the frame in `out`, or says why no edge carries it in this frame.
    fn add(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), String> {
        if out.is_empty() {
            self.writer.begin(out);
        }
        let before = out.len();
        self.writer.write(event, out).map_err(|error| format!("an edge does not carry {error}"))?;
        if out.len() - before > EVENT_BYTES_MAX {
            out.truncate(before);
            return Err(format!("it takes more than {EVENT_BYTES_MAX} bytes, the most an edge carries"));
        }
        Ok(())
    }
}

/// The place of an event in its batch, and why no edge carries it.
type Unfit = (usize, String);

/// Ends a frame that holds more than its version.
fn flush(out: &mut Vec<u8>, covered: &mut Covered, frames: &mut Vec<(Bytes, Covered)>) {
    let (frame, covered) = (std::mem::take(out), std::mem::take(covered));
    if frame.len() > 1 {
        frames.push((frame.into(), covered));
    }
}

/// Whose the events of a frame are.
#[derive(Debug)]
pub(crate) struct Owed {
    mark: Mark,
    covered: Covered,
}

/// Which events of its batch a frame carries.
#[derive(Clone, Copy, Debug, Default)]
struct Covered {
    first: u64,
    last: u64,
    count: u64,
}

impl Covered {
    fn add(&mut self, sequence: u64) {
        if self.count == 0 {
            (self.first, self.last) = (sequence, sequence);
        }
        (self.first, self.last) = (self.first.min(sequence), self.last.max(sequence));
        self.count += 1;
    }
}

impl Owed {
    /// They end as dropped; says how many they were.
    fn drop_all(self) -> u64 {
        let Covered { first, last, count } = self.covered;
        // Where a stage took some from between them the numbers are not theirs, but as many.
        let ended = (first..=last).take(count as usize);
        ended.for_each(|sequence| self.mark.end(sequence, Outcome::Dropped));
        count
    }
}

impl Drop for EdgeSender {
    fn drop(&mut self) {
        lock(&self.sender.state).closing = true;
        self.sender.look.notify_one();
        self.sender.peers().iter().for_each(|peer| peer.wake.notify_one());
    }
}

/// What the sending end shares with the tasks of its peers.
pub(crate) struct Sender {
    pub(crate) peering: Peering,
    pub(crate) target: Target,
    state: std::sync::Mutex<State>,
    /// A peer may have room.
    room: Notify,
    /// Something was settled.
    settled: Notify,
    /// It is worth asking DNS now.
    look: Notify,
}

#[derive(Default)]
struct State {
    peers: Vec<Arc<Peer>>,
    /// Batches of peers that left, while there is no other peer.
    homeless: Vec<(Bytes, Owed)>,
    /// Counts of peers that left.
    past: Past,
    /// No more batches will come: end when all are settled.
    closing: bool,
    /// Nor is any of those sent that are left.
    abandoned: bool,
}

#[derive(Clone, Copy, Default)]
struct Past {
    batches: u64,
    resent: u64,
    connections: u64,
    refusals: u64,
}

impl Sender {
    pub(crate) fn start(peering: &Peering, target: Target) -> Arc<Sender> {
        let sender = Arc::new(Sender {
            peering: peering.clone(),
            target,
            state: std::sync::Mutex::default(),
            room: Notify::new(),
            settled: Notify::new(),
            look: Notify::new(),
        });
        tokio::spawn(discover(sender.clone()));
        sender
    }

    /// The open peer that has least to do, once there is one with room.
    async fn room(&self) -> Arc<Peer> {
        loop {
            let least = self
                .peers()
                .into_iter()
                .filter_map(|peer| {
                    let link = lock(&peer.link);
                    let load = link.kept_bytes();
                    let has_room = link.is_open() && load < KEPT_BYTES_MAX;
                    drop(link);
                    has_room.then_some((load, peer))
                })
                .min_by_key(|(load, _)| *load);
            if let Some((_, peer)) = least {
                return peer;
            }
            self.room.notified().await;
        }
    }

    async fn settled(&self) {
        while !self.is_settled() {
            self.settled.notified().await;
        }
    }

    /// Whether no batch is on its way.
    pub(crate) fn is_settled(&self) -> bool {
        let state = lock(&self.state);
        state.homeless.is_empty() && state.peers.iter().all(|peer| lock(&peer.link).kept() == 0)
    }

    /// Whether its end is wished and reached.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.state).closing && self.is_settled()
    }

    fn abandon(&self) -> u64 {
        let homeless = {
            let mut state = lock(&self.state);
            (state.closing, state.abandoned) = (true, true);
            std::mem::take(&mut state.homeless)
        };
        let mut dropped: u64 = homeless.into_iter().map(|(_, owed)| owed.drop_all()).sum();
        for peer in self.peers() {
            let kept: Vec<_> = lock(&peer.link).take_kept().collect();
            dropped += kept.into_iter().map(|(_, owed)| owed.drop_all()).sum::<u64>();
            peer.retire();
        }
        self.moved();
        self.look.notify_one();
        dropped
    }

    fn peers(&self) -> Vec<Arc<Peer>> {
        lock(&self.state).peers.clone()
    }

    /// A peer's connection opened, or it settled something.
    pub(crate) fn moved(&self) {
        self.room.notify_one();
        self.settled.notify_one();
    }

    /// A peer's connection opened: what has no peer finds one.
    pub(crate) fn opened(&self) {
        let homeless = std::mem::take(&mut lock(&self.state).homeless);
        self.place(homeless);
        self.moved();
    }

    /// A peer's connection broke.
    pub(crate) fn lost(&self) {
        self.look.notify_one();
    }

    /// Gives what `peer` keeps to others, if there is one: it has said that it goes, and has gone.
    pub(crate) fn move_from(&self, peer: &Peer) {
        let others = self.peers();
        let is_other = |own: &Arc<Peer>| own.address != peer.address && lock(&own.link).is_open();
        if others.iter().any(is_other) {
            self.take_over(peer);
        }
    }

    fn take_over(&self, peer: &Peer) {
        let kept: Vec<_> = lock(&peer.link).take_kept().collect();
        lock(&self.state).past.resent += kept.len() as u64;
        self.place(kept);
        self.moved();
    }

    fn place(&self, batches: Vec<(Bytes, Owed)>) {
        if batches.is_empty() {
            return;
        }
        let open = self.peers().into_iter().filter(|peer| lock(&peer.link).is_open());
        match open.min_by_key(|peer| lock(&peer.link).kept_bytes()) {
            Some(peer) => {
                let mut link = lock(&peer.link);
                batches.into_iter().for_each(|(events, mark)| link.push(events, mark));
                drop(link);
                peer.wake.notify_one();
            }
            None => {
                let mut state = lock(&self.state);
                if !state.abandoned {
                    return state.homeless.extend(batches);
                }
                drop(state);
                for (_, owed) in batches {
                    owed.drop_all();
                }
            }
        }
    }

    fn add(self: &Arc<Self>, address: std::net::SocketAddr) {
        let peer = Arc::new(Peer::new(address, self.peering.session()));
        lock(&self.state).peers.push(peer.clone());
        tokio::spawn(run(self.clone(), peer));
    }

    fn remove(&self, peer: &Peer) {
        peer.retire();
        {
            let mut state = lock(&self.state);
            state.peers.retain(|own| own.address != peer.address);
            let (link, counts) = (lock(&peer.link), peer.counts());
            state.past.batches += link.sent();
            state.past.resent += link.resent();
            state.past.connections += counts.connections;
            state.past.refusals += counts.refusals;
        }
        self.take_over(peer);
    }

    pub(crate) fn view(&self, certificate_seconds_left: i64) -> EdgeView {
        let mut view = EdgeView::new(self.target.name.clone(), Side::Sender, certificate_seconds_left);
        let (peers, past, homeless) = {
            let state = lock(&self.state);
            (state.peers.clone(), state.past, state.homeless.len())
        };
        view.peers = peers.len();
        (view.batches, view.resent) = (past.batches, past.resent);
        (view.connections, view.refusals) = (past.connections, past.refusals);
        view.unsettled_batches = homeless as u64;
        for peer in peers {
            let (link, counts) = (lock(&peer.link), peer.counts());
            view.connected += usize::from(link.is_open() || link.is_leaving());
            view.credit_bytes += link.credit_left();
            view.unsettled_batches += link.kept() as u64;
            view.batches += link.sent();
            view.resent += link.resent();
            view.connections += counts.connections;
            view.refusals += counts.refusals;
            view.rtt = view.rtt.max(counts.rtt);
        }
        view
    }
}

/// Keeps the peers in step with what DNS says.
async fn discover(sender: Arc<Sender>) {
    let mut members = Membership::default();
    let mut said: Option<String> = None;
    while !sender.has_ended() {
        match sender.peering.resolver().resolve(&sender.target.service).await {
            Ok(found) => {
                said = None;
                members.heard(&found).into_iter().for_each(|address| sender.add(address));
                let gone: Vec<_> = members.gone().collect();
                for peer in sender.peers().iter().filter(|peer| gone.contains(&peer.address)) {
                    let link = lock(&peer.link);
                    let lives = link.is_open() || link.is_leaving();
                    drop(link);
                    if !lives {
                        members.forget(peer.address);
                        sender.remove(peer);
                    }
                }
            }
            Err(error) if said.as_deref() == Some(&error.0) => {}
            Err(error) => {
                let edge = sender.target.name.to_string();
                tracing::warn!(edge, service = sender.target.service, "peers not looked up: {error}");
                said = Some(error.0);
            }
        }
        let all_open = sender.peers().iter().all(|peer| lock(&peer.link).is_open());
        let is_steady = all_open && !sender.peers().is_empty();
        let rest = sender.peering.jittered(if is_steady { LOOK_STEADY } else { LOOK_EAGER });
        let _ = tokio::time::timeout(rest, sender.look.notified()).await;
        tokio::time::sleep(LOOK_LEAST).await;
    }
    sender.peers().iter().for_each(|peer| peer.retire());
}

/// Frames are cut here, so that no batch waits long behind another's bytes.
const FRAME_BYTES: usize = 64 << 10;
/// The longest event.
const EVENT_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_BYTES - 1024;
/// What one peer may keep of us unsettled before the sink has to wait.
const KEPT_BYTES_MAX: u64 = 16 << 20;
const LOOK_STEADY: Duration = Duration::from_secs(5);
const LOOK_EAGER: Duration = Duration::from_secs(1);
const LOOK_LEAST: Duration = Duration::from_millis(50);
