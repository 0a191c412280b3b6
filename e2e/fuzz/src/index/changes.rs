//! Changes of a journal's files, as the bytes of an input ask for them.

use std::collections::BTreeMap;

use sidestream_event::record::{HEADER_BYTES, Header};

/// The files of a journal, by their names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// How many kinds of changes there are.
pub(super) const KINDS: u8 = 12;
/// From this one on they mend the sums.
const LIES: u8 = 9;

/// The sound journal with the changes that an input asks for; and whether one of them is a lie: what has a right sum is believed.
pub(super) fn changed(input: &[u8]) -> (Files, bool) {
    let mut files: Files = SOUND.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    let (mut asked, mut is_lie) = (Asked(input), false);
    for _ in 0..CHANGES_MAX {
        is_lie |= asked.0.first().is_some_and(|kind| kind % KINDS >= LIES);
        if change(&mut files, &mut asked).is_none() {
            break;
        }
    }
    (files, is_lie)
}

/// One change; none at the end of the input.
fn change(files: &mut Files, asked: &mut Asked<'_>) -> Option<()> {
    let kind = asked.byte()? % KINDS;
    let which = usize::from(asked.byte()?) % files.len().max(1);
    let name = files.keys().nth(which)?.clone();
    let others: Vec<u8> = files.values().nth(usize::from(asked.byte()?) % files.len())?.clone();
    let bytes = files.get_mut(&name)?;
    let place = usize::from(asked.short()?) % bytes.len().max(1);
    let sector = place / 512 * 512;
    let sector_end = (sector + 512).min(bytes.len());
    match kind {
        0 => *bytes.get_mut(place)? ^= asked.byte()?,
        1 => put(bytes, place, &asked.number()?.to_le_bytes()),
        2 => bytes.truncate(place),
        3 => {
            let filler = asked.byte()?;
            bytes.get_mut(sector..sector_end)?.fill(filler);
        }
        4 => {
            let from = usize::from(asked.byte()?) * 512;
            let count = 512 * (1 + usize::from(asked.byte()?) % 8);
            let copied = others.get(from..).map_or(&[][..], |rest| &rest[..rest.len().min(count)]);
            put(bytes, sector, copied);
        }
        5 => bytes.resize(bytes.len() + 512 * (1 + usize::from(asked.byte()?) % 16), asked.byte()?),
        6 => {
            let bytes = files.remove(&name)?;
            files.insert(asked.name()?, bytes);
        }
        7 => drop(files.remove(&name)),
        8 => drop(files.insert(asked.name()?, others)),
        9 => {
            let field = usize::from(asked.byte()?) % (HEADER_BYTES - 12);
            let number = asked.long()?;
            let batch = batch(bytes, place)?;
            put(bytes, batch + field, &number.to_le_bytes());
            seal_batch(bytes, batch);
        }
        10 => {
            let (field, number) = (usize::from(asked.byte()?) % 16, asked.number()?);
            // The field is one of the first that are numbers, or of a partition.
            let field = if field < 9 { 12 + 4 * field } else { 64 + 8 * (field - 9) };
            let length = number_at(bytes, 12)? as usize;
            for copy in [0, length] {
                put(bytes, copy.saturating_add(field), &number.to_le_bytes());
            }
            seal_heads(bytes, length);
        }
        _ => {
            let trailer = bytes.len().checked_sub(64)?;
            let (field, number) = (usize::from(asked.byte()?) % 24, asked.number()?);
            // The trailer says where the summary stands.
            let place = if field < 9 {
                trailer + 12 + 4 * field
            } else {
                number_at(bytes, trailer + 28)? as usize + 4 * (field - 9)
            };
            put(bytes, place, &number.to_le_bytes());
            seal_footer(bytes, trailer);
        }
    }
    Some(())
}

/// The batch that stands at `place`, or the next one.
fn batch(bytes: &[u8], place: usize) -> Option<usize> {
    (place..bytes.len().checked_sub(HEADER_BYTES)?)
        .find(|at| bytes[at + 4] == 1 && Header::read(&bytes[*at..]).is_ok())
}

fn seal_batch(bytes: &mut [u8], at: usize) {
    let length = number_at(bytes, at).unwrap_or_default() as usize;
    if let Some(body) = bytes.get(at + HEADER_BYTES..at.saturating_add(length)) {
        let sum = crc32c::crc32c(body);
        put(bytes, at + 68, &sum.to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes[at..at + HEADER_BYTES - 4]);
    put(bytes, at + HEADER_BYTES - 4, &sum.to_le_bytes());
}

fn seal_heads(bytes: &mut [u8], length: usize) {
    for at in [0, length] {
        if let Some(copy) =
            at.checked_add(length).and_then(|end| bytes.get(at..end)).filter(|copy| copy.len() >= 64)
        {
            let sum = crc32c::crc32c_append(crc32c::crc32c(&copy[..60]), &copy[64..]);
            put(bytes, at + 60, &sum.to_le_bytes());
        }
    }
}

fn seal_footer(bytes: &mut [u8], trailer: usize) {
    let claimed = |place| number_at(bytes, trailer + place).unwrap_or_default() as usize;
    let (at, summary, entries) = (claimed(28), claimed(32) * 48, claimed(36) * 24);
    let sum = |from: usize, length: usize| bytes.get(from..from.saturating_add(length)).map(crc32c::crc32c);
    let sums = [sum(at, summary), sum(at + summary, entries)];
    for (place, sum) in [40, 44].into_iter().zip(sums) {
        if let Some(sum) = sum {
            put(bytes, trailer + place, &sum.to_le_bytes());
        }
    }
    let sum = crc32c::crc32c(&bytes[trailer..trailer + 60]);
    put(bytes, trailer + 60, &sum.to_le_bytes());
}

/// Writes as much as there is room for.
fn put(bytes: &mut [u8], at: usize, written: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(written) {
        *place = *byte;
    }
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What is left of an input.
struct Asked<'a>(&'a [u8]);

impl Asked<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from(self.short()?) | u32::from(self.short()?) << 16)
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from(self.number()?) | u64::from(self.number()?) << 32)
    }

    /// A name of a segment: most often of one that there may be.
    fn name(&mut self) -> Option<String> {
        let number = match self.byte()? {
            0xff => self.number()?,
            number => u32::from(number),
        };
        Some(format!("{number:08x}.{:04x}.segment", self.byte()? % 4))
    }
}

/// An input is short, and each change takes six bytes of it at least; an input that repeats itself is no better than its half.
const CHANGES_MAX: usize = 64;

macro_rules! sound {
    ($($name:literal)*) => {
        [$(($name, include_bytes!(concat!("../../../../sidecar/log/tests/fixtures/v1/", $name)).as_slice())),*]
    };
}

/// A copy of several segments, a finished one, two whose footers are missing, and the last one.
const SOUND: [(&str, &[u8]); 5] = sound!(
    "00000001.0001.segment"
    "00000007.0000.segment"
    "00000008.0000.segment"
    "00000009.0000.segment"
    "0000000a.0000.segment"
);
