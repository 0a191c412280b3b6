//! Who receives an edge, and what of ours each of them has.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    EdgeView, Peering, Side, Target,
    discover::{Membership, Place},
    encode::Encoder,
    owed::{Owed, Parcel, Share},
    peer::{Peer, run},
    peering::lock,
    slots::Slots,
};

/// What the sending end of an edge shares with the tasks of its peers.
pub(crate) struct Roster {
    pub(crate) peering: Peering,
    pub(crate) target: Target,
    state: Mutex<State>,
    /// A peer may have room. Several senders may wait for it, as for the next: each takes it before it looks.
    room: Notify,
    /// Something was settled.
    settled: Notify,
    /// It is worth asking DNS now.
    look: Notify,
}

#[derive(Default)]
struct State {
    peers: Vec<Arc<Peer>>,
    /// Batches of peers that left, while there is no other peer for them, with the ordinal of their owner.
    homeless: Vec<(Option<u32>, Parcel)>,
    /// Counts of peers that left.
    past: Past,
    /// Senders that may still send; a new plan's takes the place of an old one's.
    users: usize,
    /// Nor is any of those sent that are left.
    abandoned: bool,
    /// Its tasks are gone, or about to go: nobody joins it.
    ended: bool,
    /// Who owns what; none where anybody may take anything.
    map: Option<Slots>,
    /// The same when all is settled that was sent before.
    next_map: Option<Option<Slots>>,
}

#[derive(Clone, Copy, Default)]
struct Past {
    batches: u64,
    resent: u64,
    connections: u64,
    refusals: u64,
}

impl State {
    /// Gives batches to the open peer that has least to do, or that owns them, or keeps them until there is one. Gives them
    /// back where nothing is sent any more.
    fn place(&mut self, parcels: Vec<(Option<u32>, Parcel)>) -> Vec<Parcel> {
        if self.abandoned {
            return parcels.into_iter().map(|(_, parcel)| parcel).collect();
        }
        for (owner, parcel) in parcels {
            let may_take = |peer: &&Arc<Peer>| {
                lock(&peer.link).is_open() && (owner.is_none() || peer.place.ordinal == owner)
            };
            let open = self.peers.iter().filter(may_take);
            match open.min_by_key(|peer| lock(&peer.link).unsettled_bytes()) {
                Some(peer) => {
                    lock(&peer.link).push(parcel);
                    peer.wake.notify_one();
                }
                None => self.homeless.push((owner, parcel)),
            }
        }
        Vec::new()
    }

    /// Takes back everything that a peer keeps, each with who is to have it.
    fn take_back(&mut self, peer: &Peer, lost: &mut Vec<Share>) -> Vec<(Option<u32>, Parcel)> {
        let kept = lock(&peer.link).take_kept(lost).map(|parcel| (None, parcel)).collect();
        match self.owner(peer) {
            None => self.divide(kept),
            owner => kept.into_iter().map(|(_, parcel)| (owner, parcel)).collect(),
        }
    }

    /// The ordinal under which what a peer keeps must stay, because it owns it.
    fn owner(&self, peer: &Peer) -> Option<u32> {
        peer.place.ordinal.filter(|_| self.map.as_ref().is_some_and(|map| map.has(peer.place.ordinal)))
    }

    /// Says who is to have each of these.
    fn divide(&self, parcels: Vec<(Option<u32>, Parcel)>) -> Vec<(Option<u32>, Parcel)> {
        let mut encoder = Encoder::default();
        let parcels = parcels.into_iter().map(|(_, parcel)| parcel);
        match &self.map {
            None => parcels.map(|parcel| (None, parcel)).collect(),
            Some(map) => parcels.flat_map(|parcel| encoder.divide(parcel, map)).collect(),
        }
    }

    fn is_settled(&self) -> bool {
        self.homeless.iter().all(|(_, parcel)| parcel.settle.is_none())
            && self.peers.iter().all(|peer| lock(&peer.link).is_settled())
    }

    fn is_to_end(&self) -> bool {
        let is_released =
            || self.homeless.is_empty() && self.peers.iter().all(|peer| lock(&peer.link).is_empty());
        self.users == 0 && (self.abandoned || is_released())
    }

    /// Whether nothing more is to be sent, and only states of peers have something of it.
    fn awaits_releases_only(&self) -> bool {
        self.users == 0 && self.is_settled()
    }

    /// Whether the owners may change to those of `next`: nobody has something unsettled, but for those that own nothing any
    /// more and are gone.
    fn may_turn_to(&self, next: Option<&Slots>) -> bool {
        self.peers.iter().all(|peer| lock(&peer.link).unsettled() == 0 || is_gone(peer, next))
    }

    /// The owners are those of `next` from now on. Gives what died with a state and is not kept.
    fn turn_to(&mut self, next: Option<Slots>) -> Vec<(Arc<Peer>, Vec<Share>)> {
        let gone: Vec<_> = self.peers.iter().filter(|peer| is_gone(peer, next.as_ref())).cloned().collect();
        self.map = next;
        let homeless = std::mem::take(&mut self.homeless);
        let (mut left, mut lost) = (self.divide(homeless), Vec::new());
        for peer in gone {
            let mut shares = Vec::new();
            left.extend(self.take_back(&peer, &mut shares));
            lost.push((peer, shares));
        }
        self.place(left);
        lost
    }
}

/// Whether a peer has left, and owns nothing by `next`.
fn is_gone(peer: &Peer, next: Option<&Slots>) -> bool {
    !next.is_some_and(|next| next.has(peer.place.ordinal)) && !lock(&peer.link).is_connected()
}

/// These end as dropped; says how many events of them had not ended yet.
fn drop_all(parcels: Vec<Parcel>) -> u64 {
    let mut dropped = 0;
    for Parcel { settle, release, .. } in parcels {
        dropped += settle.map_or(0, Owed::drop_all);
        release.release();
    }
    dropped
}

impl Roster {
    pub(crate) fn start(peering: &Peering, target: Target) -> Arc<Roster> {
        let state = State { users: 1, map: target.slots.clone(), ..State::default() };
        let roster = Arc::new(Roster {
            peering: peering.clone(),
            target,
            state: Mutex::new(state),
            room: Notify::new(),
            settled: Notify::new(),
            look: Notify::new(),
        });
        tokio::spawn(discover(roster.clone()));
        roster
    }

    /// One more sender sends along this edge, to the owners of `target`. Says whether it may: the events of a key stay in
    /// order only where one roster sends them.
    pub(crate) fn join(&self, target: &Target) -> bool {
        let mut state = lock(&self.state);
        let is_same = self.target.name == target.name
            && self.target.service == target.service
            && self.target.identity == target.identity
            && self.target.transport == target.transport;
        let newest = state.next_map.as_ref().unwrap_or(&state.map);
        let is_owned = [&state.map, newest, &target.slots].into_iter().any(Option::is_some);
        if !is_same || !is_owned || state.ended || state.abandoned {
            return false;
        }
        if *newest != target.slots {
            state.next_map = Some(target.slots.clone());
        }
        state.users += 1;
        true
    }

    /// A sender is gone: with the last the edge ends when all is settled and released.
    pub(crate) fn leave(&self) {
        lock(&self.state).users -= 1;
        self.look.notify_one();
        self.peers().iter().for_each(|peer| peer.wake.notify_one());
    }

    /// A peer with room: a near one that is not busy, or else the one that has least to do.
    pub(crate) async fn room(&self) -> Arc<Peer> {
        loop {
            let news = self.room.notified();
            let load = |peer: &Arc<Peer>| {
                let link = lock(&peer.link);
                (link.is_open() && link.unsettled_bytes() < KEPT_BYTES_MAX).then(|| link.unsettled_bytes())
            };
            let least = self.peers().into_iter().filter_map(|peer| {
                let load = load(&peer)?;
                let is_preferred = peer.counts().is_near && load < NEAR_BYTES_MAX;
                Some(((!is_preferred, load), peer))
            });
            if let Some((_, peer)) = least.min_by_key(|(order, _)| *order) {
                return peer;
            }
            news.await;
        }
    }

    /// The peers with these ordinals, once all of them have room.
    pub(crate) async fn rooms(&self, owners: &[u32]) -> Vec<Arc<Peer>> {
        loop {
            let news = self.room.notified();
            let peers = self.peers();
            let open = |owner: &u32| {
                let mut own = peers.iter().filter(|peer| peer.place.ordinal == Some(*owner));
                own.find(|peer| {
                    let link = lock(&peer.link);
                    link.is_open() && link.unsettled_bytes() < KEPT_BYTES_MAX
                })
            };
            let found: Option<Vec<_>> = owners.iter().map(|owner| open(owner).cloned()).collect();
            if let Some(found) = found {
                return found;
            }
            news.await;
        }
    }

    /// Who owns what now. Where that changes, it waits until the owners before have settled everything.
    pub(crate) async fn settled_map(&self) -> Option<Slots> {
        loop {
            let news = self.settled.notified();
            let lost = {
                let mut state = lock(&self.state);
                match state.next_map.take() {
                    None => return state.map.clone(),
                    Some(next) if state.may_turn_to(next.as_ref()) => state.turn_to(next),
                    Some(next) => {
                        state.next_map = Some(next);
                        Vec::new()
                    }
                }
            };
            if lock(&self.state).next_map.is_some() {
                news.await;
            }
            lost.into_iter().for_each(|(peer, shares)| self.say_lost(&peer, shares));
        }
    }

    pub(crate) async fn settled(&self) {
        loop {
            let news = self.settled.notified();
            if lock(&self.state).is_settled() {
                return;
            }
            news.await;
        }
    }

    /// Ends it if that is wished and reached, and says whether it has ended: whoever acts upon that has nobody join it any
    /// more.
    pub(crate) fn end(&self) -> bool {
        let mut state = lock(&self.state);
        state.ended |= state.is_to_end();
        state.ended
    }

    /// Ends it although states of peers have something of it, if nothing more is to be sent; says whether it has ended.
    fn end_unreleased(&self) -> bool {
        let mut state = lock(&self.state);
        state.ended |= state.awaits_releases_only();
        state.ended
    }

    pub(crate) fn abandon(&self) -> u64 {
        let mut state = lock(&self.state);
        state.abandoned = true;
        let mut parcels = std::mem::take(&mut state.homeless);
        let mut lost = Vec::new();
        for peer in state.peers.clone() {
            parcels.extend(state.take_back(&peer, &mut lost));
            peer.retire();
        }
        drop(state);
        lost.into_iter().for_each(Share::release);
        let dropped = drop_all(parcels.into_iter().map(|(_, parcel)| parcel).collect());
        self.moved();
        self.look.notify_one();
        dropped
    }

    fn peers(&self) -> Vec<Arc<Peer>> {
        lock(&self.state).peers.clone()
    }

    /// A peer's connection opened, or it settled something.
    pub(crate) fn moved(&self) {
        self.room.notify_waiters();
        self.settled.notify_waiters();
    }

    /// A peer's connection opened: what has no peer finds one.
    pub(crate) fn opened(&self) {
        let mut state = lock(&self.state);
        let homeless = std::mem::take(&mut state.homeless);
        let too_late = state.place(homeless);
        drop(state);
        drop_all(too_late);
        self.moved();
    }

    /// A peer's connection broke.
    pub(crate) fn lost(&self) {
        self.look.notify_one();
        self.settled.notify_waiters();
    }

    /// Gives what `peer` keeps to others, if there is one: it has said that it goes, and has gone.
    pub(crate) fn move_from(&self, peer: &Peer) {
        let owner = lock(&self.state).owner(peer);
        let is_other = |own: &Arc<Peer>| {
            let may_take = owner.is_none() || own.place.ordinal == owner;
            own.place != peer.place && may_take && lock(&own.link).is_open()
        };
        if self.peers().iter().any(is_other) {
            self.take_over(peer);
        }
    }

    pub(crate) fn take_over(&self, peer: &Peer) {
        self.hand_over(lock(&self.state), peer);
    }

    /// Under one lock with whatever came before: meanwhile nobody may find that nothing is left.
    fn hand_over(&self, mut state: MutexGuard<'_, State>, peer: &Peer) {
        let mut lost = Vec::new();
        let kept = state.take_back(peer, &mut lost);
        state.past.resent += kept.len() as u64;
        let too_late = state.place(kept);
        drop(state);
        drop_all(too_late);
        self.say_lost(peer, lost);
        self.moved();
    }

    /// What died with the state of `peer` and is not kept here.
    pub(crate) fn say_lost(&self, peer: &Peer, lost: Vec<Share>) {
        if !lost.is_empty() {
            let edge = self.target.name.to_string();
            tracing::warn!(
                edge,
                peer = %peer.place.address,
                "the peer's state has died with it, and the oldest of its events are no longer kept here: their source \
                 replays them when this sidecar starts again"
            );
        }
    }

    fn add(self: &Arc<Self>, place: Place) {
        let peer = Arc::new(Peer::new(place, self.peering.session()));
        lock(&self.state).peers.push(peer.clone());
        tokio::spawn(run(self.clone(), peer));
    }

    fn remove(&self, peer: &Peer) {
        peer.retire();
        let mut state = lock(&self.state);
        state.peers.retain(|own| own.place != peer.place);
        let (sent, resent) = {
            let link = lock(&peer.link);
            (link.sent(), link.resent())
        };
        let counts = peer.counts();
        state.past.batches += sent;
        state.past.resent += resent;
        state.past.connections += counts.connections;
        state.past.refusals += counts.refusals;
        self.hand_over(state, peer);
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
            view.connected += usize::from(link.is_connected());
            view.credit_bytes += link.credit_left();
            view.unsettled_batches += link.unsettled();
            view.unreleased_batches += link.unreleased();
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
async fn discover(roster: Arc<Roster>) {
    let mut members = Membership::default();
    let mut said: Option<String> = None;
    let mut last_open = roster.peering.clock().now();
    while !roster.end() {
        match roster.peering.resolver().resolve(&roster.target.service).await {
            Ok(found) => {
                said = None;
                members.heard(&found).into_iter().for_each(|place| roster.add(place));
                let gone: Vec<_> = members.gone().collect();
                for peer in roster.peers().iter().filter(|peer| gone.contains(&peer.place)) {
                    if !lock(&peer.link).is_connected() {
                        members.forget(peer.place);
                        roster.remove(peer);
                    }
                }
            }
            Err(error) if said.as_deref() == Some(&error.0) => {}
            Err(error) => {
                let edge = roster.target.name.to_string();
                tracing::warn!(edge, service = roster.target.service, "peers not looked up: {error}");
                said = Some(error.0);
            }
        }
        let peers = roster.peers();
        let open = peers.iter().filter(|peer| lock(&peer.link).is_connected()).count();
        let now = roster.peering.clock().now();
        if open > 0 || !lock(&roster.state).awaits_releases_only() {
            last_open = now;
        } else if now.since(last_open) > RELEASE_PATIENCE && roster.end_unreleased() {
            break;
        }
        let is_steady = open == peers.len() && open > 0;
        let rest = roster.peering.jittered(if is_steady { LOOK_STEADY } else { LOOK_EAGER });
        let _ = tokio::time::timeout(rest, roster.look.notified()).await;
        tokio::time::sleep(LOOK_LEAST).await;
    }
    roster.peers().iter().for_each(|peer| peer.retire());
}

/// What one peer may keep of us unsettled before the sink has to wait.
const KEPT_BYTES_MAX: u64 = 16 << 20;
/// A near peer that has so much unsettled is busy.
const NEAR_BYTES_MAX: u64 = 1 << 20;
/// How long a sender that has nothing to send any more waits for a peer whose state holds something of it.
const RELEASE_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_STEADY: Duration = Duration::from_secs(5);
const LOOK_EAGER: Duration = Duration::from_secs(1);
const LOOK_LEAST: Duration = Duration::from_millis(50);
