//! `sidestream group`: the groups of a dnpipe, how far each is, and moving one.

use std::{fmt::Write, process::ExitCode};

use clap::{Args, Subcommand};
use sidestream_client::{Client, GroupView, Refusal};

use super::dnpipe::table;
use crate::{output::print, place::Place, server::Server};

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Group {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The groups of a dnpipe, and how far behind each is
    List {
        /// The dnpipe
        dnpipe: String,
        #[command(flatten)]
        server: Server,
    },
    /// One group: its members and cursors
    Describe {
        /// The dnpipe
        dnpipe: String,
        /// The group
        group: String,
        #[command(flatten)]
        server: Server,
    },
    /// Move the cursors of a group
    Seek {
        /// The dnpipe
        dnpipe: String,
        /// The group
        group: String,
        /// Where to: `start`, `end`, an offset, a time such as `2026-11-21T20:00:00Z`, or how long ago, such as `5m`
        to: Place,
        /// Only in this partition
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
        #[command(flatten)]
        server: Server,
    },
}

impl Group {
    pub(crate) fn run(self) -> ExitCode {
        match self.verb {
            Verb::List { dnpipe, server } => {
                server.with(async |client: Client| Ok(print(list(&client.groups(&dnpipe).await?))))
            }
            Verb::Describe { dnpipe, group, server } => server.with(async |client: Client| {
                let groups = client.groups(&dnpipe).await?;
                match groups.iter().find(|own| own.name == group) {
                    Some(own) => Ok(print(describe(own))),
                    None => Err(sidestream_client::ClientError::from(Refusal::UnknownGroup { group }).into()),
                }
            }),
            Verb::Seek { dnpipe, group, to, partition, server } => server.with(async |client: Client| {
                client.seek(&dnpipe, &group, partition, to.from(client.now())).await?;
                Ok(print(format_args!("{group}: moved\n")))
            }),
        }
    }
}

pub(super) fn list(groups: &[GroupView]) -> String {
    let mut rows = vec![["GROUP", "MEMBERS", "BEHIND", "SECONDS", "DEAD LETTERS"].map(String::from)];
    rows.extend(groups.iter().map(|own| {
        [
            own.name.clone(),
            own.members.len().to_string(),
            own.lag_records.to_string(),
            format!("{:.1}", own.lag_seconds),
            own.dead_letter.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        ]
    }));
    table(&rows)
}

fn describe(own: &GroupView) -> String {
    let mut text = list(std::slice::from_ref(own));
    for (partition, cursor) in own.cursors.iter().enumerate() {
        // Writing to memory does not fail.
        let _ = writeln!(text, "  partition {partition}  cursor {cursor}");
    }
    for member in &own.members {
        let _ = writeln!(text, "  member {}  partitions {:?}", member.name, member.partitions);
    }
    text
}
