//! One file being followed, by its handle: a rename does not lose it.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use sidestream_event::{Batch, Text};
use sidestream_host::Moment;

use super::identity::{Fingerprint, Identity};
use crate::lines::{Lines, Taken};

pub(super) struct Tail {
    /// Its number in this process; a file that is cut and written anew gets a new one.
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    /// The path, as events carry it.
    pub(super) name: Text,
    /// Since when nobody knows it by a path any more: it is read on for a while, for writers that have it open.
    pub(super) leaving: Option<Moment>,
    /// The file that had this path before and has to be read first.
    pub(super) waits_for: Option<u64>,
    /// Reading has failed, and was reported.
    pub(super) failing: bool,
    file: File,
    lines: Lines,
    /// Where in the file `lines` began.
    base: u64,
    fingerprint: Fingerprint,
    at_end: bool,
}

/// What a look at a file that had been read to its end tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing new.
    Same,
    /// There is more to read.
    More,
    /// It was cut, or cut and written anew: it begins again.
    Cut,
}

impl Tail {
    /// Opens `path` to be read from `offset`.
    pub(super) fn open(id: u64, path: &Path, offset: u64, max_line: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let identity = Identity::of(path, &file.metadata()?);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            id,
            path: path.to_owned(),
            identity,
            name: path.to_string_lossy().as_ref().into(),
            leaving: None,
            waits_for: None,
            failing: false,
            fingerprint: Fingerprint::of(&file, u64::MAX)?,
            file,
            lines: Lines::new(max_line),
            base: offset,
            at_end: false,
        })
    }

    /// Adds lines to `batch` until it is full or the file is at its end.
    pub(super) fn fill(&mut self, batch: &mut Batch) -> io::Result<Taken> {
        self.at_end = false;
        loop {
            if self.lines.take(batch) == Taken::Full {
                return Ok(Taken::Full);
            }
            if self.lines.read_from(&mut self.file)? == 0 {
                self.lines.rest();
                self.complete_fingerprint()?;
                self.at_end = true;
                return Ok(Taken::All);
            }
        }
    }

    /// What has become of a file that was at its end.
    pub(super) fn look(&mut self) -> io::Result<Look> {
        let (length, position) = (self.file.metadata()?.len(), self.base + self.lines.read());
        Ok(match length {
            _ if length == position => Look::Same,
            _ if length > position && self.fingerprint.matches(&self.file)? => Look::More,
            _ => Look::Cut,
        })
    }

    /// Adds the begun line, which nothing will end any more.
    pub(super) fn finish(&mut self, batch: &mut Batch) {
        self.lines.finish(batch);
    }

    /// Says where the file is now.
    pub(super) fn found_at(&mut self, path: &Path) {
        self.leaving = None;
        if self.path != path {
            self.path = path.to_owned();
            self.name = path.to_string_lossy().as_ref().into();
        }
    }

    /// Begins again as file number `id`, at the start.
    pub(super) fn restart(&mut self, id: u64, max_line: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.fingerprint = Fingerprint::of(&self.file, u64::MAX)?;
        (self.id, self.base, self.at_end) = (id, 0, false);
        self.lines = Lines::new(max_line);
        Ok(())
    }

    /// Opens the file anew after an error, if its path still leads to it, and goes on where it was.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        if Identity::of(&self.path, &file.metadata()?) == self.identity {
            file.seek(SeekFrom::Start(self.base + self.lines.read()))?;
            self.file = file;
        }
        Ok(())
    }

    /// Takes lines of at most so many bytes from now on: what was read beyond the last line is read again.
    pub(super) fn limit_lines(&mut self, max_line: u64) -> io::Result<()> {
        self.base = self.offset();
        self.file.seek(SeekFrom::Start(self.base))?;
        self.lines = Lines::new(max_line);
        self.at_end = false;
        Ok(())
    }

    /// Where the last line that was brought in ends.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.lines.taken()
    }

    /// Whether it was at its end when last read.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Says that it has to be read again, although it was at its end.
    pub(super) fn expect_more(&mut self) {
        self.at_end = false;
    }

    /// How the file begins, as far as it has been seen.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    fn complete_fingerprint(&mut self) -> io::Result<()> {
        if !self.fingerprint.is_complete() {
            self.fingerprint = Fingerprint::of(&self.file, self.base + self.lines.read())?;
        }
        Ok(())
    }
}
