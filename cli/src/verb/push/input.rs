//! What becomes records: files, and lines of the standard input. Of what is too long for a record no more is read than shows it.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, Read},
    path::Path,
    thread,
};

use sidestream_event::record::RECORD_BYTES_MAX;
use tokio::sync::mpsc;

use crate::server::Failed;

/// Why something does not become a record.
#[derive(Debug)]
pub(super) enum NoRecord {
    /// The machine does not give it.
    Unread { what: String, error: io::Error },
    /// It is longer than a record may be.
    TooLong { what: String },
}

/// All of a file.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, NoRecord> {
    let what = || path.display().to_string();
    let (from, mut value) = (File::open(path), Vec::new());
    let read = from.and_then(|from| from.take(ONE_TOO_MANY).read_to_end(&mut value));
    match read {
        Err(error) => Err(NoRecord::Unread { what: what(), error }),
        Ok(_) if value.len() > RECORD_BYTES_MAX => Err(NoRecord::TooLong { what: what() }),
        Ok(_) => Ok(value),
    }
}

/// Lines of the standard input, read by a thread of their own: it may wait for ever.
pub(super) fn lines() -> mpsc::Receiver<Result<Vec<u8>, NoRecord>> {
    let (sender, lines) = mpsc::channel(LINES_WAITING);
    thread::spawn(move || {
        let read = Lines { from: io::stdin().lock(), read: 0 };
        for line in read {
            let is_end = line.is_err();
            if sender.blocking_send(line).is_err() || is_end {
                return;
            }
        }
    });
    lines
}

/// The lines of an input; behind an error nothing that comes means anything.
struct Lines<R> {
    from: R,
    /// How many there were.
    read: u64,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Vec<u8>, NoRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read += 1;
        let mut line = Vec::new();
        let read = self.from.by_ref().take(ONE_TOO_MANY).read_until(b'\n', &mut line);
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        match read {
            Ok(0) => None,
            Ok(_) if line.len() > RECORD_BYTES_MAX => {
                Some(Err(NoRecord::TooLong { what: format!("line {} of the standard input", self.read) }))
            }
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(NoRecord::Unread { what: "the standard input".into(), error })),
        }
    }
}

impl fmt::Display for NoRecord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRecord::Unread { what, error } => write!(out, "cannot read {what}: {error}"),
            NoRecord::TooLong { what } => write!(
                out,
                "{what} has more than the {RECORD_BYTES_MAX} bytes that a record has at most; push it in parts, or where it is"
            ),
        }
    }
}

impl From<NoRecord> for Failed {
    fn from(error: NoRecord) -> Failed {
        Failed::Refused(error.to_string())
    }
}

/// As many bytes are no record, and as few as show it; a line of a whole record ends with one more.
const ONE_TOO_MANY: u64 = RECORD_BYTES_MAX as u64 + 1;
const LINES_WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use std::io::{BufReader, repeat};

    use super::*;

    /// Counts what is read of it.
    struct Counted<R>(R, u64);

    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1 += count as u64;
            Ok(count)
        }
    }

    #[test]
    fn a_line_is_as_long_as_a_record_may_be_and_not_a_byte_longer() {
        let line = |bytes: usize| [&vec![b'x'; bytes][..], b"\n"].concat();
        let text = [line(3), line(0), line(RECORD_BYTES_MAX), line(RECORD_BYTES_MAX + 1)].concat();
        let mut lines = Lines { from: &text[..], read: 0 };
        for bytes in [3, 0, RECORD_BYTES_MAX] {
            assert_eq!(lines.next().unwrap().unwrap().len(), bytes);
        }
        let said = lines.next().unwrap().unwrap_err().to_string();
        assert!(said.starts_with("line 4 of the standard input has more than the 1048576 bytes"), "{said}");
        // The last one may have no end.
        let mut lines = Lines { from: &text[..2], read: 0 };
        assert_eq!(lines.next().unwrap().unwrap(), b"xx");
        assert!(lines.next().is_none());
    }

    #[test]
    fn a_line_that_never_ends_is_refused_before_more_is_read() {
        let mut lines = Lines { from: BufReader::new(Counted(repeat(b'x'), 0)), read: 0 };
        assert!(matches!(lines.next(), Some(Err(NoRecord::TooLong { .. }))));
        assert!(lines.from.get_ref().1 < ONE_TOO_MANY + (64 << 10));
    }
}
