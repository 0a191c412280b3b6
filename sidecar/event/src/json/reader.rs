//! The quick reader: a JSON text becomes a value that is there already.
//!
//! It reads over what the value holds. Events of one stream are alike: a name that comes again in its place costs a
//! comparison, and a text or a map is made in the storage of the one that stood there. Only storage that nobody
//! shares is used again, so a value that was given on never changes.
//!
//! It takes nothing that it is not sure of. A text that it gives up on is read anew by serde_json, which decides and words
//! the refusal; so this one need not know what is wrong, and must never take what serde_json would not.

use std::borrow::Cow;

use crate::{List, Map, Value, map::Builder};

/// Reads `text` into `value`. `None` where it gives up; `value` then holds something, but not what was asked.
pub(super) fn read(text: &str, value: &mut Value) -> Option<()> {
    let mut reader = Reader { text, at: 0 };
    reader.value(value, DEPTH_MAX)?;
    reader.peek().is_none().then_some(())
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    fn value(&mut self, into: &mut Value, depth: u32) -> Option<()> {
        match self.peek()? {
            b'"' => match self.plain() {
                Some(text) => write_text(into, text),
                None => write_text(into, &self.escaped()?),
            },
            b'{' => self.map(into, depth.checked_sub(1)?)?,
            b'[' => self.list(into, depth.checked_sub(1)?)?,
            b't' => {
                self.word("true")?;
                *into = Value::Bool(true);
            }
            b'f' => {
                self.word("false")?;
                *into = Value::Bool(false);
            }
            b'n' => {
                self.word("null")?;
                *into = Value::Null;
            }
            _ => self.number(into)?,
        }
        Some(())
    }

    #[inline(never)]
    fn map(&mut self, into: &mut Value, depth: u32) -> Option<()> {
        let map = own_map(into);
        let mut more = self.open(b'}')?;
        let fields = map.fields_mut();
        let mut count = 0;
        while more {
            // While names come in their places they are unique, because they were.
            match fields.get_mut(count) {
                Some((own, value)) if self.is_next(own) => self.value(value, depth)?,
                _ => {
                    map.truncate(count);
                    return self.map_anew(map, depth);
                }
            }
            count += 1;
            more = self.next(b'}')?;
        }
        map.truncate(count);
        Some(())
    }

    /// Reads on where a name comes next that did not stand in its place.
    #[inline(never)]
    fn map_anew(&mut self, map: &mut Map, depth: u32) -> Option<()> {
        let mut fields = Builder::after(std::mem::take(map));
        let mut more = true;
        while more {
            let name = self.name()?.into();
            let mut value = Value::Null;
            self.value(&mut value, depth)?;
            fields.insert(name, value);
            more = self.next(b'}')?;
        }
        *map = fields.build();
        Some(())
    }

    /// Takes the name that comes next, and its colon, where it is `name`.
    #[inline]
    fn is_next(&mut self, name: &str) -> bool {
        self.peek();
        let bytes = self.text.as_bytes();
        // How far to go follows from `name`: nothing after waits for the look at each of its bytes.
        let end = self.at + 1 + name.len();
        let found = bytes.get(self.at..end + 2).is_some_and(
            |found| matches!(found, [b'"', own @ .., b'"', b':'] if is_same(own, name.as_bytes())),
        ) && end_of_plain(bytes, self.at + 1) == end;
        if found {
            self.at = end + 2;
        }
        found
    }

    #[inline(never)]
    fn list(&mut self, into: &mut Value, depth: u32) -> Option<()> {
        let mut list = List::new();
        let mut more = self.open(b']')?;
        while more {
            let mut value = Value::Null;
            self.value(&mut value, depth)?;
            list.push(value);
            more = self.next(b']')?;
        }
        *into = Value::List(list);
        Some(())
    }

    /// The bracket that opens; says whether it is not closed at once by `close`.
    fn open(&mut self, close: u8) -> Option<bool> {
        self.at += 1;
        if self.peek()? != close {
            return Some(true);
        }
        self.at += 1;
        Some(false)
    }

    /// What stands after an element: a comma, or the bracket that closes. Says whether there is another.
    fn next(&mut self, close: u8) -> Option<bool> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b',' => Some(true),
            byte if byte == close => Some(false),
            _ => None,
        }
    }

    #[inline]
    fn name(&mut self) -> Option<Cow<'a, str>> {
        if self.peek()? != b'"' {
            return None;
        }
        let name = self.string()?;
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        Some(name)
    }

    /// The string whose opening quote stands here.
    #[inline]
    fn string(&mut self) -> Option<Cow<'a, str>> {
        match self.plain() {
            Some(plain) => Some(Cow::Borrowed(plain)),
            None => self.escaped().map(Cow::Owned),
        }
    }

    /// The same, where it stands as it is meant. Nothing is taken otherwise.
    #[inline]
    fn plain(&mut self) -> Option<&'a str> {
        let start = self.at + 1;
        let end = end_of_plain(self.text.as_bytes(), start);
        if self.text.as_bytes().get(end) != Some(&b'"') {
            return None;
        }
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// The same, where something in it is escaped.
    #[inline(never)]
    fn escaped(&mut self) -> Option<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.byte()? {
                b'"' => {
                    self.at += 1;
                    return Some(text);
                }
                b'\\' => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                _ => {
                    let start = self.at;
                    self.at = end_of_plain(self.text.as_bytes(), start);
                    if self.at == start {
                        return None;
                    }
                    text.push_str(self.text.get(start..self.at)?);
                }
            }
        }
    }

    /// What the backslash just before says.
    fn escape(&mut self) -> Option<char> {
        let byte = self.byte()?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => match self.hex()? {
                high @ 0xd800..0xdc00 => {
                    self.at += self.rest().starts_with(b"\\u").then_some(2)?;
                    let low = self.hex()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low)?
                }
                code => char::from_u32(code)?,
            },
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.bytes().try_fold(0, |code, digit| Some(code << 4 | char::from(digit).to_digit(16)?))
    }

    #[inline]
    fn number(&mut self, into: &mut Value) -> Option<()> {
        let start = self.at;
        let negative = self.byte()? == b'-';
        if negative {
            self.at += 1;
        }
        let first = self.at;
        let mut number = 0u64;
        while let Some(digit) = self.digit() {
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        let digits = self.at - first;
        if digits == 0 || digits > 1 && self.text.as_bytes()[first] == b'0' {
            return None;
        }
        let whole = !matches!(self.byte(), Some(b'.' | b'e' | b'E'));
        // A zero with a sign is a float, and more digits may be too many.
        if whole && digits <= 18 && !(negative && number == 0) {
            let number = number as i64;
            *into = Value::Int(if negative { -number } else { number });
            return Some(());
        }
        *into = self.long_number(start, whole && number != 0)?;
        Some(())
    }

    /// The number that begins at `start` and whose first digits have been read.
    #[inline(never)]
    fn long_number(&mut self, start: usize, whole: bool) -> Option<Value> {
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = self.text.get(start..self.at)?;
        match text.parse() {
            Ok(number) if whole => Some(Value::Int(number)),
            _ => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float),
        }
    }

    /// At least one digit.
    fn digits(&mut self) -> Option<()> {
        self.digit()?;
        while self.digit().is_some() {
            self.at += 1;
        }
        Some(())
    }

    fn digit(&self) -> Option<u8> {
        self.byte().map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.at += self.rest().starts_with(word.as_bytes()).then_some(word.len())?;
        Some(())
    }

    /// The next byte that is no white space, which is not taken.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }
}

/// Whether two names of one length are the same. Most are of four to eight bytes: two words that may overlap.
#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    match (one.first_chunk::<4>(), one.last_chunk::<4>()) {
        (Some(first), Some(last)) if one.len() <= 8 => {
            other.first_chunk() == Some(first) && other.last_chunk() == Some(last)
        }
        _ => one == other,
    }
}

/// Where, from `at` on, the first quote, backslash or control character stands: eight bytes at a time, by the arithmetic
/// of https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord.
#[inline]
fn end_of_plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let eight = u64::from_le_bytes(*eight);
        let (quotes, backslashes) = (eight ^ QUOTES, eight ^ BACKSLASHES);
        // A borrow can mark a byte in error, but only above one that is marked rightly: the lowest mark is true.
        let found = quotes.wrapping_sub(ONES) & !quotes
            | backslashes.wrapping_sub(ONES) & !backslashes
            | eight.wrapping_sub(ONES * 0x20) & !eight;
        if found & HIGHS != 0 {
            return at + (found & HIGHS).trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | ..0x20);
    at + bytes.get(at..).unwrap_or_default().iter().take_while(|byte| is_plain(byte)).count()
}

/// Makes `into` the text, in the storage of the one it was where that is about as large.
#[inline]
fn write_text(into: &mut Value, text: &str) {
    match into {
        Value::Text(own) if (own.capacity() / 4..=own.capacity()).contains(&text.len()) => {
            own.clear();
            own.push_str(text);
        }
        _ => *into = Value::Text(text.into()),
    }
}

/// The map it is, with its fields, or an empty one where it is none, a shared one or a wide one.
fn own_map(value: &mut Value) -> &mut Map {
    let fits = match value {
        Value::Map(map) => map.is_spare(),
        _ => false,
    };
    if !fits {
        *value = Value::Map(Map::new());
    }
    match value {
        Value::Map(map) => map,
        _ => unreachable!("made a map just above"),
    }
}

/// Less than what serde_json allows, which then words the refusal.
const DEPTH_MAX: u32 = 100;

#[cfg(test)]
mod tests;
