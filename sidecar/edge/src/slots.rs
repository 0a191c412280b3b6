//! Who of several receivers owns which events, where a state behind the edge brings the events of a key together.
//!
//! ```text
//!   key ──hash──▶ slot 0..256 ──the plan's map──▶ ordinal of a receiver ──DNS──▶ where it is
//! ```
//!
//! The map has an epoch. Under a later one slots have other owners; an edge goes over to it when every owner has settled
//! what it was sent under the one before, so that the events of a key stay in order.

use std::{collections::BTreeSet, sync::Arc};

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
    epoch: u64,
    /// By slot.
    owners: Arc<[u32]>,
}

impl Slots {
    /// The map of `epoch`: of each of the 256 slots, the ordinal of its owner. None if they are not 256.
    pub fn new(epoch: u64, owners: &[u32]) -> Option<Slots> {
        (owners.len() == SLOTS).then(|| Slots { epoch, owners: owners.into() })
    }

    /// Grows with every change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who owns `slot`.
    pub fn owner(&self, slot: Slot) -> u32 {
        self.owners[usize::from(slot.0)]
    }

    /// Everybody who owns a slot.
    pub(crate) fn owners(&self) -> BTreeSet<u32> {
        self.owners.iter().copied().collect()
    }
}

/// As many as DESIGN has: a slot moves as a whole.
const SLOTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_an_owner_for_every_slot() {
        assert!(Slots::new(1, &[0; 255]).is_none());
        let owners: Vec<u32> = (0..256).map(|slot| slot % 3).collect();
        let slots = Slots::new(1, &owners).unwrap();
        assert_eq!(slots.owners(), BTreeSet::from([0, 1, 2]));
        assert_eq!(slots.owner(Slot(5)), 2);
    }
}
