//! A stream of bytes, cut into lines: what stdin and files have in common.
//!
//! ```text
//!   buffer: [ taken │ line ⏎ line ⏎ line ⏎ part of a li ┊ room for the next read ]
//!                   start                              end
//! ```
//!
//! A line becomes an event whose body is its text without the line break (`\n` or `\r\n`); a line that is no UTF-8 is
//! brought as bytes, and the stages decide. A line longer than allowed is brought as its first 1 KiB with the header
//! [`ERROR_HEADER`]. Memory stays within the longest allowed line and one read, whatever comes.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter};
use sidestream_event::{Batch, Bytes, ERROR_HEADER, Value};

/// The longest line taken whole where the stage does not say.
pub(crate) const MAX_LINE_BYTES: u64 = 1 << 20;

pub(crate) struct Lines {
    max_line: usize,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Before this there is no line break after `start`.
    scanned: usize,
    overlong: Option<Overlong>,
    taken: u64,
    batch_bytes: usize,
    /// Where the lines about to be taken end; kept for its storage.
    ends: Vec<usize>,
}

/// The line being read is longer than allowed: all that is kept of it.
struct Overlong {
    head: Vec<u8>,
    length: u64,
}

/// Whether a batch wants more lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The batch has as much as it should carry; there may be more lines.
    Full,
    /// Every line that has been read is taken.
    All,
}

impl Lines {
    pub(crate) fn new(max_line: u64) -> Self {
        Self {
            // A longer one could not be in memory anyway.
            max_line: usize::try_from(max_line).unwrap_or(usize::MAX / 4).min(usize::MAX / 4),
            buffer: Vec::new(),
            start: 0,
            end: 0,
            scanned: 0,
            overlong: None,
            taken: 0,
            batch_bytes: 0,
            ends: Vec::new(),
        }
    }

    /// How many bytes of the stream the lines taken so far were, line breaks included.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// How many bytes of the stream have been read.
    pub(crate) fn read(&self) -> u64 {
        let overlong = self.overlong.as_ref().map_or(0, |overlong| overlong.length);
        self.taken + overlong + (self.end - self.start) as u64
    }

    /// Reads once, as much as `input` gives; call it when [`Lines::take`] has said `All`. Zero is the end.
    pub(crate) fn read_from(&mut self, input: &mut impl Read) -> io::Result<usize> {
        self.compact();
        let wanted = self.end + READ_BYTES;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        } else if self.buffer.len() > wanted * 4 {
            self.buffer.truncate(wanted);
            self.buffer.shrink_to_fit();
        }
        loop {
            match input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds the lines that have been read to `batch`, until it has [`BATCH_EVENTS`] or [`BATCH_BYTES`].
    pub(crate) fn take(&mut self, batch: &mut Batch) -> Taken {
        if batch.is_empty() {
            self.batch_bytes = 0;
        }
        if self.overlong.is_some() && !self.end_overlong(batch) {
            return Taken::All;
        }
        let room = BATCH_EVENTS.saturating_sub(batch.len());
        self.ends.clear();
        for at in memchr_iter(b'\n', &self.buffer[self.scanned..self.end]) {
            if self.ends.len() == room || self.batch_bytes >= BATCH_BYTES {
                break;
            }
            let end = self.scanned + at + 1;
            self.batch_bytes += end - self.ends.last().copied().unwrap_or(self.start);
            self.ends.push(end);
        }
        if let Some(&last) = self.ends.last() {
            add_lines(batch, &self.buffer, self.start, &self.ends, self.max_line);
            self.advance(last);
        }
        if batch.len() >= BATCH_EVENTS || self.batch_bytes >= BATCH_BYTES {
            return Taken::Full;
        }
        self.scanned = self.end;
        // One byte more: it may be the `\r` of a line break.
        if self.end - self.start > self.max_line.saturating_add(1) {
            self.overlong = Some(Overlong { head: Vec::new(), length: 0 });
            self.drop_overlong(self.end);
        }
        Taken::All
    }

    /// Adds what stands after the last line break, at the end of the stream.
    pub(crate) fn finish(&mut self, batch: &mut Batch) {
        if self.overlong.is_some() {
            self.drop_overlong(self.end);
            self.add_overlong(batch);
        } else if self.start < self.end {
            let end = self.end;
            add_line(batch, &self.buffer[self.start..end], self.max_line);
            self.advance(end);
        }
    }

    /// Gives back the storage that nothing is kept in: for a stream that is not read for a while.
    pub(crate) fn rest(&mut self) {
        self.compact();
        self.buffer.truncate(self.end);
        self.buffer.shrink_to_fit();
        self.ends = Vec::new();
    }

    fn compact(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.scanned -= self.start;
        self.start = 0;
    }

    fn advance(&mut self, to: usize) {
        self.taken += (to - self.start) as u64;
        self.start = to;
        self.scanned = to;
    }

    /// Looks for the end of the overlong line and adds it there. False where the end has not been read.
    fn end_overlong(&mut self, batch: &mut Batch) -> bool {
        match memchr(b'\n', &self.buffer[self.start..self.end]) {
            None => {
                self.drop_overlong(self.end);
                false
            }
            Some(at) => {
                self.drop_overlong(self.start + at);
                self.add_overlong(batch);
                self.advance(self.start + 1);
                true
            }
        }
    }

    fn drop_overlong(&mut self, to: usize) {
        if let Some(overlong) = &mut self.overlong {
            let bytes = &self.buffer[self.start..to];
            let wanted = HEAD_BYTES.saturating_sub(overlong.head.len()).min(bytes.len());
            overlong.head.extend_from_slice(&bytes[..wanted]);
            overlong.length += bytes.len() as u64;
        }
        self.start = to;
        self.scanned = to;
    }

    fn add_overlong(&mut self, batch: &mut Batch) {
        if let Some(Overlong { head, length }) = self.overlong.take() {
            self.taken += length;
            add_refused(batch, head.into(), length, self.max_line);
        }
    }
}

/// Adds the lines that end at `ends`, the first of which begins at `start`.
fn add_lines(batch: &mut Batch, buffer: &[u8], start: usize, ends: &[usize], max_line: usize) {
    let last = ends.last().copied().unwrap_or(start);
    let mut from = start;
    // Checked once for all of them, UTF-8 costs next to nothing; one bad line means looking at each.
    match std::str::from_utf8(&buffer[start..last]) {
        Ok(text) => {
            for &end in ends {
                let line = &text[from - start..end - 1 - start];
                let line = line.strip_suffix('\r').unwrap_or(line);
                match line.len() <= max_line {
                    true => _ = batch.next_text(line),
                    false => add_line(batch, line.as_bytes(), max_line),
                }
                from = end;
            }
        }
        Err(_) => {
            for &end in ends {
                let line = &buffer[from..end - 1];
                add_line(batch, line.strip_suffix(b"\r").unwrap_or(line), max_line);
                from = end;
            }
        }
    }
}

fn add_line(batch: &mut Batch, line: &[u8], max_line: usize) {
    if line.len() > max_line {
        let head = Bytes::copy_from_slice(&line[..HEAD_BYTES.min(line.len())]);
        return add_refused(batch, head, line.len() as u64, max_line);
    }
    match std::str::from_utf8(line) {
        Ok(text) => _ = batch.next_text(text),
        Err(_) => batch.next().body = Value::Bytes(Bytes::copy_from_slice(line)),
    }
}

fn add_refused(batch: &mut Batch, head: Bytes, length: u64, max_line: usize) {
    let event = batch.next();
    let why = format!("line of {length} bytes, more than the {max_line} of `maxLine`");
    event.meta.context_mut().headers.push((ERROR_HEADER.into(), why.into()));
    event.body = Value::Bytes(head);
}

/// How many lines a batch carries.
pub(crate) const BATCH_EVENTS: usize = 512;
/// Text of this many bytes fills a batch, however few lines it is.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// Room for one read: large enough that the call costs little, small enough to stay in the second-level cache.
const READ_BYTES: usize = 128 << 10;
/// What is kept of a line longer than allowed.
const HEAD_BYTES: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `chunks` one per read.
    struct Chunks<'a>(std::slice::Iter<'a, &'a [u8]>);

    impl Read for Chunks<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let chunk = self.0.next().copied().unwrap_or_default();
            into[..chunk.len()].copy_from_slice(chunk);
            Ok(chunk.len())
        }
    }

    fn cut(max_line: u64, chunks: &[&[u8]]) -> (Batch, Lines) {
        let (mut lines, mut batch) = (Lines::new(max_line), Batch::default());
        let mut input = Chunks(chunks.iter());
        while lines.read_from(&mut input).unwrap() > 0 {
            assert_eq!(lines.take(&mut batch), Taken::All);
        }
        lines.finish(&mut batch);
        assert_eq!(lines.taken(), chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
        (batch, lines)
    }

    fn texts(batch: &Batch) -> Vec<&str> {
        batch.events().iter().map(|event| event.body.as_text().unwrap_or("(bytes)")).collect()
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let stream = "one\ntwo\r\n\nd\u{e9}j\u{e0} vu\nlast".as_bytes();
        for size in 1..=stream.len() {
            let chunks: Vec<_> = stream.chunks(size).collect();
            assert_eq!(
                texts(&cut(100, &chunks).0),
                ["one", "two", "", "d\u{e9}j\u{e0} vu", "last"],
                "{size}"
            );
        }
    }

    #[test]
    fn a_line_that_is_no_utf8_comes_as_bytes_and_leaves_its_neighbours_alone() {
        let (batch, _) = cut(100, &[b"good\n\xff\xfe\nalso good\n"]);
        assert_eq!(texts(&batch), ["good", "(bytes)", "also good"]);
        assert_eq!(batch.events()[1].body, Value::Bytes(Bytes::from_static(b"\xff\xfe")));
        assert_eq!(batch.events()[1].meta.header(ERROR_HEADER), None);
    }

    #[test]
    fn a_line_too_long_comes_as_its_beginning_and_says_why_however_it_is_cut() {
        let stream =
            [b"ok\n".as_slice(), &[b'x'; 3000], b"\r\nnext\n", &[b'y'; 11], b"\n", &[b'z'; 10], b"\r\n"]
                .concat();
        for size in [1, 7, 10, 11, 12, 1000, 3003, 3004, 3005, 4000] {
            let chunks: Vec<_> = stream.chunks(size).collect();
            let (batch, _) = cut(10, &chunks);
            assert_eq!(texts(&batch), ["ok", "(bytes)", "next", "(bytes)", "zzzzzzzzzz"], "{size}");
            let why = batch.events()[1].meta.header(ERROR_HEADER).unwrap();
            assert!(
                why.starts_with("line of 300") && why.ends_with("more than the 10 of `maxLine`"),
                "{why}"
            );
            assert_eq!(batch.events()[1].body.heap_bytes(), HEAD_BYTES, "{size}");
        }
    }

    #[test]
    fn an_endless_line_takes_no_more_memory_than_the_longest_allowed() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let count = into.len().min(usize::try_from(self.0).unwrap());
                into[..count].fill(b'x');
                self.0 -= count as u64;
                Ok(count)
            }
        }
        let (mut lines, mut batch) = (Lines::new(MAX_LINE_BYTES), Batch::default());
        let mut input = Endless(64 << 20);
        let mut most = 0;
        while lines.read_from(&mut input).unwrap() > 0 {
            lines.take(&mut batch);
            most = most.max(lines.buffer.capacity());
        }
        lines.finish(&mut batch);
        assert!(most < 4 << 20, "{most}");
        assert_eq!(batch.events()[0].body.heap_bytes(), HEAD_BYTES);
        assert!(batch.events()[0].meta.header(ERROR_HEADER).unwrap().contains("67108864"));
        assert_eq!(lines.taken(), 64 << 20);
    }

    #[test]
    fn a_batch_is_full_by_lines_or_by_bytes_and_the_next_goes_on() {
        let stream = "a\n".repeat(BATCH_EVENTS + 1);
        let (mut lines, mut batch) = (Lines::new(100), Batch::default());
        lines.read_from(&mut stream.as_bytes()).unwrap();
        assert_eq!((lines.take(&mut batch), batch.len()), (Taken::Full, BATCH_EVENTS));
        assert_eq!((lines.take(&mut batch), batch.len()), (Taken::Full, BATCH_EVENTS));
        batch.clear();
        assert_eq!((lines.take(&mut batch), batch.len()), (Taken::All, 1));

        let line = [vec![b'b'; 100_000], vec![b'\n']].concat();
        let (mut lines, mut batch) = (Lines::new(MAX_LINE_BYTES), Batch::default());
        while {
            lines.read_from(&mut line.as_slice()).unwrap();
            lines.take(&mut batch) == Taken::All
        } {}
        assert_eq!(batch.len(), 11);
    }

    #[test]
    fn resting_keeps_the_begun_line_and_gives_back_the_rest() {
        let (mut lines, mut batch) = (Lines::new(100), Batch::default());
        lines.read_from(&mut b"whole\npart".as_slice()).unwrap();
        lines.take(&mut batch);
        lines.rest();
        assert!(lines.buffer.capacity() < 64, "{}", lines.buffer.capacity());
        assert_eq!((lines.taken(), lines.read()), (6, 10));
        lines.read_from(&mut b"ial\n".as_slice()).unwrap();
        lines.take(&mut batch);
        assert_eq!(texts(&batch), ["whole", "partial"]);
    }
}
