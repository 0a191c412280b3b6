//! Appends events to a file, one a line; a batch is one write.
//!
//! ```text
//!   path ──full──▶ path.1 ──▶ path.2 ──▶ ... path.keep ──▶ gone
//! ```
//!
//! A batch that could not be written whole is cut off again, so that a retry neither tears a line nor repeats one. A
//! batch stands in one file: a file is larger than `rotateAt` only where a single batch is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use sidestream_event::{Batch, Value};
use sidestream_plan::stage;

use super::{describe, folder_of, identity::Identity, sync_folder_of};
use crate::{
    BlockingSink, BuildError, Undelivered,
    letter::{self, Letter},
};

pub(crate) struct FileSink {
    path: PathBuf,
    rotate_at: Option<u64>,
    keep: u32,
    sync: bool,
    open: Option<Open>,
    text: Vec<u8>,
}

impl FileSink {
    pub(crate) fn new(stage: &stage::FileSink) -> Result<Self, BuildError> {
        let path = PathBuf::from(&stage.path);
        let refuse = |reason| Err(BuildError { field: "path", reason });
        if !folder_of(&path).is_dir() {
            return refuse(format!("the folder of {} does not exist; create it", path.display()));
        }
        if path.file_name().is_none() || path.is_dir() {
            return refuse(format!("{} is a folder; name a file in it", path.display()));
        }
        let rotate_at = stage.rotate_at.map(|size| size.bytes());
        let (keep, sync) = (stage.keep.unwrap_or(5).max(1), stage.sync.unwrap_or(false));
        Ok(Self { path, rotate_at, keep, sync, open: None, text: Vec::new() })
    }
}

impl BlockingSink for FileSink {
    fn deliver(&mut self, batch: &Batch) -> Result<(), Undelivered> {
        if self.text.capacity() > KEPT_BYTES {
            self.text = Vec::new();
        }
        self.text.clear();
        for event in batch.events() {
            match &event.body {
                Value::Text(text) if Letter::of(event).is_none() => {
                    self.text.extend_from_slice(text.as_bytes());
                }
                _ => letter::write_json(event, &mut self.text),
            }
            self.text.push(b'\n');
        }
        self.append().map_err(Undelivered::retry)
    }
}

impl FileSink {
    fn append(&mut self) -> Result<(), String> {
        let mut open = self.current()?;
        let is_full = self.rotate_at.is_some_and(|at| open.length + self.text.len() as u64 > at);
        if is_full && open.is_regular && open.length > 0 {
            drop(open);
            self.rotate().map_err(|error| describe("rotate", &self.path, &error))?;
            open = self.current()?;
        }
        // After a failure the file is opened anew, which also finds a line that could not be cut off.
        open.append(&self.text, self.sync).map_err(|error| describe("write", &self.path, &error))?;
        self.open = Some(open);
        Ok(())
    }

    /// The file that has the path: the one that is open, unless somebody has renamed or removed it.
    fn current(&mut self) -> Result<Open, String> {
        if let Some(open) = self.open.take()
            && fs::metadata(&self.path)
                .is_ok_and(|metadata| Identity::of(&self.path, &metadata) == open.identity)
        {
            return Ok(open);
        }
        Open::at(&self.path, self.sync).map_err(|error| describe("open", &self.path, &error))
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            match fs::rename(self.rotated(number), self.rotated(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.rotated(1))
    }

    fn rotated(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

/// The file being written.
struct Open {
    file: File,
    identity: Identity,
    length: u64,
    is_regular: bool,
    /// It ends in the middle of a line, left by a crash.
    torn: bool,
}

impl Open {
    fn at(path: &Path, sync: bool) -> io::Result<Self> {
        let is_new = !path.exists();
        // What is no regular file, such as a pipe, may not let itself be read.
        let mut file = match OpenOptions::new().read(true).append(true).create(true).open(path) {
            Ok(file) => file,
            Err(_) => OpenOptions::new().append(true).create(true).open(path)?,
        };
        if sync && is_new {
            sync_folder_of(path)?;
        }
        let metadata = file.metadata()?;
        let (length, is_regular) = (metadata.len(), metadata.is_file());
        let torn = is_regular && length > 0 && last_byte(&mut file).is_ok_and(|byte| byte != b'\n');
        Ok(Self { identity: Identity::of(path, &metadata), file, length, is_regular, torn })
    }

    /// Writes `text` at the end, whole or not at all.
    fn append(&mut self, text: &[u8], sync: bool) -> io::Result<()> {
        let written = self.write(text, sync);
        match &written {
            Ok(length) => {
                self.length += length;
                self.torn = false;
            }
            Err(_) if self.is_regular => {
                // Where even this fails, the next opening finds the torn line and ends it.
                let _ = self.file.set_len(self.length);
            }
            Err(_) => {}
        }
        written.map(|_| ())
    }

    fn write(&mut self, text: &[u8], sync: bool) -> io::Result<u64> {
        let mend: &[u8] = if self.torn { b"\n" } else { b"" };
        self.file.write_all(mend)?;
        self.file.write_all(text)?;
        if sync && self.is_regular {
            self.file.sync_data()?;
        }
        Ok((mend.len() + text.len()) as u64)
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut byte = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// A batch of more text than this gives its storage back.
const KEPT_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use sidestream_event::{Event, Map, Mark};
    use sidestream_plan::Size;

    use super::*;

    fn sink(path: &Path) -> stage::FileSink {
        stage::FileSink { path: path.to_str().unwrap().into(), rotate_at: None, keep: None, sync: None }
    }

    fn batch(bodies: &[&str]) -> Batch {
        Batch::of(bodies.iter().map(|body| Event::new(*body)).collect(), Mark::none())
    }

    #[test]
    fn text_stands_as_it_is_and_everything_else_as_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let map: Map = [("a", 1)].into_iter().collect();
        let events = vec![Event::new("plain \"text\""), Event::new(map), Event::new(2.5)];
        let mut sink = FileSink::new(&stage::FileSink { sync: Some(true), ..sink(&path) }).unwrap();
        sink.deliver(&Batch::of(events, Mark::none())).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "plain \"text\"\n{\"a\":1}\n2.5\n");
    }

    #[test]
    fn a_dead_letter_is_kept_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd.jsonl");
        let letters = vec![crate::letter::tests::letter("no JSON")];
        FileSink::new(&sink(&path)).unwrap().deliver(&Batch::of(letters, Mark::none())).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"stage\":\"fields\",\"error\":\"not \\\"JSON\\\"\",\"body\":\"no JSON\"}\n"
        );
    }

    #[test]
    fn a_full_file_is_rotated_and_as_many_are_kept_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let stage = stage::FileSink { rotate_at: Some(Size::from_bytes(10)), keep: Some(2), ..sink(&path) };
        let mut sink = FileSink::new(&stage).unwrap();
        for text in ["one", "two", "three", "four", "five", "a line longer than a file may be", "end"] {
            sink.deliver(&batch(&[text])).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("out.log"), "end\n");
        assert_eq!(read("out.log.1"), "a line longer than a file may be\n");
        assert_eq!(read("out.log.2"), "four\nfive\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_somebody_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let mut sink = FileSink::new(&sink(&path)).unwrap();
        sink.deliver(&batch(&["one"])).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        sink.deliver(&batch(&["two"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_to_string(folder.path().join("moved")).unwrap(), "one\n");
    }

    #[test]
    fn a_line_torn_by_a_crash_is_ended_before_the_next_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        fs::write(&path, "whole\nto").unwrap();
        FileSink::new(&sink(&path)).unwrap().deliver(&batch(&["next"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nto\nnext\n");
    }

    #[test]
    fn a_missing_folder_is_refused_at_the_start_and_named_when_it_goes_later() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        let stage = sink(&inner.join("out.log"));
        assert!(FileSink::new(&stage).err().unwrap().reason.ends_with("does not exist; create it"));
        assert!(FileSink::new(&sink(folder.path())).err().unwrap().reason.contains("name a file in it"));
        fs::create_dir(&inner).unwrap();
        let mut sink = FileSink::new(&stage).unwrap();
        fs::remove_dir(&inner).unwrap();
        let error = sink.deliver(&batch(&["x"])).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot open ") && error.ends_with("out.log: it or its folder does not exist"),
            "{error}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_asks_for_a_retry_and_names_the_path() {
        let mut sink = FileSink::new(&sink(Path::new("/dev/full"))).unwrap();
        let Err(Undelivered::Retry { reason, .. }) = sink.deliver(&batch(&["x"])) else {
            panic!("delivered")
        };
        assert_eq!(reason, "cannot write /dev/full: no space left on device");
    }
}
