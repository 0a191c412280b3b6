//! From a batch to frames, and what each of them owes.

use bytes::Bytes;
use sidestream_event::{Batch, Event, frame};

use crate::owed::Owed;

/// Writes batches as frames.
#[derive(Default)]
pub(crate) struct Encoder(frame::Writer);

/// Some events of a batch.
pub(crate) struct Parcel {
    pub(crate) frame: Bytes,
    pub(crate) count: u32,
    pub(crate) owed: Owed,
}

/// The place of an event in its batch, and why it cannot be kept.
pub(crate) type Unfit = (usize, String);

impl Encoder {
    /// The frames of a batch, and what no frame takes.
    pub(crate) fn encode(&mut self, batch: &Batch) -> (Vec<Parcel>, Vec<Unfit>) {
        let (mut parcels, mut refused) = (Vec::new(), Vec::new());
        let (mut bytes, mut count, mut owed) = (Vec::new(), 0, Owed::of(batch.mark()));
        for (index, event) in batch.events().iter().enumerate() {
            let mut added = self.add(event, &mut bytes);
            if added.is_err() && count > 0 {
                // What the writer knows of the frame is no longer true; in one of its own the event may fit.
                parcels.push(parcel(&mut bytes, &mut count, &mut owed, batch));
                added = self.add(event, &mut bytes);
            }
            if let Err(reason) = added {
                bytes.clear();
                refused.push((index, reason));
                continue;
            }
            owed.add(event.meta.sequence);
            count += 1;
            if bytes.len() > FRAME_BYTES {
                parcels.push(parcel(&mut bytes, &mut count, &mut owed, batch));
            }
        }
        if count > 0 {
            parcels.push(parcel(&mut bytes, &mut count, &mut owed, batch));
        }
        (parcels, refused)
    }

    fn add(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), String> {
        if out.is_empty() {
            self.0.begin(out);
        }
        let before = out.len();
        self.0.write(event, out).map_err(|error| format!("a spilled queue does not keep {error}"))?;
        if out.len() - before > EVENT_BYTES_MAX {
            out.truncate(before);
            return Err(format!(
                "it takes more than {EVENT_BYTES_MAX} bytes, the most a spilled queue keeps of one event"
            ));
        }
        Ok(())
    }
}

fn parcel(bytes: &mut Vec<u8>, count: &mut u32, owed: &mut Owed, batch: &Batch) -> Parcel {
    let owed = std::mem::replace(owed, Owed::of(batch.mark()));
    Parcel { frame: Bytes::from(std::mem::take(bytes)), count: std::mem::take(count), owed }
}

/// Frames are cut here: what is read back comes in pieces that a ring likes.
const FRAME_BYTES: usize = 64 << 10;
/// The longest event: with its name a batch of it fits the smallest segment a spilling journal has.
pub(crate) const EVENT_BYTES_MAX: usize = 1 << 20;
