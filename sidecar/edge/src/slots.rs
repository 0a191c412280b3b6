//! Who of several receivers owns which events, where a state behind the edge brings the events of a key together.
//!
//! ```text
//!   key ──hash──▶ slot 0..256 ──the plan's map──▶ ordinal of a receiver ──DNS──▶ where it is
//! ```
//!
//! A later plan may have another map, or none. An edge goes over to it when everybody has settled what it was sent under the
//! one before, so that the events of a key stay in order.

use std::sync::Arc;

/// One of 256 parts of all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of a key by its hash, which every sender of an edge must take alike.
    pub fn of(hash: u64) -> Slot {
        Slot(hash.to_le_bytes()[0])
    }
}

/// Which receiver owns which slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// By slot.
    owners: Arc<[u32]>,
}

impl Slots {
    /// Of each of the 256 slots, the ordinal of its owner. None if they are not 256.
    pub fn new(owners: &[u32]) -> Option<Slots> {
        (owners.len() == SLOTS).then(|| Slots { owners: owners.into() })
    }

    /// Who owns `slot`.
    pub fn owner(&self, slot: Slot) -> u32 {
        self.owners[usize::from(slot.0)]
    }

    /// Whether a receiver with this ordinal owns a slot.
    pub(crate) fn has(&self, ordinal: Option<u32>) -> bool {
        ordinal.is_some_and(|ordinal| self.owners.contains(&ordinal))
    }
}

/// As many as DESIGN has: a slot moves as a whole.
const SLOTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_an_owner_for_every_slot() {
        assert!(Slots::new(&[0; 255]).is_none());
        let owners: Vec<u32> = (0..256).map(|slot| slot % 3).collect();
        let slots = Slots::new(&owners).unwrap();
        assert!(slots.has(Some(2)) && !slots.has(Some(3)) && !slots.has(None));
        assert_eq!(slots.owner(Slot(5)), 2);
    }
}
