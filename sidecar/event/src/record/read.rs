//! The records of a body, read in one pass. Nothing is made: keys, names and values are slices of the body.

use super::{Flags, Header, RECORD_BYTES_MAX, RecordError};
use crate::varint;

/// The records of `body`, in the order of their offsets. `body` should have passed [`Header::check`]; whatever it holds,
/// reading it ends, and nothing after the first error is read.
pub fn records<'a>(header: &Header, body: &'a [u8]) -> Records<'a> {
    let wrapped = (header.flags != Flags::PLAIN).then_some(RecordError::Wrapped { flags: header.flags });
    Records {
        body,
        at: 0,
        offset: header.base_offset,
        left: header.count,
        count: header.count,
        base_time: header.base_time,
        failed: wrapped,
    }
}

/// A record of a batch. All slices are of the batch's body: `body.slice_ref(record.value)` keeps one without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the partition.
    pub offset: u64,
    /// When it happened: nanoseconds since 1970, by its pusher's clock.
    pub time: i64,
    /// What it is about; records of one key keep their order.
    pub key: Option<&'a [u8]>,
    /// Names and values beside the value.
    pub headers: Headers<'a>,
    /// What it says.
    pub value: &'a [u8],
    /// All its bytes, as they stand in the body.
    pub raw: &'a [u8],
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    body: &'a [u8],
    at: usize,
    offset: u64,
    left: u32,
    count: u32,
    base_time: i64,
    /// Given once, then the end.
    failed: Option<RecordError>,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return self.end(error);
        }
        if self.left == 0 {
            let is_whole = self.at == self.body.len();
            return if is_whole { None } else { self.end(RecordError::Miscounted { claimed: self.count }) };
        }
        if self.at == self.body.len() {
            return self.end(RecordError::Miscounted { claimed: self.count });
        }
        match self.read() {
            Ok(record) => Some(Ok(record)),
            Err(error) => self.end(error),
        }
    }
}

impl<'a> Records<'a> {
    fn read(&mut self) -> Result<Record<'a>, RecordError> {
        let start = self.at;
        let mut cursor = Cursor { body: self.body, at: start, end: self.body.len() };
        let length = cursor.length()?;
        if length > RECORD_BYTES_MAX {
            return Err(RecordError::RecordTooLarge { bytes: length });
        }
        cursor.end = cursor.at + length;
        let time = self.base_time.wrapping_add(cursor.int()?);
        let key = match cursor.number()? {
            0 => None,
            more => Some(cursor.take(more - 1)?),
        };
        let headers = Headers::read(&mut cursor)?;
        let record = Record {
            offset: self.offset,
            time,
            key,
            headers,
            value: &self.body[cursor.at..cursor.end],
            raw: &self.body[start..cursor.end],
        };
        self.at = cursor.end;
        // Can't wrap for a header that was read; a header made by hand must not make this panic.
        self.offset = self.offset.wrapping_add(1);
        self.left -= 1;
        Ok(record)
    }

    fn end(&mut self, error: RecordError) -> Option<Result<Record<'a>, RecordError>> {
        self.left = 0;
        self.at = self.body.len();
        Some(Err(error))
    }
}

/// The headers of a record, in the order they were written; a name may come twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    /// Names and values as they stand in the body, all found to be sound.
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Headers<'a>, RecordError> {
        let at = cursor.at;
        let count = cursor.number()?;
        // Each is two bytes at least: a count beyond that is known to be wrong before anything is walked.
        if count > (cursor.end - cursor.at) as u64 / 2 {
            return Err(RecordError::Nonsense { at });
        }
        let start = cursor.at;
        for _ in 0..count {
            cursor.text()?;
            cursor.bytes()?;
        }
        Ok(Headers { bytes: &cursor.body[start..cursor.at], count: count as usize })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each name with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut cursor = Cursor { body: self.bytes, at: 0, end: self.bytes.len() };
        std::iter::from_fn(move || {
            // Both were read once without an error.
            let name = cursor.text().ok()?;
            Some((name, cursor.bytes().ok()?))
        })
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

/// A place in a body, and how far it may go.
struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// A number of bytes that are all there.
    fn length(&mut self) -> Result<usize, RecordError> {
        let at = self.at;
        let length = self.number()?;
        if length > (self.end - self.at) as u64 {
            Err(RecordError::Nonsense { at })
        } else {
            Ok(length as usize)
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], RecordError> {
        if length > (self.end - self.at) as u64 {
            return Err(RecordError::Nonsense { at: self.at });
        }
        let taken = &self.body[self.at..self.at + length as usize];
        self.at += length as usize;
        Ok(taken)
    }

    fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let length = self.length()?;
        self.take(length as u64)
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        let at = self.at;
        std::str::from_utf8(self.bytes()?).map_err(|_| RecordError::NotText { at })
    }

    fn int(&mut self) -> Result<i64, RecordError> {
        self.number().map(varint::unfold)
    }

    fn number(&mut self) -> Result<u64, RecordError> {
        let at = self.at;
        varint::read(|| self.take(1).map(|bytes| bytes[0]))?.ok_or(RecordError::Nonsense { at })
    }
}
