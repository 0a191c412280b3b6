//! Events on a wire between two processes of ours: compact, versioned, made to be read in one pass.
//!
//! ```text
//!   frame := version u8 (1)  event*                            to its end; the carrier says how long it is
//!   event := flags u8  time zigzag  [key str]  [source str]  [context]  value
//!            flags: 1 key, 2 source (else that of the event before), 4 context
//!   context := count varint  (name str, value str)*  traced u8 (0 | 1)  [traceparent str]
//!   value := 0 null | 1 false | 2 true | 3 int zigzag | 4 float 8 bytes | 5 text str | 6 bytes str
//!          | 7 list, count varint, value* | 8 map, count varint, (name, value)*
//!   name  := varint: odd, n << 1 | 1, is name n of this frame; even, length << 1, is a name that follows and gets
//!            the next n while there are fewer than 4096
//!   str   := length varint, bytes (UTF-8 except in `bytes`)
//!   varint, zigzag: as in Protocol Buffers; time is the difference to the event before, in nanoseconds
//! ```
//!
//! `meta.sequence` does not travel: whoever takes events in numbers them anew. A frame may come from anybody: what it
//! makes is bounded before it is made, in depth and in bytes.

use std::{collections::HashMap, fmt};

use bytes::Bytes;

use crate::{Batch, Event, List, Map, Text, Timestamp, Value, map::Builder, varint};

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// It was written by another version.
    Version {
        /// The version.
        found: u8,
    },
    /// It ends in the middle of something.
    Cut,
    /// A tag, flag or number that means nothing, at this byte.
    Nonsense {
        /// Where.
        at: usize,
    },
    /// A text is not UTF-8.
    NotText,
    /// Lists and maps within each other, deeper than 128.
    TooDeep,
    /// Its events would take more memory than a frame may.
    TooLarge,
}

/// Writes events into frames. Keeps its memory from one frame to the next.
#[derive(Debug, Default)]
pub struct Writer {
    names: Names,
    source: Text,
    time: i64,
    /// What the events of the frame will take in their reader's memory.
    spent: usize,
}

impl Writer {
    /// Begins a frame at the end of `out`.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.names.clear();
        self.source = Text::new();
        self.time = 0;
        self.spent = 0;
        out.push(VERSION);
    }

    /// Adds an event to the frame begun in `out`. An error is what its reader would say of it; `out` is then as before, and
    /// the next event must begin another frame, where this one may still fit if it is [`FrameError::TooLarge`].
    pub fn write(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let before = out.len();
        self.event(event, out).inspect_err(|_| out.truncate(before))
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), FrameError> {
        self.spend(1, size_of::<Event>())?;
        let meta = &event.meta;
        let (is_keyed, is_other) = (meta.key.is_some(), meta.source != self.source);
        out.push(flag(is_keyed, KEY) | flag(is_other, SOURCE) | flag(meta.context.is_some(), CONTEXT));
        let time = meta.time.as_nanos();
        write_int(time.wrapping_sub(self.time), out);
        self.time = time;
        if let Some(key) = &meta.key {
            write_bytes(key.as_bytes(), out);
        }
        if is_other {
            write_bytes(meta.source.as_bytes(), out);
            self.source = meta.source.clone();
        }
        if let Some(context) = &meta.context {
            self.spend(context.headers.len(), size_of::<(Text, Text)>())?;
            varint::write(context.headers.len() as u64, out);
            for (name, value) in &context.headers {
                write_bytes(name.as_bytes(), out);
                write_bytes(value.as_bytes(), out);
            }
            out.push(u8::from(context.traceparent.is_some()));
            if let Some(parent) = &context.traceparent {
                write_bytes(parent.as_bytes(), out);
            }
        }
        self.value(&event.body, DEPTH_MAX, out)
    }

    fn value(&mut self, value: &Value, depth: u32, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match value {
            Value::Null => out.push(NULL),
            Value::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
            Value::Int(value) => {
                out.push(INT);
                write_int(*value, out);
            }
            Value::Float(value) => {
                out.push(FLOAT);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Value::Text(text) => {
                out.push(TEXT);
                write_bytes(text.as_bytes(), out);
            }
            Value::Bytes(bytes) => {
                out.push(BYTES);
                write_bytes(bytes, out);
            }
            Value::List(list) => {
                let depth = depth.checked_sub(1).ok_or(FrameError::TooDeep)?;
                self.spend(list.len(), size_of::<Value>())?;
                out.push(LIST);
                varint::write(list.len() as u64, out);
                for value in list.iter() {
                    self.value(value, depth, out)?;
                }
            }
            Value::Map(map) => {
                let depth = depth.checked_sub(1).ok_or(FrameError::TooDeep)?;
                self.spend(map.len(), size_of::<(Text, Value)>())?;
                out.push(MAP);
                varint::write(map.len() as u64, out);
                for (name, value) in map.iter() {
                    self.names.write(name, out);
                    self.value(value, depth, out)?;
                }
            }
        }
        Ok(())
    }

    /// As the reader counts.
    fn spend(&mut self, count: usize, size: usize) -> Result<(), FrameError> {
        self.spent = self.spent.saturating_add(count.saturating_mul(size));
        if self.spent > BYTES_MAX { Err(FrameError::TooLarge) } else { Ok(()) }
    }
}

/// The names of a frame, as its writer knows them. Events of one stream are alike: the name after the last one is most
/// often the one that came after it before.
#[derive(Debug, Default)]
struct Names {
    known: Vec<Text>,
    places: HashMap<Text, usize>,
    /// Where the next name is looked for first.
    expected: usize,
}

impl Names {
    fn clear(&mut self) {
        self.known.clear();
        self.places.clear();
        self.expected = 0;
    }

    fn write(&mut self, name: &Text, out: &mut Vec<u8>) {
        let place = match self.known.get(self.expected) {
            Some(expected) if expected == name => Some(self.expected),
            _ => self.find(name),
        };
        match place {
            Some(place) => {
                varint::write((place as u64) << 1 | 1, out);
                self.expected = if place + 1 == self.known.len() { 0 } else { place + 1 };
            }
            None => {
                varint::write((name.len() as u64) << 1, out);
                out.extend_from_slice(name.as_bytes());
                if self.known.len() < NAMES_MAX {
                    if !self.places.is_empty() {
                        self.places.insert(name.clone(), self.known.len());
                    }
                    self.known.push(name.clone());
                    self.expected = 0;
                }
            }
        }
    }

    fn find(&mut self, name: &Text) -> Option<usize> {
        if self.known.len() <= SCANNED_NAMES {
            return self.known.iter().position(|own| own == name);
        }
        if self.places.is_empty() {
            self.places = self.known.iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
        }
        self.places.get(name).copied()
    }
}

/// Adds the events of `frame` to `batch`; `Bytes` in them are slices of the frame. After an error the batch holds the events
/// before the one that could not be read.
pub fn read(frame: &Bytes, batch: &mut Batch) -> Result<(), FrameError> {
    let mut reader = Reader {
        frame,
        at: 0,
        names: Vec::new(),
        budget: BYTES_MAX.min(frame.len().saturating_mul(GROWTH_MAX)),
    };
    match reader.byte()? {
        VERSION => {}
        found => return Err(FrameError::Version { found }),
    }
    let (mut time, mut source) = (0i64, Text::new());
    while reader.at < frame.len() {
        reader.spend(size_of::<Event>())?;
        let read = reader.event(batch.next(), &mut time, &mut source);
        if read.is_err() {
            batch.forget_last();
        }
        read?;
    }
    Ok(())
}

struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
    names: Vec<Text>,
    /// Bytes that may still be made.
    budget: usize,
}

impl<'a> Reader<'a> {
    fn event(&mut self, event: &mut Event, time: &mut i64, source: &mut Text) -> Result<(), FrameError> {
        let flags = self.byte()?;
        if flags & !(KEY | SOURCE | CONTEXT) != 0 {
            return Err(FrameError::Nonsense { at: self.at - 1 });
        }
        *time = time.wrapping_add(self.int()?);
        event.meta.time = Timestamp::from_nanos(*time);
        if flags & KEY != 0 {
            event.meta.key = Some(self.text()?.into());
        }
        if flags & SOURCE != 0 {
            *source = self.text()?.into();
        }
        event.meta.source = source.clone();
        if flags & CONTEXT != 0 {
            self.context(event)?;
        }
        self.value(&mut event.body, DEPTH_MAX)
    }

    fn context(&mut self, event: &mut Event) -> Result<(), FrameError> {
        let count = self.count(size_of::<(Text, Text)>())?;
        let context = event.meta.context_mut();
        for _ in 0..count {
            let name = self.text()?.into();
            context.headers.push((name, self.text()?.into()));
        }
        match self.byte()? {
            0 => {}
            1 => context.traceparent = Some(self.text()?.into()),
            _ => return Err(FrameError::Nonsense { at: self.at - 1 }),
        }
        Ok(())
    }

    fn value(&mut self, into: &mut Value, depth: u32) -> Result<(), FrameError> {
        let at = self.at;
        *into = match self.byte()? {
            NULL => Value::Null,
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            INT => Value::Int(self.int()?),
            FLOAT => {
                let bytes = self.take(8)?;
                Value::Float(f64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
            }
            TEXT => Value::Text(self.text()?.into()),
            BYTES => {
                let bytes = self.string()?;
                Value::Bytes(self.frame.slice_ref(bytes))
            }
            LIST => {
                let depth = depth.checked_sub(1).ok_or(FrameError::TooDeep)?;
                let count = self.count(size_of::<Value>())?;
                let mut list = List::with_capacity(count);
                for _ in 0..count {
                    let mut value = Value::Null;
                    self.value(&mut value, depth)?;
                    list.push(value);
                }
                Value::List(list)
            }
            MAP => {
                let depth = depth.checked_sub(1).ok_or(FrameError::TooDeep)?;
                let map = match std::mem::take(into) {
                    Value::Map(map) if map.is_empty() => map,
                    _ => Map::new(),
                };
                self.map(map, depth)?
            }
            _ => return Err(FrameError::Nonsense { at }),
        };
        Ok(())
    }

    fn map(&mut self, map: Map, depth: u32) -> Result<Value, FrameError> {
        let count = self.count(size_of::<(Text, Value)>())?;
        let mut fields = Builder::after(map);
        for _ in 0..count {
            let name = self.name()?;
            let mut value = Value::Null;
            self.value(&mut value, depth)?;
            fields.insert(name, value);
        }
        Ok(Value::Map(fields.build()))
    }

    fn name(&mut self) -> Result<Text, FrameError> {
        let at = self.at;
        let number = self.number()?;
        let rest = usize::try_from(number >> 1).map_err(|_| FrameError::Cut)?;
        if number & 1 == 1 {
            return self.names.get(rest).cloned().ok_or(FrameError::Nonsense { at });
        }
        let name = self.take(rest)?;
        let name = Text::from(std::str::from_utf8(name).map_err(|_| FrameError::NotText)?);
        if self.names.len() < NAMES_MAX {
            self.names.push(name.clone());
        }
        Ok(name)
    }

    /// A number of things that each take at least a byte here and `size` bytes in memory.
    fn count(&mut self, size: usize) -> Result<usize, FrameError> {
        let count = usize::try_from(self.number()?).map_err(|_| FrameError::Cut)?;
        if count > self.frame.len() - self.at {
            return Err(FrameError::Cut);
        }
        self.spend(count.saturating_mul(size))?;
        Ok(count)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), FrameError> {
        self.budget = self.budget.checked_sub(bytes).ok_or(FrameError::TooLarge)?;
        Ok(())
    }

    fn text(&mut self) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.string()?).map_err(|_| FrameError::NotText)
    }

    fn string(&mut self) -> Result<&'a [u8], FrameError> {
        let length = usize::try_from(self.number()?).map_err(|_| FrameError::Cut)?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let rest: &'a [u8] = &self.frame[self.at..];
        let taken = rest.get(..length).ok_or(FrameError::Cut)?;
        self.at += length;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, FrameError> {
        let byte = *self.frame.get(self.at).ok_or(FrameError::Cut)?;
        self.at += 1;
        Ok(byte)
    }

    fn int(&mut self) -> Result<i64, FrameError> {
        self.number().map(varint::unfold)
    }

    fn number(&mut self) -> Result<u64, FrameError> {
        let at = self.at;
        varint::read(|| self.byte())?.ok_or(FrameError::Nonsense { at })
    }
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn write_int(value: i64, out: &mut Vec<u8>) {
    varint::write(varint::fold(value), out);
}

impl fmt::Display for FrameError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Version { found } => {
                write!(out, "events of version {found}, and this program knows {VERSION}")
            }
            FrameError::Cut => out.write_str("events end in the middle of one"),
            FrameError::Nonsense { at } => write!(out, "events make no sense at byte {at}"),
            FrameError::NotText => out.write_str("a text among the events is not UTF-8"),
            FrameError::TooDeep => write!(out, "a body deeper than {DEPTH_MAX} lists and maps"),
            FrameError::TooLarge => write!(out, "events that take more than {BYTES_MAX} bytes of memory"),
        }
    }
}

impl std::error::Error for FrameError {}

const VERSION: u8 = 1;
const KEY: u8 = 1;
const SOURCE: u8 = 2;
const CONTEXT: u8 = 4;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const TEXT: u8 = 5;
const BYTES: u8 = 6;
const LIST: u8 = 7;
const MAP: u8 = 8;

/// As deep as JSON is read.
const DEPTH_MAX: u32 = 128;
const NAMES_MAX: usize = 4096;
/// Up to this many names, scanning is cheaper than hashing.
const SCANNED_NAMES: usize = 16;
/// What the events of one frame may take in memory, beside the bytes of their texts.
const BYTES_MAX: usize = 64 << 20;
/// The same for each byte of a frame: an event without a body is three bytes here and some 130 in memory.
const GROWTH_MAX: usize = 64;
const _: () = assert!(
    size_of::<Event>() <= 3 * GROWTH_MAX
        && size_of::<(Text, Text)>() <= 2 * GROWTH_MAX
        && size_of::<(Text, Value)>() <= 2 * GROWTH_MAX
        && size_of::<Value>() <= GROWTH_MAX,
    "what the writer writes must never grow more than a reader lets it"
);

#[cfg(test)]
mod tests;
