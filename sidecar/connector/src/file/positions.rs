//! How far every file has been delivered, and the checkpoint that remembers it.
//!
//! ```text
//!   sent: (number 512, file 1, offset 9000) (number 700, file 2, offset 40) ...     one for each batch, in order
//!            ▲ committed                                                            passes them from the front
//! ```
//!
//! A position moves only when its lines are committed, so a restart repeats lines and never loses one. The checkpoint
//! is replaced whole: written beside itself, synced, renamed.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sidestream_host::Moment;

use super::{
    claim::Claim,
    describe,
    identity::{Fingerprint, Identity},
    sync_folder_of,
};

/// One file in the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) path: PathBuf,
    #[serde(flatten)]
    pub(super) identity: Identity,
    pub(super) fingerprint: Fingerprint,
    /// Where the last delivered line ends.
    pub(super) offset: u64,
}

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    version: u32,
    files: Vec<Position>,
}

/// The positions of every file that is read or not delivered yet.
pub(super) struct Positions {
    checkpoint: PathBuf,
    files: BTreeMap<u64, Known>,
    sent: VecDeque<Sent>,
    changed: bool,
    saved: Option<Moment>,
    failing: bool,
    claim: Option<Claim>,
}

struct Known {
    position: Position,
    /// Where the last line that was brought in ends, of a file that is read no more.
    closed_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sent {
    /// The number of the event after the last of the batch.
    next: u64,
    file: u64,
    offset: u64,
}

impl Positions {
    pub(super) fn new(checkpoint: PathBuf) -> Self {
        let (files, sent) = Default::default();
        Self { checkpoint, files, sent, changed: false, saved: None, failing: false, claim: None }
    }

    /// Whether both are kept in one checkpoint.
    pub(super) fn is_of(&self, other: &Positions) -> bool {
        self.checkpoint == other.checkpoint
    }

    /// Whether a file is remembered.
    pub(super) fn know_any(&self) -> bool {
        !self.files.is_empty()
    }

    /// Makes the checkpoint theirs, until they are dropped: two sources would overwrite each other's positions, and one
    /// that reads them while another's last lines are on their way would bring those lines again.
    pub(super) fn claim(&mut self) -> Result<(), String> {
        if self.claim.is_none() {
            self.claim = Some(Claim::new(&self.checkpoint)?);
        }
        Ok(())
    }

    /// What an earlier run has left; `None` where there was none.
    pub(super) fn load(&self) -> Result<Option<Vec<Position>>, String> {
        let text = match fs::read(&self.checkpoint) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(describe("read checkpoint", &self.checkpoint, &error)),
        };
        if text.is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice(&text) {
            Ok(Checkpoint { version: VERSION, files }) => Ok(Some(files)),
            Ok(Checkpoint { version, .. }) => Err(format!(
                "checkpoint {} is of version {version}, which is newer than this program; run the newer one or remove it to begin anew",
                self.checkpoint.display()
            )),
            Err(error) => Err(format!(
                "checkpoint {} cannot be understood ({error}); remove it to begin anew",
                self.checkpoint.display()
            )),
        }
    }

    /// Remembers file number `file`, delivered up to `position`.
    pub(super) fn open(&mut self, file: u64, position: Position) {
        self.files.insert(file, Known { position, closed_at: None });
        self.changed = true;
    }

    /// What is known of a file has changed: where it stands or how it begins.
    pub(super) fn describe(&mut self, file: u64, path: &Path, fingerprint: Fingerprint) {
        if let Some(Known { position, .. }) = self.files.get_mut(&file)
            && (position.path != path || position.fingerprint != fingerprint)
        {
            position.path = path.to_owned();
            position.fingerprint = fingerprint;
            self.changed = true;
        }
    }

    /// The lines of `file` up to `offset` were brought in as the events before number `next`.
    pub(super) fn sent(&mut self, next: u64, file: u64, offset: u64) {
        if self.sent.len() >= SENT_MAX {
            self.thin();
        }
        self.sent.push_back(Sent { next, file, offset });
    }

    /// File number `file` is read no more; it is forgotten when all of it is delivered.
    pub(super) fn close(&mut self, file: u64, offset: u64) {
        if let Some(known) = self.files.get_mut(&file) {
            known.closed_at = Some(offset);
        }
        self.forget_delivered(file);
    }

    /// The contents of file number `file` are gone: nothing of it can be read again.
    pub(super) fn forget(&mut self, file: u64) {
        self.changed |= self.files.remove(&file).is_some();
    }

    /// Events before number `committed` need no replay any more.
    pub(super) fn commit(&mut self, committed: u64) {
        while let Some(sent) = self.sent.front().copied()
            && sent.next <= committed
        {
            self.sent.pop_front();
            if let Some(known) = self.files.get_mut(&sent.file) {
                known.position.offset = sent.offset;
                self.changed = true;
                self.forget_delivered(sent.file);
            }
        }
    }

    /// Writes the checkpoint where something has changed and the last time is a second ago.
    pub(super) fn save_now_and_then(&mut self, now: Moment) {
        if self.changed && self.saved.is_none_or(|saved| now.since(saved) >= SAVE_EVERY) {
            self.saved = Some(now);
            self.save();
        }
    }

    /// Writes the checkpoint where something has changed. A failure is reported once and tried again.
    pub(super) fn save(&mut self) {
        if !self.changed {
            return;
        }
        match self.replace() {
            Ok(()) => (self.changed, self.failing) = (false, false),
            Err(error) => {
                let reason = describe("write checkpoint", &self.checkpoint, &error);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(reason, "positions are not remembered; a restart now would repeat lines");
                }
            }
        }
    }

    fn replace(&self) -> io::Result<()> {
        let files = self.files.values().map(|known| known.position.clone()).collect();
        let mut text = serde_json::to_vec_pretty(&Checkpoint { version: VERSION, files })?;
        text.push(b'\n');
        let beside = beside(&self.checkpoint);
        let mut file = File::create(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &self.checkpoint)?;
        // The rename itself must last too.
        sync_folder_of(&self.checkpoint)
    }

    fn forget_delivered(&mut self, file: u64) {
        if self.files.get(&file).is_some_and(|known| known.closed_at == Some(known.position.offset)) {
            self.forget(file);
        }
    }

    /// Forgets every second position of each file, never its last: a coarser memory while much is in flight.
    fn thin(&mut self) {
        let mut kept_after: HashSet<u64> = HashSet::new();
        let mut kept: VecDeque<Sent> = VecDeque::with_capacity(SENT_MAX);
        for sent in self.sent.drain(..).rev() {
            if kept_after.remove(&sent.file) {
                continue;
            }
            kept_after.insert(sent.file);
            kept.push_front(sent);
        }
        self.sent = kept;
    }
}

/// Where a checkpoint is written before it takes the place of the old one.
pub(super) fn beside(checkpoint: &Path) -> PathBuf {
    let mut beside = checkpoint.to_owned().into_os_string();
    beside.push(".new");
    beside.into()
}

const VERSION: u32 = 1;
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Positions in flight that are told apart: a window that holds back a million batches shall not hold a million of these.
const SENT_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn position(path: &str, offset: u64) -> Position {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = Identity::of(file.path(), &file.as_file().metadata().unwrap());
        Position {
            path: path.into(),
            identity,
            fingerprint: Fingerprint::of(file.as_file(), 0).unwrap(),
            offset,
        }
    }

    fn offsets(positions: &Positions) -> Vec<u64> {
        positions.files.values().map(|known| known.position.offset).collect()
    }

    #[test]
    fn a_position_moves_when_its_lines_are_committed_and_not_before() {
        let mut positions = Positions::new("unused".into());
        positions.open(0, position("a", 0));
        positions.open(1, position("b", 7));
        positions.sent(512, 0, 9000);
        positions.sent(700, 1, 40);
        positions.commit(511);
        assert_eq!(offsets(&positions), [0, 7]);
        positions.commit(512);
        assert_eq!(offsets(&positions), [9000, 7]);
        positions.commit(10_000);
        assert_eq!(offsets(&positions), [9000, 40]);
    }

    #[test]
    fn a_closed_file_is_remembered_until_all_of_it_is_delivered() {
        let mut positions = Positions::new("unused".into());
        positions.open(0, position("a", 0));
        positions.sent(5, 0, 50);
        positions.close(0, 50);
        assert_eq!(offsets(&positions), [0]);
        positions.commit(5);
        assert!(positions.files.is_empty());
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_damaged_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.json");
        let mut positions = Positions::new(path.clone());
        assert_eq!(positions.load().unwrap(), None);
        positions.open(3, position("/var/log/a.log", 77));
        positions.save();
        assert_eq!(positions.load().unwrap().unwrap(), [positions.files[&3].position.clone()]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::write(&path, "{").unwrap();
        assert!(positions.load().unwrap_err().contains("remove it to begin anew"));
        fs::write(&path, r#"{"version":9,"files":[]}"#).unwrap();
        assert!(positions.load().unwrap_err().contains("version 9"));
    }

    #[test]
    fn what_is_in_flight_takes_bounded_memory_and_ends_at_the_last_position() {
        let mut positions = Positions::new("unused".into());
        positions.open(0, position("a", 0));
        positions.open(1, position("b", 0));
        for batch in 1..=100_000_u64 {
            positions.sent(batch * 10, batch % 2, batch);
        }
        assert!(positions.sent.len() <= SENT_MAX);
        let order: Vec<_> = positions.sent.iter().map(|sent| sent.next).collect();
        assert!(order.is_sorted());
        positions.commit(1_000_000);
        assert_eq!(offsets(&positions), [100_000, 99_999]);
    }
}
