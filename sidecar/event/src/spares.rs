//! Storage of bodies that ended, kept for those that come.
//!
//! ```text
//!   source: text ──▶ parser: map ──▶ … ──▶ Batch::finish
//!             ▲         │ ▲                   │
//!             └─ texts ─┘ └─ maps ── Shelf ◀──┘
//! ```
//!
//! Texts stay with their batch, which brings them back to the source. Maps lie on the shelf of the pool, the last on top:
//! whoever needs some takes those that were used just now, and are still in the cache. Maps that reached the end of a batch
//! lie apart from those that were given up on the way: so a parser finds maps that it made, with the fields it will find.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Map, Text, Value};

/// Storage that a batch has to spare.
#[derive(Debug, Default)]
pub struct Spares {
    texts: Vec<Text>,
    maps: Option<Box<Maps>>,
    /// None where it was found empty, until the batch ends: it is not asked for each event.
    shelf: Option<Shelf>,
}

#[derive(Debug, Default)]
struct Maps {
    given_up: Vec<Map>,
    ended: Vec<Map>,
    /// What they take on the shelf.
    bytes: usize,
}

/// Where the batches of one pool leave their maps for each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<Shelved>>);

#[derive(Debug, Default)]
struct Shelved {
    #[allow(clippy::vec_box, reason = "a batch holds the box, and is to be small")]
    maps: Vec<Box<Maps>>,
    bytes: usize,
}

impl Spares {
    /// Keeps the storage of `value`, where it is worth it and there is not too much already. A map keeps what it holds, to be
    /// read over, except what is large.
    #[inline]
    pub fn keep(&mut self, value: Value) {
        match value {
            Value::Text(text) => self.keep_text(text),
            Value::Map(map) => keep_map(map, &mut self.maps.get_or_insert_default().given_up),
            _ => {}
        }
    }

    /// As [`Spares::keep`], of an event that came to the end of its batch.
    #[inline]
    pub(crate) fn keep_ended(&mut self, value: Value) {
        match value {
            Value::Text(text) => self.keep_text(text),
            Value::Map(map) => keep_map(map, &mut self.maps.get_or_insert_default().ended),
            _ => {}
        }
    }

    fn keep_text(&mut self, text: Text) {
        if !text.is_inline() && text.capacity() <= TEXT_BYTES_MAX && self.texts.len() < KEPT_MAX {
            self.texts.push(text);
        }
    }

    /// This text as a value, in spare storage where it needs any.
    pub fn text(&mut self, text: &str) -> Value {
        if text.len() > Text::INLINE_LIMIT
            && let Some(mut spare) = self.texts.pop()
        {
            spare.clear();
            spare.push_str(text);
            return Value::Text(spare);
        }
        Value::Text(text.into())
    }

    /// A value to be read over: a map that still holds the fields of an event that ended, or null.
    pub fn stale(&mut self) -> Value {
        if self.maps.as_ref().is_none_or(|maps| maps.given_up.is_empty() && maps.ended.is_empty()) {
            self.fetch();
        }
        let map = self.maps.as_mut().and_then(|maps| maps.given_up.pop().or_else(|| maps.ended.pop()));
        map.map_or(Value::Null, Value::Map)
    }

    /// A value with room for a map, whatever it holds, or null. It leaves what a parser will want.
    pub fn room(&mut self) -> Value {
        if self.maps.is_none() {
            self.fetch();
        }
        self.maps.as_mut().and_then(|maps| maps.ended.pop()).map_or(Value::Null, Value::Map)
    }

    fn fetch(&mut self) {
        if let Some(shelf) = self.shelf.take()
            && let Some(maps) = shelf.take()
        {
            (self.maps, self.shelf) = (Some(maps), Some(shelf));
        }
    }

    /// The batch has ended: its maps are for all.
    pub(crate) fn shelve(&mut self, shelf: &Shelf) {
        if let Some(maps) = self.maps.take() {
            shelf.put(maps);
        }
        if self.shelf.as_ref().is_none_or(|own| !Arc::ptr_eq(&own.0, &shelf.0)) {
            self.shelf = Some(shelf.clone());
        }
    }
}

impl Shelf {
    fn take(&self) -> Option<Box<Maps>> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let maps = shelf.maps.pop()?;
        shelf.bytes -= maps.bytes;
        Some(maps)
    }

    fn put(&self, mut maps: Box<Maps>) {
        maps.bytes = size(&maps.given_up) + size(&maps.ended);
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.maps.len() < SHELF_MAX && shelf.bytes + maps.bytes <= SHELF_BYTES_MAX {
            shelf.bytes += maps.bytes;
            shelf.maps.push(maps);
        }
    }
}

/// What maps take, as an estimate: those of one batch are alike, and a few of them speak for all.
fn size(maps: &[Map]) -> usize {
    let step = maps.len() / SAMPLED_MAPS + 1;
    let mut bytes = 0;
    let mut before = None;
    for map in maps.iter().step_by(step) {
        bytes += map_bytes(map, before);
        before = Some(map);
    }
    bytes * step
}

/// A text that the map shares with the one `before` it is all events' own, and not the map's.
fn map_bytes(map: &Map, before: Option<&Map>) -> usize {
    let mut fields_before = before.map(Map::iter).into_iter().flatten();
    let own = |(_, value): (&Text, &Value)| {
        let before = fields_before.next().map(|(_, value)| value);
        let own = match (value, before) {
            (Value::Text(text), Some(Value::Text(before))) if text.as_ptr() == before.as_ptr() => 0,
            (Value::Text(text), _) if !text.is_inline() => text.capacity(),
            (Value::Map(map), Some(Value::Map(before))) => map_bytes(map, Some(before)),
            (Value::Map(map), _) => map_bytes(map, None),
            _ => 0,
        };
        size_of::<(Text, Value)>() + own
    };
    map.iter().map(own).sum()
}

fn keep_map(mut map: Map, maps: &mut Vec<Map>) {
    if map.is_spare() && maps.len() < KEPT_MAX {
        trim(&mut map, &mut { VALUES_MAX });
        maps.push(map);
    }
}

/// Lets go of what is large, and of all behind the first `left` values.
fn trim(map: &mut Map, left: &mut u32) {
    for (_, value) in map.fields_mut() {
        let is_small = match value {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => true,
            Value::Text(text) => text.capacity() <= FIELD_BYTES_MAX,
            Value::Map(map) => {
                let is_spare = map.is_spare();
                if is_spare {
                    trim(map, left);
                }
                is_spare
            }
            Value::Bytes(_) | Value::List(_) => false,
        };
        if !is_small || *left == 0 {
            *value = Value::Null;
        }
        *left = left.saturating_sub(1);
    }
}

/// Of each kind: a batch of lines carries so many.
const KEPT_MAX: usize = 512;
/// Longer texts give their storage back: what a batch keeps of texts stays within 512 KiB.
const TEXT_BYTES_MAX: usize = 1024;
/// Likewise a map: of each it keeps at most 64 values, and texts of at most 256 bytes.
const VALUES_MAX: u32 = 64;
const FIELD_BYTES_MAX: usize = 256;
/// Batches of maps on the shelf: as many as are on their way at once where the rings of a long pipeline are full.
const SHELF_MAX: usize = 256;
/// What they may take: one backlog must not keep the memory of all batches that it was made of.
const SHELF_BYTES_MAX: usize = 16 << 20;
const SAMPLED_MAPS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Bytes, Pool, json};

    fn parsed(text: &str) -> Value {
        json::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_text_comes_back_in_the_storage_of_one_that_ended() {
        let mut spares = Spares::default();
        let first = Value::from("longer than what is inline");
        let place = first.as_text().map(str::as_ptr);
        spares.keep(first);
        let second = spares.text("another that is as long");
        assert_eq!(second.as_text().map(str::as_ptr), place);
        assert_eq!(second, Value::from("another that is as long"));
    }

    #[test]
    fn a_text_or_map_that_somebody_shares_is_left_as_it_was() {
        let mut spares = Spares::default();
        let (text, map) = (Value::from("longer than what is inline"), parsed(r#"{"a":1}"#));
        spares.keep(text.clone());
        spares.keep(map.clone());
        assert_eq!(spares.text("something else altogether"), Value::from("something else altogether"));
        assert_eq!(spares.stale(), Value::Null);
        assert_eq!((text, map), (Value::from("longer than what is inline"), parsed(r#"{"a":1}"#)));
    }

    #[test]
    fn what_is_large_is_let_go() {
        let mut spares = Spares::default();
        spares.keep(Value::from("x".repeat(2 * TEXT_BYTES_MAX)));
        assert!(spares.texts.is_empty());
        let mut large = parsed(r#"{"a":1,"long":0,"bytes":0,"in":{"b":2,"long":0}}"#);
        let long = Value::from("x".repeat(2 * FIELD_BYTES_MAX));
        if let Value::Map(map) = &mut large {
            map.insert("long", long.clone());
            map.insert("bytes", Bytes::from_static(b"of a large buffer"));
            let mut nested = map.remove("in").unwrap();
            nested.reset_map().insert("long", long);
            map.insert("in", nested);
        }
        spares.keep(large);
        assert_eq!(spares.stale(), parsed(r#"{"a":1,"long":null,"bytes":null,"in":{"long":null}}"#));
        let wide: Map = (0..100).map(|n| (format!("f{n}"), n)).collect();
        spares.keep(wide.into());
        assert_eq!(spares.stale(), Value::Null);
    }

    #[test]
    fn a_shelf_keeps_no_more_than_its_bytes_however_many_batches_end() {
        let (shelf, mut ended) = (Shelf::default(), Vec::new());
        for _ in 0..SHELF_MAX {
            let mut spares = Spares::default();
            for _ in 0..KEPT_MAX {
                let wide: Map =
                    (0..16).map(|n| (format!("f{n}"), Value::from("x".repeat(FIELD_BYTES_MAX)))).collect();
                spares.keep(wide.into());
            }
            ended.push(spares);
        }
        ended.iter_mut().for_each(|spares| spares.shelve(&shelf));
        let kept = std::iter::from_fn(|| shelf.take()).count();
        assert!((1..8).contains(&kept), "{kept} batches of 2 MiB and more");
        let mut again = Spares::default();
        again.keep(parsed(r#"{"a":1}"#));
        again.shelve(&shelf);
        assert!(shelf.take().is_some(), "what is taken makes room");
    }

    #[test]
    fn a_text_that_all_maps_share_does_not_fill_the_shelf() {
        let (shelf, payload) = (Shelf::default(), Value::from("x".repeat(FIELD_BYTES_MAX)));
        let mut ended = Vec::new();
        for _ in 0..100 {
            let mut spares = Spares::default();
            for _ in 0..KEPT_MAX {
                spares.keep(Map::from_iter([("n", Value::from(1)), ("payload", payload.clone())]).into());
            }
            ended.push(spares);
        }
        ended.iter_mut().for_each(|spares| spares.shelve(&shelf));
        assert_eq!(std::iter::from_fn(|| shelf.take()).count(), 100);
    }

    #[test]
    fn maps_go_from_batch_to_batch_by_the_pool_and_a_parser_finds_those_it_made() {
        let pool = Pool::new(4);
        let mut first = Batch::default();
        for text in ["one", "two"] {
            first.next().body = parsed(&format!(r#"{{"parsed":"{text}"}}"#));
        }
        first.retain_with(|event, spares| {
            let made = parsed(r#"{"made":true}"#);
            spares.keep(std::mem::replace(&mut event.body, made));
            true
        });
        pool.give(first);
        pool.give(Batch::default());
        let (_, mut second) = (pool.take(), pool.take());
        second.push(crate::Event::default());
        second.retain_with(|_, spares| {
            let all = [spares.stale(), spares.room(), spares.stale(), spares.stale(), spares.stale()];
            let all = all.map(|value| value.to_string());
            let (two, one, made) = (r#"{"parsed":"two"}"#, r#"{"parsed":"one"}"#, r#"{"made":true}"#);
            assert_eq!(all, [two, made, one, made, "null"]);
            true
        });
    }
}
