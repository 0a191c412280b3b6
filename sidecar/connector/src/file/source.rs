//! Lines of files that grow, in the order they stand in each file.
//!
//! Each round looks where files are, reads what each has, at most a few MiB, and lets positions follow what was
//! delivered; a round that found nothing is followed by a pause. A file that was renamed or removed is read to its end
//! before its successor, and a while longer, because its writer may still have it open. A file that comes and goes
//! between two looks is not seen.

mod handover;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use sidestream_event::Batch;
use sidestream_host::Moment;
use sidestream_plan::stage::{self, ReadFrom};

use super::{
    describe, folder_of,
    identity::Identity,
    place::{Found, Places},
    positions::{Position, Positions, beside},
    tail::{Look, Tail},
};
use crate::{
    BlockingSource, BuildError, Failure, Intake, Stopped,
    lines::{MAX_LINE_BYTES, Taken},
};

pub(crate) struct FileSource {
    places: Places,
    read_from: ReadFrom,
    follow: bool,
    max_line: u64,
    /// Whether events carry the path: it costs, so only where there can be more than one.
    named: bool,
    positions: Option<Positions>,
    /// In the order they were met.
    tails: Vec<Tail>,
    next_id: u64,
    /// Lines that the intake did not take when it was stopped, and the number of their file: for who takes over.
    refused: Option<(u64, Batch)>,
    /// Whether the files and positions are those of a source before this one.
    took_over: bool,
    begun: bool,
    looked: Moment,
}

/// The intake was stopped. What it did not take is kept in [`FileSource::refused`].
struct Halted;

impl FileSource {
    pub(crate) fn new(stage: &stage::FileSource) -> Result<Self, BuildError> {
        let places = Places::parse(&stage.paths)?;
        if let Some(checkpoint) = &stage.checkpoint
            && !folder_of(Path::new(checkpoint)).is_dir()
        {
            let reason = format!("the folder of {checkpoint} does not exist; create it");
            return Err(BuildError { field: "checkpoint", reason });
        }
        let own = stage.checkpoint.as_ref().map(PathBuf::from);
        let places = places.without(own.iter().flat_map(|path| [path.clone(), beside(path)]));
        Ok(Self {
            named: places.are_many(),
            places,
            read_from: stage.read_from.unwrap_or_default(),
            follow: stage.follow.unwrap_or(true),
            max_line: stage.max_line.map_or(MAX_LINE_BYTES, |size| size.bytes()),
            positions: own.map(Positions::new),
            tails: Vec::new(),
            next_id: 0,
            refused: None,
            took_over: false,
            begun: false,
            looked: Moment::default(),
        })
    }
}

impl BlockingSource for FileSource {
    fn open(&mut self) -> Result<(), Failure> {
        // Where it follows, what is missing may come.
        let files = if self.follow { Ok(()) } else { self.places.must_exist() };
        let positions = || self.positions.as_ref().map_or(Ok(()), |positions| positions.load().map(drop));
        files.and_then(|()| positions()).map_err(Failure)
    }

    fn run(&mut self, intake: &mut Intake) -> Result<(), Failure> {
        self.begin(intake).map_err(Failure)?;
        if let Some((file, batch)) = self.refused.take() {
            let _ = self.bring(file, batch, intake);
        }
        let mut pause = PAUSE_MIN;
        while !intake.is_stopped() {
            let now = intake.clock().now();
            if self.follow {
                self.look_now_and_then(now);
            }
            let Ok(found) = self.read_all(intake) else { break };
            self.remember(intake.committed(), now);
            if found {
                pause = PAUSE_MIN;
            } else if self.follow {
                thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            } else {
                // A stop at this very moment gives the lines back: they were not accepted.
                let _ = (0..self.tails.len()).try_for_each(|index| self.finish(index, intake));
                break;
            }
        }
        self.drained(intake.committed());
        Ok(())
    }

    fn drained(&mut self, committed: u64) {
        if let Some(positions) = &mut self.positions {
            positions.commit(committed);
            positions.save();
        }
    }

    fn take_over(&mut self, before: Box<dyn BlockingSource>) -> Option<Box<dyn BlockingSource>> {
        self.go_on_after(before)
    }
}

/// Which files there are.
impl FileSource {
    /// Goes on where an earlier run ended, and meets the files it did not know.
    fn begin(&mut self, intake: &Intake) -> Result<(), String> {
        if self.begun {
            return Ok(());
        }
        if let Some(positions) = &mut self.positions {
            positions.claim()?;
        }
        let (now, mut remembered) = (intake.clock().now(), Vec::new());
        if self.took_over {
            self.begin_to_remember(intake.next_sequence());
        } else if let Some(positions) = &self.positions {
            remembered = positions.load()?.unwrap_or_default();
        }
        self.begun = true;
        self.looked = now;
        let found = self.places.find();
        if found.is_empty() && !self.follow {
            tracing::warn!("no file matches `paths`, and with `follow: false` none is waited for");
        }
        let here: HashMap<Identity, &Path> =
            found.iter().map(|file| (file.identity, file.path.as_path())).collect();
        for position in &remembered {
            let path = here.get(&position.identity).map(|path| path.to_path_buf());
            if let Some(path) = path.or_else(|| find_moved(position)) {
                self.resume(&path, position);
            }
        }
        // A file that has taken the place of one we know was written after we looked last, so none of it is old.
        let (places, read_from) = (&self.places, self.read_from);
        let known: Vec<PathBuf> = (self.tails.iter().map(|tail| tail.path.clone()))
            .chain(remembered.iter().map(|position| position.path.clone()))
            .collect();
        let is_old = |path: &Path| !known.iter().any(|known| places.are_together(known, path));
        let starts: Vec<u64> = (found.iter())
            .map(|file| if read_from == ReadFrom::End && is_old(&file.path) { file.length } else { 0 })
            .collect();
        self.meet(found.iter().zip(starts), now);
        Ok(())
    }

    fn look_now_and_then(&mut self, now: Moment) {
        let every = if self.places.have_patterns() { LOOK_AT_FOLDERS_EVERY } else { LOOK_AT_PATHS_EVERY };
        if now.since(self.looked) >= every {
            self.looked = now;
            let found = self.places.find();
            self.meet(found.iter().map(|file| (file, 0)), now);
        }
    }

    /// Opens the new files, each to be read from where it says, follows renamed ones, and marks those that have no path
    /// any more.
    fn meet<'a>(&mut self, found: impl Iterator<Item = (&'a Found, u64)> + Clone, now: Moment) {
        let paths: HashMap<Identity, &Path> =
            found.clone().map(|(file, _)| (file.identity, file.path.as_path())).collect();
        let known: HashSet<Identity> = self.tails.iter().map(|tail| tail.identity).collect();
        let new = found.filter(|(file, _)| !known.contains(&file.identity));
        // Before the paths are brought up to date: they tell which file comes after which.
        let new: Vec<_> = new.map(|(file, start)| (&file.path, start, self.leave_path(&file.path))).collect();
        for tail in &mut self.tails {
            match paths.get(&tail.identity) {
                Some(path) => tail.found_at(path),
                None if tail.leaving.is_none() => tail.leaving = Some(now),
                None => {}
            }
        }
        for (path, start, waits_for) in new {
            self.open(path, start, waits_for);
        }
    }

    /// The file that had `path` until now, which is read to its end before the new one.
    fn leave_path(&mut self, path: &Path) -> Option<u64> {
        let old = self.tails.iter_mut().rfind(|old| old.path == path)?;
        old.expect_more();
        Some(old.id)
    }

    /// Opens a file where an earlier run ended, or at its start where it is no longer the same.
    fn resume(&mut self, path: &Path, position: &Position) {
        let is_same = File::open(path).is_ok_and(|file| {
            let is_long_enough = file.metadata().is_ok_and(|metadata| metadata.len() >= position.offset);
            is_long_enough && position.fingerprint.matches(&file).unwrap_or(false)
        });
        self.open(path, if is_same { position.offset } else { 0 }, None);
        if let Some(tail) = self.tails.last_mut().filter(|tail| tail.identity == position.identity) {
            tail.path = position.path.clone();
        }
    }

    fn open(&mut self, path: &Path, offset: u64, waits_for: Option<u64>) {
        match Tail::open(self.next_id, path, offset, self.max_line) {
            Ok(mut tail) => {
                self.next_id += 1;
                tail.waits_for = waits_for;
                remember_tail(&mut self.positions, &tail, offset);
                self.tails.push(tail);
            }
            Err(error) => self.places.report(path, &describe("open", path, &error)),
        }
    }
}

/// What they say.
impl FileSource {
    /// Reads every file a while; says whether there was anything.
    fn read_all(&mut self, intake: &mut Intake) -> Result<bool, Halted> {
        let mut found = false;
        for index in 0..self.tails.len() {
            if let Some(first) = self.tails[index].waits_for {
                if self.tails.iter().any(|other| other.id == first && !other.is_at_end()) {
                    continue;
                }
                self.tails[index].waits_for = None;
            }
            found |= match self.read_one(index, intake)? {
                Ok(found) => found,
                Err(error) => {
                    let tail = &mut self.tails[index];
                    if !std::mem::replace(&mut tail.failing, true) {
                        tracing::warn!(reason = describe("read", &tail.path, &error), "it is tried again");
                    }
                    // A handle that went bad, as over a network, may be good again when opened anew.
                    let _ = tail.reopen();
                    false
                }
            };
        }
        self.let_go(intake)?;
        Ok(found)
    }

    fn read_one(&mut self, index: usize, intake: &mut Intake) -> Result<io::Result<bool>, Halted> {
        if self.tails[index].is_at_end() {
            match self.tails[index].look() {
                Ok(Look::Same) => return Ok(Ok(false)),
                Ok(Look::More) => {}
                Ok(Look::Cut) => {
                    self.finish(index, intake)?;
                    if let Err(error) = self.begin_again(index) {
                        return Ok(Err(error));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let mut found = false;
        for _ in 0..BATCHES_AT_ONCE {
            let mut batch = intake.batch();
            let taken = self.tails[index].fill(&mut batch);
            found |= !batch.is_empty();
            // What was read before an error is as good as any.
            self.send(index, batch, intake)?;
            match taken {
                Ok(Taken::Full) => {}
                Ok(Taken::All) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        let tail = &mut self.tails[index];
        tail.failing = false;
        if found && tail.leaving.is_some() {
            tail.leaving = Some(intake.clock().now());
        }
        if let Some(positions) = &mut self.positions {
            positions.describe(tail.id, &tail.path, tail.fingerprint());
        }
        Ok(Ok(found))
    }

    fn send(&mut self, index: usize, mut batch: Batch, intake: &mut Intake) -> Result<(), Halted> {
        let tail = &self.tails[index];
        if self.named {
            for event in batch.events_mut() {
                event.meta.context_mut().headers.push(("file".into(), tail.name.clone()));
            }
        }
        self.bring(tail.id, batch, intake)
    }

    /// Brings in the lines of file number `file` up to where it was read.
    fn bring(&mut self, file: u64, batch: Batch, intake: &mut Intake) -> Result<(), Halted> {
        let any = !batch.is_empty();
        if let Err(Stopped(batch)) = intake.send_blocking(batch) {
            self.refused = any.then_some((file, batch));
            return Err(Halted);
        }
        let tail = self.tails.iter().find(|tail| tail.id == file && any);
        if let (Some(positions), Some(tail)) = (&mut self.positions, tail) {
            positions.sent(intake.next_sequence(), file, tail.offset());
        }
        Ok(())
    }

    /// Brings in the begun line of a file that will not go on.
    fn finish(&mut self, index: usize, intake: &mut Intake) -> Result<(), Halted> {
        let mut batch = intake.batch();
        self.tails[index].finish(&mut batch);
        self.send(index, batch, intake)
    }

    fn begin_again(&mut self, index: usize) -> io::Result<()> {
        let tail = &mut self.tails[index];
        if let Some(positions) = &mut self.positions {
            positions.forget(tail.id);
        }
        tail.restart(self.next_id, self.max_line)?;
        self.next_id += 1;
        remember_tail(&mut self.positions, tail, 0);
        Ok(())
    }

    /// Closes the files that have had no path and nothing new for a while.
    fn let_go(&mut self, intake: &mut Intake) -> Result<(), Halted> {
        let now = intake.clock().now();
        let mut index = 0;
        while index < self.tails.len() {
            let tail = &self.tails[index];
            let is_over = tail.leaving.is_some_and(|since| now.since(since) >= LEAVE_AFTER);
            if !is_over || !tail.is_at_end() && !tail.failing {
                index += 1;
                continue;
            }
            self.finish(index, intake)?;
            let tail = self.tails.remove(index);
            if let Some(positions) = &mut self.positions {
                positions.close(tail.id, tail.offset());
            }
        }
        Ok(())
    }

    fn remember(&mut self, committed: u64, now: Moment) {
        if let Some(positions) = &mut self.positions {
            positions.commit(committed);
            positions.save_now_and_then(now);
        }
    }
}

fn remember_tail(positions: &mut Option<Positions>, tail: &Tail, offset: u64) {
    if let Some(positions) = positions {
        let (path, identity, fingerprint) = (tail.path.clone(), tail.identity, tail.fingerprint());
        positions.open(tail.id, Position { path, identity, fingerprint, offset });
    }
}

/// Where a remembered file is now, if it was renamed within its folder and has lines that were not delivered.
fn find_moved(position: &Position) -> Option<PathBuf> {
    let entries = fs::read_dir(folder_of(&position.path)).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| {
        fs::metadata(path).is_ok_and(|metadata| {
            metadata.is_file()
                && Identity::of(path, &metadata) == position.identity
                && metadata.len() > position.offset
                && File::open(path).is_ok_and(|file| position.fingerprint.matches(&file).unwrap_or(false))
        })
    })
}

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// A path costs one call to look at, a folder one for each of its files.
const LOOK_AT_PATHS_EVERY: Duration = Duration::from_millis(10);
const LOOK_AT_FOLDERS_EVERY: Duration = Duration::from_millis(500);
/// How long a file without a path is read on after its last line.
const LEAVE_AFTER: Duration = Duration::from_secs(5);
/// One file may bring so many batches before the others have their turn.
const BATCHES_AT_ONCE: usize = 64;
