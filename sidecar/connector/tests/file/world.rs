//! A file source at work on a thread, and what it has brought in.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use sidestream_connector::{
    BlockingSink, BlockingSource, Environment, Origin, Secrets, Sink, Source, Stop, build, intake,
};
use sidestream_event::{Batch, Event, Pool};
use sidestream_host::Clock;
use sidestream_plan::{self as plan, stage};
use sidestream_ring::channel::{Receiver, channel_by};
use tempfile::TempDir;
use tokio::sync::watch;

pub(crate) fn env() -> Environment {
    Environment {
        pipeline: "shop/tail".into(),
        clock: Clock::machine(),
        secrets: Secrets::default(),
        dnpipes: None,
        exactly_once: None,
        compile: Arc::new(|_| Err("a file needs no expression".into())),
    }
}

/// A folder of files to read.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        append(&self.path(name), text);
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// A stage that reads `names` and remembers in `checkpoint`.
    pub(crate) fn stage(&self, names: &[&str]) -> stage::FileSource {
        stage::FileSource {
            paths: names.iter().map(|name| self.path(name).to_str().unwrap().into()).collect(),
            read_from: None,
            checkpoint: Some(self.path("checkpoint").to_str().unwrap().into()),
            follow: None,
            max_line: None,
        }
    }
}

pub(crate) fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// A source at work.
pub(crate) struct Reading {
    pub(crate) batches: Receiver<Batch>,
    origin: Origin,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Box<dyn BlockingSource>>,
    seen: Vec<String>,
}

impl Reading {
    pub(crate) fn start(stage: stage::FileSource) -> Self {
        Self::run(source(stage), Origin::new("tail", Clock::machine()))
    }

    fn run(mut source: Box<dyn BlockingSource>, origin: Origin) -> Self {
        let (sender, batches) = channel_by(64, 1 << 20, Batch::len);
        let clock = Clock::machine();
        let (stop, stopped) = Stop::new();
        let mut intake = intake(sender, origin.clone(), Arc::new(Pool::new(8)), clock, stopped);
        let thread = thread::spawn(move || {
            source.run(&mut intake).unwrap();
            source
        });
        Self { batches, origin, stop, thread, seen: Vec::new() }
    }

    /// Stops the source and puts another in its place, as a reload does; says whether that one goes on where it stopped.
    /// What was in the ring is delivered.
    pub(crate) fn replace(mut self, stage: stage::FileSource) -> (Self, bool) {
        let _ = self.stop.send(true);
        let before = self.thread.join().unwrap();
        let mut source = source(stage);
        let back = source.take_over(before);
        while let Some(mut batch) = self.batches.try_recv() {
            self.seen.extend(batch.events().iter().map(line));
            batch.finish();
        }
        let goes_on = back.is_none();
        if let Some(mut before) = back {
            before.drained(self.origin.committed());
        }
        let after = Self::run(source, self.origin);
        (Self { seen: self.seen, ..after }, goes_on)
    }

    /// Takes and delivers what is there until `enough` of the lines so far.
    pub(crate) fn until(&mut self, enough: impl Fn(&[String]) -> bool) {
        for _ in 0..4_000 {
            while let Some(mut batch) = self.batches.try_recv() {
                self.seen.extend(batch.events().iter().map(line));
                batch.finish();
            }
            if enough(&self.seen) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("waited for more than {:?}", self.seen.iter().rev().take(20).collect::<Vec<_>>());
    }

    /// Waits for the next lines: these and no others.
    #[track_caller]
    pub(crate) fn expect(&mut self, lines: &[&str]) {
        self.until(|seen| seen.len() >= lines.len());
        assert_eq!(self.seen, lines);
        self.seen.clear();
    }

    /// Asks the source to stop, delivers what is in flight, and lets it remember; gives the lines that still came.
    pub(crate) fn stop(mut self) -> Vec<String> {
        // A source that has ended by itself hears it no more.
        let _ = self.stop.send(true);
        let mut source = self.thread.join().unwrap();
        while let Some(mut batch) = self.batches.try_recv() {
            self.seen.extend(batch.events().iter().map(line));
            batch.finish();
        }
        source.drained(self.origin.committed());
        self.seen
    }

    /// Waits until the source has ended by itself; gives the lines that came.
    pub(crate) fn end(mut self) -> Vec<String> {
        while !self.thread.is_finished() {
            while let Some(mut batch) = self.batches.try_recv() {
                self.seen.extend(batch.events().iter().map(line));
                batch.finish();
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.stop()
    }
}

fn source(stage: stage::FileSource) -> Box<dyn BlockingSource> {
    match build::source(&plan::Source::File(stage), &env()) {
        Ok(Source::Blocking(source)) => source,
        Ok(_) => panic!("the source wants to be run in another way"),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn line(event: &Event) -> String {
    event.body.as_text().map_or_else(|| event.body.to_string(), Into::into)
}

pub(crate) fn sink(stage: stage::FileSink) -> Box<dyn BlockingSink> {
    match build::sink(&plan::Sink::File(stage), &env()) {
        Ok(Sink::Blocking(sink)) => sink,
        Ok(_) => panic!("the sink wants to be run in another way"),
        Err(error) => panic!("{error}"),
    }
}
