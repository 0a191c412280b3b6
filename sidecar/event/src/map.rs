//! Named values, in order.

use std::collections::HashMap;

use ecow::EcoVec;

use crate::{Text, Value};

/// Fields of an event: unique names in the order they were set.
///
/// Look-up is a linear scan: event bodies are small, and comparing a few short inline names beats hashing one.
/// A clone shares the storage; the first change to a shared map copies it.
#[derive(Clone, Debug, Default)]
pub struct Map {
    fields: EcoVec<(Text, Value)>,
}

impl Map {
    /// A map with no fields and no storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// A map with room for `capacity` fields.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { fields: EcoVec::with_capacity(capacity) }
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The value of field `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The value of field `name`, to change; copies the map first where it is shared.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let index = self.position(name)?;
        Some(&mut self.fields.make_mut()[index].1)
    }

    /// Sets field `name`, in its old place where it had one, else last.
    pub fn insert(&mut self, name: impl Into<Text> + AsRef<str>, value: impl Into<Value>) {
        match self.position(name.as_ref()) {
            Some(index) => self.fields.make_mut()[index].1 = value.into(),
            None => self.fields.push((name.into(), value.into())),
        }
    }

    /// Adds a field that the caller knows to be new, without looking for it: what a parser that has seen the names does.
    pub fn push_new(&mut self, name: Text, value: Value) {
        debug_assert!(self.get(&name).is_none(), "field `{name}` was set already");
        self.fields.push((name, value));
    }

    /// Removes field `name` and gives its value.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let index = self.position(name)?;
        Some(self.fields.remove(index).1)
    }

    /// Gives field `from` the name `to`, in its place; a field `to` that stood elsewhere goes. False where there is no `from`.
    pub fn rename(&mut self, from: &str, to: impl Into<Text>) -> bool {
        let to = to.into();
        if from == to {
            return self.position(from).is_some();
        }
        if self.position(from).is_none() {
            return false;
        }
        self.remove(&to);
        let index = self.position(from).expect("removing another field keeps this one");
        self.fields.make_mut()[index].0 = to;
        true
    }

    /// Forgets every field and keeps the storage, where it is not shared.
    pub fn clear(&mut self) {
        self.fields.clear();
    }

    /// The fields in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Text, &Value)> + Clone {
        self.fields.iter().map(|(name, value)| (name, value))
    }

    /// Whether its storage can be filled anew: nobody shares it, and it is no larger than most maps need.
    pub(crate) fn is_spare(&mut self) -> bool {
        self.fields.is_unique() && self.fields.capacity() <= KEPT_FIELDS
    }

    /// The fields, to be written over; copies the map first where it is shared. Names stay unique: who changes one sees to it.
    pub(crate) fn fields_mut(&mut self) -> &mut [(Text, Value)] {
        self.fields.make_mut()
    }

    /// Forgets all fields but the first `count`.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.fields.truncate(count);
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|(own, _)| own == name)
    }
}

/// A map as a parser fills it: in time linear in the number of fields, also where a hostile text gives a hundred
/// thousand names, or all of them twice.
#[derive(Debug, Default)]
pub struct Builder {
    map: Map,
    /// Where each name stands, once there are more than [`SCANNED_FIELDS`].
    places: HashMap<Text, usize>,
}

impl Builder {
    /// A builder with room for `capacity` fields.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { map: Map::with_capacity(capacity), places: HashMap::new() }
    }

    /// A builder that goes on after the fields of `map`.
    pub fn after(mut map: Map) -> Self {
        if map.is_empty() {
            map.fields.reserve(USUAL_FIELDS);
        }
        Self { map, places: HashMap::new() }
    }

    /// Sets field `name`; of a name given twice the last value stands, in the place of the first.
    pub fn insert(&mut self, name: Text, value: Value) {
        if self.map.len() < SCANNED_FIELDS {
            return self.map.insert(name, value);
        }
        if self.places.is_empty() {
            self.places =
                self.map.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
        }
        let fields = &mut self.map.fields;
        match self.places.get(&name) {
            Some(place) => fields.make_mut()[*place].1 = value,
            None => {
                self.places.insert(name.clone(), fields.len());
                fields.push((name, value));
            }
        }
    }

    /// The map.
    pub fn build(self) -> Map {
        self.map
    }
}

/// A map with room for more fields gives its storage back, so that one wide event does not leave every spare of a batch
/// wide: 32 fields are 1.8 KiB.
const KEPT_FIELDS: usize = 32;
/// Storage a parsed map starts with, so that an ordinary log line allocates its map once.
const USUAL_FIELDS: usize = 8;
/// Up to this many fields, scanning for a repeated name is cheaper than hashing it.
const SCANNED_FIELDS: usize = 64;

/// Equal when they hold the same fields, in whatever order.
impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl<N: Into<Text> + AsRef<str>, V: Into<Value>> FromIterator<(N, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut map = Map::new();
        for (name, value) in fields {
            map.insert(name, value);
        }
        map
    }
}

impl<N: Into<Text> + AsRef<str>, V: Into<Value>> FromIterator<(N, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        Value::Map(fields.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_to_a_clone_leaves_the_first_map_as_it_was() {
        let first: Map = [("a", 1), ("b", 2)].into_iter().collect();
        let mut second = first.clone();
        second.insert("a", 9);
        assert_eq!(first.get("a"), Some(&Value::Int(1)));
        assert_eq!(second.get("a"), Some(&Value::Int(9)));
    }

    #[test]
    fn a_builder_keeps_the_last_value_of_a_name_however_many_there_are() {
        let mut builder = Builder::with_capacity(8);
        for round in 0..2 {
            for n in 0..50_000 {
                builder.insert(format!("f{n}").into(), Value::Int(n + round));
            }
        }
        let map = builder.build();
        assert_eq!((map.len(), map.get("f49999")), (50_000, Some(&Value::Int(50_000))));
        assert_eq!(map.iter().next().map(|(name, _)| name.as_str()), Some("f0"));
    }

    #[test]
    fn rename_keeps_the_place_and_replaces_a_field_of_that_name() {
        let mut map: Map = [("a", 1), ("b", 2), ("c", 3)].into_iter().collect();
        assert!(map.rename("b", "c"));
        assert_eq!(map.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(map.get("c"), Some(&Value::Int(2)));
        assert!(!map.rename("missing", "d"));
        assert!(map.rename("a", "a"));
    }
}
