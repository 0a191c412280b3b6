//! `sidestream bench`: how fast a dnpipe is, beside what its disk can do at all.
//!
//! ```text
//!   Schedule ──ticket, when it was due──▶ producers ══▶ server ══▶ consumers
//!                                            │ Tally                  │ Tally
//!   every second: Gathered ◀─────────────────┴────────────────────────┘──▶ a line, and a point of the chart
//!   at the end:   Report ──▶ text, JSON, HTML
//! ```
//!
//! With a rate the loop is open: a push is due by the schedule, whatever became of those before it, and its latency counts from
//! when it was due. A server that stalls for a second is then seen to by everything that was due in that second, which a loop
//! that waits for its answer would leave out (coordinated omission). What it holds is bounded: records in flight, a histogram
//! for each producer and consumer, a point for each second.

mod chart;
mod disk;
mod load;
mod pull;
mod push;
mod report;
mod schedule;
mod serve;
mod tally;

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use serde::Serialize;
use sidestream_client::{Client, ClientConfig};
use sidestream_host::{Clock, Random};
use sidestream_plan::{Duration as Span, Size};

use self::{load::Load, report::Report, serve::Serving};
use super::{DONE, failed};
use crate::{
    output::{complain, print},
    server::{Failed, Server},
};

/// What to measure, and how.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What to measure
    #[arg(value_enum)]
    kind: Kind,
    /// The dnpipe: `orders`, or with its namespace `shop/orders`; of several, each gets its turn
    #[arg(required = true, value_name = "DNPIPE")]
    dnpipes: Vec<String>,
    /// Bytes of a record's value
    #[arg(long, value_name = "SIZE", default_value = "1Ki")]
    size: Size,
    /// Push exactly so many records at once; by default the client batches as it does in a program
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// How large the client's own batches become
    #[arg(long, value_name = "SIZE", conflicts_with = "batch", default_value = "256Ki")]
    batch_bytes: Size,
    /// Records of a producer that are pushed and not acknowledged; by default 1024, or 32 MiB of them with --rate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    in_flight: Option<u32>,
    /// Records a second that are due, of all producers together, whatever becomes of them; by default as fast as it goes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// How long to push, or at most to pull; by default 10s, or until --records are pushed; 24h at most
    #[arg(long = "for", value_name = "SPAN")]
    length: Option<Span>,
    /// How many records to push, or at most to pull, in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// How long to run before anything is measured
    #[arg(long, value_name = "SPAN", default_value = "0s")]
    warm_up: Span,
    /// Producers, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    producers: u16,
    /// Consumers, each with a connection of its own; each pulls every record
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    consumers: u16,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with charts to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// No line every second
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    serving: serve::Serve,
    #[command(flatten)]
    server: Server,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// How fast records are acknowledged.
    Push,
    /// How fast the records that are there are read.
    Pull,
    /// How fast records are acknowledged while others read them.
    Both,
    /// How long a record takes from when it is due to be pushed until it is pulled.
    EndToEnd,
}

impl Kind {
    pub(crate) fn pushes(self) -> bool {
        self != Kind::Pull
    }

    pub(crate) fn pulls(self) -> bool {
        self != Kind::Push
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Kind::Push => "push",
            Kind::Pull => "pull",
            Kind::Both => "both",
            Kind::EndToEnd => "end-to-end",
        }
    }
}

impl Bench {
    pub(crate) fn run(mut self) -> ExitCode {
        let load = match self.load() {
            Ok(load) => Arc::new(load),
            Err(reason) => return wrong(&reason),
        };
        // Where the figures cannot go is told before anything is pushed.
        for path in [&self.json, &self.html].into_iter().flatten() {
            if let Err(error) = fs::write(path, "") {
                complain(format_args!("error: cannot write {}: {error}", path.display()));
                return failed();
            }
        }
        let serving = match self.serving.open(&load) {
            Ok(serving) => serving,
            Err(Failed::Wrong(reason)) => return wrong(&reason),
            Err(Failed::Refused(reason)) => {
                complain(format_args!("error: {reason}"));
                return failed();
            }
        };
        let asked = std::mem::take(&mut self.server);
        let server = serving.as_ref().map_or(asked, Serving::server);
        let folder = server.folder();
        let code = server.with(async |client: Client| {
            let described = load::describe(&client, &load).await?;
            let disk = folder.map(|folder| disk::probe(&folder)).transpose();
            let disk = disk.unwrap_or_else(|reason| {
                complain(format_args!("the disk is not probed: {reason}"));
                None
            });
            let address = client.address().clone();
            let client = || Client::new(address.clone(), ClientConfig::default());
            let measured = load::run(&load, &described, client, !self.quiet).await;
            let report = Report::new(&load, &described, disk, &measured);
            print(report.text());
            self.write(&report)?;
            match measured.failed {
                Some(error) => Err(Failed::Refused(format!("it ended early: {error}"))),
                None => Ok(DONE),
            }
        });
        if let Some(serving) = serving {
            serving.close();
        }
        code
    }

    fn load(&self) -> Result<Load, String> {
        let bytes = usize::try_from(self.size.bytes()).unwrap_or(usize::MAX);
        let range = if self.kind.pulls() { STAMP_BYTES..=VALUE_BYTES_MAX } else { 1..=VALUE_BYTES_MAX };
        if self.kind.pushes() && !range.contains(&bytes) {
            let (least, most) = (range.start(), range.end());
            return Err(format!("--size {}: a record of this bench has {least} to {most} bytes", self.size));
        }
        let most = BATCH_BYTES_MAX / (bytes + RECORD_OVERHEAD).max(1);
        if let Some(batch) = self.batch.filter(|batch| *batch as usize > most) {
            return Err(format!("--batch {batch}: a batch has {most} records of this size at most"));
        }
        let default = match self.rate {
            // Room for what a stall holds up, within the client's buffer.
            Some(_) => ((32 << 20) / (bytes + RECORD_OVERHEAD)) as u32,
            None => 1024,
        };
        let length = match (self.length, self.records) {
            (Some(length), _) => length.get(),
            (None, Some(_)) => LENGTH_MAX,
            (None, None) => Duration::from_secs(10),
        };
        if length.is_zero() || length > LENGTH_MAX {
            return Err("--for: a bench takes 1 ns to 24 h".into());
        }
        Ok(Load {
            kind: self.kind,
            dnpipes: self.dnpipes.clone(),
            value_bytes: bytes,
            batch: self.batch,
            batch_bytes: usize::try_from(self.batch_bytes.bytes()).unwrap_or(usize::MAX),
            in_flight: self.in_flight.unwrap_or(default).max(self.batch.unwrap_or(1)) as usize,
            rate: self.rate,
            length,
            records: self.records,
            warm_up: self.warm_up.get(),
            producers: usize::from(self.producers),
            consumers: usize::from(self.consumers),
            run: Random::from_entropy().next_u64(),
            clock: Clock::machine(),
        })
    }

    fn write(&self, report: &Report) -> Result<(), Failed> {
        let files = [(&self.json, report.json()), (&self.html, chart::page(report))];
        for (path, text) in files {
            if let Some(path) = path {
                fs::write(path, text)
                    .map_err(|error| Failed::Refused(format!("cannot write {}: {error}", path.display())))?;
            }
        }
        Ok(())
    }
}

fn wrong(reason: &str) -> ExitCode {
    complain(format_args!("error: {reason}"));
    super::wrong()
}

/// What a record begins with where it is to be known again: the run, and when it was due.
const STAMP_BYTES: usize = 16;
/// The most that a record may be, without what is said beside its value.
const VALUE_BYTES_MAX: usize = (1 << 20) - RECORD_OVERHEAD;
const BATCH_BYTES_MAX: usize = (4 << 20) - 4096;
/// What a record takes beside its value, at most.
const RECORD_OVERHEAD: usize = 64;
/// A point of the chart a second: more of them nobody looks at.
const LENGTH_MAX: Duration = Duration::from_secs(24 * 60 * 60);
