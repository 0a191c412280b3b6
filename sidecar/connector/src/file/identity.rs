//! Which file it is, whatever it is called now.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sidestream_event::fnv1a;

/// What stays when a file is renamed: device and inode. Where there are none, the path and the time of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    #[cfg(unix)]
    pub(super) fn of(_path: &Path, metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    #[cfg(not(unix))]
    pub(super) fn of(path: &Path, metadata: &Metadata) -> Self {
        let created =
            metadata.created().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let device = fnv1a(path.as_os_str().as_encoded_bytes());
        Self { device, inode: created.map_or(0, |since| since.as_nanos() as u64) }
    }
}

/// How a file begins: tells a new file that was given an old one's inode, and a file written anew in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    /// How many first bytes it is of.
    length: u64,
    hash: u64,
}

impl Fingerprint {
    /// Of the first bytes of `file`, at most `limit` and [`FINGERPRINT_BYTES`]. The file's position stays.
    pub(super) fn of(file: &File, limit: u64) -> io::Result<Self> {
        let mut file = file;
        let position = file.stream_position()?;
        let mut head = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        let read = file.take(limit.min(FINGERPRINT_BYTES)).read_to_end(&mut head);
        file.seek(SeekFrom::Start(position))?;
        read?;
        Ok(Self { length: head.len() as u64, hash: fnv1a(&head) })
    }

    /// Whether `file` begins so.
    pub(super) fn matches(&self, file: &File) -> io::Result<bool> {
        Ok(self.length == 0 || Fingerprint::of(file, self.length)? == *self)
    }

    /// Whether more bytes would not change it.
    pub(super) fn is_complete(&self) -> bool {
        self.length == FINGERPRINT_BYTES
    }
}

/// Enough for a log line with its time stamp.
const FINGERPRINT_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_fingerprint_still_matches_a_file_that_has_grown_and_not_one_written_anew() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(Fingerprint::of(&file, 9).unwrap().matches(&file).unwrap());
        file.write_all(b"first line\n").unwrap();
        let print = Fingerprint::of(&file, u64::MAX).unwrap();
        file.write_all(&[b'x'; 1000]).unwrap();
        assert!(print.matches(&file).unwrap() && !print.is_complete());
        assert_eq!(file.stream_position().unwrap(), 1011);
        assert!(Fingerprint::of(&file, u64::MAX).unwrap().is_complete());
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"other line\n").unwrap();
        assert!(!print.matches(&file).unwrap());
    }
}
