//! `sidestream redrive`: the dead letters of a group once more.

use std::process::ExitCode;

use clap::Args;
use sidestream_client::Client;

use crate::{files::plural, output::print, server::Server};

/// Which.
#[derive(Debug, Args)]
pub(crate) struct Redrive {
    /// The dnpipe that the letters are from
    dnpipe: String,
    /// The group that could not handle them
    group: String,
    #[command(flatten)]
    server: Server,
}

impl Redrive {
    pub(crate) fn run(self) -> ExitCode {
        let Redrive { dnpipe, group, server } = self;
        server.with(async |client: Client| {
            let (records, gone) = client.redrive(&dnpipe, &group).await?;
            let counted = |count: u64| plural(usize::try_from(count).unwrap_or(usize::MAX), "record");
            let lost =
                if gone == 0 { String::new() } else { format!("; {} no longer in {dnpipe}", counted(gone)) };
            Ok(print(format_args!("{group}: {} will be delivered again{lost}\n", counted(records))))
        })
    }
}
