//! `sidestream dnpipe`: which dnpipes there are, how one is, whether what is stored is sound, and back-ups of it.

mod export;

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use sidestream_client::{Client, DnpipeView, Verified};
use sidestream_plan::{Duration, Size};

use super::failed;
use crate::{
    files::plural,
    output::{complain, print},
    server::Server,
};

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Dnpipe {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The dnpipes of a server
    List {
        #[command(flatten)]
        server: Server,
    },
    /// One dnpipe, with its partitions and its disk
    Describe {
        /// The dnpipe
        dnpipe: String,
        #[command(flatten)]
        server: Server,
    },
    /// Write every record of a dnpipe to a file, for `import`
    Export {
        /// The dnpipe
        dnpipe: String,
        /// Where to; the standard output by default
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        server: Server,
    },
    /// Push what `export` wrote; begun again after an interruption it stores no record twice
    Import {
        /// The dnpipe, of as many partitions as the one that was exported
        dnpipe: String,
        /// Where from; the standard input by default
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Also into a dnpipe that has records
        #[arg(long)]
        append: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Compare every checksum of what is stored; exit status 1 where something is not as it was written
    Verify {
        /// Only this dnpipe
        dnpipe: Option<String>,
        #[command(flatten)]
        server: Server,
    },
}

impl Dnpipe {
    pub(crate) fn run(self) -> ExitCode {
        match self.verb {
            Verb::List { server } => {
                server.with(async |client: Client| Ok(print(list(&client.list().await?))))
            }
            Verb::Describe { dnpipe, server } => server.with(async |client: Client| {
                let (found, groups) = (client.describe(&dnpipe).await?, client.groups(&dnpipe).await?);
                Ok(print(describe(&found) + &super::group::list(&groups)))
            }),
            Verb::Export { dnpipe, file, server } => server.with(async |client: Client| {
                let moved = export::export(&client, &dnpipe, file.as_deref()).await?;
                complain(format_args!("{dnpipe}: {} exported", told(moved)));
                Ok(super::DONE)
            }),
            Verb::Import { dnpipe, file, append, server } => server.with(async |client: Client| {
                let moved = export::import(&client, &dnpipe, file.as_deref(), append).await?;
                complain(format_args!("{dnpipe}: {} imported", told(moved)));
                Ok(super::DONE)
            }),
            Verb::Verify { dnpipe, server } => server.with(async |client: Client| {
                let found = client.verify(dnpipe.as_deref()).await?;
                let printed = print(verified(&found));
                Ok(if found.damage.is_empty() { printed } else { failed() })
            }),
        }
    }
}

fn told(moved: export::Moved) -> String {
    format!("{}, {}", plural(moved.records as usize, "record"), size(moved.bytes))
}

fn list(dnpipes: &[DnpipeView]) -> String {
    let mut rows = vec![["DNPIPE", "PARTITIONS", "RECORDS", "SIZE", "EPOCH", "DURABILITY"].map(String::from)];
    rows.extend(dnpipes.iter().map(|own| {
        let records: u64 = own.partitions.iter().map(|partition| partition.end - partition.first).sum();
        [
            own.name.to_string(),
            own.partitions.len().to_string(),
            records.to_string(),
            size(own.used_bytes),
            own.epoch.to_string(),
            own.durability.clone(),
        ]
    }));
    table(&rows)
}

fn describe(own: &DnpipeView) -> String {
    let mut text = String::new();
    let kept = match (own.retention_millis, own.retention_bytes) {
        (None, None) => "until a reset".to_owned(),
        (time, bytes) => {
            let time = time.map(|millis| Duration::from_millis(millis).to_string());
            let bytes = bytes.map(|bytes| format!("{} in each partition", size(bytes)));
            [time, bytes].into_iter().flatten().collect::<Vec<_>>().join(", or ")
        }
    };
    let quota = own.quota_bytes.map_or_else(|| "what the disk has".to_owned(), size);
    // Writing to memory does not fail.
    let _ = writeln!(text, "{}\n  epoch       {}\n  durability  {}", own.name, own.epoch, own.durability);
    let _ = writeln!(text, "  kept        {kept}\n  size        {} of {quota}", size(own.used_bytes));
    let _ = writeln!(text, "  disk        {}: {}", own.disk.driver, own.disk.reason);
    for (number, partition) in own.partitions.iter().enumerate() {
        let (first, end) = (partition.first, partition.end);
        let _ = writeln!(text, "  partition {number}  offsets {first} to before {end}");
    }
    text
}

fn verified(found: &Verified) -> String {
    let mut text = format!(
        "{} of {} compared",
        plural(found.batches as usize, "batch").replace("batchs", "batches"),
        size(found.bytes)
    );
    if found.damage.is_empty() {
        return text + ": all as they were written\n";
    }
    let _ = writeln!(text, ", and {} not as it was written", plural(found.damage.len(), "range"));
    for own in &found.damage {
        let whose = own.dnpipe.as_ref().map_or_else(|| "unknown dnpipe".to_owned(), ToString::to_string);
        let partition = own.partition.map(|number| format!(" partition {number}")).unwrap_or_default();
        let offsets =
            own.offsets.map(|(from, to)| format!(" offsets {from} to before {to}")).unwrap_or_default();
        let _ = writeln!(text, "  {whose}{partition}{offsets}: {}", own.reason);
    }
    text
}

/// Columns as wide as their widest word.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn size(bytes: u64) -> String {
    Size::from_bytes(bytes).to_string()
}
