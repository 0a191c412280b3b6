//! From batches to the frames that go to one receiver each.

use bytes::Bytes;
use sidestream_event::{Batch, Event, frame};

use crate::{
    link::{FRAME_BYTES_MAX, Kept},
    owed::{Covered, Owed, Parcel, Share},
    slots::{Slot, Slots},
};

/// Writes batches as frames.
#[derive(Default)]
pub(crate) struct Encoder {
    writer: frame::Writer,
}

/// The place of an event in its batch, and why no edge carries it.
pub(crate) type Unfit = (usize, String);

/// A frame, and which events of its batch it carries.
#[derive(Default)]
struct Piece {
    events: Vec<u8>,
    covered: Covered,
    slots: Vec<Slot>,
}

impl Encoder {
    /// The frames of a batch for any receiver, and what cannot be sent.
    pub(crate) fn encode(&mut self, batch: &Batch) -> (Vec<Parcel>, Vec<Unfit>) {
        let mut refused = Vec::new();
        let events = batch.events().iter().enumerate().map(|(index, event)| (index, event, None));
        let pieces = self.pieces(events, &mut refused);
        (pieces.into_iter().map(|piece| piece.parcel(batch)).collect(), refused)
    }

    /// The frames of a batch by the owner of their events, whose slots are `slots`, and what cannot be sent.
    pub(crate) fn encode_by_owner(
        &mut self,
        batch: &Batch,
        slots: &[Slot],
        map: &Slots,
    ) -> (Vec<(u32, Parcel)>, Vec<Unfit>) {
        let (mut parcels, mut refused) = (Vec::new(), Vec::new());
        for owner in owners_of(slots, map) {
            let of_owner = batch.events().iter().zip(slots).enumerate();
            let of_owner = of_owner
                .filter(|(_, (_, slot))| map.owner(**slot) == owner)
                .map(|(index, (event, slot))| (index, event, Some(*slot)));
            let pieces = self.pieces(of_owner, &mut refused);
            parcels.extend(pieces.into_iter().map(|piece| (owner, piece.parcel(batch))));
        }
        (parcels, refused)
    }

    /// Divides what was written for one owner among those that own its events by `map`. What was written for anybody stays
    /// so: nothing is known of its keys.
    pub(crate) fn divide(&mut self, parcel: Parcel, map: &Slots) -> Vec<(Option<u32>, Parcel)> {
        let Kept { events, settle, release } = parcel;
        let owners = owners_of(&release.slots, map);
        if let [] | [_] = owners[..] {
            return vec![(owners.first().copied(), Kept { events, settle, release })];
        }
        let mut batch = Batch::default();
        frame::read(&events, &mut batch).expect("it was written here");
        let (mut divided, mut ended) = (Vec::new(), 0);
        for owner in owners {
            let of_owner = batch.events().iter().zip(release.slots.iter()).enumerate();
            let of_owner = of_owner
                .filter(|(_, (_, slot))| map.owner(**slot) == owner)
                .map(|(index, (event, slot))| (index, event, Some(*slot)));
            for piece in self.pieces(of_owner, &mut Vec::new()) {
                let count = piece.slots.len() as u64;
                let settle = settle.as_ref().map(|own| own.part(ended, count));
                let release = release.part(piece.slots);
                divided.push((Some(owner), Kept { events: piece.events.into(), settle, release }));
                ended += count;
            }
        }
        release.divided();
        batch.finish();
        divided
    }

    fn pieces<'a>(
        &mut self,
        events: impl Iterator<Item = (usize, &'a Event, Option<Slot>)>,
        refused: &mut Vec<Unfit>,
    ) -> Vec<Piece> {
        let (mut pieces, mut piece) = (Vec::new(), Piece::default());
        for (index, event, slot) in events {
            let mut added = self.add(event, &mut piece.events);
            if added.is_err() {
                // What the writer knows of the frame is no longer true; in one of its own the event may fit.
                piece.end(&mut pieces);
                added = self.add(event, &mut piece.events);
            }
            if let Err(reason) = added {
                piece.events.clear();
                refused.push((index, reason));
                continue;
            }
            piece.covered.add(event.meta.sequence);
            piece.slots.extend(slot);
            if piece.events.len() > FRAME_BYTES {
                piece.end(&mut pieces);
            }
        }
        piece.end(&mut pieces);
        pieces
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

impl Piece {
    /// Ends a frame that holds more than its version.
    fn end(&mut self, pieces: &mut Vec<Piece>) {
        let piece = std::mem::take(self);
        if piece.events.len() > 1 {
            pieces.push(piece);
        }
    }

    fn parcel(self, batch: &Batch) -> Parcel {
        let settle = Some(Owed::of(batch.mark(), self.covered));
        Kept { events: Bytes::from(self.events), settle, release: Share::of(batch.mark(), self.slots) }
    }
}

/// Each owner once, in the order of their first events.
fn owners_of(slots: &[Slot], map: &Slots) -> Vec<u32> {
    let mut owners = Vec::new();
    for owner in slots.iter().map(|slot| map.owner(*slot)) {
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    owners
}

/// Frames are cut here, so that no batch waits long behind another's bytes.
const FRAME_BYTES: usize = 64 << 10;
/// The longest event.
const EVENT_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_BYTES - 1024;
