//! Lines of the standard input.
//!
//! Lines travel as soon as the input would make the source wait: a person at a terminal sees each at once, a fast
//! stream fills whole batches.

use std::{
    io::{self, Read},
    time::Duration,
};

use sidestream_plan::stage;

use crate::{
    BlockingSource, Failure, Intake,
    lines::{Lines, MAX_LINE_BYTES, Taken},
};

/// An input that can be asked whether a read would wait.
pub(crate) trait Input: Read + Send + 'static {
    /// Whether a read gives something, or the end, within `wait`. May say yes where it cannot tell.
    fn is_ready(&self, wait: Duration) -> bool;
}

pub(crate) struct Stdin<I> {
    input: I,
    lines: Lines,
}

impl Stdin<io::Stdin> {
    pub(crate) fn new(stage: &stage::Stdin) -> Self {
        Stdin::of(io::stdin(), stage)
    }
}

impl<I: Input> Stdin<I> {
    fn of(input: I, stage: &stage::Stdin) -> Self {
        Self { input, lines: Lines::new(stage.max_line.map_or(MAX_LINE_BYTES, |size| size.bytes())) }
    }
}

impl<I: Input> BlockingSource for Stdin<I> {
    fn run(&mut self, intake: &mut Intake) -> Result<(), Failure> {
        let mut batch = intake.batch();
        loop {
            let full = self.lines.take(&mut batch) == Taken::Full;
            if full || !batch.is_empty() && !self.input.is_ready(Duration::ZERO) {
                let next = intake.batch();
                if intake.send_blocking(std::mem::replace(&mut batch, next)).is_err() {
                    return Ok(());
                }
                continue;
            }
            while !self.input.is_ready(LOOK_FOR_STOP) && !intake.is_stopped() {}
            if intake.is_stopped() {
                return Ok(());
            }
            let count = self.lines.read_from(&mut self.input);
            if count.map_err(|error| Failure(format!("cannot read the standard input: {error}")))? == 0 {
                self.lines.finish(&mut batch);
                // A stop at this very moment gives the lines back: they were not accepted.
                let _ = intake.send_blocking(batch);
                return Ok(());
            }
        }
    }
}

impl Input for io::Stdin {
    #[cfg(unix)]
    fn is_ready(&self, wait: Duration) -> bool {
        poll(self, wait)
    }

    /// A read waits until something comes, a request to stop included.
    #[cfg(not(unix))]
    fn is_ready(&self, wait: Duration) -> bool {
        !wait.is_zero()
    }
}

#[cfg(unix)]
fn poll(input: &impl std::os::fd::AsFd, wait: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};

    let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    let mut ends = [PollFd::new(input, PollFlags::IN)];
    // What cannot be polled (a terminal of macOS) is read, and so is what has ended or failed.
    !matches!(rustix::event::poll(&mut ends, Some(&wait)), Ok(0) | Err(rustix::io::Errno::INTR))
}

/// How soon a request to stop is seen while nothing comes in.
const LOOK_FOR_STOP: Duration = Duration::from_millis(100);

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;

    use sidestream_event::{Batch, Pool, Text};
    use sidestream_host::Clock;
    use sidestream_ring::channel::{Receiver, channel_by};

    use super::*;
    use crate::{Origin, Stop, intake};

    impl Input for io::PipeReader {
        fn is_ready(&self, wait: Duration) -> bool {
            poll(self, wait)
        }
    }

    fn world(stop: Stop) -> (Intake, Receiver<Batch>) {
        let (sender, receiver) = channel_by(8192, 1 << 20, Batch::len);
        let clock = Clock::machine();
        let origin = Origin::new("in", clock.clone());
        (intake(sender, origin, Pool::new(4).into(), clock, stop), receiver)
    }

    fn texts(receiver: &mut Receiver<Batch>) -> Vec<Text> {
        let batches = std::iter::from_fn(|| receiver.try_recv());
        let bodies = batches
            .flat_map(|batch| batch.events().iter().map(|event| event.body.clone()).collect::<Vec<_>>());
        bodies.map(|body| body.as_text().unwrap().into()).collect()
    }

    #[test]
    fn every_line_comes_and_the_source_ends_with_its_input() {
        let (input, mut writer) = io::pipe().unwrap();
        let (_keep, stop) = Stop::new();
        let (mut intake, mut receiver) = world(stop);
        let write = std::thread::spawn(move || (0..5000).for_each(|n| writeln!(writer, "line {n}").unwrap()));
        Stdin::of(input, &stage::Stdin::default()).run(&mut intake).unwrap();
        write.join().unwrap();
        let expected: Vec<_> = (0..5000).map(|n| format!("line {n}")).collect();
        assert_eq!(texts(&mut receiver), expected);
    }

    #[test]
    fn a_single_line_travels_while_the_input_stays_open_and_a_stop_ends_the_wait() {
        let (input, mut writer) = io::pipe().unwrap();
        let (request, stop) = Stop::new();
        let (mut intake, mut receiver) = world(stop);
        let run =
            std::thread::spawn(move || Stdin::of(input, &stage::Stdin::default()).run(&mut intake).unwrap());
        writer.write_all(b"hello\nhalf").unwrap();
        let mut heard = Vec::new();
        while heard.is_empty() {
            heard = texts(&mut receiver);
            std::thread::yield_now();
        }
        assert_eq!(heard, ["hello"]);
        request.send(true).unwrap();
        run.join().unwrap();
        drop(writer);
    }
}
