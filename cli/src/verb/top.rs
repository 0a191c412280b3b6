//! `sidestream top`: a running process, live: who works, who waits, where it is full.
//!
//! ```text
//!   GET /stages ─▶ Snapshot ─▶ View (two looks make a rate) ─▶ screen, table or JSON
//! ```

mod ask;
mod screen;
mod table;
mod view;

use std::{io::IsTerminal, process::ExitCode, thread, time::Duration};

use clap::Args;
use sidestream_sidecar::observe::Snapshot;

use super::failed;
use crate::{
    arguments::Address,
    output::{complain, print},
};

/// Whom to watch, and how.
#[derive(Debug, Args)]
#[command(after_long_help = table::LEGEND)]
pub(crate) struct Top {
    /// Where the process serves its metrics
    #[arg(default_value = "127.0.0.1:9464")]
    address: Address,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// Print JSON; with --once
    #[arg(long, requires = "once")]
    json: bool,
    /// How often to look
    #[arg(long, value_name = "SPAN", default_value = "1s")]
    interval: sidestream_plan::Duration,
}

impl Top {
    pub(crate) fn run(self) -> ExitCode {
        // Without a terminal there is nobody to watch.
        let shown =
            if self.once || !std::io::stdout().is_terminal() { self.print_once() } else { self.watch() };
        shown.unwrap_or_else(|reason| {
            complain(format_args!("error: {reason}"));
            failed()
        })
    }

    fn print_once(&self) -> Result<ExitCode, String> {
        let before = self.look()?;
        thread::sleep(self.interval());
        let view = view::View::between(Some(&before), &self.look()?);
        if self.json {
            return Ok(print(format_args!("{:#}\n", serde_json::json!(view))));
        }
        Ok(print(table::text(&view)))
    }

    fn watch(&self) -> Result<ExitCode, String> {
        screen::run(&self.address.0, self.interval(), || self.look())
    }

    fn look(&self) -> Result<Snapshot, String> {
        let Address(address) = &self.address;
        ask::snapshot(address).map_err(|error| {
            format!("cannot ask {address}: {error}; is `sidestream run` running, with --metrics {address}?")
        })
    }

    fn interval(&self) -> Duration {
        self.interval.get().max(SHORTEST_INTERVAL)
    }
}

/// Looking costs the process that is looked at: ten times a second is as often as a person can read.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
