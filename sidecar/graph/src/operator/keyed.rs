//! A table of what is remembered of each key, in an order its owner decides.
//!
//! ```text
//!   index: hash ─▶ slot        slots: [ key, value, before, after ] [ … ] [ free ] [ … ]
//!                              order: first ─▶ … ─▶ … ─▶ last
//! ```
//!
//! Looking up, moving to the end and removing cost the same however many keys there are. A look-up allocates nothing,
//! and slots are used again.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use sidestream_event::Text;

/// Values by key, with an order from the one that went in, or was moved, first, to the last.
pub(super) struct Keyed<V> {
    hasher: DefaultHashBuilder,
    index: HashTable<u32>,
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    first: u32,
    last: u32,
}

/// Where a key's value is, until it is removed.
pub(super) type SlotId = u32;

struct Slot<V> {
    key: Text,
    hash: u64,
    value: Option<V>,
    before: u32,
    after: u32,
}

impl<V> Keyed<V> {
    pub(super) fn new() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            first: NONE,
            last: NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Where `key` is.
    pub(super) fn find(&self, key: &str) -> Option<SlotId> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |id| self.slots[*id as usize].key == key).copied()
    }

    /// The value in a slot that is in use.
    pub(super) fn get(&mut self, id: SlotId) -> &mut V {
        self.slots[id as usize].value.as_mut().expect("a slot that was found is in use")
    }

    /// Adds a key that is not there yet, last in the order.
    pub(super) fn insert(&mut self, key: &str, value: V) -> SlotId {
        let hash = self.hasher.hash_one(key);
        let slot = Slot { key: key.into(), hash, value: Some(value), before: NONE, after: NONE };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.link_last(id);
        let slots = &self.slots;
        self.index.insert_unique(hash, id, |id| slots[*id as usize].hash);
        id
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, id: SlotId) -> V {
        self.unlink(id);
        let slot = &mut self.slots[id as usize];
        slot.key = Text::new();
        let value = slot.value.take().expect("a slot that was found is in use");
        if let Ok(entry) = self.index.find_entry(slot.hash, |own| *own == id) {
            entry.remove();
        }
        self.free.push(id);
        value
    }

    /// Makes a key the last in the order.
    pub(super) fn move_last(&mut self, id: SlotId) {
        if self.last != id {
            self.unlink(id);
            self.link_last(id);
        }
    }

    /// The first in the order.
    pub(super) fn first(&self) -> Option<SlotId> {
        some(self.first)
    }

    /// The one after `id` in the order.
    pub(super) fn after(&self, id: SlotId) -> Option<SlotId> {
        some(self.slots[id as usize].after)
    }

    fn link_last(&mut self, id: SlotId) {
        let before = std::mem::replace(&mut self.last, id);
        let slot = &mut self.slots[id as usize];
        (slot.before, slot.after) = (before, NONE);
        match before {
            NONE => self.first = id,
            before => self.slots[before as usize].after = id,
        }
    }

    fn unlink(&mut self, id: SlotId) {
        let (before, after) = (self.slots[id as usize].before, self.slots[id as usize].after);
        match before {
            NONE => self.first = after,
            before => self.slots[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.slots[after as usize].before = before,
        }
    }
}

fn some(id: u32) -> Option<SlotId> {
    (id != NONE).then_some(id)
}

/// No slot. Tables are bounded at ten million keys, far below.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_with_an_order(steps in prop::collection::vec((0..4u8, 0..12u32), 0..200)) {
            let mut table = Keyed::new();
            let mut model: Vec<u32> = Vec::new();
            for (step, number) in steps {
                let key = format!("key {number} that is longer than what is kept inline");
                let key = if number % 2 == 0 { &key[..6] } else { &key };
                let found = table.find(key);
                prop_assert_eq!(found.is_some(), model.contains(&number));
                match (step, found) {
                    (0 | 1, None) => {
                        table.insert(key, number);
                        model.push(number);
                    }
                    (2, Some(id)) => {
                        prop_assert_eq!(table.remove(id), number);
                        model.retain(|own| *own != number);
                    }
                    (3, Some(id)) => {
                        table.move_last(id);
                        model.retain(|own| *own != number);
                        model.push(number);
                    }
                    (_, Some(id)) => prop_assert_eq!(*table.get(id), number),
                    (_, None) => {}
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.is_empty(), model.is_empty());
            }
            let order: Vec<_> = std::iter::successors(table.first(), |id| table.after(*id)).collect();
            let values: Vec<_> = order.into_iter().map(|id| *table.get(id)).collect();
            prop_assert_eq!(values, model);
        }
    }

    #[test]
    fn a_slot_that_was_freed_is_used_again() {
        let mut table = Keyed::new();
        for round in 0..1000u32 {
            let id = table.insert(&format!("{round}"), round);
            assert!(id < 2);
            if round > 0 {
                let old = table.find(&format!("{}", round - 1)).unwrap();
                assert_eq!(table.remove(old), round - 1);
            }
        }
    }
}
