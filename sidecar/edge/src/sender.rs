//! The sending end of an edge: batches go to a near peer, else to the least loaded, or each event to the one that owns it;
//! and they are kept until no state of that peer holds them.

use std::sync::Arc;

use sidestream_event::Batch;
use sidestream_trust::SpiffeId;

use crate::{
    EdgeName, EdgeView,
    encode::{Encoder, Unfit},
    owed::Parcel,
    peer::Peer,
    peering::lock,
    roster::Roster,
    slots::{Slot, Slots},
    wire::Transport,
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
    /// Who of them owns which events; none where any may take any.
    pub slots: Option<Slots>,
    /// What carries it.
    pub transport: Transport,
}

/// The sending end of an edge. Dropping it loses nothing: what it has taken is still delivered while the process lives.
pub struct EdgeSender {
    roster: Arc<Roster>,
    encoder: Encoder,
}

impl EdgeSender {
    pub(crate) fn new(roster: Arc<Roster>) -> Self {
        Self { roster, encoder: Encoder::default() }
    }

    /// Takes a batch as soon as some peer has room. Its mark is held until that peer has settled every event, and the
    /// position of its source until no state of the peer holds one. Gives the events that can never be sent, by index, and
    /// why. Dropped before it is ready, it has taken nothing.
    pub async fn send(&mut self, batch: &Batch) -> Vec<(usize, String)> {
        // Those who owned the events before settle what they have.
        self.roster.settled_map().await;
        self.send_to_any(batch).await
    }

    async fn send_to_any(&mut self, batch: &Batch) -> Vec<(usize, String)> {
        let (parcels, refused) = self.encoder.encode(batch);
        if !parcels.is_empty() {
            let peer = self.roster.room().await;
            self.give(&peer, parcels);
        }
        refused
    }

    /// Like [`EdgeSender::send`], for an edge whose events are owned: `slots` has one for each event, and all the owners
    /// must have room.
    pub async fn send_by_slot(&mut self, batch: &Batch, slots: &[Slot]) -> Vec<(usize, String)> {
        let Some(map) = self.roster.settled_map().await else { return self.send_to_any(batch).await };
        let (parcels, refused): (_, Vec<Unfit>) = self.encoder.encode_by_owner(batch, slots, &map);
        let mut owners: Vec<u32> = parcels.iter().map(|(owner, _)| *owner).collect();
        owners.dedup();
        let peers = self.roster.rooms(&owners).await;
        let mut parcels = parcels.into_iter().peekable();
        for (peer, owner) in peers.iter().zip(owners) {
            let of_owner = std::iter::from_fn(|| parcels.next_if(|(own, _)| *own == owner));
            let of_owner: Vec<Parcel> = of_owner.map(|(_, parcel)| parcel).collect();
            self.give(peer, of_owner);
        }
        refused
    }

    /// The edge is gone for good: what no receiver has settled will not be sent again, and ends as dropped. Says how many
    /// events that were.
    pub fn abandon(&self) -> u64 {
        self.roster.abandon()
    }

    /// Waits until every batch that was taken is settled by its receiver, be it into a state.
    pub async fn settled(&self) {
        self.roster.settled().await;
    }

    /// The edge, to look at.
    pub fn view(&self) -> EdgeView {
        self.roster.view(self.roster.peering.identity().seconds_left())
    }

    fn give(&self, peer: &Arc<Peer>, parcels: Vec<Parcel>) {
        {
            let mut link = lock(&peer.link);
            parcels.into_iter().for_each(|parcel| link.push(parcel));
        }
        peer.wake.notify_one();
        // It may have left between the two looks at it.
        if peer.is_retired() {
            self.roster.take_over(peer);
        }
    }
}

impl Drop for EdgeSender {
    fn drop(&mut self) {
        self.roster.leave();
    }
}
